//! Reading request bodies within bounds: of size, of time, and of memory over all clients together.

use std::{
    fmt,
    io::Read,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use actix_web::http::StatusCode;
use bytes::Bytes;
use forebay_actors::spare::SparePool;
use futures::{Stream, StreamExt as _};
use tokio::sync::Notify;

use crate::api::error::ApiError;

/// Compressed bytes up to which a body is unpacked on the worker's own thread: below a millisecond.
const INLINE_BYTES_MAX: usize = 8 * 1024;

/// Unpacked bytes from which on room for the largest body is taken at once.
const GROW_ONCE_BYTES: usize = 1024 * 1024;

/// Bytes unpacked between two looks at the bounds.
const UNPACK_STEP_BYTES: usize = 64 * 1024;

/// The largest window of a zstd frame that is accepted, as a power of two: 8 MiB, what the format asks every decoder
/// to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// Buffers kept for bodies that come in several pieces, and the size up to which they are.
const SPARE_BODIES: usize = 8;
const SPARE_BODY_BYTES_MAX: usize = 512 * 1024;

/// What a body may take.
#[derive(Debug, Clone)]
pub struct BodyLimits {
    /// Bytes, before and after decompression.
    pub max_bytes: usize,
    /// The key that sets them, for whoever sent too much.
    pub key: &'static str,
    /// From the first byte to the last.
    pub timeout: Duration,
    /// Shared by all requests.
    pub budget: BodyBudget,
    /// Buffers in which bodies are put together.
    spare: SparePool,
}

impl BodyLimits {
    /// Bounds of one body, and of all bodies in memory together.
    pub fn new(max_bytes: usize, key: &'static str, timeout: Duration, budget: BodyBudget) -> Self {
        let spare = SparePool::new(SPARE_BODIES, SPARE_BODY_BYTES_MAX);
        Self { max_bytes, key, timeout, budget, spare }
    }
}

/// Bytes of bodies in memory, over all requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Shares>);

#[derive(Debug)]
struct Shares {
    used: AtomicUsize,
    max: usize,
    /// Told of every share that is given back while more than half of the bytes were taken.
    given_back: Notify,
}

/// A share of the budget, given back when dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: BodyBudget,
    bytes: usize,
}

/// A body, and its share of the budget.
#[derive(Debug)]
pub struct Body {
    /// Its bytes, unpacked.
    pub bytes: Bytes,
    /// Its share of the budget: to be kept until the events in it are answered for.
    pub reserved: Reserved,
}

impl BodyBudget {
    /// A budget of `max` bytes.
    pub fn new(max: usize) -> Self {
        Self(Arc::new(Shares { used: AtomicUsize::new(0), max, given_back: Notify::new() }))
    }

    /// Waits until half of it is free: for those who need not begin yet.
    pub async fn half_free(&self) {
        loop {
            let given_back = self.0.given_back.notified();
            if self.0.used.load(Ordering::Relaxed) <= self.0.max / 2 {
                return;
            }
            given_back.await;
        }
    }

    /// A share of nothing, that may grow.
    pub fn reserve(&self) -> Reserved {
        Reserved { budget: self.clone(), bytes: 0 }
    }
}

impl Reserved {
    /// The part of it that belongs to so many bytes.
    pub fn split_off(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { budget: self.budget.clone(), bytes }
    }

    /// Takes so many bytes more.
    ///
    /// # Errors
    /// 503 where too much is in memory already.
    pub fn grow(&mut self, bytes: usize) -> Result<(), ApiError> {
        let Shares { used, max, .. } = &*self.budget.0;
        let used = used.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bytes += bytes;
        // Alone it would not fit either: whoever is told to come again with it would do so for ever.
        if self.bytes > *max {
            let message = format!(
                "the body takes more than the {max} bytes that all bodies together may, packed and unpacked (http.max_inflight_bytes)"
            );
            return Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).closing());
        }
        // The reservation that passes the bound is given back with the whole share when the request ends.
        if used > *max {
            let message = "too many request bodies are in memory; try again shortly";
            return Err(ApiError::unavailable("overloaded", message, Duration::from_secs(1)).closing());
        }
        Ok(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let Shares { used, max, given_back } = &*self.budget.0;
        // Nobody waits for more than half, and telling nobody takes a lock that all requests share.
        if used.fetch_sub(self.bytes, Ordering::Relaxed) > max / 2 {
            given_back.notify_waiters();
        }
    }
}

/// How a body is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// Not at all.
    Identity,
    /// As gzip.
    Gzip,
    /// As zstd.
    Zstd,
    /// As zlib, which HTTP and gRPC call deflate.
    Deflate,
}

/// What a request's head says of its body.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    /// How it is packed.
    pub coding: Coding,
    /// Its bytes, where they are known before.
    pub length: Option<usize>,
}

