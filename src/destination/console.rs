//! `type: console`: NDJSON on standard output, a batch at a time.
//!
//! A reader that does not keep up holds this sink back, and no other. A reader that has gone away is an
//! error that may pass: the events wait.

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Framing, blocking, encode_batch, io_failure};
use crate::config::ConsoleSink;

/// Writes to standard output.
pub struct ConsoleDestination {
    out: Out,
}

type Out = Arc<Mutex<dyn Write + Send>>;

// === impl ConsoleDestination ===

impl ConsoleDestination {
    /// Over the process's standard output.
    pub fn new(_: &ConsoleSink) -> Self {
        Self { out: Arc::new(Mutex::new(io::stdout())) }
    }
}

impl fmt::Debug for ConsoleDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConsoleDestination")
    }
}

impl Destination for ConsoleDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let out = self.out.clone();
        blocking(move || {
            let body = encode_batch(&batch, Framing::Lines)?;
            write(&out, &body)?;
            Ok(Receipt::of(body.len() as u64))
        })
        .boxed_local()
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let out = self.out.clone();
        blocking(move || write(&out, b"")).boxed_local()
    }
}

/// One write for the whole batch, so that lines of other writers do not come between its lines.
fn write(out: &Out, body: &[u8]) -> Result<(), DeliveryError> {
    // A panic of an earlier writer leaves nothing in the lock that could be half-changed.
    let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
    out.write_all(body)
        .and_then(|()| out.flush())
        .map_err(|e| io_failure(Path::new("standard output"), "write", &e))
}

#[cfg(test)]
mod tests {
    use forebay_actors::destination::{Cause, Verdict};

    use super::*;
    use crate::destination::test_batch;

    /// Takes bytes until it is closed.
    #[derive(Default)]
    struct Pipe {
        taken: Vec<u8>,
        closed: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.closed {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Every event is a line; when the reader goes away the batch fails and may be tried again.
    #[tokio::test]
    async fn lines_go_out_and_a_closed_pipe_may_pass() {
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        let console = ConsoleDestination { out: pipe.clone() };
        let batch = Arc::new(test_batch::of(3));
        let receipt = console.deliver(batch.clone()).await.unwrap();
        assert_eq!(receipt.bytes, pipe.lock().unwrap().taken.len() as u64);
        assert_eq!(pipe.lock().unwrap().taken.iter().filter(|b| **b == b'\n').count(), 3);
        console.probe().await.unwrap();

        pipe.lock().unwrap().closed = true;
        let error = console.deliver(batch).await.unwrap_err();
        assert_eq!((error.cause, error.verdict), (Cause::Io, Verdict::Retry { after: None }));
        assert!(error.message.starts_with("standard output: write: "), "{error}");
    }
}
