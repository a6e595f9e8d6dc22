//! The paths of the HTTP port: what they take, what they answer, and when they do not.

use serde_json::json;
use utoipa::openapi::{
    ContentBuilder, HeaderBuilder, HttpMethod, ObjectBuilder, Ref, RefOr, Required, Response,
    ResponseBuilder, Schema, Type,
    path::{Operation, OperationBuilder, ParameterBuilder, ParameterIn},
    request_body::RequestBodyBuilder,
    schema::OneOfBuilder,
    security::SecurityRequirement,
};

use super::{BEARER, answers};
use crate::{
    ingress::events::REJECTIONS_MAX,
    store::{PAGE_EVENTS_MAX, SEARCH_CHARS_MAX},
};

/// A path, and what each of its methods does.
type Path = (&'static str, Vec<(HttpMethod, Operation)>);

const JSON: &str = "application/json";

/// What the gate says.
pub(super) const UNAUTHORIZED: &str =
    "`unauthorized`: tokens are wanted (`auth.tokens`), and there is none, or none that is known.";
pub(super) const FORBIDDEN: &str = "`forbidden`: the token has not the scope for this; `address_not_allowed`: the address is in no network of `auth.allow`.";
const TOKEN_IN_QUERY: &str = "`token_in_query`: a token does not belong in the address.";

/// Why a request that is right is refused now.
const RATE: &str = "`rate_limited`: too many requests, of this client or of all together.";
const STORE: &str = "`store_unavailable`: the event store cannot be read now.";
const BROKEN: &str = "`internal`: what should not happen; the log says more.";
const NO_STORE: &str = "`no_store`: no sink is an event store.";
const PARAMETER: &str =
    "`invalid_parameter`: a parameter that is not known, given twice, or makes no sense; `token_in_query`.";

/// Every path of the port.
pub(super) fn all(has_admin: bool) -> Vec<Path> {
    let mut events = readable(page());
    events.push((HttpMethod::Post, post_events()));
    let mut all = vec![
        ("/events", events),
        ("/events/stats", readable(stats())),
        ("/events/{event_id}", readable(one())),
        ("/health", readable(health())),
        ("/metrics", readable(metrics())),
        ("/openapi.json", readable(document())),
        ("/docs", readable(docs())),
    ];
    all.extend(["/health/live", "/live"].map(|path| (path, readable(live(path)))));
    all.extend(["/health/ready", "/ready"].map(|path| (path, readable(ready(path)))));
    if has_admin {
        all.push(("/admin/actors", vec![(HttpMethod::Get, actors())]));
        all.push(("/admin/actors/{name}/{fault}", vec![(HttpMethod::Post, fault())]));
    }
    for (method, operation) in all.iter_mut().flat_map(|(_, methods)| methods) {
        guard(operation, matches!(method, HttpMethod::Head));
    }
    all
}

/// Adds what the gate before every route answers, where the route has no such answer of its own.
fn guard(operation: &mut Operation, is_head: bool) {
    let challenge = HeaderBuilder::new().schema(Some(text())).description(Some("`Bearer`"));
    let answers = [
        ("400", failure(TOKEN_IN_QUERY)),
        ("401", failure(UNAUTHORIZED).header("WWW-Authenticate", challenge.build())),
        ("403", failure(FORBIDDEN)),
    ];
    for (status, answer) in answers {
        let mut answer = answer.build();
        if is_head {
            answer.content.clear();
        }
        operation.responses.responses.entry(status.to_owned()).or_insert(RefOr::T(answer));
    }
}

/// By GET, and by HEAD without the body.
fn readable(get: OperationBuilder) -> Vec<(HttpMethod, Operation)> {
    let get = get.build();
    let mut head = get.clone();
    head.operation_id = get.operation_id.as_ref().map(|id| format!("{id}_head"));
    head.summary = get.summary.as_ref().map(|summary| format!("{summary} (the head of the answer)"));
    for response in head.responses.responses.values_mut() {
        if let RefOr::T(response) = response {
            response.content.clear();
        }
    }
    vec![(HttpMethod::Get, get), (HttpMethod::Head, head)]
}

fn post_events() -> Operation {
    let lines = "{\"service\":\"checkout\",\"message\":\"order placed\"}\n{\"service\":\"checkout\",\"message\":\"paid\"}\n";
    let body = RequestBodyBuilder::new()
        .description(Some(
            "One event, a list, or an object a line (`application/x-ndjson`; `application/ndjson`, `application/jsonl`, \
             `application/x-jsonlines` and `application/json-lines` are the same). Without a `Content-Type` it is JSON. \
             `Content-Encoding` may be `gzip`, `deflate` or `zstd`. Bounds: `http.max_body_bytes` before and after unpacking, \
             `http.max_event_bytes` for each event.",
        ))
        .required(Some(Required::True))
        .content(JSON, ContentBuilder::new().schema(Some(Ref::from_schema_name("NewEvents"))).example(Some(json!({
            "service": "checkout", "message": "order placed", "metadata": {"order": 4711},
        }))).build())
        .content("application/x-ndjson", ContentBuilder::new().schema(Some(text())).example(Some(json!(lines))).build());
    let ids = query(
        "ids",
        "Whether the answer lists the ids of the events.",
        of_type(Type::Boolean).default(Some(json!(true))),
    );
    let list = format!(
        "On disk: the events that are right. Of a list, those that are wrong are named, at most {REJECTIONS_MAX} of them."
    );
    let operation =
        operation("post_events", "events", "Take events", "Answers when the events are on disk, synced.")
            .parameter(ids)
            .request_body(Some(body.build()))
            .response("202", answer(&list, "Accepted"));
    let operation = fails(
        operation,
        400,
        "Nothing was taken. `malformed_json` (with line and column), `invalid_utf8`, `empty_body`, \
        `invalid_events` (every event of the list is wrong), `bad_compression`, `incomplete_body`, `invalid_parameter`, \
        `token_in_query`.",
    );
    let operation = fails(operation, 408, "`timeout`: the body did not come within `http.request_timeout`.");
    let operation =
        fails(operation, 413, "`body_too_large`: the body, packed or not, is larger than it may be.");
    let operation = fails(operation, 415, "`unsupported_media_type` or `unsupported_encoding`.");
    let operation =
        fails(operation, 422, "`invalid_event`: the one event is wrong, with every field that is.");
    let operation = fails(operation, 429, RATE);
    let operation = fails(operation, 500, BROKEN);
    fails(
        operation,
        503,
        "Not taken, and nothing of it kept: `overloaded`, `journal_full`, `disk_full`, `journal_failed` or \
        `shutting_down`. Send it again.",
    )
    .build()
}

fn page() -> OperationBuilder {
    let order = of_type(Type::String)
        .enum_values(Some(["newest", "oldest", "desc", "asc"]))
        .default(Some(json!("newest")));
    let limit =
        of_type(Type::Integer).minimum(Some(1)).maximum(Some(PAGE_EVENTS_MAX)).default(Some(json!(100)));
    let cursor = text().pattern(Some("^[0-9a-f]{44}$"));
    let searched = text().max_length(Some(SEARCH_CHARS_MAX));
    let count = of_type(Type::String).enum_values(Some(["true", "false"])).default(Some(json!("false")));
    let operation = operation(
        "get_events",
        "events",
        "A page of events",
        "Of the event store, by time. A parameter that is empty says as little as none.",
    )
    .parameter(query("service", "Of this service only.", text()))
    .parameter(query("q", "Only messages that contain this text, in either case.", searched))
    .parameters(Some(times()))
    .parameter(query("limit", "Events in the page.", or_empty(limit)))
    .parameter(query(
        "cursor",
        "`next_cursor` of the page before, unchanged, with the same order.",
        or_empty(cursor),
    ))
    .parameter(query("order", "By time: the newest first, or the oldest.", or_empty(order)))
    .parameter(query(
        "count",
        "Whether to count all events of `service`, `from` and `to`, too.",
        or_empty(count),
    ))
    .response("200", answer("The page.", "EventPage"));
    of_store(fails(operation, 400, PARAMETER), NO_STORE)
}

fn stats() -> OperationBuilder {
    let bucket = text().pattern(Some("^[1-9][0-9]*[smhd]?$")).default(Some(json!("1m"))).examples(["1h"]);
    let group = of_type(Type::String).enum_values(Some(["service"]));
    let operation = operation(
        "get_event_counts",
        "events",
        "Counts over time",
        "Of the event store, in buckets of time. A parameter that is empty says as little as none.",
    )
    .parameter(query("service", "Of this service only.", text()))
    .parameters(Some(times()))
    .parameter(query(
        "bucket",
        "The length of a bucket, a multiple of a minute: `1m`, `2h`, `1d`, or seconds.",
        or_empty(bucket),
    ))
    .parameter(query("group_by", "A row for each service.", or_empty(group)))
    .response("200", answer("The counts. Buckets without events are left out.", "EventCounts"));
    of_store(
        fails(
            operation,
            400,
            &format!(
                "{PARAMETER} Or more rows than an answer may have, or more events than are counted in time."
            ),
        ),
        NO_STORE,
    )
}

fn one() -> OperationBuilder {
    let id = parameter("event_id", ParameterIn::Path, "The event's id.", text().min_length(Some(1)));
    let operation = operation("get_event", "events", "One event", "Of the event store, by its id.")
        .parameter(id)
        .response("200", answer("The event.", "StoredEvent"));
    of_store(operation, &format!("`event_not_found`: no event has this id. {NO_STORE}"))
}

fn of_store(operation: OperationBuilder, missing: &str) -> OperationBuilder {
    let operation = fails(fails(operation, 404, missing), 429, RATE);
    fails(fails(operation, 500, BROKEN), 503, STORE)
}

fn health() -> OperationBuilder {
    let operation = operation("get_health", "health", "How the whole is", "With its reasons, part by part.")
        .response("200", answer("Events are taken.", "Health"))
        .response("503", answer("Events are not taken; `checks.application.reason` says why.", "Health"));
    fails(operation, 429, RATE)
}

fn live(path: &str) -> OperationBuilder {
    let id = if path == "/live" { "get_live" } else { "get_health_live" };
    let operation = operation(
        id,
        "health",
        "Whether the process lives",
        "A supervisor starts it again where it does not.",
    )
    .response("200", answer("It does.", "Alive"));
    fails(fails(operation, 429, RATE), 503, "`stuck`: the threads of the actors are held.")
}

fn ready(path: &str) -> OperationBuilder {
    let id = if path == "/ready" { "get_ready" } else { "get_health_ready" };
    let operation =
        operation(id, "health", "Whether events are taken", "A load balancer sends none where they are not.")
            .response("200", answer("They are.", "Alive"));
    fails(fails(operation, 429, RATE), 503, "`not_ready`, with the reason.")
}

fn metrics() -> OperationBuilder {
    let numbers = ResponseBuilder::new()
        .description("Every metric.")
        .content("text/plain", ContentBuilder::new().schema(Some(text())).build());
    let operation = operation("get_metrics", "metrics", "Metrics", "In Prometheus' text format.")
        .response("200", numbers);
    fails(fails(operation, 429, RATE), 500, BROKEN)
}

fn document() -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(of_type(Type::Object))).build();
    let document = ResponseBuilder::new().description("The document.").content(JSON, content);
    let operation =
        operation("get_openapi", "documentation", "This document", "OpenAPI 3.1.").response("200", document);
    fails(operation, 429, RATE)
}

