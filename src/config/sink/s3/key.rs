//! The key of an object: a template, and what it becomes for some events.

use std::{borrow::Cow, fmt::Write as _, str::FromStr};

use forebay_actors::event::Timestamp;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    /// The pieces of each segment between slashes.
    segments: Vec<Vec<Piece>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Signal,
    Service,
    Stream,
    First,
    Last,
    Extension,
    Year,
    Month,
    Day,
    Hour,
}

/// What a key is made of.
#[derive(Debug, Clone, Copy)]
pub struct KeyParts<'a> {
    /// `events`, `logs`, `metrics` or `traces`.
    pub signal: &'a str,
    /// Of the events; anything but empty is a name.
    pub service: &'a str,
    /// Any time in the hour of the events.
    pub time: Timestamp,
    /// What tells this data directory from others.
    pub stream: &'a str,
    /// The first position of the batch.
    pub first: u64,
    /// Its last position, with what tells a replay from the first time.
    pub last: &'a str,
    /// Of the format.
    pub extension: &'a str,
}

/// What stands for a service whose name is empty: a key has no empty segments.
const NO_NAME: &str = "_";

/// Bytes of a service in a key as it is written, where most characters that are no letters take three for each byte. A file
/// may have a name of 255, a key 1,024 over all.
const SERVICE_BYTES_MAX: usize = 150;

/// A service as it stands in keys: a long one is cut, and ends with a checksum of the whole. Should two be alike even then,
/// their events share an object.
fn name_of(service: &str) -> Cow<'_, str> {
    let written = |c: char| if c.is_ascii_alphanumeric() { 1 } else { 3 * c.len_utf8() };
    if service.chars().map(written).sum::<usize>() <= SERVICE_BYTES_MAX {
        return service.into();
    }
    let mut left = SERVICE_BYTES_MAX;
    let fits = |c: &char| {
        let room = left.checked_sub(written(*c));
        left = room.unwrap_or_default();
        room.is_some()
    };
    let begin: String = service.chars().take_while(fits).collect();
    format!("{begin}-{:08x}", crc32fast::hash(service.as_bytes())).into()
}

impl FromStr for KeyTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let segments: Vec<_> = text.split('/').map(segment).collect::<Result<_, _>>()?;
        let template = Self { segments };
        if template.segments.iter().any(Vec::is_empty) {
            return Err("has an empty segment; one slash between names is right, and none around".to_owned());
        }
        for (piece, name) in [(Piece::Stream, "{stream}"), (Piece::First, "{first}"), (Piece::Last, "{last}")]
        {
            if !template.has(&piece) {
                return Err(format!(
                    "has no {name}, so that objects of other batches would get the same key"
                ));
            }
        }
        Ok(template)
    }
}

