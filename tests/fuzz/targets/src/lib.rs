//! What faces outside, each as a function that takes any bytes and must not panic.
//!
//! The same functions serve the coverage-guided fuzzers (the directory above this crate, `tests/fuzz/run`) and the
//! quick property tests of `tests/run`. A target states what must hold whatever the bytes are; its seeds are valid
//! inputs, from which [`mutation`] makes hostile ones.

pub mod corpus;
pub mod mutation;

mod config;
mod docker;
mod engine;
mod input;
mod journal;
mod judge;
mod names;
mod records;
mod secret;
mod shim;
mod status;

/// One edge of the project.
pub struct Target {
    pub name: &'static str,
    /// Panics where the bytes break what the target promises.
    pub run: fn(&[u8]),
    /// Valid inputs.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// How many inputs the quick test tries.
    pub cases: u32,
}

const fn target(
    name: &'static str,
    run: fn(&[u8]),
    seeds: fn() -> Vec<Vec<u8>>,
    cases: u32,
) -> Target {
    Target { name, run, seeds, cases }
}

pub const TARGETS: &[Target] = &[
    target("names", names::run, names::seeds, 2000),
    target("record", records::record, records::record_seeds, 2000),
    target("envelope", records::envelope, records::envelope_seeds, 400),
    target("judge", judge::run, judge::seeds, 150),
    target("docker", docker::calls, docker::call_seeds, 400),
    target("http", docker::http, docker::http_seeds, 400),
    target("config", config::file, config::file_seeds, 1000),
    target("arguments", config::arguments, config::argument_seeds, 150),
    target("secret", secret::run, secret::seeds, 600),
    target("shim_request", shim::request, shim::request_seeds, 2000),
    target("shim_response", shim::response, shim::response_seeds, 2000),
    target("engine_request", engine::request, engine::request_seeds, 2000),
    target("engine_response", engine::response, engine::response_seeds, 2000),
    target("status", status::run, status::seeds, 1000),
    target("rows", journal::rows, journal::row_seeds, 1000),
    target("journal", journal::file, journal::file_seeds, 60),
    target("networks", journal::plain, journal::plain_seeds, 60),
];

/// The target of this name.
///
/// # Panics
///
/// If there is none: the caller's list and [`TARGETS`] differ.
pub fn named(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a target of this crate")
}

/// What people read is bounded, and nothing in it steers a terminal or forges a line.
fn assert_sentence(text: &str) {
    assert!(
        text.len() <= 2048,
        "{} bytes: {:?}...",
        text.len(),
        text.chars().take(200).collect::<String>()
    );
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
