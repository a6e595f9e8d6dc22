//! Reads the numbers of the events that arrive at the destination.

use std::sync::Arc;

use super::{ledger::Ledger, sink::Reader};

/// What stands before a number; the rest of a line is not looked at.
const BEFORE: &[u8] = b"{\"event_id\":\"";
/// Bytes of a line in which its number stands: 20 digits and a quote behind what is before them.
const HEAD_BYTES: usize = BEFORE.len() + 21;

/// The reader of one connection.
#[derive(Debug)]
pub struct NumberReader {
    ledger: Arc<Ledger>,
    /// The beginning of the line that is being read, which may come in pieces.
    head: Vec<u8>,
    numbers: Vec<u64>,
}

// === impl NumberReader ===

impl NumberReader {
    /// One that notes them there.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, head: Vec::with_capacity(HEAD_BYTES), numbers: Vec::new() }
    }

    fn end_line(&mut self) {
        let digits = self.head.strip_prefix(BEFORE).unwrap_or_default();
        let digits = digits.split(|byte| *byte == b'"').next().unwrap_or_default();
        // What has no number is missed at the end, and named as lost then.
        self.numbers.extend(str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u64>().ok()));
        self.head.clear();
    }
}

impl Reader for NumberReader {
    fn piece(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        loop {
            let end = memchr::memchr(b'\n', rest);
            let line = &rest[..end.unwrap_or(rest.len())];
            let room = HEAD_BYTES - self.head.len();
            self.head.extend_from_slice(&line[..line.len().min(room)]);
            let Some(end) = end else { return };
            self.end_line();
            rest = &rest[end + 1..];
        }
    }

    fn end(&mut self, taken: bool) {
        if !self.head.is_empty() {
            self.end_line();
        }
        if taken {
            self.ledger.deliver(&self.numbers);
        }
        self.numbers.clear();
    }
}
