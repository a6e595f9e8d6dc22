//! The payload of a record.

use std::fmt;

use bytes::Bytes;

/// Stamped blocks, one after the other, not compressed: in one piece or in several, each of which is whole blocks. Cheap to
/// clone.
///
/// What is read from the journal is one piece. What was just committed are the blocks as they came: to put large ones together
/// would copy every byte once more, for nobody who reads them.
#[derive(Clone)]
pub struct Payload(Pieces);

#[derive(Clone)]
enum Pieces {
    One([Bytes; 1]),
    Many(Box<[Bytes]>),
}

impl Payload {
    /// Its pieces, in order.
    pub fn pieces(&self) -> &[Bytes] {
        match &self.0 {
            Pieces::One(one) => one,
            Pieces::Many(many) => many,
        }
    }

    /// Bytes of all pieces.
    pub fn len(&self) -> usize {
        self.pieces().iter().map(Bytes::len).sum()
    }

    /// Whether there is nothing in it, which no record is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of it in one piece: a copy where it is in several.
    pub fn whole(&self) -> Bytes {
        match &self.0 {
            Pieces::One([one]) => one.clone(),
            Pieces::Many(many) => many.concat().into(),
        }
    }

    /// The bytes that `part` borrows from one of its pieces, held on their own.
    ///
    /// # Panics
    /// Where it does not.
    pub(crate) fn slice_ref(&self, part: &[u8]) -> Bytes {
        if part.is_empty() {
            return Bytes::new();
        }
        let within = |piece: &&Bytes| piece.as_ptr_range().contains(&part.as_ptr());
        self.pieces().iter().find(within).expect("it borrows from a piece").slice_ref(part)
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Pieces::One([bytes]))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

/// As pieces of whole blocks each.
impl FromIterator<Bytes> for Payload {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        Self(Pieces::Many(pieces.into_iter().collect()))
    }
}

/// Where its pieces begin makes no difference.
impl PartialEq for Payload {
    fn eq(&self, other: &Self) -> bool {
        self.whole() == other.whole()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} B)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What borrows from a piece is held without a copy, whichever piece it is.
    #[test]
    fn a_part_is_held_where_it_is() {
        let payload: Payload = [&b"first"[..], b"second"].map(Bytes::copy_from_slice).into_iter().collect();
        for piece in payload.pieces() {
            let part = &piece[1..4];
            let held = payload.slice_ref(part);
            assert_eq!((held.as_ptr(), &held[..]), (part.as_ptr(), part));
        }
        assert!(payload.slice_ref(&[]).is_empty());
        assert_eq!(&payload.whole()[..], b"firstsecond");
    }
}
