//! The operator's guide, taken apart into what it tells to type.

pub mod services;

use std::collections::BTreeSet;
use std::path::Path;

/// Commands that stand together: a block of shell, a step of a numbered list, a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The headings above it: of the chapter, and of the section in it, which may be the same.
    pub chapter: String,
    pub section: String,
    /// One at least.
    pub commands: Vec<Typed>,
}

/// A command, and the line of the guide in which it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typed {
    pub line: usize,
    pub text: String,
}

/// What deploy/GUIDE.md says.
///
/// # Panics
///
/// When it cannot be read.
pub fn text() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/GUIDE.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All blocks, in their order. Of steps and tables it takes the code of several words that begins with
/// a program that a block of shell runs, too; the rest is names of settings and the like.
///
/// # Panics
///
/// When a block of code has no end.
pub fn blocks(guide: &str) -> Vec<Block> {
    let lines: Vec<(usize, &str)> = (1..).zip(guide.lines()).collect();
    let (mut chapter, mut section) = (String::new(), String::new());
    let mut found: Vec<(bool, Block)> = Vec::new();
    let mut at = 0;
    while let Some(&(_, line)) = lines.get(at) {
        let begin = at;
        at += 1;
        let mut is_shell = false;
        let commands = if let Some(language) = line.strip_prefix("```") {
            let length = lines[at..].iter().position(|(_, line)| *line == "```");
            let inside = &lines[at..at + length.expect("a block of code has an end")];
            at += inside.len() + 1;
            is_shell = language == "sh";
            if is_shell { shell(inside) } else { Vec::new() }
        } else if is_step(line) || line.starts_with('|') {
            at += lines[at..].iter().take_while(|(_, line)| goes_on(line)).count();
            code(&lines[begin..at])
        } else {
            if let Some(name) = line.strip_prefix("## ") {
                name.clone_into(&mut chapter);
                name.clone_into(&mut section);
            } else if let Some(name) = line.strip_prefix("### ") {
                name.clone_into(&mut section);
            }
            Vec::new()
        };
        let (chapter, section) = (chapter.clone(), section.clone());
        found.push((is_shell, Block { chapter, section, commands }));
    }
    let shells = found.iter().filter(|(is_shell, _)| *is_shell);
    let programs: BTreeSet<String> = shells
        .flat_map(|(_, block)| &block.commands)
        .map(|typed| program(&typed.text).to_owned())
        .collect();
    let is_command = |text: &str| text.contains(' ') && programs.contains(program(text));
    let known = found.into_iter().map(|(is_shell, mut block)| {
        block.commands.retain(|typed| is_shell || is_command(&typed.text));
        block
    });
    known.filter(|block| !block.commands.is_empty()).collect()
}

/// Puts a value in the place of a word, where that is a whole one.
#[must_use]
pub fn filled(text: &str, word: &str, value: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find(word) {
        done.push_str(&rest[..at]);
        rest = &rest[at + word.len()..];
        let is_whole = !done.ends_with(is_part) && !rest.starts_with(is_part);
        done.push_str(if is_whole { value } else { word });
    }
    done + rest
}

fn program(command: &str) -> &str {
    command.split_whitespace().find(|word| !word.contains('=')).unwrap_or_default()
}

fn is_step(line: &str) -> bool {
    let number = line.split_once(". ").map_or("", |(number, _)| number);
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

fn goes_on(line: &str) -> bool {
    !line.is_empty() && !is_step(line) && !line.starts_with("```")
}

/// The commands of a block, a line each; one that ends in a backslash is one with the next.
fn shell(lines: &[(usize, &str)]) -> Vec<Typed> {
    let mut commands: Vec<Typed> = Vec::new();
    let mut is_open = false;
    for &(line, text) in lines {
        let (text, goes_on) = text.strip_suffix('\\').map_or((text, false), |text| (text, true));
        match commands.last_mut() {
            Some(begun) if is_open => begun.text.push_str(text),
            _ if text.is_empty() || text.starts_with('#') => {}
            _ => commands.push(Typed { line, text: text.to_owned() }),
        }
        is_open = goes_on;
    }
    commands
}

/// What stands between backticks, which may be in two lines.
fn code(lines: &[(usize, &str)]) -> Vec<Typed> {
    let mut found: Vec<Typed> = Vec::new();
    let mut inside = false;
    for &(line, text) in lines {
        for (at, part) in text.split('`').enumerate() {
            inside ^= at > 0;
            match found.last_mut() {
                Some(begun) if inside && at == 0 => {
                    begun.text = format!("{} {}", begun.text, part.trim());
                }
                _ if inside => found.push(Typed { line, text: part.to_owned() }),
                _ => {}
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUIDE: &str = "# Guide\n\n## One\n\n```sh\n# said\nlist a \\\n  b\nMODE=x run | less\n```\n\n```toml\nlist = 1\n```\n\n\
        ### Part\n\nWords with `list x`.\n\n1. Do `list\n   c`, `ports`, `run d`\n2. Wait\n3. `run e`\n\n| `ports` | `list f` |\n|---|---|\n| no | `run` |\n";

    #[test]
    fn blocks_steps_and_tables_are_found_with_their_sections_and_lines() {
        let said: Vec<_> = blocks(GUIDE)
            .iter()
            .map(|block| {
                let commands = block.commands.iter().map(|it| format!("{}:{}", it.line, it.text));
                format!(
                    "{}/{} {}",
                    block.chapter,
                    block.section,
                    commands.collect::<Vec<_>>().join(";")
                )
            })
            .collect();
        assert_eq!(
            said,
            [
                "One/One 7:list a   b;9:MODE=x run | less",
                "One/Part 20:list c;21:run d",
                "One/Part 23:run e",
                "One/Part 25:list f",
            ]
        );
    }

    #[test]
    fn only_whole_words_are_filled_in() {
        assert_eq!(
            filled("a HOST2 HOST_X root@HOST:/HOST", "HOST", "h1"),
            "a HOST2 HOST_X root@h1:/h1"
        );
        assert_eq!(filled("1.0.0.5:1 1.0.0.51", "1.0.0.5", "x"), "x:1 1.0.0.51");
        assert_eq!(filled("HOSTHOST", "HOST", "h1"), "HOSTHOST");
    }
}
