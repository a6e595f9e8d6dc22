//! As much HTTP/1.1 as the bench speaks: heads by their end, bodies by their length, and one plain GET.

use std::{io, net::SocketAddr};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Bytes of a whole response that [`get`] takes.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;

/// Bytes up to and with the empty line, once they are all there.
pub fn head_len(bytes: &[u8]) -> Option<usize> {
    memmem::find(bytes, b"\r\n\r\n").map(|end| end + 4)
}

/// The status of a response's head.
///
/// # Errors
/// Where it does not begin with an HTTP/1 status line.
pub fn status(head: &[u8]) -> io::Result<u16> {
    match head {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', digits @ ..] => {
            digits.get(..3).and_then(decimal).and_then(|status| u16::try_from(status).ok())
        }
        _ => None,
    }
    .ok_or_else(|| invalid("no HTTP/1 status line"))
}

/// The declared length of the body; None where there is no such header.
///
/// # Errors
/// Where it is no number, or the body comes in chunks, which nobody here reads.
pub fn content_length(head: &[u8]) -> io::Result<Option<usize>> {
    if header(head, b"transfer-encoding").is_some() {
        return Err(invalid("a chunked body, where a content-length is wanted"));
    }
    let length = header(head, b"content-length");
    length
        .map(|value| decimal(value).ok_or_else(|| invalid("a content-length that is no number")))
        .transpose()
}

/// The value of a header; the name is given in lower case.
fn header<'a>(head: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let mut rest = head;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = &rest[..end];
        if line.get(name.len()) == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name) {
            return Some(line[name.len() + 1..].trim_ascii());
        }
        rest = &rest[end + 1..];
    }
    None
}

fn decimal(text: &[u8]) -> Option<usize> {
    str::from_utf8(text).ok()?.parse().ok()
}

/// Bytes that are not what the protocol says.
pub fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Status and body of one GET over a connection of its own. Asks as HTTP/1.0, so the body ends with the
/// connection and never comes in chunks.
///
/// # Errors
/// Where the connection fails or what comes back is no HTTP.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(RESPONSE_BYTES_MAX).read_to_end(&mut response).await?;
    let head = head_len(&response).ok_or_else(|| invalid("a response without an end of its head"))?;
    Ok((status(&response[..head])?, String::from_utf8_lossy(&response[head..]).into_owned()))
}
