//! What stands in the place of a store, or in front of one: it answers as a test wants.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

/// What becomes of a request.
pub(super) enum Turn {
    /// The server behind answers it.
    Passed,
    /// This is the answer; the server never hears of it.
    Answered(String),
    /// The server does it, and this is the answer.
    Done(String),
    /// The server gets half of its body, and nobody an answer.
    Halved,
    /// The server answers it; the answer goes on when this has returned.
    Late(Box<dyn FnOnce()>),
}

/// An answer of HTTP.
pub(super) fn answer(status: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// The port of a front to the server at `behind`; `turn` gets the head of each request, as it came.
pub(super) fn front(behind: u16, turn: impl Fn(&str) -> Turn + Send + Clone + 'static) -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (Ok(stream), turn) = (stream, turn.clone()) else { return };
            std::thread::spawn(move || one(stream, behind, &turn));
        }
    });
    port
}

fn one(stream: TcpStream, behind: u16, turn: &impl Fn(&str) -> Turn) {
    let mut reader = BufReader::new(stream);
    let (mut head, mut line) = (String::new(), String::new());
    while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
        head.push_str(&line);
        line.clear();
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    // A process that was killed has gone in the middle of it.
    if head.is_empty() || reader.read_exact(&mut body).is_err() {
        return;
    }
    let send = |body: &[u8]| {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, behind)).ok()?;
        write!(server, "{head}Connection: close\r\n\r\n").ok()?;
        server.write_all(body).ok()?;
        Some(server)
    };
    let pass = || {
        let mut answer = Vec::new();
        send(&body)?.read_to_end(&mut answer).ok()?;
        Some(answer)
    };
    let answer = match turn(&head) {
        Turn::Passed => pass().unwrap_or_default(),
        Turn::Answered(answer) => answer.into_bytes(),
        Turn::Done(answer) => pass().map(|_| answer.into_bytes()).unwrap_or_default(),
        Turn::Halved => {
            drop(send(&body[..body.len() / 2]));
            Vec::new()
        }
        Turn::Late(wait) => {
            let answer = pass().unwrap_or_default();
            wait();
            answer
        }
    };
    // Whoever asked may have gone.
    let _ = reader.get_mut().write_all(&answer);
}
