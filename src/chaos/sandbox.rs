//! The sandbox: an HTTP server within this process that takes the place of every sink's destination, remembers what came,
//! and fails as it is told.
//!
//! HTTP/1.1 by hand, because half of what it has to do no library does: an answer that is not HTTP, and connections cut in
//! the middle. It understands what Forebay's own `http` sink sends, and nothing else.
//!
//! Limits: a head of `HEAD_BYTES_MAX`, a body of `BODY_BYTES_MAX`; a connection with more is closed.

use std::{cell::RefCell, collections::BTreeMap, io, net::SocketAddr, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
};

use super::{ledger::Ledger, schedule::FaultKind};

/// Bytes of a request's first line and headers.
const HEAD_BYTES_MAX: u64 = 64 * 1024;

/// Bytes of a body: several of the largest that `batch.max_bytes` is usually set to.
const BODY_BYTES_MAX: usize = 256 << 20;

/// How late a slow destination answers.
const SLOW_BY: Duration = Duration::from_millis(500);

/// What a throttled client is asked to wait.
const RETRY_AFTER_SECONDS: u32 = 1;

/// A server that takes the place of destinations.
pub struct Sandbox {
    address: SocketAddr,
    shared: Rc<Shared>,
    accepting: tokio::task::JoinHandle<()>,
}

struct Shared {
    ledger: Rc<RefCell<Ledger>>,
    /// What each sink's destination does, the last of them first; it is well where there is nothing.
    faults: RefCell<BTreeMap<String, Vec<(usize, FaultKind)>>>,
    /// Cuts so far: every other one comes after the events were taken.
    cuts: RefCell<u64>,
}

/// A request that was read up to its body.
struct Head {
    sink: String,
    body_bytes: usize,
}

