//! What README, operator's guide and the example of settings tell people to set and to type is what
//! the driver takes.

use std::path::Path;

use clap::Parser as _;
use wgnet_driver::config::{Cli, Config};

fn read(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Code blocks: what stands after the backticks, and the content.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let fenced = text.split("\n```").skip(1).step_by(2);
    fenced.map(|block| block.split_once('\n').expect("a block has lines")).collect()
}

fn load(settings: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("driver.toml");
    std::fs::write(&file, settings).unwrap();
    let cli =
        Cli::try_parse_from([Path::new("wgnet-driver"), Path::new("--config"), &file]).unwrap();
    Config::load(&cli).unwrap_or_else(|error| panic!("{error}:\n{settings}"))
}

#[test]
fn the_guides_settings_are_settings() {
    let guide = read("deploy/GUIDE.md");
    let settings: Vec<&str> = blocks(&guide)
        .into_iter()
        .filter(|(kind, _)| *kind == "toml")
        .map(|(_, text)| text)
        .collect();
    assert!(settings.len() >= 3, "{settings:?}");
    for text in settings {
        load(text);
    }
}

#[test]
fn the_examples_settings_are_settings_and_what_it_comments_out_is_the_default() {
    let example = read("deploy/driver.toml");
    let config = load(&example);
    let commented: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' ')))
        .collect();
    assert!(commented.len() >= 8, "{commented:?}");
    let defaults = commented.iter().filter(|line| !line.starts_with("underlay"));
    let all = defaults.fold(example.clone(), |all, line| format!("{all}\n{line}"));
    assert_eq!(format!("{:?}", load(&all)), format!("{config:?}"));
}

#[test]
fn the_driver_is_run_as_it_can_be() {
    let mut seen = 0;
    for guide in ["README.md", "deploy/GUIDE.md"] {
        for (_, block) in blocks(&read(guide)) {
            for line in block.lines().filter(|line| line.starts_with("wgnet-driver")) {
                let words =
                    line.split('#').next().expect("a line has a beginning").split_whitespace();
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{guide}: {line}: {error}");
                }
                seen += 1;
            }
        }
    }
    assert!(seen >= 3, "only {seen} commands were found");
}
