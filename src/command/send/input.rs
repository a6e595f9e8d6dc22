//! What is read: unpacked, told apart, and cut into lines or documents, by a thread that may wait for its reader.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::Format;

/// A line or a document with more bytes is wrong; no server takes so much.
const ITEM_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Looked at to tell what it is, unless a line ends before.
const PEEK_BYTES: usize = 64 * 1024;

/// Lines are handed over in pieces of about this size, and so many pieces wait.
const PIECE_BYTES: usize = 256 * 1024;
const PIECES_MAX: usize = 4;

/// What is in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An event a line.
    Events,
    /// An OTLP request a line.
    OtlpLines,
    /// OTLP requests over many lines each.
    OtlpDocuments,
}

/// A line, or a document.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// From 1.
    pub number: u64,
    /// What stands in it, or why that cannot be said.
    pub bytes: Result<Vec<u8>, String>,
}

/// The input as it is read.
pub(super) struct Input {
    kind: Kind,
    pieces: mpsc::Receiver<Vec<Line>>,
    piece: std::vec::IntoIter<Line>,
    read: ReadSoFar,
    total_bytes: Option<u64>,
}

/// How much was read.
#[derive(Debug, Clone, Default)]
pub(super) struct ReadSoFar(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    packed: AtomicU64,
    unpacked: AtomicU64,
    error: Mutex<Option<String>>,
}

impl ReadSoFar {
    pub fn packed_bytes(&self) -> u64 {
        self.0.packed.load(Ordering::Relaxed)
    }

    pub fn unpacked_bytes(&self) -> u64 {
        self.0.unpacked.load(Ordering::Relaxed)
    }
}

/// Counts what comes out of the file.
struct Counting<R>(R, ReadSoFar);

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(into)?;
        self.1.0.packed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Input {
    /// Opens the file, or standard input where it is `-`, and looks at its beginning.
    pub fn open(path: &Path, format: Format, skip: u64) -> Result<Self, String> {
        let said = |error: io::Error| format!("{}: {error}", path.display());
        let (source, total_bytes): (Box<dyn Read + Send>, _) = if path == Path::new("-") {
            (Box::new(io::stdin()), None)
        } else {
            let file = File::open(path).map_err(said)?;
            let about = file.metadata().map_err(said)?;
            if about.is_dir() {
                return Err(format!("{}: it is a directory; a file is needed", path.display()));
            }
            (Box::new(file), about.is_file().then_some(about.len()))
        };
        let read = ReadSoFar::default();
        let unpacked = unpack(Counting(source, read.clone())).map_err(said)?;
        let (kind, lines) = told_apart(unpacked, format).map_err(said)?;
        let (give, pieces) = mpsc::channel(PIECES_MAX);
        let counts = read.clone();
        std::thread::spawn(move || {
            let lines = Lines { from: lines, number: 0, read: counts.clone() };
            let ended = match kind {
                Kind::OtlpDocuments => lines.documents(skip, &give),
                _ => lines.lines(skip, &give),
            };
            if let Err(error) = ended {
                *counts.0.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            }
        });
        Ok(Self { kind, pieces, piece: Vec::new().into_iter(), read, total_bytes })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Bytes of the file, where it is one.
    pub fn total_bytes(&self) -> Option<u64> {
        self.total_bytes
    }

    pub fn read(&self) -> ReadSoFar {
        self.read.clone()
    }

    /// The next line. May be given up and called again.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.piece.next() {
                return Some(line);
            }
            self.piece = self.pieces.recv().await?.into_iter();
        }
    }

    /// Why there is no next line, where that is not the end of the input.
    pub fn error(&self) -> Option<String> {
        self.read.0.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// By its first bytes, not by its name: standard input has none.
fn unpack(mut source: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut first = Vec::new();
    source.by_ref().take(4).read_to_end(&mut first)?;
    let packed = first.clone();
    let whole = Cursor::new(first).chain(source);
    Ok(match &packed[..] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => Box::new(zstd::Decoder::new(whole)?),
        _ => Box::new(whole),
    })
}

type Unpacked = BufReader<io::Chain<Cursor<Vec<u8>>, Box<dyn Read + Send>>>;

