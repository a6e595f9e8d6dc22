//! The fields of one event as a client sends it: read fast where they are right, and slowly, field by field, where the
//! client has to be told what is wrong.

mod metadata;
mod scanner;
mod values;

use std::{borrow::Cow, collections::HashSet};

use forebay_actors::event::{Draft, METADATA_DEPTH_MAX, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

pub(super) use self::metadata::stamped;
use self::{
    metadata::merge,
    scanner::Value,
    values::{
        Count, Entries, HALF_CHARACTER, depth, event_id, event_id_chars, has_half_character, kind, object,
        optional, service, string, timestamp,
    },
};
pub(crate) use self::{scanner::Scanner, values::syntax};
use crate::security::Tenant;

/// Fields of an event at its top level. Whoever has more has them below `metadata`, where nobody has to look for doubles.
pub(crate) const FIELDS_MAX: usize = 1000;

/// What of an event's faults is said one by one.
const ERRORS_MAX: usize = 16;

/// Unknown fields up to which each is compared with each: for so few that is faster than sorting them.
const COMPARED_MAX: usize = 16;

/// What is wrong with one field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// Its name.
    pub field: String,
    /// What is wrong, and what would be right.
    pub error: String,
}

/// An event as it stands in the body, borrowing from it.
#[derive(Debug, Default)]
pub struct Fields<'a> {
    event_id: Option<Cow<'a, str>>,
    timestamp: Option<Timestamp>,
    service: Cow<'a, str>,
    message: Cow<'a, str>,
    metadata: Option<&'a str>,
    /// Top-level fields that Forebay does not know.
    others: Vec<(Cow<'a, str>, &'a str)>,
}

/// The fields of an event that came apart, as in protobuf. There, what is empty is absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Parts<'a> {
    /// The client's own id.
    pub event_id: &'a str,
    /// When it happened.
    pub timestamp: Option<Timestamp>,
    /// Who speaks.
    pub service: &'a str,
    /// What is said.
    pub message: &'a str,
    /// Text that should be a JSON object.
    pub metadata: Option<&'a str>,
}

impl<'a> Fields<'a> {
    /// Checks fields that came apart, as those of JSON are checked.
    ///
    /// # Errors
    /// All that is wrong with them, in their order.
    pub fn of_parts(parts: Parts<'a>, max_event_bytes: usize) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let mut wrong = |name: &str, error: String| errors.push(field(name, error));
        let id = (!parts.event_id.is_empty()).then(|| event_id_chars(parts.event_id.into())).transpose();
        let event_id = id.unwrap_or_else(|error| {
            wrong("event_id", error);
            None
        });
        let service = service(parts.service.into()).unwrap_or_else(|error| {
            wrong("service", error);
            Cow::default()
        });
        let metadata = parts.metadata.filter(|text| !text.is_empty()).and_then(|text| {
            let value: Result<&RawValue, _> = serde_json::from_str(text);
            let value = value.map(RawValue::get).map_err(|error| format!("it is not valid JSON: {error}"));
            let object = value.and_then(object);
            object.map_err(|error| wrong("metadata", error)).ok()
        });
        if !errors.is_empty() {
            return Err(errors);
        }
        let (timestamp, message) = (parts.timestamp, parts.message.into());
        let fields = Self { event_id, timestamp, service, message, metadata, others: Vec::new() };
        fields.complete(max_event_bytes).map_err(|error| vec![error])
    }