impl Head {
    /// By the request's headers, whatever kind of map they are in.
    ///
    /// # Errors
    /// 415 where the packing is unknown.
    pub fn of<'h>(header: impl Fn(&str) -> Option<&'h [u8]>) -> Result<Self, ApiError> {
        let text = |name| header(name).map(|value| std::str::from_utf8(value).unwrap_or(""));
        let coding = text("content-encoding").map_or(Ok(Coding::Identity), Coding::of)?;
        Ok(Self { coding, length: text("content-length").and_then(|length| length.parse().ok()) })
    }
}

impl Coding {
    fn of(name: &str) -> Result<Self, ApiError> {
        match name.trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            // The Collector has both names for it.
            "deflate" | "zlib" => Ok(Self::Deflate),
            other => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_encoding",
                format!("Content-Encoding {other:?} is not known; gzip, zstd, deflate and identity are"),
            )
            .closing()),
        }
    }
}

/// Bytes that are in memory already, with their share of the budget.
///
/// # Errors
/// 503 where too much is in memory.
pub fn held(bytes: Bytes, limits: &BodyLimits) -> Result<Body, ApiError> {
    let mut reserved = limits.budget.reserve();
    reserved.grow(bytes.len())?;
    Ok(Body { bytes, reserved })
}

/// Reads and unpacks a body.
///
/// # Errors
/// 408 where it does not come in time, 413 where it is too large, 415 where its packing is unknown, 503 where too much
/// is in memory already, 400 where it breaks off or cannot be unpacked.
pub async fn read<E: fmt::Display>(
    head: Head,
    payload: impl Stream<Item = Result<Bytes, E>>,
    limits: &BodyLimits,
) -> Result<Body, ApiError> {
    if head.length.is_some_and(|length| length > limits.max_bytes) {
        return Err(too_large(limits).closing());
    }
    let mut collecting = pin!(collect(payload, head.length, limits));
    // A small body came with its head; a timer for it would cost more than the reading.
    let packed = match futures::poll!(&mut collecting) {
        Poll::Ready(packed) => packed,
        Poll::Pending => tokio::time::timeout(limits.timeout, collecting).await.map_err(|_| {
            let message = format!("the body did not arrive within {:?}", limits.timeout);
            ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", message).closing()
        })?,
    };
    let (bytes, reserved) = packed?;
    unpacked(Body { bytes, reserved }, head.coding, limits).await
}

/// Unpacks what was read.
///
/// # Errors
/// As [`read`].
pub async fn unpacked(body: Body, coding: Coding, limits: &BodyLimits) -> Result<Body, ApiError> {
    let Body { bytes, reserved } = body;
    if coding == Coding::Identity {
        return Ok(Body { bytes, reserved });
    }
    if bytes.len() <= INLINE_BYTES_MAX {
        return unpack(&bytes, coding, limits, reserved);
    }
    let limits = limits.clone();
    let unpacked = tokio::task::spawn_blocking(move || unpack(&bytes, coding, &limits, reserved)).await;
    unpacked.map_err(|_| ApiError::internal("the body could not be unpacked"))?
}

async fn collect<E: fmt::Display>(
    payload: impl Stream<Item = Result<Bytes, E>>,
    length: Option<usize>,
    limits: &BodyLimits,
) -> Result<(Bytes, Reserved), ApiError> {
    let mut payload = pin!(payload);
    let mut reserved = limits.budget.reserve();
    let mut whole = Vec::new();
    let mut only = Bytes::new();
    while let Some(chunk) = payload.next().await {
        let broken =
            |e: E| ApiError::bad_request("incomplete_body", format!("the body broke off: {e}")).closing();
        let chunk = chunk.map_err(broken)?;
        if whole.len() + only.len() + chunk.len() > limits.max_bytes {
            return Err(too_large(limits).closing());
        }
        reserved.grow(chunk.len())?;
        if whole.is_empty() && only.is_empty() {
            // A small body comes in one piece, which is not copied.
            only = chunk;
            continue;
        }
        if whole.is_empty() {
            whole = limits.spare.take(length.unwrap_or(0));
            whole.extend_from_slice(&only);
            only = Bytes::new();
        }
        whole.extend_from_slice(&chunk);
    }
    let bytes = if whole.is_empty() { only } else { limits.spare.bytes(whole) };
    Ok((bytes, reserved))
}

