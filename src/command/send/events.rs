//! Events, a line each, through the client that applications use.

use std::time::{Duration, UNIX_EPOCH};

use forebay_client::{Client, Event, Failure, SendReason};
use futures::{FutureExt as _, future::BoxFuture};
use serde_json::value::RawValue;

use super::{Fate, Send, Sender, Verdict};
use crate::ingress::fields::{Fields, syntax};

/// Events in memory that have no outcome yet.
const QUEUE_BYTES: usize = 128 * 1024 * 1024;

/// What stands on a terminal line by line is sent as it comes.
const BATCH_AGE: Duration = Duration::from_millis(100);

/// Sends events.
pub(super) struct EventSender(Client);

impl EventSender {
    /// To the server at this address.
    pub fn new(send: &Send, to: &str) -> Result<Self, String> {
        let mut builder = Client::builder(to)
            .tls(send.tls()?)
            .gzip(send.gzip)
            .source("forebay-send")
            .batch_events(send.batch.into())
            .batch_age(BATCH_AGE)
            .in_flight(send.in_flight.into())
            .queue_bytes(QUEUE_BYTES)
            .retry(send.retry())
            // Every receipt is waited for; without a hook those that are not would be logged.
            .on_failed(|_, _| {});
        if let Some(token) = send.token()? {
            builder = builder.token(token);
        }
        builder.build().map(Self).map_err(|e| format!("--to: {e}"))
    }
}

impl Sender for EventSender {
    fn send<'a>(&'a mut self, line: &'a [u8]) -> BoxFuture<'a, Fate> {
        async move {
            let event = match event(line) {
                Ok(Some(event)) => event,
                Ok(None) => return Fate::Empty,
                Err(wrong) => return Fate::Wrong(wrong),
            };
            match self.0.send(event).await {
                Ok(receipt) => Fate::Sent(
                    receipt
                        .map(|outcome| match outcome {
                            Ok(_) => Verdict::Accepted { items: 1, rejected: 0, reason: None },
                            Err(undelivered) => verdict(undelivered.failure),
                        })
                        .boxed(),
                ),
                Err(error) if error.reason == SendReason::Closed => {
                    Fate::Sent(std::future::ready(Verdict::Stopped).boxed())
                }
                Err(error) => Fate::Wrong(error.to_string()),
            }
        }
        .boxed()
    }

    fn end(&self, within: Duration) -> BoxFuture<'_, ()> {
        // What was not delivered says so itself.
        self.0.close(within).map(drop).boxed()
    }
}

fn verdict(failure: Failure) -> Verdict {
    match failure {
        Failure::Rejected(words) => Verdict::Rejected(words),
        Failure::Closed | Failure::Abandoned => Verdict::Stopped,
        failure @ (Failure::Refused(_) | Failure::GaveUp { .. }) => Verdict::Failed(failure.to_string()),
    }
}

/// The event of a line, judged as the server would, but for sizes, which are the server's own to know. Nothing where the
/// line is empty.
fn event(line: &[u8]) -> Result<Option<Event>, String> {
    let line = std::str::from_utf8(line).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
    if line.trim_ascii().is_empty() {
        return Ok(None);
    }
    let fields = match Fields::of(line, usize::MAX) {
        Some(fields) => fields,
        None => {
            syntax(line).map_err(|e| format!("it is not valid JSON: {e}"))?;
            Fields::explain(line, usize::MAX).map_err(|wrong| {
                let all = wrong.iter().map(|wrong| format!("{}: {}", wrong.field, wrong.error));
                all.collect::<Vec<_>>().join("; ").trim_start_matches(": ").to_owned()
            })?
        }
    };
    // Whose it is, the server says.
    fields.with_draft(None, |draft| {
        let mut event = Event::new(draft.service, draft.message);
        if let Some(id) = draft.event_id {
            event = event.with_id(id);
        }
        if let Some(time) = draft.timestamp {
            let since = Duration::from_nanos(time.nanos().unsigned_abs());
            event = event.at(if time.nanos() < 0 { UNIX_EPOCH - since } else { UNIX_EPOCH + since });
        }
        if let Some(metadata) = draft.metadata {
            let raw: &RawValue = serde_json::from_str(metadata).map_err(|e| format!("metadata: {e}"))?;
            event = event.with_metadata(raw).map_err(|e| format!("metadata: {e}"))?;
        }
        Ok(Some(event))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field is what it was, numbers digit by digit; unknown ones are metadata, as at the server.
    #[test]
    fn a_line_is_its_event() {
        let line = br#" {"service":"s","message":"m\n","event_id":"e","timestamp":"1969-12-31T23:59:59.5Z","metadata":{"n":1.000000000000000000001},"more":[1]} "#;
        let event = event(line).unwrap().unwrap();
        assert_eq!((event.service(), event.message(), event.id()), ("s", "m\n", Some("e")));
        assert_eq!(event.time(), UNIX_EPOCH - Duration::from_millis(500));
        assert_eq!(event.metadata(), Some(r#"{"n":1.000000000000000000001,"more":[1]}"#));
        assert_eq!(super::event(b" \r").unwrap(), None);
    }

    /// What is wrong is said in the server's words.
    #[test]
    fn a_wrong_line_says_what_is_wrong() {
        for (line, wanted) in [
            (&b"{\"service\":"[..], "it is not valid JSON: EOF"),
            (b"{\"service\":\"s\"}", "message: it is required"),
            (b"[1]", "an event is a JSON object, this is an array"),
            (b"\xff", "not UTF-8 at byte 0"),
            (b"{\"service\":\"s\",\"message\":\"m\"} x", "it is not valid JSON: trailing characters"),
        ] {
            let said = event(line).unwrap_err();
            assert!(said.starts_with(wanted), "{said}");
        }
    }
}
