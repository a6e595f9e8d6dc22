//! The paths of OpenTelemetry over HTTP. The messages are described by the table that reads them.

use std::{collections::BTreeSet, net::SocketAddr};

use forebay_actors::otlp::{
    Signal,
    schema::{Field, Kind, Message, Rule},
};
use serde_json::json;
use utoipa::openapi::{
    ArrayBuilder, ComponentsBuilder, ContentBuilder, HttpMethod, ObjectBuilder, PathItem, Ref, RefOr,
    Required, ResponseBuilder, Schema, Type,
    path::{Operation, OperationBuilder, PathItemBuilder},
    request_body::RequestBodyBuilder,
    schema::{AnyOfBuilder, KnownFormat, SchemaFormat, SchemaType},
    server::{ServerBuilder, ServerVariableBuilder},
};

use super::operations::{FORBIDDEN, UNAUTHORIZED, of_type, operation, retry_after, text};

const JSON: &str = "application/json";
const PROTOBUF: &str = "application/x-protobuf";

/// What a request of a signal is called, its items, and one as an example.
const SIGNALS: [(Signal, &str, &str); 3] = [
    (Signal::Logs, "/v1/logs", "log records"),
    (Signal::Metrics, "/v1/metrics", "data points"),
    (Signal::Traces, "/v1/traces", "spans"),
];

/// The paths, which are on ports of their own.
pub(super) fn paths(addresses: &[SocketAddr]) -> impl Iterator<Item = (&'static str, PathItem)> {
    let servers: Vec<_> = addresses
        .iter()
        .map(|address| {
            let host = ServerVariableBuilder::new().default_value(match address.ip() {
                // Whoever reads this is not there where it listens.
                ip if ip.is_unspecified() => "localhost".to_owned(),
                std::net::IpAddr::V6(ip) => format!("[{ip}]"),
                ip => ip.to_string(),
            });
            ServerBuilder::new()
                .url(format!("http://{{host}}:{}", address.port()))
                .parameter("host", host)
                .description(Some("OpenTelemetry, over HTTP and gRPC"))
                .build()
        })
        .collect();
    SIGNALS.into_iter().map(move |(signal, path, items)| {
        let item = PathItemBuilder::new()
            .servers(Some(servers.clone()))
            .operation(HttpMethod::Post, export(signal, items));
        (path, item.build())
    })
}

fn export(signal: Signal, items: &str) -> Operation {
    let body = RequestBodyBuilder::new()
        .description(Some(
            "`Content-Encoding` may be `gzip`, `deflate` or `zstd`. In JSON, ids are hexadecimal, other bytes base64, enums integers, and \
             numbers of 64 bits texts or numbers; what is not known is ignored. Bounds: `otlp.max_body_bytes` before and after \
             unpacking, `http.max_event_bytes` for each item.",
        ))
        .required(Some(Required::True))
        .content(JSON, ContentBuilder::new().schema(Some(reference(signal.request()))).example(Some(example(signal))).build())
        .content(PROTOBUF, ContentBuilder::new().schema(Some(binary())).build());
    let name = signal.as_str();
    let success = ResponseBuilder::new()
        .description(format!("On disk, synced: all {items} but those that `partialSuccess` counts."))
        .content(JSON, ContentBuilder::new().schema(Some(Ref::from_schema_name("ExportResponse"))).build())
        .content(PROTOBUF, ContentBuilder::new().schema(Some(binary())).build());
    let description = format!(
        "`{}` of opentelemetry-proto, in protobuf or JSON. The answer is in the encoding of the request.",
        signal.request().name
    );
    let operation =
        operation(&format!("export_{name}"), "opentelemetry", &format!("Take {name}"), &description)
            .request_body(Some(body.build()))
            .response("200", success);
    let operation = fails(operation, 400, "Nothing was taken: it cannot be decoded, or its body broke off.");
    let operation = fails(operation, 401, UNAUTHORIZED);
    let operation = fails(operation, 403, FORBIDDEN);
    let operation = fails(operation, 413, "The body, packed or not, is larger than it may be.");
    let operation = fails(operation, 415, "A `Content-Type` or `Content-Encoding` that is not known.");
    let operation = fails(operation, 429, "Too many requests. Send it again.");
    let operation = fails(operation, 500, "What should not happen; the log says more.");
    fails(operation, 503, "Not taken, and nothing of it kept: overload, a full journal or disk, a body that was too slow, the end of the process. Send it again.").build()
}

fn fails(operation: OperationBuilder, status: u16, description: &str) -> OperationBuilder {
    let response = ResponseBuilder::new()
        .description(description)
        .content(JSON, ContentBuilder::new().schema(Some(Ref::from_schema_name("RpcStatus"))).build())
        .content(PROTOBUF, ContentBuilder::new().schema(Some(binary())).build());
    let response =
        if matches!(status, 429 | 503) { response.header("Retry-After", retry_after()) } else { response };
    operation.response(status.to_string(), response)
}

