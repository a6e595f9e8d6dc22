//! The HTTP destination: looks at the lines of what is POSTed to it, on a thread of its own.
//!
//! It holds its port whether it listens or not, so that a destination can go away and come back at the
//! address the configuration names, and nobody else gets the port meanwhile.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use super::{Failure, wire};

/// Bytes read at once: a batch is megabytes, and every read is a wake-up on a shared core.
const BUFFER_BYTES: usize = 256 * 1024;
const LISTEN_BACKLOG: u32 = 64;
/// How long a slow destination takes for an answer: long enough for a sink that waits for it to fall behind.
const SLOW_ANSWER: Duration = Duration::from_millis(400);

/// How the destination behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stance {
    /// Takes everything.
    Open,
    /// Reads everything and answers 503.
    Unavailable,
    /// Takes everything, and answers late.
    Slow,
    /// Reads everything and answers nothing.
    Hung,
    /// Reads everything and breaks the connection instead of answering.
    Cut,
    /// Does not listen: connections are refused, those that stood are broken.
    Closed,
}

/// Looks at the bodies of one connection.
pub trait Reader: Send {
    /// The next piece of a body.
    fn piece(&mut self, bytes: &[u8]);

    /// The body has ended. It was `taken` where a 200 is the answer: what is not will come again.
    fn end(&mut self, taken: bool);
}

/// Makes the reader of a new connection.
type Readers = Arc<dyn Fn() -> Box<dyn Reader> + Send + Sync>;

/// A running destination. Dropping it ends it.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    stance: watch::Sender<Stance>,
    counts: Arc<Counts>,
}

/// What it has counted.
#[derive(Debug, Default)]
pub struct Counts {
    events: AtomicU64,
    bytes: AtomicU64,
    /// Requests that it could not understand: a fault of the sender or of this file, never to be hidden.
    misunderstood: AtomicU64,
}

// === impl Counts ===

impl Counts {
    /// Counts events that were taken.
    pub fn add_events(&self, events: u64) {
        self.events.fetch_add(events, Ordering::Relaxed);
    }
}

// === impl Sink ===

impl Sink {
    /// Begins to listen on a free port.
    ///
    /// # Errors
    /// Where there is no port or no thread to be had.
    pub fn start() -> Result<Self, Failure> {
        Self::read_by(|counts| Box::new(Lines { counts, ended: 0, is_open: false }))
    }

    /// The same with bodies that `reader` looks at.
    ///
    /// # Errors
    /// As [`Sink::start`].
    pub fn read_by(
        reader: impl Fn(Arc<Counts>) -> Box<dyn Reader> + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(Failure::io("start the sink's runtime"))?;
        let held = hold(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).map_err(Failure::io("bind the sink"))?;
        let address = held.local_addr().map_err(Failure::io("bind the sink"))?;
        let (stance, stances) = watch::channel(Stance::Open);
        let counts = Arc::new(Counts::default());
        let counted = Arc::clone(&counts);
        let readers: Readers = {
            let counts = Arc::clone(&counts);
            Arc::new(move || reader(Arc::clone(&counts)))
        };
        std::thread::Builder::new()
            .name("sink".to_owned())
            .spawn(move || {
                if let Err(error) = runtime.block_on(serve(held, address, stances, counted, readers)) {
                    eprintln!("bench: the sink at {address} ended: {error}");
                }
            })
            .map_err(Failure::io("start the sink's thread"))?;
        Ok(Self { address, stance, counts })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how it behaves, from the next request on.
    pub fn set(&self, stance: Stance) {
        self.stance.send_replace(stance);
    }

    /// Events it has answered 200 for, repeated ones counted again.
    pub fn events(&self) -> u64 {
        self.counts.events.load(Ordering::Relaxed)
    }

    /// Bytes of the bodies of these events.
    pub fn bytes(&self) -> u64 {
        self.counts.bytes.load(Ordering::Relaxed)
    }

    /// Requests it did not understand.
    pub fn misunderstood(&self) -> u64 {
        self.counts.misunderstood.load(Ordering::Relaxed)
    }
}

/// A socket that has the port and does not listen: connections to it are refused.
fn hold(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // Connections broken by a closing sink keep the port busy for a minute otherwise.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn serve(
    mut held: TcpSocket,
    address: SocketAddr,
    mut stances: watch::Receiver<Stance>,
    counts: Arc<Counts>,
    readers: Readers,
) -> io::Result<()> {
    // An error of `wait_for` means that `Sink` was dropped.
    while stances.wait_for(|stance| *stance != Stance::Closed).await.is_ok() {
        let listener = held.listen(LISTEN_BACKLOG)?;
        let mut connections = JoinSet::new();
        let closed = accept_until_closed(&listener, &mut connections, &mut stances, &counts, &readers).await;
        connections.shutdown().await;
        drop(listener);
        if closed.is_none() {
            return Ok(());
        }
        held = hold(address)?;
    }
    Ok(())
}

/// Some when the stance is `Closed`, None when the sink was dropped.
async fn accept_until_closed(
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    stances: &mut watch::Receiver<Stance>,
    counts: &Arc<Counts>,
    readers: &Readers,
) -> Option<()> {
    let mut watched = stances.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    let (mut stances, counts, mut reader) = (stances.clone(), Arc::clone(counts), readers());
                    connections.spawn(async move {
                        match answer(stream, &mut stances, &counts, &mut *reader).await {
                            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                                counts.misunderstood.fetch_add(1, Ordering::Relaxed);
                                eprintln!("bench: the sink got {error}");
                            }
                            // A sender may break a connection at any time, and then sends again.
                            Ok(()) | Err(_) => {}
                        }
                    });
                }
            }
            closed = watched.wait_for(|stance| *stance == Stance::Closed) => return closed.ok().map(|_| ()),
        }
    }
}

