//! The host's key in a file of its own beside the journal: a lost journal makes no other host of this one.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use wgnet_proto::seal::HostKey;
use zeroize::Zeroizing;

use super::{JournalError, private};

const NAME: &str = "host.key";
const HEADER: &str = "wgnet-host-key v1";

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// The key that was kept; `None` if there is no file.
pub(super) fn read(dir: &Path) -> Result<Option<HostKey>, JournalError> {
    let path = path(dir);
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    match File::open(&path).and_then(|file| file.take(256).read_to_end(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(JournalError::file("read host key", path, error)),
    }
    let key = std::str::from_utf8(&text).ok().and_then(parse);
    let what = || format!("it does not hold \"{HEADER}\" and 64 hex digits");
    key.map(Some).ok_or_else(|| JournalError::Damaged { path, what: what() })
}

/// Writes the key, durably and under its name only when it is whole.
pub(super) fn write(dir: &Path, key: &HostKey) -> Result<(), JournalError> {
    let path = path(dir);
    private::put(&path, render(key).as_bytes())
        .map_err(|error| JournalError::file("write host key", &path, error))
}

fn render(key: &HostKey) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(128));
    text.push_str(HEADER);
    text.push('\n');
    text.push_str(&private::hex(key.expose()));
    text.push('\n');
    text
}

fn parse(text: &str) -> Option<HostKey> {
    let mut lines = text.lines();
    let (header, digits) = (lines.next()?, lines.next()?.trim());
    if header != HEADER || lines.next().is_some() {
        return None;
    }
    private::from_hex(digits).map(|key| HostKey::from_bytes(*key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_written_and_half_of_one_never() {
        let key = HostKey::from_bytes([0xa7; 32]);
        let text = render(&key);
        assert_eq!(parse(&text).unwrap().expose(), key.expose());
        for end in 0..text.len() - 1 {
            assert!(parse(&text[..end]).is_none(), "{end} bytes of it");
        }
        assert!(parse(&format!("{}x\n", *text)).is_none());
    }
}
