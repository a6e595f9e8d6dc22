//! A wire to a server that breaks where a test wants it to: in the middle of a request, or of its answer.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Where a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// When so many bytes have gone to the server.
    Asked(usize),
    /// When so many bytes have come back: the server has done what the client never hears of.
    Answered(usize),
}

/// Passes bytes on, one connection after the other cut as planned, and those after the plan not at all.
pub struct Wire {
    pub port: u16,
    state: Arc<State>,
    listening: Option<JoinHandle<()>>,
}

struct State {
    /// 0 where it leads to nobody.
    server: AtomicU16,
    /// The next connection's first.
    cuts: Mutex<VecDeque<Cut>>,
    is_over: AtomicBool,
}

impl Wire {
    /// A wire to the server at this port.
    pub fn to(server: u16, cuts: impl IntoIterator<Item = Cut>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let cuts = Mutex::new(cuts.into_iter().collect());
        let state = Arc::new(State { server: AtomicU16::new(server), cuts, is_over: AtomicBool::new(false) });
        let listening = Some(thread::spawn({
            let state = state.clone();
            move || state.listen(&listener)
        }));
        Self { port, state, listening }
    }

    /// Leads the connections that come from now on to the server at this port, or to nobody.
    pub fn lead_to(&self, server: Option<u16>) {
        self.state.server.store(server.unwrap_or(0), Ordering::SeqCst);
    }

    /// Cuts that are still to come.
    pub fn cuts_left(&self) -> usize {
        self.state.cuts.lock().unwrap().len()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.state.is_over.store(true, Ordering::Relaxed);
        // It waits for a connection.
        let _ = TcpStream::connect(SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)));
        if let Some(listening) = self.listening.take() {
            let _ = listening.join();
        }
    }
}

impl State {
    fn listen(&self, listener: &TcpListener) {
        while let Ok((client, _)) = listener.accept() {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let server = self.server.load(Ordering::SeqCst);
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)) else { continue };
            let cut = self.cuts.lock().unwrap().pop_front();
            let (asked, answered) = match cut {
                Some(Cut::Asked(bytes)) => (bytes, usize::MAX),
                Some(Cut::Answered(bytes)) => (usize::MAX, bytes),
                None => (usize::MAX, usize::MAX),
            };
            let (from_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            // They end with their connection, which ends with the server or the client.
            thread::spawn(move || pass(from_client, to_server, asked));
            thread::spawn(move || pass(server, client, answered));
        }
    }
}

/// Passes so many bytes on, and then breaks both sides.
fn pass(mut from: TcpStream, mut to: TcpStream, mut left: usize) {
    let mut bytes = vec![0; 16 * 1024];
    while left > 0 {
        let most = left.min(bytes.len());
        match from.read(&mut bytes[..most]) {
            Ok(count @ 1..) if to.write_all(&bytes[..count]).is_ok() => left -= count,
            _ => break,
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