fn segment(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(['{', '%']) {
        if at > 0 {
            pieces.push(Piece::Text(rest[..at].to_owned()));
        }
        let (piece, behind) = match rest[at..].strip_prefix('{') {
            Some(name) => {
                let (name, behind) = name.split_once('}').ok_or("has a { without a }")?;
                let piece = match name {
                    "signal" => Piece::Signal,
                    "service" => Piece::Service,
                    "stream" => Piece::Stream,
                    "first" => Piece::First,
                    "last" => Piece::Last,
                    "extension" => Piece::Extension,
                    other => {
                        return Err(format!(
                            "has {{{other}}}, which is not known; signal, service, stream, first, last and extension are"
                        ));
                    }
                };
                (piece, behind)
            }
            None => {
                let letter = rest[at + 1..].chars().next();
                let piece = match letter {
                    Some('Y') => Piece::Year,
                    Some('m') => Piece::Month,
                    Some('d') => Piece::Day,
                    Some('H') => Piece::Hour,
                    Some('%') => Piece::Text("%".to_owned()),
                    other => {
                        let other = other.map(String::from).unwrap_or_default();
                        return Err(format!("has %{other}, which is not known; %Y, %m, %d, %H and %% are"));
                    }
                };
                (piece, &rest[at + 2..])
            }
        };
        pieces.push(piece);
        rest = behind;
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

impl KeyTemplate {
    fn has(&self, piece: &Piece) -> bool {
        self.segments.iter().flatten().any(|has| has == piece)
    }

    /// Whether events of different signals get different keys.
    pub fn is_by_signal(&self) -> bool {
        self.has(&Piece::Signal)
    }

    /// Whether events of different services get different keys.
    pub fn is_by_service(&self) -> bool {
        self.has(&Piece::Service)
    }

    /// Whether events of different hours may get different keys.
    pub fn is_by_time(&self) -> bool {
        [Piece::Year, Piece::Month, Piece::Day, Piece::Hour].iter().any(|piece| self.has(piece))
    }

    /// The segments of the key.
    pub fn render(&self, parts: &KeyParts<'_>) -> Vec<String> {
        let time = parts.time.to_chrono();
        let render = |pieces: &Vec<Piece>| {
            let mut segment = String::new();
            for piece in pieces {
                let written = match piece {
                    Piece::Text(text) => segment.write_str(text),
                    Piece::Signal => segment.write_str(parts.signal),
                    Piece::Service if parts.service.is_empty() => segment.write_str(NO_NAME),
                    Piece::Service => segment.write_str(&name_of(parts.service)),
                    Piece::Stream => segment.write_str(parts.stream),
                    Piece::First => write!(segment, "{}", parts.first),
                    Piece::Last => segment.write_str(parts.last),
                    Piece::Extension => segment.write_str(parts.extension),
                    Piece::Year => write!(segment, "{}", time.format("%Y")),
                    Piece::Month => write!(segment, "{}", time.format("%m")),
                    Piece::Day => write!(segment, "{}", time.format("%d")),
                    Piece::Hour => write!(segment, "{}", time.format("%H")),
                };
                written.expect("a String takes every text");
            }
            segment
        };
        self.segments.iter().map(render).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, service: &str) -> String {
        let template: KeyTemplate = template.parse().unwrap();
        let time = Timestamp::parse("2026-05-06T07:08:09Z").unwrap();
        let parts = KeyParts {
            signal: "logs",
            service,
            time,
            stream: "ab12",
            first: 5,
            last: "9",
            extension: "parquet",
        };
        template.render(&parts).join("/")
    }

    #[test]
    fn a_key_says_what_the_template_asks_for() {
        assert_eq!(
            rendered("{signal}/{service}/date=%Y-%m-%d/hour=%H/{stream}-{first}-{last}.{extension}", "api"),
            "logs/api/date=2026-05-06/hour=07/ab12-5-9.parquet"
        );
        assert_eq!(rendered("100%%/{service}/{stream}-{first}-{last}", ""), "100%/_/ab12-5-9");
    }

    /// Scenario: services of as many characters as they may have, of the longest kind.
    /// Guarantee: their keys fit into a directory and a bucket, and are still told apart. No store took such a key, so the sink
    /// tried the batch for ever, and nothing behind it was delivered.
    #[test]
    fn r0502_a_long_service_stopped_the_sink() {
        for c in ["x", "ü", "\u{1F600}", "/"] {
            let (long, other) = (c.repeat(256), c.repeat(255));
            let name =
                |service: &str| object_store::path::PathPart::from(&*name_of(service)).as_ref().to_owned();
            assert!(name(&long).len() <= 180, "{}", name(&long).len());
            assert_ne!(name(&long), name(&other));
        }
        assert_eq!(name_of("a-service.of/the-usual-kind"), "a-service.of/the-usual-kind");
    }

    /// Each error names what is wrong and what would be right.
    #[test]
    fn a_wrong_template_is_explained() {
        for (template, word) in [
            ("{service}/{first}-{last}", "has no {stream}"),
            ("{stream}-{first}", "has no {last}"),
            ("{stream}-{first}-{last}/{tenant}", "{tenant}, which is not known"),
            ("%y/{stream}-{first}-{last}", "%y, which is not known"),
            ("/{stream}-{first}-{last}", "empty segment"),
            ("{stream", "{ without a }"),
            ("%", "%, which is not known"),
        ] {
            let error = template.parse::<KeyTemplate>().unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
    }
}
