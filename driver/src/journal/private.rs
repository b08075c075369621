//! Small files that hold keys: for root only, and under their name only when they are whole.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Writes the file durably, in place of the one that is there.
pub(super) fn put(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = new_beside(path);
    let written = (|| {
        remove_if_there(&new)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    })();
    if written.is_err() {
        // Half of it may be all that the disk has room for.
        let _ = std::fs::remove_file(&new);
    }
    written.and_then(|()| sync_directory_of(path))
}

/// Removes the file durably, if there is one, and what an end in the middle of a write left.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    remove_if_there(&new_beside(path))?;
    remove_if_there(path)?;
    sync_directory_of(path)
}

/// Thirty-two bytes as text; in a buffer that never moves, so that no copy of it stays.
pub(super) fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("half a byte is a digit"));
        }
    }
    text
}

/// The bytes of such a text.
pub(super) fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = Zeroizing::new([0; 32]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::try_from(digit(pair[0])? << 4 | digit(pair[1])?).ok()?;
    }
    Some(bytes)
}

fn new_beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".new");
    name.into()
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
