//! The handshake of TLS, for sockets that no framework takes.
//!
//! Whatever comes instead of one ends that connection alone, within `tls.handshake_timeout`: until then it holds one of the
//! connections that there may be.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::security::Tls;

/// Bytes of a request in the clear that are read behind its answer.
const UNREAD_BYTES_MAX: u64 = 256 * 1024;

/// What a client is told that speaks HTTP in the clear. One that speaks HTTP/2 cannot read it, and is cut off.
const IN_THE_CLEAR: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 95\r\n\
Connection: close\r\n\r\n{\"error\":{\"code\":\"tls_required\",\"message\":\"this port speaks TLS; use https://\",\"details\":null}}";

/// The connection, once both sides have agreed; `None` where they have not.
pub(super) async fn accept(tls: &Tls, socket: TcpStream, peer: SocketAddr) -> Option<TlsStream<TcpStream>> {
    let agreed = async {
        let mut first = [0];
        if socket.peek(&mut first).await? == 1 && first[0].is_ascii_uppercase() {
            return clear(socket).await.map(|()| None);
        }
        TlsAcceptor::from(tls.server_config()).accept(socket).await.map(Some)
    };
    match tokio::time::timeout(tls.handshake_timeout(), agreed).await {
        Ok(Ok(agreed)) => agreed,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a handshake of TLS failed");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "a handshake of TLS took too long");
            None
        }
    }
}

/// Tells what is wrong, and reads a little of what comes: a connection that is closed over unread bytes takes the answer
/// with it.
async fn clear(mut socket: TcpStream) -> std::io::Result<()> {
    socket.write_all(IN_THE_CLEAR).await?;
    socket.shutdown().await?;
    let mut rest = socket.take(UNREAD_BYTES_MAX);
    tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map(drop)
}
