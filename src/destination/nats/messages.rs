//! From a batch to messages: which there are, under which subjects and ids.

use std::{collections::HashMap, ops::Range};

use async_nats::Subject;
use bytes::Bytes;
use forebay_actors::{
    destination::DeliveryError,
    event::{EventId, EventWriter},
    otlp::Signal,
    record::{Batch, Position, Span},
};

use super::super::{encoded_bytes, otlp::calls::calls, unreadable};
use crate::config::{NatsEncoding, SubjectTemplate};

/// What `{signal}` is for an event that came as one.
const EVENTS: &str = "events";

/// Bytes up to which requests of OpenTelemetry go in one message: a quarter of what a server takes by default.
const REQUEST_BYTES: usize = 256 * 1024;

/// How batches become messages.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) template: SubjectTemplate,
    pub(super) encoding: NatsEncoding,
    /// What tells this data directory's positions from those of any other.
    pub(super) stream: String,
    /// Stands behind every id where a subject is said, so that two sinks under whose subjects one stream takes an event are
    /// both heard.
    pub(super) subject_mark: String,
}

/// One message to be published.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) subject: Subject,
    /// By which a stream knows it when it comes again.
    pub(super) id: String,
    pub(super) payload: Bytes,
    spans: Range<usize>,
}

/// Those of a batch, in order.
#[derive(Debug, Default)]
pub(super) struct Messages {
    pub(super) all: Vec<Message>,
    spans: Vec<Span>,
}

/// The subjects that were made: one for each signal and service, of which there are few.
struct Subjects<'a> {
    template: &'a SubjectTemplate,
    made: HashMap<&'static str, HashMap<String, Subject>>,
}

impl Messages {
    /// What of the journal is in the message.
    pub(super) fn spans(&self, message: usize) -> &[Span] {
        &self.spans[self.all[message].spans.clone()]
    }
}

impl Recipe {
    /// The messages of a batch, without the positions that were taken before.
    ///
    /// # Errors
    /// [`Cause::Encode`](forebay_actors::destination::Cause::Encode) where a record is damaged.
    pub(super) fn messages(
        &self,
        batch: &Batch,
        is_taken: impl Fn(Position) -> bool,
    ) -> Result<Messages, DeliveryError> {
        // Somebody wants a replay delivered once more, so it must not be known by the ids of the first time; an event with a part
        // of its fields is another message than with all of them; and what is cut out of a part of the span is another request
        // than of all of it.
        let mark = batch.id().mark();
        let of_event = mark.find("-fields").or(mark.find("-replay")).map_or("", |at| &mark[at..]);
        match self.encoding {
            NatsEncoding::Json => self.events(batch, is_taken, &format!("{of_event}{}", self.subject_mark)),
            NatsEncoding::Otlp => self.requests(batch, is_taken, &format!("{mark}{}", self.subject_mark)),
        }
    }

    /// A message for each event. They lie in one buffer, one behind the other.
    fn events(
        &self,
        batch: &Batch,
        is_taken: impl Fn(Position) -> bool,
        mark: &str,
    ) -> Result<Messages, DeliveryError> {
        let mut subjects = Subjects { template: &self.template, made: HashMap::new() };
        let mut bytes = Vec::with_capacity(encoded_bytes(batch));
        let (mut made, mut ends) = (Messages::default(), Vec::new());
        let (mut events, mut writer) = (batch.events(), EventWriter::default());
        while let Some(first) = events.position() {
            // A record that holds fewer events than it says must not pass as delivered.
            let event =
                events.next_of().ok_or_else(|| unreadable(batch, &format!("there is none at {first}")))?;
            let (signal, event) = event.map_err(|e| unreadable(batch, &e.to_string()))?;
            if is_taken(first) {
                continue;
            }
            writer.write(&event, &mut bytes);
            ends.push(bytes.len());
            let subject = subjects.of(signal, event.service);
            let id = format!("{}{mark}", id_of(event.event_id));
            let spans = made.spans.len()..made.spans.len() + 1;
            made.spans.push(Span { first, end: first.plus(1) });
            made.all.push(Message { subject, id, payload: Bytes::new(), spans });
        }
        let (bytes, mut begin) = (Bytes::from(bytes), 0);
        for (message, end) in made.all.iter_mut().zip(ends) {
            message.payload = bytes.slice(begin..end);
            begin = end;
        }
        Ok(made)
    }

    /// Requests of a signal, one behind the other, which is how protobuf joins them. Where they are cut follows from the batch
    /// alone, so their ids do, too.
    fn requests(
        &self,
        batch: &Batch,
        is_taken: impl Fn(Position) -> bool,
        mark: &str,
    ) -> Result<Messages, DeliveryError> {
        let mut subjects = Subjects { template: &self.template, made: HashMap::new() };
        let mut made = Messages::default();
        for mut call in calls(batch, REQUEST_BYTES, is_taken)? {
            let (Some(first), Some(last)) = (call.spans.first(), call.spans.last()) else { continue };
            let signal = call.signal.as_str();
            let id = format!("{}-{signal}-{}-{}{mark}", self.stream, first.first, last.end);
            let subject = subjects.of(Some(call.signal), "");
            let payload = match call.pieces.len() {
                1 => call.pieces.remove(0),
                _ => call.pieces.concat().into(),
            };
            let spans = made.spans.len()..made.spans.len() + call.spans.len();
            made.spans.append(&mut call.spans);
            made.all.push(Message { subject, id, payload, spans });
        }
        Ok(made)
    }
}