fn docs() -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(text())).build();
    let page = ResponseBuilder::new().description("The page.").content("text/html", content);
    let operation = operation(
        "get_docs",
        "documentation",
        "This document, for people",
        "One page that loads nothing else.",
    )
    .response("200", page);
    fails(operation, 429, RATE)
}

fn actors() -> Operation {
    let operation = operation("get_actors", "admin", "The tree of actors", "Only where `admin.chaos` is on.")
        .security(SecurityRequirement::new(BEARER, [] as [&str; 0]))
        .response("200", answer("Every actor, and how far each sink has come.", "ActorTree"));
    operation.build()
}

fn fault() -> Operation {
    let faults = of_type(Type::String).enum_values(Some(["kill", "panic", "stall"]));
    let time = text().examples(["5s"]);
    let operation =
        operation("post_fault", "admin", "Bring an actor down", "Only where `admin.chaos` is on.")
            .security(SecurityRequirement::new(BEARER, [] as [&str; 0]))
            .parameter(parameter("name", ParameterIn::Path, "The actor.", text()))
            .parameter(parameter("fault", ParameterIn::Path, "What to do to it.", faults))
            .parameter(query(
                "for",
                "How long to stall, with `stall` only: `250ms`, `5s`, up to `10m`.",
                time,
            ))
            .response("202", answer("It was told.", "FaultInjected"));
    let operation = fails(operation, 400, PARAMETER);
    fails(operation, 404, "`actor_not_found`, with the names there are, or `fault_not_found`.").build()
}

