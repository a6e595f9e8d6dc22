//! What is sent and answered, as types: the document describes them, and tests read real answers by them, so that neither can
//! say what the other does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::{
    ToSchema,
    openapi::{
        ComponentsBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, RefOr, Schema, SchemaFormat, Type,
    },
};

/// An event, as it is sent. Members beside these go into `metadata`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(example = json!({
    "service": "checkout", "message": "order placed", "timestamp": "2026-01-02T03:04:05.678Z",
    "metadata": {"order": 4711, "total": 12.5},
}))]
pub struct NewEvent {
    /// An id of your own. Events with the same id are one in the event store. One is given where there is none.
    #[schema(min_length = 1, max_length = 128)]
    pub event_id: Option<String>,
    /// When it happened: RFC 3339, or milliseconds since the Unix epoch, from 1677-09-21 to 2262-04-11. The time of arrival
    /// where there is none.
    #[schema(schema_with = time_or_none)]
    pub timestamp: Option<Time>,
    /// Who speaks.
    #[schema(min_length = 1, max_length = 256)]
    pub service: String,
    /// What is said.
    pub message: String,
    /// Anything else; at most 64 levels deep.
    pub metadata: Option<Map<String, Value>>,
}

/// A time: RFC 3339, or milliseconds since the Unix epoch.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Time {
    /// RFC 3339.
    Text(String),
    /// Milliseconds since the Unix epoch.
    Millis(f64),
}

/// The milliseconds that a time may be from the Unix epoch, before and behind it: what 64 bits of nanoseconds hold.
const MILLIS_MAX: isize = (i64::MAX / 1_000_000) as isize;

/// A [`Time`]; its milliseconds are of this type.
pub(super) fn time(millis: Type) -> OneOfBuilder {
    let text = ObjectBuilder::new().schema_type(Type::String);
    let millis = ObjectBuilder::new().schema_type(millis);
    OneOfBuilder::new()
        .item(text.format(Some(SchemaFormat::KnownFormat(KnownFormat::DateTime))))
        .item(millis.minimum(Some(-MILLIS_MAX)).maximum(Some(MILLIS_MAX)))
}

fn time_or_none() -> Schema {
    time(Type::Number).item(ObjectBuilder::new().schema_type(Type::Null)).build().into()
}

/// One event, or a list of them. Each event of a list is judged on its own.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum NewEvents {
    /// One.
    One(NewEvent),
    /// A list.
    List(Vec<NewEvent>),
}

/// Events that are on disk.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Accepted {
    /// Of one event, its id.
    One(AcceptedEvent),
    /// Of several, how many, their ids unless `ids=false`, and those that were not taken.
    Several(AcceptedEvents),
}

/// An event that is on disk.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"event_id": "019b7c3e-52a8-7d3e-8d5f-0242ac120002"}))]
pub struct AcceptedEvent {
    /// Its id: the one it came with, or the one it was given.
    pub event_id: String,
}

/// Events that are on disk.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "accepted": 1, "event_ids": ["019b7c3e-52a8-7d3e-8d5f-0242ac120002"],
    "rejected": [{"index": 1, "error": "service: a string is needed, this is a number"}],
}))]
pub struct AcceptedEvents {
    /// How many.
    pub accepted: u64,
    /// Their ids, in the order in which they came; not with `ids=false`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub event_ids: Option<Vec<String>>,
    /// Those that were not taken, at most 1,000 of them.
    pub rejected: Vec<RejectedEvent>,
    /// How many were not taken, where that is more than are listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rejected_count: Option<u64>,
}

/// An event that was not taken.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RejectedEvent {
    /// Its place in the body, from 0.
    pub index: u64,
    /// What is wrong, and what would be right.
    pub error: String,
}

/// An event of the store.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "event_id": "019b7c3e-52a8-7d3e-8d5f-0242ac120002", "timestamp": "2026-01-02T03:04:05.678Z", "service": "checkout",
    "message": "order placed", "metadata": {"order": 4711, "total": 12.5}, "ingested_at": "2026-01-02T03:04:05.690123Z",
}))]
pub struct StoredEvent {
    /// Its id.
    pub event_id: String,
    /// When it happened.
    #[schema(format = DateTime)]
    pub timestamp: String,
    /// Who speaks.
    pub service: String,
    /// What is said.
    pub message: String,
    /// Anything else.
    pub metadata: Map<String, Value>,
    /// When Forebay took it.
    #[schema(format = DateTime)]
    pub ingested_at: String,
}