/// Looks at the first line that is not empty, and no further than to its first key: more may not come for hours.
fn told_apart(mut from: Box<dyn Read + Send>, format: Format) -> io::Result<(Kind, Unpacked)> {
    let mut seen = Vec::new();
    let mut piece = vec![0; PEEK_BYTES];
    while seen.len() < PEEK_BYTES && !is_enough(&seen) {
        let room = PEEK_BYTES - seen.len();
        match from.read(&mut piece[..room]) {
            Ok(0) => break,
            Ok(count) => seen.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let otlp = match format {
        Format::Auto => ["resourceLogs", "resourceMetrics", "resourceSpans"].contains(&first_key(&seen)),
        Format::Ndjson => false,
        Format::OtlpJson => true,
    };
    let kind = match first_line(&seen) {
        _ if !otlp => Kind::Events,
        Some(line) if serde_json::from_slice::<IgnoredAny>(line).is_err() => Kind::OtlpDocuments,
        _ => Kind::OtlpLines,
    };
    Ok((kind, BufReader::with_capacity(PIECE_BYTES, Cursor::new(seen).chain(from))))
}

/// The first line that is not empty, if its end was seen.
fn first_line(seen: &[u8]) -> Option<&[u8]> {
    let text = seen.trim_ascii_start();
    memchr::memchr(b'\n', text).map(|end| &text[..end])
}

/// Whether a line was seen, and of an object that goes on behind it the first key.
fn is_enough(seen: &[u8]) -> bool {
    first_line(seen).is_some_and(|line| line.trim_ascii() != b"{" || !first_key(seen).is_empty())
}

/// The first key of the object that the text begins with; empty where it begins with none.
fn first_key(text: &[u8]) -> &str {
    let text = text.trim_ascii_start();
    let key = text.strip_prefix(b"{").map(<[u8]>::trim_ascii_start).and_then(|rest| rest.strip_prefix(b"\""));
    let Some(key) = key else { return "" };
    let end = memchr::memchr(b'"', key).unwrap_or(0);
    std::str::from_utf8(&key[..end]).unwrap_or("")
}

/// Reads on the thread.
struct Lines<R> {
    from: BufReader<R>,
    number: u64,
    read: ReadSoFar,
}

impl<R: Read> Lines<R> {
    /// Hands over line by line; in larger pieces only while there is more at hand, so that nothing waits for what comes later.
    fn lines(mut self, skip: u64, give: &mpsc::Sender<Vec<Line>>) -> Result<(), String> {
        let (mut piece, mut bytes) = (Vec::new(), 0);
        let ended = loop {
            let line = match self.line() {
                Ok(Some(line)) => line,
                Ok(None) => break Ok(()),
                Err(error) => break Err(format!("behind line {}: {error}", self.number)),
            };
            self.number += 1;
            if self.number <= skip {
                continue;
            }
            bytes += line.as_ref().map_or(0, Vec::len);
            piece.push(Line { number: self.number, bytes: line });
            if bytes >= PIECE_BYTES || self.from.buffer().is_empty() {
                bytes = 0;
                // Who does not want more has stopped.
                if give.blocking_send(std::mem::take(&mut piece)).is_err() {
                    return Ok(());
                }
            }
        };
        // What was read before the error is whole.
        let _ = give.blocking_send(piece);
        ended
    }

    /// The next line without its end, or why it is not one; nothing at the end.
    fn line(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut line = Vec::new();
        let count = (&mut self.from).take(ITEM_BYTES_MAX as u64 + 1).read_until(b'\n', &mut line)?;
        self.read.0.unpacked.fetch_add(count as u64, Ordering::Relaxed);
        if count == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else if count > ITEM_BYTES_MAX {
            let rest = self.from.skip_until(b'\n')?;
            self.read.0.unpacked.fetch_add(rest as u64, Ordering::Relaxed);
            return Ok(Some(Err(format!("it is longer than {ITEM_BYTES_MAX} bytes"))));
        }
        Ok(Some(Ok(line)))
    }

    /// Hands over document by document. What is no JSON ends it, because nobody can say where the next one begins.
    fn documents(mut self, skip: u64, give: &mpsc::Sender<Vec<Line>>) -> Result<(), String> {
        let mut text = Vec::new();
        let count = (&mut self.from).take(ITEM_BYTES_MAX as u64 + 1).read_to_end(&mut text);
        self.read.0.unpacked.fetch_add(count.map_err(|e| e.to_string())? as u64, Ordering::Relaxed);
        if text.len() > ITEM_BYTES_MAX {
            return Err(format!(
                "documents of more than {ITEM_BYTES_MAX} bytes together are not taken; a request a line is (jq -c .)"
            ));
        }
        let documents = serde_json::Deserializer::from_slice(&text).into_iter::<Box<RawValue>>();
        for document in documents {
            self.number += 1;
            let bytes = document.map(|raw| raw.get().as_bytes().to_vec());
            let wrong = bytes.is_err();
            let bytes = bytes.map_err(|e| format!("it is not valid JSON: {e}"));
            if (self.number > skip || wrong)
                && give.blocking_send(vec![Line { number: self.number, bytes }]).is_err()
            {
                return Ok(());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn kind(text: &str, format: Format) -> Kind {
        told_apart(Box::new(Cursor::new(text.as_bytes().to_vec())), format).unwrap().0
    }

    /// What it is can be told from its beginning, and an option says otherwise.
    #[test]
    fn kinds_are_told_apart() {
        let line = r#"{"resourceLogs":[]}"#;
        assert_eq!(kind(r#"{"service":"s"}"#, Format::Auto), Kind::Events);
        assert_eq!(kind("", Format::Auto), Kind::Events);
        assert_eq!(kind("no JSON\n", Format::Auto), Kind::Events);
        assert_eq!(kind(&format!("\n {line}\n{line}\n"), Format::Auto), Kind::OtlpLines);
        assert_eq!(kind(line, Format::Auto), Kind::OtlpLines);
        assert_eq!(kind("{\n  \"resourceSpans\": [\n]}\n", Format::Auto), Kind::OtlpDocuments);
        // As through a pipe, piece by piece.
        let slow = Cursor::new(b"{\n".to_vec()).chain(Cursor::new(b"  \"resourceLogs\": [\n]}".to_vec()));
        assert_eq!(told_apart(Box::new(slow), Format::Auto).unwrap().0, Kind::OtlpDocuments);
        assert_eq!(kind("{\n  \"resourceSpans\": [\n]}\n", Format::Ndjson), Kind::Events);
        assert_eq!(kind("{}\n", Format::OtlpJson), Kind::OtlpLines);
    }

    async fn read(bytes: &[u8], skip: u64) -> (Vec<Line>, Option<String>, ReadSoFar) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut input = Input::open(file.path(), Format::Auto, skip).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = input.next().await {
            lines.push(line);
        }
        (lines, input.error(), input.read())
    }

    fn line(number: u64, text: &str) -> Line {
        Line { number, bytes: Ok(text.as_bytes().to_vec()) }
    }

    /// Lines have their numbers, whatever is packed or skipped, and the last needs no line break.
    #[tokio::test]
    async fn lines_have_their_numbers() {
        let text = b"{\"a\":1}\n\n{\"b\":2}\n{\"c\":3}";
        let wanted = [line(2, ""), line(3, "{\"b\":2}"), line(4, "{\"c\":3}")];
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        for packed in [text.to_vec(), gz.finish().unwrap(), zstd::encode_all(&text[..], 1).unwrap()] {
            let (lines, error, read) = read(&packed, 1).await;
            assert_eq!((&lines[..], error), (&wanted[..], None));
            assert_eq!(
                (read.packed_bytes(), read.unpacked_bytes()),
                (packed.len() as u64, text.len() as u64)
            );
        }
    }

    /// A file that breaks off gives what is whole, and then says where it broke.
    #[tokio::test]
    async fn a_broken_file_gives_what_is_whole() {
        let text: String = (0..50_000).map(|i| format!("{{\"line\":{i}}}\n")).collect();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        let packed = gz.finish().unwrap();
        let (lines, error, _) = read(&packed[..packed.len() / 2], 0).await;
        assert!(lines.len() > 1_000, "{}", lines.len());
        let error = error.unwrap();
        assert!(error.starts_with(&format!("behind line {}:", lines.last().unwrap().number)), "{error}");
    }

    /// Documents are cut where they end; what is no JSON is said and ends it.
    #[tokio::test]
    async fn documents_are_cut() {
        let text = "{\n\"resourceLogs\": [\n]}\n\n{\"resourceSpans\":[]}{\"resourceMetrics\": [}";
        let (lines, ..) = read(text.as_bytes(), 1).await;
        assert_eq!(lines[0], line(2, "{\"resourceSpans\":[]}"));
        assert!(lines[1].bytes.as_ref().unwrap_err().contains("line 5"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }
}