fn times() -> [utoipa::openapi::path::Parameter; 2] {
    let of = |name, text: &str| {
        let text =
            format!("{text}: RFC 3339, or milliseconds since the Unix epoch, from 1677-09-21 to 2262-04-11.");
        parameter(name, ParameterIn::Query, &text, answers::time(Type::Integer).item(empty()))
    };
    [of("from", "At this time or later"), of("to", "Before this time")]
}

pub(super) fn operation(id: &str, tag: &str, summary: &str, description: &str) -> OperationBuilder {
    OperationBuilder::new()
        .operation_id(Some(id))
        .tag(tag)
        .summary(Some(summary))
        .description(Some(description))
}

pub(super) fn of_type(of: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(of)
}

pub(super) fn text() -> ObjectBuilder {
    of_type(Type::String)
}

/// An empty text, which says as little as if it were not there: forms send it.
fn empty() -> ObjectBuilder {
    text().max_length(Some(0))
}

/// A parameter that may be left empty.
fn or_empty(schema: ObjectBuilder) -> OneOfBuilder {
    OneOfBuilder::new().item(schema).item(empty())
}

fn query(name: &str, description: &str, schema: impl Into<Schema>) -> utoipa::openapi::path::Parameter {
    parameter(name, ParameterIn::Query, description, schema)
}