impl Subjects<'_> {
    fn of(&mut self, signal: Option<Signal>, service: &str) -> Subject {
        let signal = signal.map_or(EVENTS, Signal::as_str);
        let service = if self.template.has_service() { service } else { "" };
        let services = self.made.entry(signal).or_default();
        if let Some(subject) = services.get(service) {
            return subject.clone();
        }
        let subject = Subject::from(self.template.render(service, signal));
        services.insert(service.to_owned(), subject.clone());
        subject
    }
}

/// What [`Recipe::subject_mark`] is for the subject that the configuration says.
pub(super) fn subject_mark(subject: Option<&str>) -> String {
    subject.map_or(String::new(), |subject| format!("-subject-{:08x}", crc32fast::hash(subject.as_bytes())))
}

/// The id as a header can have it: what is no visible character of ASCII is escaped as in a URL.
fn id_of(id: EventId<'_>) -> String {
    let mut bytes = Vec::with_capacity(36);
    id.write(&mut bytes);
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && *byte != b'%';
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        match is_plain(&byte) {
            true => text.push(char::from(byte)),
            false => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use forebay_actors::projection::Projection;

    use super::{super::super::test_batch, *};

    fn recipe(template: &str, encoding: NatsEncoding) -> Recipe {
        let (stream, subject_mark) = ("ab12".to_owned(), String::new());
        Recipe { template: template.parse().unwrap(), encoding, stream, subject_mark }
    }

    fn ids(recipe: &Recipe, batch: &Batch, is_taken: impl Fn(Position) -> bool) -> Vec<String> {
        let messages = recipe.messages(batch, is_taken).unwrap();
        messages.all.into_iter().map(|message| message.id).collect()
    }

    /// Every event is a message with its own id, and the same one whenever its batch comes; a replay has others.
    #[test]
    fn p3_an_event_has_one_id() {
        let recipe = recipe("events.{service}", NatsEncoding::Json);
        let batch = test_batch::at(100, 50);
        let messages = recipe.messages(&batch, |_| false).unwrap();
        assert_eq!((messages.all.len(), messages.all[7].subject.as_str()), (50, "events.api"));
        let event: serde_json::Value = serde_json::from_slice(&messages.all[7].payload).unwrap();
        assert_eq!(
            (&event["message"], &event["event_id"]),
            (&"event 7".into(), &messages.all[7].id.as_str().into())
        );
        assert_eq!(messages.spans(7), [Span { first: Position(107), end: Position(108) }]);
        let all = ids(&recipe, &batch, |_| false);
        assert_eq!(all, ids(&recipe, &batch, |_| false));
        assert_eq!(all[10..], ids(&recipe, &batch, |at| at < Position(110)));
        let replayed = ids(&recipe, &batch.replayed(7), |_| false);
        assert_eq!(replayed[0], format!("{}-replay-0000000000000007", all[0]));
    }

    /// Scenario: two sinks publish the same events to one stream, each with a subject of its own, or with other fields.
    /// Guarantee: their ids differ, in both encodings. The stream took the second message for the first one come again, and both
    /// sinks said that all was delivered.
    #[test]
    fn r0551_a_stream_kept_the_messages_of_one_sink_of_two() {
        let batch = test_batch::at(100, 50);
        let fields = |drop| batch.clone().with_fields(Projection::new(None, vec![drop], Vec::new()).into());
        for encoding in [NatsEncoding::Json, NatsEncoding::Otlp] {
            let plain = recipe("a.all", encoding);
            let other = Recipe { subject_mark: subject_mark(Some("b.all")), ..recipe("b.all", encoding) };
            let sent = [(&plain, &batch), (&other, &batch), (&plain, &fields("a")), (&plain, &fields("b"))];
            let sent = sent.map(|(recipe, batch)| ids(recipe, batch, |_| false).swap_remove(0));
            let different: std::collections::HashSet<_> = sent.iter().collect();
            assert_eq!(different.len(), sent.len(), "{sent:?}");
        }
        assert_eq!(subject_mark(None), "");
    }

    /// Requests have ids by their positions, also where some of them were taken before.
    #[test]
    fn p3_requests_have_one_id() {
        let recipe = recipe("otlp.{signal}", NatsEncoding::Otlp);
        let batch = test_batch::at(100, 5_000);
        let all = ids(&recipe, &batch, |_| false);
        assert!(all.len() > 1 && all[0].starts_with("ab12-logs-100-"), "{all:?}");
        assert!(all.last().unwrap().ends_with("-5100"), "{all:?}");
        let messages = recipe.messages(&batch, |_| false).unwrap();
        let behind = messages.spans(0).last().unwrap().end;
        assert_eq!(ids(&recipe, &batch, |at| at < behind), all[1..]);
        assert_eq!(messages.all[0].subject.as_str(), "otlp.logs");
    }

    /// No id breaks a header, and no two become one.
    #[test]
    fn ids_are_escaped() {
        let of = |id| id_of(EventId::Given(id));
        assert_eq!(of("plain-1"), "plain-1");
        assert_eq!(of("a b\r\nü%"), "a%20b%0D%0A%C3%BC%25");
        assert_ne!(of("a b"), of("a%20b"));
    }

    /// A damaged record is a rejection, so that the sink halves its way to what is lost; never a success.
    #[test]
    fn damage_makes_no_message() {
        for encoding in [NatsEncoding::Json, NatsEncoding::Otlp] {
            for batch in [test_batch::damaged(), test_batch::short()] {
                assert!(recipe("all", encoding).messages(&batch, |_| false).is_err());
            }
        }
    }
}
