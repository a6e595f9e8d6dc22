//! The messages of a stream, one after the other, within the bounds of bodies.

use std::time::Duration;

use actix_web::http::StatusCode;
use bytes::{Buf as _, Bytes, BytesMut};
use futures::StreamExt as _;
use tokio::time::Instant;

use super::Pieces;
use crate::{
    api::error::ApiError,
    ingress::{
        body::{Body, BodyLimits, Coding, Reserved},
        grpc::frame::{self, FRAME_BYTES},
    },
};

/// What of a message that is too large is kept: enough to see which batch it is.
const HEAD_BYTES: usize = 1024;

/// Room that is made at once for a message that says it is large: it may say so and never come.
const ROOM_BYTES: usize = 1024 * 1024;

/// Reads the messages of one stream.
pub(super) struct Messages {
    pieces: Pieces,
    coding: Coding,
    limits: BodyLimits,
    /// What came and was not yet taken, and its share of the budget.
    waiting: BytesMut,
    reserved: Reserved,
    /// When the message that began must be whole.
    until: Option<Instant>,
    /// Bytes to come of a message that is too large, and its beginning.
    skipping: Option<(usize, Bytes)>,
}

/// What a stream brings.
pub(super) enum Message {
    /// A message as it came, and how it is packed.
    Whole(Body, Coding),
    /// One that was too large, of which this is the beginning.
    TooLarge(Bytes),
}

impl Messages {
    pub(super) fn new(pieces: Pieces, coding: Coding, limits: BodyLimits) -> Self {
        let reserved = limits.budget.reserve();
        Self { pieces, coding, limits, waiting: BytesMut::new(), reserved, until: None, skipping: None }
    }

    /// The next message; `None` where the client has said all. What has come of one is kept where this is given up and asked
    /// again.
    ///
    /// # Errors
    /// Where the stream cannot go on: it broke off, is none of gRPC, is too slow, or too much is in memory.
    pub(super) async fn next(&mut self) -> Result<Option<Message>, ApiError> {
        loop {
            if let Some(message) = self.take()? {
                self.until = None;
                return Ok(Some(message));
            }
            let is_between = self.waiting.is_empty() && self.skipping.is_none();
            if is_between {
                // Whoever has begun nothing can wait without holding anything.
                self.limits.budget.half_free().await;
                self.until = None;
            } else if self.until.is_none() {
                self.until = Some(Instant::now() + self.limits.timeout);
            }
            let Some(piece) = self.piece().await? else {
                return if is_between { Ok(None) } else { Err(broke_off("in the middle of a message")) };
            };
            self.put(&piece)?;
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        let piece = match self.until {
            None => self.pieces.next().await,
            Some(until) => tokio::time::timeout_at(until, self.pieces.next()).await.map_err(|_| {
                let message = format!("a batch did not arrive within {:?}", self.limits.timeout);
                ApiError::unavailable("timeout", message, Duration::from_secs(1))
            })?,
        };
        piece.transpose().map_err(|error| broke_off(&error.to_string()))
    }

    fn put(&mut self, mut piece: &[u8]) -> Result<(), ApiError> {
        if let Some((left, _)) = &mut self.skipping {
            let skipped = piece.len().min(*left);
            piece.advance(skipped);
            *left -= skipped;
        }
        self.reserved.grow(piece.len())?;
        self.waiting.extend_from_slice(piece);
        Ok(())
    }

    /// The first message, if it is there whole.
    fn take(&mut self) -> Result<Option<Message>, ApiError> {
        if let Some((0, head)) = &self.skipping {
            let head = head.clone();
            self.skipping = None;
            return Ok(Some(Message::TooLarge(head)));
        }
        if self.skipping.is_some() || self.waiting.len() < FRAME_BYTES {
            return Ok(None);
        }
        let mut frame = &self.waiting[..FRAME_BYTES];
        let (packed, length) = (frame.get_u8(), frame.get_u32() as usize);
        let coding = frame::packing(packed, self.coding)?;
        let there = self.waiting.len() - FRAME_BYTES;
        if length > self.limits.max_bytes {
            self.waiting.advance(FRAME_BYTES);
            let here = self.waiting.split_to(there.min(length));
            drop(self.reserved.split_off(FRAME_BYTES + here.len()));
            let head = match coding {
                Coding::Identity => Bytes::copy_from_slice(&here[..here.len().min(HEAD_BYTES)]),
                _ => Bytes::new(),
            };
            self.skipping = Some((length - here.len(), head));
            return self.take();
        }
        if there < length {
            self.waiting.reserve((length - there).min(ROOM_BYTES));
            return Ok(None);
        }
        self.waiting.advance(FRAME_BYTES);
        let bytes = self.waiting.split_to(length).freeze();
        drop(self.reserved.split_off(FRAME_BYTES));
        let reserved = self.reserved.split_off(length);
        Ok(Some(Message::Whole(Body { bytes, reserved }, coding)))
    }
}

fn broke_off(how: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "incomplete_body", format!("the stream broke off: {how}"))
}
