//! Reads files that people name, which are small if they are what they should be.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

/// Far above any settings, certificates and keys.
const LARGEST: u64 = 1 << 20;

/// The whole file.
///
/// # Errors
///
/// Also when it is larger than 1 MiB.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
    }
    Ok(content)
}

/// The same as text.
///
/// # Errors
///
/// Also when it is none.
pub(crate) fn read_text(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_end_is_refused_with_the_limit() {
        let refused = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(refused.to_string(), "it is larger than 1 MiB");
    }

    #[test]
    fn the_largest_file_is_read_whole_and_what_is_no_text_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("settings");
        let largest = vec![b'x'; LARGEST as usize];
        std::fs::write(&path, &largest).unwrap();
        assert!(read(&path).unwrap() == largest);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(read_text(&path).unwrap_err().to_string(), "it is not UTF-8 text");
    }
}