fn parameter(
    name: &str,
    place: ParameterIn,
    description: &str,
    schema: impl Into<Schema>,
) -> utoipa::openapi::path::Parameter {
    let required = if matches!(place, ParameterIn::Path) { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(place)
        .required(required)
        .description(Some(description))
        .schema(Some(RefOr::T(schema.into())))
        .build()
}

/// An answer in JSON of one of the types.
fn answer(description: &str, of: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(of))).build();
    ResponseBuilder::new().description(description).content(JSON, content).build()
}

fn failure(description: &str) -> ResponseBuilder {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Failure"))).build();
    ResponseBuilder::new().description(description).content(JSON, content)
}

/// Adds an error, which says when to come again if it passes.
fn fails(operation: OperationBuilder, status: u16, description: &str) -> OperationBuilder {
    let response = failure(description);
    let response =
        if matches!(status, 429 | 503) { response.header("Retry-After", retry_after()) } else { response };
    operation.response(status.to_string(), response)
}

/// When to come again.
pub(super) fn retry_after() -> utoipa::openapi::Header {
    let seconds = of_type(Type::Integer).minimum(Some(1));
    HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds after which to come again.")).build()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A head has no body, whatever the answer.
    #[test]
    fn heads_have_no_body() {
        let [_, (_, head)] = &readable(health())[..] else { panic!("GET and HEAD") };
        let text: Value = serde_json::to_value(head).unwrap();
        assert!(!text.to_string().contains("content"), "{text}");
        assert_eq!(text["operationId"], "get_health_head");
    }
}