impl Sandbox {
    /// Listens on a free port of this machine; what comes is written into the ledger. Needs a `LocalSet` around it.
    ///
    /// # Errors
    /// Where it cannot listen.
    pub async fn start(ledger: Rc<RefCell<Ledger>>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let shared = Rc::new(Shared { ledger, faults: RefCell::default(), cuts: RefCell::default() });
        let serving = shared.clone();
        let accepting = tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let shared = serving.clone();
                // A client that was killed ends its own connection, nothing else.
                tokio::task::spawn_local(async move { shared.serve(stream).await });
            }
        });
        Ok(Self { address, shared, accepting })
    }

    /// Where the sink of this name delivers to.
    pub fn url(&self, sink: &str) -> String {
        format!("http://{}/{sink}", self.address)
    }

    /// From now on the sink's destination fails in this way, until [`Self::end`] with the same number.
    pub fn begin(&self, number: usize, kind: FaultKind, sink: &str) {
        self.shared.faults.borrow_mut().entry(sink.to_owned()).or_default().push((number, kind));
    }

    /// The fault of this number has an end.
    pub fn end(&self, number: usize) {
        self.shared.faults.borrow_mut().values_mut().for_each(|faults| faults.retain(|(n, _)| *n != number));
    }

    /// All faults have an end.
    pub fn heal(&self) {
        self.shared.faults.borrow_mut().clear();
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Shared {
    /// Requests, one after the other, until either side has enough.
    async fn serve(&self, stream: TcpStream) {
        let mut stream = BufReader::with_capacity(64 * 1024, stream);
        let mut body = Vec::new();
        while let Ok(Some(head)) = read_head(&mut stream).await {
            if !matches!(self.answer(&mut stream, &head, &mut body).await, Ok(true)) {
                return;
            }
        }
    }

    /// Answers one request; whether the connection can be used again.
    async fn answer(
        &self,
        stream: &mut BufReader<TcpStream>,
        head: &Head,
        body: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let fault = self.fault(&head.sink);
        body.clear();
        if fault == Some(FaultKind::SinkCut) && self.cuts_the_request() {
            stream.take(head.body_bytes as u64 / 2).read_to_end(body).await?;
            return Ok(false);
        }
        if stream.take(head.body_bytes as u64).read_to_end(body).await? < head.body_bytes {
            return Ok(false);
        }
        let ok = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        let (answer, goes_on) = match fault {
            Some(FaultKind::SinkFail | FaultKind::DiskFull) => {
                ("HTTP/1.1 500 As the schedule says\r\nContent-Length: 0\r\n\r\n".to_owned(), true)
            }
            Some(FaultKind::SinkThrottle) => {
                let status = "429 As the schedule says";
                let wait = format!("Retry-After: {RETRY_AFTER_SECONDS}");
                (format!("HTTP/1.1 {status}\r\n{wait}\r\nContent-Length: 0\r\n\r\n"), true)
            }
            Some(FaultKind::SinkGarbage) => ("\u{1}\u{2} this is not HTTP \u{3}\r\n\r\n".to_owned(), false),
            Some(FaultKind::SinkCut) => {
                self.ledger.borrow_mut().body_arrived(&head.sink, body);
                (ok[..ok.len() / 2].to_owned(), false)
            }
            other => {
                if other == Some(FaultKind::SinkSlow) {
                    tokio::time::sleep(SLOW_BY).await;
                }
                self.ledger.borrow_mut().body_arrived(&head.sink, body);
                (ok.to_owned(), true)
            }
        };
        stream.get_mut().write_all(answer.as_bytes()).await?;
        Ok(goes_on)
    }

    fn fault(&self, sink: &str) -> Option<FaultKind> {
        self.faults.borrow().get(sink).and_then(|faults| faults.last()).map(|(_, kind)| *kind)
    }

    /// Cuts alternate: in the request, so that nothing was taken, and in the answer, so that everything was.
    fn cuts_the_request(&self) -> bool {
        let mut cuts = self.cuts.borrow_mut();
        *cuts += 1;
        *cuts % 2 == 1
    }
}

/// The first line and the headers; `None` where the client has ended the connection, or says too much.
async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Head>> {
    let mut lines = stream.take(HEAD_BYTES_MAX);
    let (mut line, mut first, mut body_bytes) = (String::new(), None, 0);
    loop {
        line.clear();
        if lines.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let text = line.trim_end();
        if text.is_empty() {
            break;
        }
        if first.is_none() {
            first = text.split(' ').nth(1).map(|path| path.trim_start_matches('/').to_owned());
        } else if let Some((name, value)) = text.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            body_bytes = value.trim().parse().unwrap_or(usize::MAX);
        }
    }
    Ok(first.filter(|_| body_bytes <= BODY_BYTES_MAX).map(|sink| Head { sink, body_bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client hears that sends one event over a new connection.
    async fn send(sandbox: &Sandbox) -> String {
        let body = "{\"event_id\":\"chaos-00000001-0\"}\n";
        let head = format!("POST /up HTTP/1.1\r\nHost: x\r\ncontent-length: {}\r\n", body.len());
        let mut stream = TcpStream::connect(sandbox.address).await.expect("it listens");
        let request = format!("{head}Connection: close\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        stream.shutdown().await.expect("the end can be said");
        let mut heard = Vec::new();
        // A connection that is cut over unread bytes may end with a reset.
        let _ = stream.read_to_end(&mut heard).await;
        String::from_utf8_lossy(&heard).into_owned()
    }

    /// Each fault shows as what it is, takes the events or does not, and has its end.
    #[actix::test]
    async fn faults_are_what_they_say() {
        let ledger = Rc::new(RefCell::new(Ledger::new(1, ["up".to_owned()])));
        ledger.borrow_mut().post(0, 1);
        ledger.borrow_mut().acknowledge(0, tokio::time::Instant::now());
        let sandbox = Sandbox::start(ledger.clone()).await.expect("loopback is there");
        let mut taken = 0;
        for (kind, answer, takes) in [
            (FaultKind::SinkFail, "HTTP/1.1 500 ", false),
            (FaultKind::DiskFull, "HTTP/1.1 500 ", false),
            (FaultKind::SinkThrottle, "HTTP/1.1 429 As the schedule says\r\nRetry-After: 1\r\n", false),
            (FaultKind::SinkGarbage, "\u{1}\u{2} this", false),
            (FaultKind::SinkCut, "", false),
            (FaultKind::SinkCut, "HTTP/1.1 200", true),
            (FaultKind::SinkSlow, "HTTP/1.1 200 OK\r\n", true),
        ] {
            sandbox.begin(3, kind, "other");
            sandbox.begin(4, kind, "up");
            let heard = send(&sandbox).await;
            assert!(
                heard.starts_with(answer) && (heard.is_empty() == answer.is_empty()),
                "{kind:?}: {heard}"
            );
            assert_eq!(heard.ends_with("\r\n\r\n"), !answer.is_empty() && kind != FaultKind::SinkCut);
            taken += u64::from(takes);
            let tally = ledger.borrow().tally("up");
            assert_eq!(tally.delivered + tally.duplicated, taken, "{kind:?}");
            sandbox.end(4);
            assert!(send(&sandbox).await.starts_with("HTTP/1.1 200 OK"), "after {kind:?}");
            taken += 1;
        }
    }
}
