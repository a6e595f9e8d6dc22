//! HTTP/1.1 by hand: a client that can send what no library lets out, and a destination that can be told to fail.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
};

use serde_json::Value;

use super::PATIENCE;

/// An answer.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The next answer on a connection of any kind.
    pub fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let (status, headers) = status_and_headers(reader)?;
        let body = body(reader, &headers)?;
        Ok(Self { status, headers, body })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {} {}", self.status, self.text()))
    }

    /// The error of an answer that has to be one, in the one form that errors have.
    #[track_caller]
    pub fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        let error = self.json()["error"].take();
        assert_eq!(error["code"], code, "{error}");
        assert!(error["message"].as_str().is_some_and(|text| text.len() > 5), "{error}");
        assert!(error.get("details").is_some(), "{error}");
        error
    }

    #[track_caller]
    pub fn ok(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }
}

/// A connection that lives as long as the server lets it.
pub struct Connection(BufReader<TcpStream>);

impl Connection {
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut head =
            format!("{method} {target} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        head.push_str("\r\n");
        let sent = self.write(&[head.as_bytes(), body].concat());
        // A server that refuses a large body may stop reading it: its answer is what counts.
        self.response().map_err(|e| sent.err().unwrap_or(e))
    }

    pub fn response(&mut self) -> io::Result<Response> {
        Response::read(&mut self.0)
    }

    /// The status and the headers, and nothing behind them: all there is in an answer to HEAD.
    pub fn head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        status_and_headers(&mut self.0)
    }

    /// Whether the server has closed it, with nothing more to say.
    pub fn is_at_end(&mut self) -> bool {
        match self.0.fill_buf() {
            Ok(rest) => rest.is_empty(),
            // A server that closes over bytes it has not read resets the connection.
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A request over a connection of its own.
pub fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let headers = [headers, &[("Connection", "close")]].concat();
    Connection::open(address)?.request(method, target, &headers, body)
}

fn status_and_headers(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let (first, headers) = head(reader)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status: {first}")))?;
    Ok((status, headers))
}

type Head = (String, Vec<(String, String)>);

/// The first line and the headers; `None` where the other side has ended the connection.
fn head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => return Ok(Some((first.trim_end().to_owned(), headers))),
        }
    }
}

fn body(reader: &mut impl BufRead, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
    let header = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let mut body = Vec::new();
    if header("transfer-encoding") == Some("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            reader.by_ref().take(length + 2).read_to_end(&mut body)?;
            body.truncate(body.len() - 2);
            if length == 0 {
                return Ok(body);
            }
        }
    }
    let length = header("content-length").map_or(0, |length| length.parse().unwrap_or(0));
    if reader.by_ref().take(length).read_to_end(&mut body)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(body)
}

// === a destination ===

/// An HTTP destination that keeps every event it has said yes to.
pub struct Destination {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

struct Shared {
    /// What it answers.
    status: AtomicU16,
    /// Bodies with this text in them get 400.
    poison: Mutex<Option<String>>,
    events: Mutex<BTreeMap<String, (u64, Value)>>,
    /// Which event came at which position, and the positions at which there were two.
    positions: Mutex<(BTreeMap<u64, String>, Vec<String>)>,
    requests: AtomicU64,
    ended: AtomicBool,
}

impl Destination {
    /// One that says yes to everything.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            status: AtomicU16::new(200),
            poison: Mutex::default(),
            events: Mutex::default(),
            positions: Mutex::default(),
            requests: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let (Ok(stream), shared) = (stream, accepting.clone()) else { continue };
                // A client that was killed ends its connection's thread, nothing else.
                std::thread::spawn(move || shared.serve(BufReader::new(stream)));
            }
        });
        Self { address, shared, accepting: Some(accepting) }
    }

    /// The configuration of a sink that delivers here and does not wait long after a failure.
    pub fn sink(&self) -> String {
        format!(
            "{{ type: http, url: \"http://{}/\", retry: {{ backoff_min: 20ms, backoff_max: 100ms }}, \
             breaker: {{ open_for: 100ms, successes: 1 }} }}",
            self.address
        )
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16) {
        self.shared.status.store(status, Ordering::Relaxed);
    }

    /// Refuses every body with this text in it; takes all again with `None`.
    pub fn refuse(&self, text: Option<&str>) {
        *lock(&self.shared.poison) = text.map(str::to_owned);
    }

    /// Every event it has taken, by id, with how often.
    pub fn events(&self) -> BTreeMap<String, (u64, Value)> {
        lock(&self.shared.events).clone()
    }

    /// How many different events it has taken.
    pub fn count(&self) -> usize {
        lock(&self.shared.events).len()
    }

    pub fn has(&self, id: &str) -> bool {
        lock(&self.shared.events).contains_key(id)
    }

    /// How many positions events came from, and which of them were given to two events: there a destination that
    /// recognises batches would have taken one of the two for the other.
    pub fn positions(&self) -> (u64, Vec<String>) {
        let (positions, twice) = &*lock(&self.shared.positions);
        (positions.len() as u64, twice.clone())
    }

    /// How many requests came, whatever the answer.
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        // Nobody listens afterwards. Who cannot be joined has ended by a panic, which was said.
        let _ = self.accepting.take().map(std::thread::JoinHandle::join);
    }
}

impl Shared {
    fn serve(&self, mut reader: BufReader<TcpStream>) {
        while let Ok(Some((first, headers))) = head(&mut reader) {
            let Ok(body) = body(&mut reader, &headers) else { return };
            let status = if first.starts_with("POST") { self.take(&headers, &body) } else { 200 };
            let answer = format!("HTTP/1.1 {status} As told\r\nContent-Length: 0\r\n\r\n");
            if self.ended.load(Ordering::Relaxed) || reader.get_mut().write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    fn take(&self, headers: &[(String, String)], body: &[u8]) -> u16 {
        self.requests.fetch_add(1, Ordering::Relaxed);
        let status = self.status.load(Ordering::Relaxed);
        if status != 200 {
            return status;
        }
        let text = String::from_utf8_lossy(body);
        if lock(&self.poison).as_ref().is_some_and(|poison| text.contains(poison)) {
            return 400;
        }
        let (mut events, mut ids) = (lock(&self.events), Vec::new());
        for line in text.lines() {
            let event: Value = serde_json::from_str(line).expect("a sink sends JSON");
            let id = event["event_id"].as_str().expect("every event has an id").to_owned();
            ids.push(id.clone());
            events.entry(id).or_insert((0, event)).0 += 1;
        }
        drop(events);
        self.note_positions(headers, ids);
        200
    }

    /// A batch's id is the name of its journal, its first position and the one behind its last.
    fn note_positions(&self, headers: &[(String, String)], ids: Vec<String>) {
        let id = headers.iter().find(|(name, _)| name == "x-forebay-batch-id").map(|(_, id)| id.as_str());
        let words: Vec<_> = id.unwrap_or_default().split('-').collect();
        let [_, first, _] = words[..] else { return };
        let (positions, twice) = &mut *lock(&self.positions);
        for (at, id) in (first.parse().expect("a position")..).zip(ids) {
            let known = positions.entry(at).or_insert_with(|| id.clone());
            if *known != id {
                twice.push(format!("{at}: {known}, then {id}"));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
