//! How failures of the kernel become what the reconciler and people read.

use std::fmt::Display;
use std::io;

use crate::dataplane::{DataplaneError, ErrorKind};

pub(crate) type Result<T> = std::result::Result<T, DataplaneError>;

/// A failure whose kind follows from the error number.
pub(crate) fn failed(
    operation: &'static str,
    object: impl Display,
    source: io::Error,
) -> DataplaneError {
    let kind = match source.raw_os_error() {
        Some(nix::libc::EADDRINUSE) => ErrorKind::PortTaken,
        Some(nix::libc::EOPNOTSUPP) => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    };
    DataplaneError { operation, object: object.to_string(), kind, source: source.into() }
}

/// A failure that is a sentence.
pub(crate) fn refused(
    operation: &'static str,
    object: impl Display,
    kind: ErrorKind,
    reason: impl Into<String>,
) -> DataplaneError {
    DataplaneError { operation, object: object.to_string(), kind, source: reason.into().into() }
}

/// For `map_err`.
pub(crate) fn failing(
    operation: &'static str,
    object: impl Display,
) -> impl FnOnce(io::Error) -> DataplaneError {
    move |source| failed(operation, object, source)
}
