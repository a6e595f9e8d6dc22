//! A keep-alive connection that sends requests as bytes and reads of a response its status and its length.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::wire;

/// Room for a response. Longer bodies are read in pieces.
const RESPONSE_BYTES: usize = 16 * 1024;

/// One socket and the room for what it answers.
pub struct Connection {
    stream: TcpStream,
    buffer: Box<[u8]>,
}

// === impl Connection ===

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens there.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; RESPONSE_BYTES].into() })
    }

    /// Sends one request and reads its response to the end; its status.
    ///
    /// # Errors
    /// Where the connection breaks, or what comes back is no HTTP.
    pub async fn exchange(&mut self, request: &[u8]) -> io::Result<u16> {
        self.stream.write_all(request).await?;
        let mut filled = 0;
        let head = loop {
            filled += self.read(filled).await?;
            if let Some(head) = wire::head_len(&self.buffer[..filled]) {
                break head;
            }
        };
        let status = wire::status(&self.buffer[..head])?;
        let length = wire::content_length(&self.buffer[..head])?.unwrap_or(0);
        let mut missing = (head + length)
            .checked_sub(filled)
            .ok_or_else(|| wire::invalid("more than the response that was asked for"))?;
        while missing > 0 {
            let read = self.read(0).await?;
            missing =
                missing.checked_sub(read).ok_or_else(|| wire::invalid("a body longer than its length"))?;
        }
        Ok(status)
    }

    async fn read(&mut self, from: usize) -> io::Result<usize> {
        if from == self.buffer.len() {
            return Err(wire::invalid("a head without an end"));
        }
        match self.stream.read(&mut self.buffer[from..]).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => Ok(read),
        }
    }
}
