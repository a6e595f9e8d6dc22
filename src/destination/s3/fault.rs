//! What a store's errors mean.
//!
//! | the store's answer | what it means here |
//! |---|---|
//! | 401, 403, 404, other 4xx (credentials, rights, bucket, region, storage class) | refused: tried again, since an operator can mend it |
//! | 408, 429, 503, `SlowDown` | throttled: tried again |
//! | other 5xx | the store failed: tried again |
//! | none | no connection, or no answer in time: tried again |

use std::error::Error as _;

use forebay_actors::destination::Cause;
use object_store::{
    Error,
    client::{HttpError, HttpErrorKind},
};

use super::super::{chain, http::one_line};

/// What the client says before the status, which it gives in words only.
const BEFORE_STATUS: &str = "status code: ";

/// Characters of an answer that are shown.
const QUOTED_CHARS_MAX: usize = 600;

/// The cause that a failure is counted under.
pub(super) fn cause(error: &Error) -> Cause {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return match error.kind() {
                HttpErrorKind::Timeout => Cause::Timeout,
                _ => Cause::Connect,
            };
        }
        source = error.source();
    }
    let text = chain(error);
    match status(&text) {
        _ if text.contains("SlowDown") => Cause::Throttled,
        Some(408 | 429 | 503) => Cause::Throttled,
        Some(400..500) => Cause::Refused,
        Some(_) => Cause::Server,
        None => match error {
            Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                Cause::Refused
            }
            _ => Cause::Server,
        },
    }
}

fn status(text: &str) -> Option<u16> {
    let behind = &text[text.find(BEFORE_STATUS)? + BEFORE_STATUS.len()..];
    behind.get(..3)?.parse().ok()
}

/// Whether the store refused a conditional put because the object is there. The client says the same of every 409, with which
/// S3 says that another request about this key was under way, and Azure many things: that says nothing of the object.
pub(super) fn is_there(error: &Error, is_directory: bool) -> bool {
    match error {
        Error::Precondition { .. } => true,
        Error::AlreadyExists { source, .. } => {
            let text = chain(source.as_ref());
            let says_so = || status(&text) == Some(412) || text.contains("BlobAlreadyExists");
            is_directory || source.is::<Error>() || says_so()
        }
        _ => false,
    }
}

/// Whether this is said of a bucket that is not there.
pub(super) fn is_no_bucket(message: &str) -> bool {
    ["NoSuchBucket", "ContainerNotFound"].iter().any(|code| message.contains(code))
}

/// Whether the store says that there is a bucket, and not this object in it. A directory says it in its own words; a 404 without
/// any may be of who stands before the store.
pub(super) fn is_no_such_object(error: &Error) -> bool {
    let text = chain(error);
    let says_so = || ["NoSuchKey", "BlobNotFound"].iter().any(|code| text.contains(code));
    matches!(error, Error::NotFound { .. }) && (status(&text).is_none() || says_so())
}

/// The error on one line: the store's own words, without the XML around them where that can be told.
pub(super) fn words(error: &Error) -> String {
    let text = chain(error);
    let within = |name: &str| {
        let behind = &text[text.find(&format!("<{name}>"))? + name.len() + 2..];
        Some(behind[..behind.find("</")?].to_owned())
    };
    let line = match (within("Code"), within("Message")) {
        (Some(code), message) => {
            let status = status(&text).map(|status| format!("{status} ")).unwrap_or_default();
            format!("{status}{code}: {}", message.unwrap_or_default())
        }
        _ => text,
    };
    one_line(line.as_bytes()).chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Error {
        Error::Generic { store: "S3", source: text.to_owned().into() }
    }

    /// The client says the status in words only: should they change, everything would be the server's failure.
    #[test]
    fn answers_become_causes() {
        for (text, expected) in [
            ("Server returned non-2xx status code: 503 Service Unavailable: ", Cause::Throttled),
            ("Server returned error response: <Error><Code>SlowDown</Code></Error>", Cause::Throttled),
            (
                "Server returned non-2xx status code: 400 Bad Request: <Code>ExpiredToken</Code>",
                Cause::Refused,
            ),
            ("Server returned non-2xx status code: 500 Internal Server Error: ", Cause::Server),
            ("something else", Cause::Server),
        ] {
            assert_eq!(cause(&error(text)), expected, "{text}");
        }
    }

    /// Scenario: a conditional put is answered with 409, as S3 does while another request about the key is under way.
    /// Guarantee: it is tried again. It counted as delivered.
    #[test]
    fn r0503_a_conflict_counted_as_delivered() {
        let of = |source: Box<dyn std::error::Error + Send + Sync>| Error::AlreadyExists {
            path: "k".to_owned(),
            source,
        };
        let conflict = || of("Server returned non-2xx status code: 409 Conflict: ".into());
        assert!(!is_there(&conflict(), false) && is_there(&conflict(), true));
        let refused = Error::Precondition { path: "k".to_owned(), source: "412".into() };
        assert!(is_there(&of(Box::new(refused)), false));
        assert!(!is_there(&error("something else"), false));
    }

    /// Scenario: the other clouds refuse a conditional put, and Azure refuses with 409 for other reasons, too.
    /// Guarantee: only that the object is there counts as delivered.
    #[test]
    fn what_is_there_is_known_in_every_cloud() {
        let there = |text: &str| {
            let text = format!("Server returned non-2xx status code: {text}");
            is_there(&Error::AlreadyExists { path: "k".to_owned(), source: text.into() }, false)
        };
        assert!(there("412 Precondition Failed: <Code>PreconditionFailed</Code>"));
        assert!(there("409 Conflict: <Code>BlobAlreadyExists</Code>"));
        assert!(!there("409 Conflict: <Code>SnapshotsPresent</Code>"));
        assert!(!there("409 Conflict: "));
    }

    /// Scenario: a proxy before the store answers 404 while the store is away.
    /// Guarantee: the object does not count as gone: what is held there would be dead letters.
    #[test]
    fn a_404_of_anybody_says_nothing_of_an_object() {
        let gone = |text: &str| {
            is_no_such_object(&Error::NotFound { path: "k".to_owned(), source: text.to_owned().into() })
        };
        let answered =
            |body: &str| gone(&format!("Server returned non-2xx status code: 404 Not Found: {body}"));
        assert!(answered("<Code>NoSuchKey</Code>") && answered("<Code>BlobNotFound</Code>"));
        assert!(!answered("default backend") && !answered("") && !answered("<Code>NoSuchBucket</Code>"));
        assert!(gone("No such file or directory"));
    }

    #[test]
    fn the_store_speaks_for_itself() {
        let xml = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error><Code>AccessDenied\
                   </Code><Message>Access Denied.</Message><Key>k</Key></Error>";
        assert_eq!(words(&error(xml)), "403 AccessDenied: Access Denied.");
        assert_eq!(words(&error("no\nXML")), "Generic S3 error: no XML");
    }
}
