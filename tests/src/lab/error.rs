//! What can go wrong in the lab: each error names the operation and its object.

use std::{io, path::Path, time::Duration};

pub type Result<T, E = LabError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum LabError {
    #[error("cannot {operation} {object}")]
    Io {
        operation: &'static str,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("`{command}` {outcome}{output}")]
    Command { command: String, outcome: String, output: String },
    #[error("{what} did not come true within {} s{state}", within.as_secs_f32())]
    Deadline { what: String, within: Duration, state: String },
    #[error(
        "the lab \"{lab}\" is in use by process {pid}: wait for it, end it, or take another name"
    )]
    InUse { lab: String, pid: String },
    #[error("host {host} is powered off")]
    PoweredOff { host: String },
    #[error("{0}")]
    Machine(String),
}

impl LabError {
    pub(crate) fn io(
        operation: &'static str,
        object: impl AsRef<Path>,
    ) -> impl FnOnce(io::Error) -> Self {
        let object = object.as_ref().display().to_string();
        move |source| Self::Io { operation, object, source }
    }

    pub(crate) fn errno(
        operation: &'static str,
        object: impl AsRef<Path>,
    ) -> impl FnOnce(nix::Error) -> Self {
        let object = object.as_ref().display().to_string();
        move |errno| Self::Io { operation, object, source: errno.into() }
    }
}
