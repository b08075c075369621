//! Takes an input apart: numbers and pieces, until nothing is left. Missing bytes are zero.

pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// A piece after its length in two bytes; what there is, if that is less.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(u16::from_be_bytes([self.byte(), self.byte()]));
        let (piece, rest) = self.rest.split_at(length.min(self.rest.len()));
        self.rest = rest;
        piece
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// The opposite of [`Input::piece`].
pub(crate) fn put_piece(bytes: &mut Vec<u8>, piece: &[u8]) {
    let length = u16::try_from(piece.len()).expect("the pieces of seeds are short");
    bytes.extend(length.to_be_bytes());
    bytes.extend(piece);
}
