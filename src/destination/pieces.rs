//! A request in the pieces in which it lies in the journal's records: they go out as they are, without a copy.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io::Write as _,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};

/// A body of so many bytes, piece by piece.
#[derive(Debug)]
pub(super) struct Pieces {
    pieces: VecDeque<Bytes>,
    bytes: u64,
}

impl Pieces {
    pub(super) fn new(pieces: Vec<Bytes>) -> Self {
        // A piece without bytes would be a frame without bytes, which some servers take for an attack.
        let pieces: VecDeque<_> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        let bytes = pieces.iter().map(|piece| piece.len() as u64).sum();
        Self { pieces, bytes }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = self.pieces.pop_front();
        self.bytes -= piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes)
    }
}

/// The pieces as one, compressed.
pub(super) fn gzip(pieces: &[Bytes]) -> Bytes {
    const INFALLIBLE: &str = "a Vec takes every byte";
    let bytes: usize = pieces.iter().map(Bytes::len).sum();
    let mut gzip = flate2::write::GzEncoder::new(Vec::with_capacity(bytes / 4), flate2::Compression::fast());
    pieces.iter().for_each(|piece| gzip.write_all(piece).expect(INFALLIBLE));
    gzip.finish().expect(INFALLIBLE).into()
}
