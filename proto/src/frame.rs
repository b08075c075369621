//! Unambiguous bytes to sign, authenticate and derive keys from.

/// A purpose and fields as one string of bytes: every part is preceded by its length, so that two
/// different lists never give the same bytes.
pub(crate) fn frame(purpose: &str, fields: &[&[u8]]) -> Vec<u8> {
    let size = fields.iter().map(|field| field.len() + 8).sum::<usize>() + purpose.len() + 8;
    let mut framed = Vec::with_capacity(size);
    for part in std::iter::once(purpose.as_bytes()).chain(fields.iter().copied()) {
        framed.extend_from_slice(&(part.len() as u64).to_be_bytes());
        framed.extend_from_slice(part);
    }
    framed
}

#[cfg(test)]
mod tests {
    use super::frame;

    #[test]
    fn bytes_that_move_between_fields_change_the_frame() {
        assert_ne!(frame("p", &[b"ab", b"c"]), frame("p", &[b"a", b"bc"]));
        assert_ne!(frame("p", &[b"ab"]), frame("p", &[b"ab", b""]));
        assert_ne!(frame("pa", &[b"b"]), frame("p", &[b"ab"]));
    }
}