/// Answers the requests of one connection until it ends.
async fn answer(
    mut stream: TcpStream,
    stances: &mut watch::Receiver<Stance>,
    counts: &Counts,
    reader: &mut dyn Reader,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    loop {
        let Some(head) = wire::head_len(&buffer[..filled]) else {
            if filled == buffer.len() {
                return Err(wire::invalid("a head without an end"));
            }
            match stream.read(&mut buffer[filled..]).await? {
                0 => return Ok(()),
                read => filled += read,
            }
            continue;
        };
        let length = match wire::content_length(&buffer[..head])? {
            Some(length) => length,
            None if buffer.starts_with(b"POST ") => {
                return Err(wire::invalid("a POST without a content-length"));
            }
            None => 0,
        };
        let here = length.min(filled - head);
        reader.piece(&buffer[head..head + here]);
        buffer.copy_within(head + here..filled, 0);
        filled -= head + here;
        let mut missing = length - here;
        while missing > 0 {
            // Whatever is missing of this body stands before anything that could be left over from it.
            let room = missing.min(buffer.len());
            match stream.read(&mut buffer[..room]).await? {
                0 => return Ok(()),
                read => {
                    reader.piece(&buffer[..read]);
                    missing -= read;
                }
            }
        }
        let stance = *stances.borrow();
        if stance == Stance::Slow {
            tokio::time::sleep(SLOW_ANSWER).await;
        }
        let taken = matches!(stance, Stance::Open | Stance::Slow);
        reader.end(taken);
        match stance {
            Stance::Open | Stance::Slow => {
                counts.bytes.fetch_add(length as u64, Ordering::Relaxed);
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Stance::Unavailable => {
                stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await?;
            }
            Stance::Hung => {
                // Until it changes, or the sink is dropped.
                let _ = stances.wait_for(|stance| *stance != Stance::Hung).await;
                return Ok(());
            }
            Stance::Cut | Stance::Closed => return Ok(()),
        }
    }
}

/// Counts the lines of a body that comes in pieces; the last need not end with a line break.
#[derive(Debug)]
struct Lines {
    counts: Arc<Counts>,
    ended: u64,
    is_open: bool,
}

// === impl Lines ===

impl Reader for Lines {
    fn piece(&mut self, piece: &[u8]) {
        self.ended += memchr::memchr_iter(b'\n', piece).count() as u64;
        if let Some(last) = piece.last() {
            self.is_open = *last != b'\n';
        }
    }

    fn end(&mut self, taken: bool) {
        let lines = std::mem::take(&mut self.ended) + u64::from(std::mem::take(&mut self.is_open));
        if taken {
            self.counts.events.fetch_add(lines, Ordering::Relaxed);
        }
    }
}