/// A request as an SDK sends it.
fn example(signal: Signal) -> serde_json::Value {
    let resource = json!({"attributes": [{"key": "service.name", "value": {"stringValue": "checkout"}}]});
    let (trace, span) = ("5b8efff798038103d269b633813fc60c", "eee19b7ec3c1b174");
    match signal {
        Signal::Logs => json!({"resourceLogs": [{"resource": resource, "scopeLogs": [{"logRecords": [{
            "timeUnixNano": "1767323045678000000", "severityNumber": 9, "severityText": "INFO",
            "body": {"stringValue": "order placed"}, "traceId": trace, "spanId": span,
        }]}]}]}),
        Signal::Metrics => json!({"resourceMetrics": [{"resource": resource, "scopeMetrics": [{"metrics": [{
            "name": "orders", "unit": "1",
            "sum": {"aggregationTemporality": 2, "isMonotonic": true, "dataPoints": [{"timeUnixNano": "1767323045678000000", "asInt": "42"}]},
        }]}]}]}),
        Signal::Traces => json!({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": [{
            "traceId": trace, "spanId": span, "name": "POST /orders", "kind": 2,
            "startTimeUnixNano": "1767323045678000000", "endTimeUnixNano": "1767323045690000000",
        }]}]}]}),
    }
}

/// Adds every message that a request may hold.
pub(super) fn schemas(mut components: ComponentsBuilder) -> ComponentsBuilder {
    let mut known = BTreeSet::new();
    let mut open: Vec<&'static Message> = SIGNALS.map(|(signal, ..)| signal.request()).to_vec();
    while let Some(message) = open.pop() {
        if known.insert(message.name) {
            components = components.schema(component(message), object(message));
            open.extend(message.fields.iter().filter_map(|field| match field.kind {
                Kind::Message(of) => Some(of),
                _ => None,
            }));
        }
    }
    components
}

/// The name of a message among all schemas.
fn component(message: &Message) -> String {
    format!("Otlp{}", message.name)
}

fn reference(message: &Message) -> Ref {
    Ref::from_schema_name(component(message))
}

fn object(message: &'static Message) -> ObjectBuilder {
    let object =
        of_type(Type::Object).description(Some(format!("`{}` of opentelemetry-proto.", message.name)));
    message.fields.iter().fold(object, |object, field| object.property(field.name, member(field)))
}

/// What a member may be: `null` is as if it were not there.
fn member(field: &Field) -> Schema {
    if field.rule == Rule::Repeated {
        let list = ArrayBuilder::new().items(value(field.kind));
        return list.schema_type(SchemaType::Array(vec![Type::Array, Type::Null])).build().into();
    }
    let alternatives = AnyOfBuilder::new().item(value(field.kind)).item(of_type(Type::Null));
    alternatives.build().into()
}

fn value(kind: Kind) -> RefOr<Schema> {
    let integer = |least: isize, most: usize| {
        let number = of_type(Type::Integer).minimum(Some(least)).maximum(Some(most));
        AnyOfBuilder::new().item(number).item(text().pattern(Some(digits(least, most))))
    };
    match kind {
        Kind::Bool => of_type(Type::Boolean).into(),
        Kind::Int32 | Kind::Sint32 => integer(i32::MIN as isize, i32::MAX as usize).into(),
        Kind::Uint32 | Kind::Fixed32 => integer(0, u32::MAX as usize).into(),
        // That of an attribute, which is taken as a double where it is too large.
        Kind::Int64 => AnyOfBuilder::new()
            .item(of_type(Type::Integer))
            .item(text().pattern(Some("^-?[0-9]{1,38}$")))
            .into(),
        Kind::Sfixed64 => integer(i64::MIN as isize, i64::MAX as usize).into(),
        Kind::Uint64 | Kind::Fixed64 => integer(0, u64::MAX as usize).into(),
        Kind::Double => {
            let words =
                text().pattern(Some(r"^(NaN|-?Infinity|[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)$"));
            AnyOfBuilder::new().item(of_type(Type::Number)).item(words).into()
        }
        Kind::String => text().into(),
        Kind::Bytes => {
            let base64 = |letters: &str| {
                let pattern = format!("^([{letters}]{{4}})*([{letters}]{{2}}(==)?|[{letters}]{{3}}=?)?$");
                text().content_encoding("base64").pattern(Some(pattern))
            };
            AnyOfBuilder::new().item(base64("A-Za-z0-9+/")).item(base64("A-Za-z0-9_-")).into()
        }
        Kind::Id { bytes } => text().pattern(Some(format!("^([0-9a-fA-F]{{{}}})?$", 2 * bytes))).into(),
        Kind::Message(of) => reference(of).into(),
    }
}

/// The pattern of an integer in a text, within its bounds to the last digit.
fn digits(least: isize, most: usize) -> String {
    let largest = most.to_string();
    let mut shapes = vec![format!("[0-9]{{1,{}}}", largest.len() - 1)];
    for (at, digit) in largest.bytes().enumerate().filter(|(_, digit)| *digit > b'0') {
        let (same, below, rest) = (&largest[..at], char::from(digit - 1), largest.len() - at - 1);
        shapes.push(format!("{same}[0-{below}][0-9]{{{rest}}}"));
    }
    shapes.push(largest);
    let shapes = shapes.join("|");
    if least < 0 { format!("^({least}|-?({shapes}))$") } else { format!("^({shapes})$") }
}

fn binary() -> ObjectBuilder {
    text().format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shapes are those of the numbers up to the bound, digit by digit.
    #[test]
    fn integers_in_texts_have_bounds() {
        assert_eq!(digits(0, 407), "^([0-9]{1,2}|[0-3][0-9]{2}|40[0-6][0-9]{0}|407)$");
        assert_eq!(digits(-13, 12), "^(-13|-?([0-9]{1,1}|[0-0][0-9]{1}|1[0-1][0-9]{0}|12))$");
    }
}
