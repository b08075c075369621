//! `wgnetctl man`: a page for each command, made from its own help.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::builder::{Resettable, StyledStr};
use clap_mangen::Man;

/// Writes the pages of a command and of all below it; returns how many.
pub(crate) fn write(command: clap::Command, directory: &Path) -> anyhow::Result<usize> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    page(&command, directory).with_context(|| format!("cannot write into {}", directory.display()))
}

fn page(command: &clap::Command, directory: &Path) -> std::io::Result<usize> {
    let mut pages = 1;
    for below in command.get_subcommands() {
        pages += page(below, directory)?;
    }
    let man = Man::new(command.clone().after_long_help(Resettable::<StyledStr>::Reset));
    let mut file = std::fs::File::create(directory.join(man.get_filename()))?;
    man.render(&mut file)?;
    if let Some(examples) = command.get_after_long_help() {
        write!(file, ".SH EXAMPLES\n.nf\n{}\n.fi\n", as_it_is(&examples.to_string()))?;
    }
    file.flush()?;
    Ok(pages)
}

/// Text whose lines stay as they are.
fn as_it_is(text: &str) -> String {
    let lines = text.lines().filter(|line| *line != "Examples:").map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq");
        // A line that begins so would be an order to troff.
        if line.starts_with('.') { format!("\\&{line}") } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_examples_stay_as_they_are() {
        assert_eq!(as_it_is("Examples:\n  a --b 'c' \\"), "  a \\-\\-b \\(aqc\\(aq \\e");
        assert_eq!(as_it_is(".so x"), "\\&.so x");
    }
}