fn unpack(
    packed: &[u8],
    coding: Coding,
    limits: &BodyLimits,
    mut reserved: Reserved,
) -> Result<Body, ApiError> {
    let max_bytes = limits.max_bytes;
    let broken = |e| ApiError::bad_request("bad_compression", format!("the body cannot be unpacked: {e}"));
    let mut reader: Box<dyn Read + '_> = match coding {
        Coding::Identity => Box::new(packed),
        Coding::Gzip => Box::new(flate2::read::MultiGzDecoder::new(packed)),
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(packed).map_err(broken)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(broken)?;
            Box::new(decoder)
        }
        Coding::Deflate => Box::new(flate2::read::ZlibDecoder::new(packed)),
    };
    let mut out = Vec::new();
    loop {
        let step = UNPACK_STEP_BYTES.min(max_bytes + 1 - out.len()) as u64;
        let read = reader.by_ref().take(step).read_to_end(&mut out).map_err(broken)?;
        if out.len() > max_bytes {
            return Err(too_large(limits));
        }
        if read == 0 {
            return Ok(Body { bytes: out.into(), reserved });
        }
        reserved.grow(read)?;
        if out.len() >= GROW_ONCE_BYTES {
            // Doubling a large buffer takes three times its bytes while it moves. All there may be is address space until
            // it is written to.
            out.reserve_exact(max_bytes + 1 - out.len());
        }
    }
}

/// The answer to a body that has too many bytes.
pub(super) fn too_large(limits: &BodyLimits) -> ApiError {
    let BodyLimits { max_bytes, key, .. } = limits;
    let message = format!("a body may have {max_bytes} bytes, before and after decompression ({key})");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn limits(max_bytes: usize, budget: &BodyBudget) -> BodyLimits {
        BodyLimits::new(max_bytes, "http.max_body_bytes", Duration::from_secs(1), budget.clone())
    }

    /// Unpacking stops at the bound: a bomb of 100 MB costs the 1 MB that is allowed.
    #[test]
    fn a_bomb_stops_at_the_bound() {
        let budget = BodyBudget::new(2 << 20);
        let bomb = gzip(&vec![0; 100_000_000]);
        assert!(bomb.len() < 1_000_000, "{}", bomb.len());
        let error = unpack(&bomb, Coding::Gzip, &limits(1 << 20, &budget), budget.reserve()).unwrap_err();
        assert_eq!(error.code(), "body_too_large");
        let zeros = vec![0; 100_000_000];
        let bomb = zstd::encode_all(&zeros[..], 3).unwrap();
        let error = unpack(&bomb, Coding::Zstd, &limits(1 << 20, &budget), budget.reserve()).unwrap_err();
        assert_eq!(error.code(), "body_too_large");
        assert_eq!(budget.0.used.load(Ordering::Relaxed), 0, "shares are given back");
    }

    /// The budget is one for all: the request that would pass it is refused, and told when to come again.
    #[test]
    fn the_budget_is_shared() {
        let budget = BodyBudget::new(100_000);
        let mut first = budget.reserve();
        first.grow(90_000).unwrap();
        let error = unpack(&gzip(&[7; 50_000]), Coding::Gzip, &limits(1 << 20, &budget), budget.reserve())
            .unwrap_err();
        assert_eq!(error.code(), "overloaded");
        drop(first);
        let body =
            unpack(&gzip(&[7; 50_000]), Coding::Gzip, &limits(1 << 20, &budget), budget.reserve()).unwrap();
        assert_eq!(&body.bytes[..], &[7; 50_000]);
    }

    /// Scenario: a body that does not fit in what all bodies may take, even where it is the only one.
    /// Guarantee: it is too large. It was told to come again, which clients then do for ever.
    #[test]
    fn r0456_a_body_that_never_fits_was_told_to_come_again() {
        let budget = BodyBudget::new(100_000);
        let bomb = gzip(&[0; 150_000]);
        let error = unpack(&bomb, Coding::Gzip, &limits(1 << 20, &budget), budget.reserve()).unwrap_err();
        assert_eq!(error.code(), "body_too_large");
        assert!(error.message().contains("http.max_inflight_bytes"), "{}", error.message());
    }

    #[test]
    fn broken_packing_is_an_error() {
        let budget = BodyBudget::new(1 << 20);
        let mut packed = gzip(b"some text that is long enough");
        packed.truncate(15);
        for coding in [Coding::Gzip, Coding::Zstd, Coding::Deflate] {
            let error = unpack(&packed, coding, &limits(1000, &budget), budget.reserve()).unwrap_err();
            assert_eq!(error.code(), "bad_compression");
        }
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// SDKs offer deflate beside gzip; who had chosen it got 415 and dropped what it had.
    #[test]
    fn r0441_deflate_was_refused() {
        assert_eq!(Coding::of("Deflate").unwrap(), Coding::Deflate);
        let budget = BodyBudget::new(1 << 20);
        let packed = zlib(&[7; 50_000]);
        let body = unpack(&packed, Coding::Deflate, &limits(50_000, &budget), budget.reserve()).unwrap();
        assert_eq!(&body.bytes[..], &[7; 50_000]);
        let error = unpack(&packed, Coding::Deflate, &limits(49_999, &budget), budget.reserve()).unwrap_err();
        assert_eq!(error.code(), "body_too_large");
        let cut = &packed[..packed.len() - 5];
        let error = unpack(cut, Coding::Deflate, &limits(50_000, &budget), budget.reserve()).unwrap_err();
        assert_eq!(error.code(), "bad_compression", "one that is cut is not taken for a short one");
    }
}