/// A page of events.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EventPage {
    /// The events, in the order asked for.
    #[schema(max_items = 1000)]
    pub events: Vec<StoredEvent>,
    /// The `cursor` of the next page; null where nothing lies behind this one.
    #[schema(required)]
    pub next_cursor: Option<String>,
    /// Fewer events than asked for though more may match: ask on with `next_cursor`.
    pub partial: bool,
    /// Only with `count=true`: all events of `service`, `from` and `to`; null with `q`, and where counting takes too long.
    #[serde(default)]
    pub count: Option<u64>,
}

/// Counts over time.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"bucket_seconds": 60, "buckets": [{"bucket": "2026-01-02T03:04:00Z", "count": 42}]}))]
pub struct EventCounts {
    /// The length of a bucket.
    pub bucket_seconds: u64,
    /// Buckets with events in them, by time.
    #[schema(max_items = 10000)]
    pub buckets: Vec<Bucket>,
}

/// The events of some time.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Bucket {
    /// When it begins.
    #[schema(format = DateTime)]
    pub bucket: String,
    /// How many.
    #[schema(minimum = 1)]
    pub count: u64,
    /// Whose, with `group_by=service`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub service: Option<String>,
}

/// An error.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"error": {
    "code": "invalid_parameter", "message": "limit: \"many\" is no number; 1 to 1000 are", "details": {"parameter": "limit"},
}}))]
pub struct Failure {
    /// What went wrong.
    pub error: FailureReason,
}

/// What went wrong.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FailureReason {
    /// For programs; it does not change.
    #[schema(pattern = "^[a-z0-9_]+$")]
    pub code: String,
    /// For people: what is wrong, where, and what would be right.
    #[schema(min_length = 1)]
    pub message: String,
    /// What a program can work with; null where there is nothing.
    #[schema(required)]
    pub details: Value,
}

/// That it lives, or is ready.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Alive {
    /// In one word.
    pub status: AliveStatus,
}

/// In one word.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AliveStatus {
    /// The threads of the actors get on.
    Alive,
    /// Events are taken.
    Ready,
}

/// How the whole is.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// In one word.
    pub status: HealthStatus,
    /// Of the program.
    pub version: String,
    /// Since the start.
    pub uptime_seconds: u64,
    /// What it consists of.
    pub checks: Checks,
}

/// In one word.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// Everything is as it should be.
    Healthy,
    /// Events are taken, but something does not get on.
    Degraded,
    /// Events are not taken.
    Unhealthy,
}

/// What is looked at.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
pub struct Checks {
    /// The actors.
    pub application: Map<String, Value>,
    /// The journal.
    pub buffer: Map<String, Value>,
    /// Every sink by name.
    pub sinks: BTreeMap<String, Map<String, Value>>,
    /// What the process takes of the machine.
    pub system_resources: Map<String, Value>,
}

/// Every actor, and how far each sink has come.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ActorTree {
    /// The position behind the last event of the journal.
    pub journal_end: u64,
    /// Every actor.
    pub actors: Vec<Map<String, Value>>,
}

/// A fault that was brought about.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FaultInjected {
    /// In whom.
    pub actor: String,
    /// How often it had restarted before.
    pub restarts_before: u64,
}

/// An error of OpenTelemetry: `google.rpc.Status`.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"code": 14, "message": "the journal is full", "details": [
    {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "1s"},
]}))]
pub struct RpcStatus {
    /// The code of gRPC.
    #[schema(minimum = 1, maximum = 16)]
    pub code: u8,
    /// What is wrong.
    #[schema(min_length = 1)]
    pub message: String,
    /// `google.rpc.BadRequest` where the request is at fault, `google.rpc.RetryInfo` where it passes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<Map<String, Value>>,
}

/// What a success says: nothing, but where items were refused on their own.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExportResponse {
    /// Items that were refused. It would be of no use to send them again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub partial_success: Option<PartialSuccess>,
}

/// Items that were refused.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PartialSuccess {
    /// Of logs, how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rejected_log_records: Option<String>,
    /// Of metrics, how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rejected_data_points: Option<String>,
    /// Of traces, how many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub rejected_spans: Option<String>,
    /// Why the first of them was.
    pub error_message: String,
}

/// Adds all of them.
pub(super) fn schemas(components: ComponentsBuilder) -> ComponentsBuilder {
    let mut all = Vec::new();
    macro_rules! gather {
        ($($type:ty),* $(,)?) => {$(
            all.push((<$type as ToSchema>::name().into_owned(), <$type as utoipa::PartialSchema>::schema()));
            <$type as ToSchema>::schemas(&mut all);
        )*};
    }
    gather!(
        NewEvents,
        Accepted,
        StoredEvent,
        EventPage,
        EventCounts,
        Failure,
        Alive,
        Health,
        ActorTree,
        FaultInjected
    );
    gather!(RpcStatus, ExportResponse);
    let all: Vec<(String, RefOr<_>)> = all;
    components.schemas_from_iter(all)
}
