//! What the fuzzers found beyond the seeds: files of a line for each input, escaped as in a string of Rust's.
//!
//! `corpus/TARGET.txt` reaches code that nothing else there does, and is written anew when it is made smaller;
//! `corpus/TARGET-cured.txt` once failed, and stays.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Larger ones find the same and slow everything down.
const LARGEST: usize = 4096;

/// Which of a target's two files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Reaching,
    Cured,
}

/// Where the inputs of a kind are.
pub fn path(target: &str, kind: Kind) -> PathBuf {
    let ending = match kind {
        Kind::Reaching => "",
        Kind::Cured => "-cured",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../corpus/{target}{ending}.txt"))
}

/// The inputs of a kind; none if there is no file.
///
/// # Panics
///
/// If the file is not as [`write`] writes it.
pub fn read(target: &str, kind: Kind) -> Vec<Vec<u8>> {
    let path = path(target, kind);
    let Ok(text) = std::fs::read_to_string(&path) else { return Vec::new() };
    let inputs = text.lines().enumerate().map(|(number, line)| {
        unescape(line).unwrap_or_else(|| panic!("{}:{}: {line}", path.display(), number + 1))
    });
    inputs.collect()
}

/// Writes the inputs of a kind, sorted, without those that are seeds or too large.
///
/// # Panics
///
/// If the file cannot be written.
pub fn write(target: &str, kind: Kind, inputs: impl IntoIterator<Item = Vec<u8>>) {
    let seeds: BTreeSet<_> = (crate::named(target).seeds)().into_iter().collect();
    let inputs: BTreeSet<_> = inputs.into_iter().filter(|input| !seeds.contains(input)).collect();
    let lines = inputs.iter().filter(|input| kind == Kind::Cured || input.len() <= LARGEST);
    let text: String = lines.map(|input| format!("{}\n", input.escape_ascii())).collect();
    let path = path(target, kind);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The reverse of [`slice::escape_ascii`].
fn unescape(line: &str) -> Option<Vec<u8>> {
    let (mut input, mut rest) = (Vec::with_capacity(line.len()), line.bytes());
    while let Some(byte) = rest.next() {
        input.push(match byte {
            b'\\' => match rest.next()? {
                b't' => b'\t',
                b'r' => b'\r',
                b'n' => b'\n',
                b'x' => {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    u8::try_from(digit(rest.next()?)? * 16 + digit(rest.next()?)?).ok()?
                }
                quoted @ (b'\\' | b'\'' | b'"') => quoted,
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(input)
}

#[cfg(test)]
mod tests {
    use super::unescape;

    #[test]
    fn every_byte_comes_back_from_a_line_as_it_was() {
        let input: Vec<u8> = (0..=255).chain(0..=255).rev().collect();
        let line = input.escape_ascii().to_string();
        assert_eq!((line.lines().count(), unescape(&line)), (1, Some(input)));
        for odd in ["\\", "\\x1", "\\xzz", "\\q"] {
            assert_eq!(unescape(odd), None, "{odd}");
        }
    }
}