    /// Gives the event to `take`, with unknown top-level fields put into its metadata, and whose event it is.
    pub fn with_draft<T>(&self, tenant: Option<&Tenant>, take: impl FnOnce(&Draft<'_>) -> T) -> T {
        let merged = (!self.others.is_empty()).then(|| merge(self.metadata, &self.others, tenant));
        let merged = match tenant {
            Some(tenant) => Some(stamped(merged.as_deref().or(self.metadata), tenant)),
            None => merged,
        };
        take(&Draft {
            event_id: self.event_id.as_deref(),
            timestamp: self.timestamp,
            service: &self.service,
            message: &self.message,
            metadata: merged.as_deref().or(self.metadata),
        })
    }

    /// The client's own id.
    pub fn event_id(&self) -> Option<&str> {
        self.event_id.as_deref()
    }

    /// What of it is limited together.
    fn bytes(&self) -> usize {
        let others: usize = self.others.iter().map(|(key, value)| key.len() + value.len()).sum();
        self.service.len() + self.message.len() + self.metadata.map_or(0, str::len) + others
    }

    /// The checks that need the whole event, and those of values whose text nobody has looked into.
    fn complete(self, max_event_bytes: usize) -> Result<Self, FieldError> {
        let bytes = self.bytes();
        if bytes > max_event_bytes {
            return Err(field(
                "message",
                format!("the event has {bytes} bytes; {max_event_bytes} are allowed (http.max_event_bytes)"),
            ));
        }
        let deepest = self.metadata.into_iter().map(|text| depth(text, 0));
        let deepest = deepest.chain(self.others.iter().map(|(_, text)| depth(text, 1))).max();
        match deepest.filter(|depth| *depth > METADATA_DEPTH_MAX) {
            Some(depth) => Err(field(
                "metadata",
                format!("it nests {depth} levels deep; {METADATA_DEPTH_MAX} are allowed"),
            )),
            None => self.whole_characters(),
        }
    }

    /// What is kept as the client wrote it must be what every reader of it can read. Service and message are: they
    /// have been read.
    fn whole_characters(self) -> Result<Self, FieldError> {
        let key = |(key, text): &(Cow<'_, str>, &str)| has_half_character(text).then(|| key.to_string());
        let wrong = self.metadata.filter(|text| has_half_character(text)).map(|_| "metadata".to_owned());
        match wrong.or_else(|| self.others.iter().find_map(key)) {
            Some(name) => Err(field(&name, format!("it {HALF_CHARACTER}"))),
            None => Ok(self),
        }
    }

    /// Reads the event of this JSON text, naming every field that is wrong.
    ///
    /// # Errors
    /// All that is wrong with it, in the order of its fields.
    pub fn explain(text: &'a str, max_event_bytes: usize) -> Result<Self, Vec<FieldError>> {
        if let Ok(Count(count)) = serde_json::from_str(text)
            && count > FIELDS_MAX
        {
            let error = format!(
                "the event has {count} fields; {FIELDS_MAX} are allowed, more of them below metadata"
            );
            return Err(vec![field("", error)]);
        }
        let Ok(Entries(entries)) = serde_json::from_str(text) else {
            let error = match kind(text) {
                "an object" => format!("a key of it {HALF_CHARACTER}"),
                found => format!("an event is a JSON object, this is {found}"),
            };
            return Err(vec![field("", error)]);
        };
        let mut fields = Self::default();
        let (mut errors, mut unsaid) = (Vec::new(), 0);
        let mut wrong = |name: &str, error: String| {
            if errors.len() < ERRORS_MAX {
                errors.push(field(name, error));
            } else {
                unsaid += 1;
            }
        };
        let mut seen = HashSet::new();
        for (key, value) in &entries {
            if !seen.insert(&**key) {
                wrong(key, "it is given twice".to_owned());
                continue;
            }
            let set = match &**key {
                "event_id" => optional(value.get(), event_id).map(|id| fields.event_id = id),
                "timestamp" => optional(value.get(), timestamp).map(|time| fields.timestamp = time),
                "service" => string(value.get()).and_then(service).map(|name| fields.service = name),
                "message" => string(value.get()).map(|text| fields.message = text),
                "metadata" => optional(value.get(), object).map(|object| fields.metadata = object),
                _ => {
                    fields.others.push((key.clone(), value.get()));
                    Ok(())
                }
            };
            if let Err(error) = set {
                wrong(key, error);
            }
        }
        for required in ["service", "message"] {
            if !seen.contains(required) {
                wrong(required, "it is required".to_owned());
            }
        }
        if unsaid > 0 {
            errors.push(field("", format!("{unsaid} more are wrong")));
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        fields.complete(max_event_bytes).map_err(|error| vec![error])
    }
}

pub(super) fn field(name: &str, error: String) -> FieldError {
    FieldError { field: name.to_owned(), error }
}

// === the fast way ===

// A bit for each field that was seen: a second one of the same name is an error.
const TIMESTAMP: u8 = 1;
const SERVICE: u8 = 2;
const MESSAGE: u8 = 4;
const METADATA: u8 = 8;
const EVENT_ID: u8 = 16;
const REQUIRED: u8 = SERVICE | MESSAGE;

impl<'a> Fields<'a> {
    /// Reads the event that is next; `None` where anything is wrong with it, so that [`explain`](Self::explain) can say what.
    pub(crate) fn read(json: &mut Scanner<'a>, max_event_bytes: usize) -> Option<Self> {
        let mut fields = Self::default();
        let mut seen = 0_u8;
        let mut first = |bit: u8| {
            let is_first = seen & bit == 0;
            seen |= bit;
            is_first.then_some(())
        };
        json.take(b'{')?;
        loop {
            let key = json.string()?;
            json.take(b':')?;
            match &*key {
                "timestamp" => {
                    first(TIMESTAMP)?;
                    fields.timestamp = optional(json.value()?.text, timestamp).ok()?;
                }
                "service" => {
                    first(SERVICE)?;
                    fields.service = service(json.string()?).ok()?;
                }
                "message" => {
                    first(MESSAGE)?;
                    fields.message = json.string()?;
                }
                "metadata" => {
                    first(METADATA)?;
                    fields.metadata = optional(whole(json.value()?)?, object).ok()?;
                }
                "event_id" => {
                    first(EVENT_ID)?;
                    fields.event_id = optional(json.value()?.text, event_id).ok()?;
                }
                _ => {
                    let value = json.value()?;
                    // Put into the metadata it is one level deeper.
                    if value.depth == METADATA_DEPTH_MAX || fields.others.len() == FIELDS_MAX {
                        return None;
                    }
                    fields.others.push((key, whole(value)?));
                }
            }
            if json.take(b'}').is_some() {
                break;
            }
            json.take(b',')?;
        }
        let is_right = seen & REQUIRED == REQUIRED
            && seen.count_ones() as usize + fields.others.len() <= FIELDS_MAX
            && !has_doubles(&fields.others)
            && fields.bytes() <= max_event_bytes;
        is_right.then_some(fields)
    }

    /// The same where the text is one event.
    pub(crate) fn of(text: &'a str, max_event_bytes: usize) -> Option<Self> {
        let mut json = Scanner::new(text);
        let fields = Self::read(&mut json, max_event_bytes)?;
        json.end().map(|()| fields)
    }
}

/// The text of a value that has no half of a character.
fn whole(value: Value<'_>) -> Option<&str> {
    let is_whole = !value.is_escaped || !has_half_character(value.text);
    is_whole.then_some(value.text)
}

/// Whether two have one name.
fn has_doubles(others: &[(Cow<'_, str>, &str)]) -> bool {
    if others.len() <= COMPARED_MAX {
        return (1..others.len()).any(|at| others[..at].iter().any(|(other, _)| *other == others[at].0));
    }
    let mut keys: Vec<&str> = others.iter().map(|(key, _)| &**key).collect();
    keys.sort_unstable();
    keys.windows(2).any(|pair| pair[0] == pair[1])
}

#[cfg(test)]
mod tests;
