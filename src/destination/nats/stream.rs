//! The stream: whether it is there, and whether messages would be kept in it.

use std::time::Duration;

use async_nats::jetstream::{
    ErrorCode,
    context::{CreateStreamErrorKind, GetStreamByNameErrorKind, GetStreamError, GetStreamErrorKind},
    stream::{Config, DiscardPolicy},
};
use forebay_actors::{
    destination::{Cause, DeliveryError},
    event::Timestamp,
    examination::ClockReading,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{super::http::one_line, Server, connection::Connection, fault};

/// Looks at the stream, and makes it where it may; its name, where it is there to be asked. Whether there is one that this
/// user may not look at shows with the first message.
///
/// # Errors
/// Where nothing that is published would be kept.
pub(super) async fn look(
    server: &Server,
    connection: &Connection,
    may_make: bool,
) -> Result<Option<String>, DeliveryError> {
    let (filter, context) = (server.recipe.template.filter(), &connection.context);
    let name = match &server.options.stream {
        Some(name) => name.clone(),
        None => match connection.ask(context.stream_by_subject(filter.as_str())).await? {
            None => return Ok(None),
            Some(Ok(name)) => name,
            Some(Err(error)) if error.kind() == GetStreamByNameErrorKind::NotFound => {
                return Err(server.refused(format!(
                    "no stream takes the subject {filter}; name one in stream, and manage_stream: true lets Forebay make it"
                )));
            }
            Some(Err(error)) => return Err(unanswered(server, &error)),
        },
    };
    match connection.ask(context.get_stream(&name)).await? {
        None => Ok(None),
        Some(Ok(stream)) => match unfit(&stream.cached_info().config, &filter) {
            None => Ok(Some(name)),
            Some(what) => Err(server.refused(format!("the stream {name} {what}"))),
        },
        Some(Err(error)) if is_missing(&error) && may_make => {
            make(server, connection, &name, filter).await.map(|()| Some(name))
        }
        Some(Err(error)) if is_missing(&error) && server.options.manage_stream => Ok(None),
        Some(Err(error)) if is_missing(&error) => Err(server
            .refused(format!("the stream {name} is not there; manage_stream: true lets Forebay make it"))),
        Some(Err(error)) => match error.kind() {
            GetStreamErrorKind::JetStream(error) => Err(fault::failure(&server.place, &error)),
            _ => Err(unanswered(server, &error)),
        },
    }
}

/// What the server that leads the stream says of the time, to the nanosecond; none before nats-server 2.10 says any.
///
/// # Errors
/// Where the connection fails meanwhile.
pub(super) async fn clock(
    connection: &Connection,
    stream: &str,
) -> Result<Option<ClockReading>, DeliveryError> {
    /// What the client leaves out of the same answer.
    #[derive(Deserialize)]
    struct Said {
        ts: Option<String>,
    }
    let asked = Instant::now();
    let subject = format!("STREAM.INFO.{stream}");
    let answer = connection.ask(connection.context.request::<_, _, Said>(subject, &())).await?;
    let answered = Instant::now();
    let said = answer.and_then(Result::ok).and_then(|said| Timestamp::parse(&said.ts?).ok());
    Ok(said.map(|said| ClockReading { said, resolution: Duration::ZERO, asked, answered }))
}

fn is_missing(error: &GetStreamError) -> bool {
    matches!(error.kind(), GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

/// What is wrong with a stream for messages of these subjects.
fn unfit(config: &Config, filter: &str) -> Option<String> {
    if config.mirror.is_some() {
        Some("is a mirror, to which nobody can publish".to_owned())
    } else if config.sealed {
        Some("is sealed, so it takes nothing any more".to_owned())
    } else if config.no_ack {
        Some("has no_ack set, so nobody would ever know that a message is there".to_owned())
    } else if !config.subjects.iter().any(|subject| overlaps(subject, filter)) {
        Some(format!("takes the subjects {}, and none of {filter}", config.subjects.join(", ")))
    } else {
        None
    }
}

async fn make(
    server: &Server,
    connection: &Connection,
    name: &str,
    filter: String,
) -> Result<(), DeliveryError> {
    let options = &server.options;
    let config = Config {
        name: name.to_owned(),
        description: Some("made by Forebay".to_owned()),
        subjects: vec![filter],
        num_replicas: options.stream_replicas,
        max_bytes: options.stream_max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_age: options.stream_max_age.unwrap_or_default(),
        duplicate_window: options.stream_duplicate_window,
        // A full stream makes Forebay wait, where the other policy would forget what nobody may have read.
        discard: DiscardPolicy::New,
        allow_direct: true,
        ..Config::default()
    };
    match connection.ask(connection.context.create_stream(config)).await? {
        Some(Ok(_)) => Ok(()),
        Some(Err(error)) => match error.kind() {
            // Somebody else was faster.
            CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NAME_EXIST => {
                Ok(())
            }
            CreateStreamErrorKind::JetStream(error) => Err(fault::failure(&server.place, &error)),
            _ => Err(unanswered(server, &error)),
        },
        None => Err(server.refused(format!("the stream {name} is not there, and this user may not make it"))),
    }
}

/// The server has no answer to a question about streams.
fn unanswered(server: &Server, error: &dyn std::error::Error) -> DeliveryError {
    let words = one_line(super::super::chain(error).as_bytes());
    let is_late = words.contains("timed out");
    let cause = if is_late { Cause::Timeout } else { Cause::Refused };
    DeliveryError::transient(
        cause,
        format!("{}: JetStream does not answer, is it enabled?: {words}", server.place),
    )
}

/// Whether there are subjects that both match.
fn overlaps(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_overlap_token_by_token() {
        for (a, b, expected) in [
            ("events.*", "events.*", true),
            ("events.api", "events.*", true),
            (">", "events.*", true),
            ("events.>", "events.*", true),
            ("events", "events.*", false),
            ("events.*.eu", "events.*", false),
            ("logs.>", "events.*", false),
            ("events.>", "events", false),
        ] {
            assert_eq!((overlaps(a, b), overlaps(b, a)), (expected, expected), "{a} {b}");
        }
    }

    /// Each stream in which nothing would be kept, or nobody would know it, is refused by what is wrong with it.
    #[test]
    fn a_stream_that_keeps_nothing_is_refused() {
        let stream = || Config { subjects: vec!["events.>".to_owned()], ..Config::default() };
        assert_eq!(unfit(&stream(), "events.*"), None);
        for (stream, word) in [
            (Config { no_ack: true, ..stream() }, "no_ack"),
            (Config { sealed: true, ..stream() }, "sealed"),
            (Config { subjects: vec!["logs.*".to_owned()], ..stream() }, "logs.*, and none of events.*"),
        ] {
            assert!(unfit(&stream, "events.*").is_some_and(|what| what.contains(word)), "{word}");
        }
    }
}
