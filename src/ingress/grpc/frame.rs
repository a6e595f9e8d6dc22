//! Messages in the frames of gRPC: five bytes before each, whether it is packed and how many bytes it has.

use bytes::{Buf as _, Bytes};
use futures::Stream;
use http::{HeaderMap, HeaderValue};

use crate::{
    api::error::ApiError,
    ingress::body::{self, Body, BodyLimits, Coding, Head},
};

/// Before every message: whether it is packed, and its bytes.
pub(in crate::ingress) const FRAME_BYTES: usize = 5;

/// How a message is packed that says it is.
///
/// # Errors
/// Where the packing is unknown.
pub(in crate::ingress) fn coding_of(headers: &HeaderMap) -> Result<Coding, ApiError> {
    let name = headers.get("grpc-encoding").map(HeaderValue::as_bytes);
    Head::of(|header| (header == "content-encoding").then_some(name).flatten()).map(|head| head.coding)
}

/// The one message of a call, unpacked.
///
/// # Errors
/// As [`body::read`], and where the body is not one message.
pub(in crate::ingress) async fn only_message(
    headers: &HeaderMap,
    pieces: impl Stream<Item = Result<Bytes, hyper::Error>>,
    limits: &BodyLimits,
) -> Result<Body, ApiError> {
    let coding = coding_of(headers)?;
    // The frame is not packed, only the message in it.
    let head = Head { coding: Coding::Identity, length: None };
    let Body { mut bytes, reserved } = body::read(head, pieces, limits).await?;
    if bytes.len() < FRAME_BYTES {
        return Err(bad_frame("a call has one message; here is none"));
    }
    let (packed, length) = (bytes.get_u8(), bytes.get_u32() as usize);
    if bytes.len() != length {
        let there = bytes.len();
        return Err(bad_frame(&format!(
            "a call has one message; it should have {length} bytes, and {there} are there"
        )));
    }
    body::unpacked(Body { bytes, reserved }, packing(packed, coding)?, limits).await
}

/// What the first byte of a frame says.
///
/// # Errors
/// Where it says nothing.
pub(in crate::ingress) fn packing(first: u8, coding: Coding) -> Result<Coding, ApiError> {
    match first {
        0 => Ok(Coding::Identity),
        1 => Ok(coding),
        _ => Err(bad_frame("the first byte before a message is neither 0 nor 1")),
    }
}

pub(in crate::ingress) fn bad_frame(message: &str) -> ApiError {
    ApiError::bad_request("bad_frame", message)
}

/// A message in its frame.
pub(in crate::ingress) fn framed(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(FRAME_BYTES + message.len());
    out.push(0);
    out.extend_from_slice(&u32::try_from(message.len()).expect("answers are short").to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}
