//! HTTP/2 by hand: a client that can send frames no library lets out.

use std::{
    io::{self, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use super::PATIENCE;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// Codes of errors.
pub const CANCEL: u32 = 8;
pub const REFUSED_STREAM: u32 = 7;

/// A frame that came.
#[derive(Debug, Clone)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Whether it is the head of an answer with the status 200, the first entry of HPACK's table for one.
    pub fn is_ok(&self) -> bool {
        self.kind == HEADERS && self.payload.first() == Some(&0x88)
    }

    /// The code of a RST_STREAM.
    pub fn reset_code(&self) -> Option<u32> {
        (self.kind == RST_STREAM).then(|| u32::from_be_bytes(self.payload[..4].try_into().unwrap()))
    }
}

/// A connection whose preface and settings were exchanged.
pub struct Http2(BufReader<TcpStream>);

impl Http2 {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let mut connection = Self(BufReader::new(stream));
        connection.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        connection.send(SETTINGS, 0, 0, b"").unwrap();
        connection
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.write(&frame(kind, flags, stream, payload))
    }

    /// The next frame that is not about the connection itself; `None` at its end.
    pub fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            // A server that closes over bytes it has not read resets the connection.
            self.0.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).ok()?;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let frame = Frame { kind: head[3], flags: head[4], stream, payload };
            match frame.kind {
                SETTINGS | PING if frame.flags & ACK == 0 => {
                    let _ =
                        self.send(frame.kind, ACK, 0, if frame.kind == PING { &frame.payload } else { b"" });
                }
                DATA | HEADERS | RST_STREAM | GOAWAY => return Some(frame),
                _ => {}
            }
        }
    }

    /// The first frame of one stream, whatever comes for others meanwhile; `None` where the connection ends before.
    pub fn next_of(&mut self, stream: u32) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(|frame| frame.stream == stream)
    }
}

/// A frame with the length of its payload.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_that_says(payload.len() as u32, kind, flags, stream, payload)
}

/// A frame that says it has this length.
pub fn frame_that_says(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The head of a POST, in HPACK without its tables.
pub fn post(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    // :method POST, :scheme http, and literals that are not kept.
    let mut out = vec![0x83, 0x86];
    let mut literal = |name: &str, value: &str| {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).ok().filter(|length| *length < 0x7f).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    };
    literal(":path", path);
    literal(":authority", "test");
    headers.iter().for_each(|(name, value)| literal(name, value));
    out
}
