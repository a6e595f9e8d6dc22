//! What reflection tells of OpenTelemetry's services: made from the table by which their messages are read.
//!
//! The protocol's own files are not shipped for this. What the table does not have is missing here, too: enums are their numbers,
//! a `oneof` is its fields one by one, and messages that are nested there stand side by side. On the wire all that is the same.

use std::collections::BTreeSet;

use forebay_actors::otlp::schema::{
    Field, Kind, LOGS_REQUEST, METRICS_REQUEST, Message, Rule, TRACES_REQUEST,
};
use prost::Message as _;
use prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
    ServiceDescriptorProto,
    field_descriptor_proto::{Label, Type},
};

/// Where the messages below the requests stand, all in one.
const COMMON: &str = "opentelemetry.proto.forebay";
const COMMON_FILE: &str = "opentelemetry/proto/forebay/messages.proto";

/// A service: its package's last part, its name, its request, and what its answer calls what was refused.
const SERVICES: [(&str, &str, &Message, &str); 3] = [
    ("logs", "LogsService", &LOGS_REQUEST, "rejected_log_records"),
    ("metrics", "MetricsService", &METRICS_REQUEST, "rejected_data_points"),
    ("trace", "TraceService", &TRACES_REQUEST, "rejected_spans"),
];

/// The descriptors of the three services, encoded.
pub(super) fn descriptors() -> Vec<u8> {
    let mut common = file(COMMON_FILE, COMMON);
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for (package, service, request, rejected) in SERVICES {
        let name = format!("opentelemetry/proto/collector/{package}/v1/{package}_service.proto");
        let package = format!("opentelemetry.proto.collector.{package}.v1");
        let mut file = FileDescriptorProto { dependency: vec![COMMON_FILE.into()], ..file(&name, &package) };
        file.message_type.push(message(request));
        below(request, &mut seen, &mut common.message_type);
        let stem = request.name.trim_end_matches("Request");
        let (partial, response) = (stem.replace("Service", "PartialSuccess"), format!("{stem}Response"));
        let fields =
            vec![plain(1, rejected, Type::Int64, None), plain(2, "error_message", Type::String, None)];
        file.message_type.push(of(&partial, fields));
        let inner = format!(".{package}.{partial}");
        file.message_type.push(of(&response, vec![plain(1, "partial_success", Type::Message, Some(inner))]));
        file.service.push(ServiceDescriptorProto {
            name: Some(service.into()),
            method: vec![MethodDescriptorProto {
                name: Some("Export".into()),
                input_type: Some(format!(".{package}.{}", request.name)),
                output_type: Some(format!(".{package}.{response}")),
                ..MethodDescriptorProto::default()
            }],
            ..ServiceDescriptorProto::default()
        });
        files.push(file);
    }
    files.insert(0, common);
    FileDescriptorSet { file: files }.encode_to_vec()
}

fn file(name: &str, package: &str) -> FileDescriptorProto {
    FileDescriptorProto {
        name: Some(name.into()),
        package: Some(package.into()),
        syntax: Some("proto3".into()),
        ..FileDescriptorProto::default()
    }
}

/// Adds every message that this one has in it, each once.
fn below(above: &Message, seen: &mut BTreeSet<&'static str>, found: &mut Vec<DescriptorProto>) {
    for field in above.fields {
        if let Kind::Message(inner) = field.kind
            && seen.insert(inner.name)
        {
            found.push(message(inner));
            below(inner, seen, found);
        }
    }
}

fn message(from: &Message) -> DescriptorProto {
    of(from.name, from.fields.iter().map(field).collect())
}

fn of(name: &str, field: Vec<FieldDescriptorProto>) -> DescriptorProto {
    DescriptorProto { name: Some(name.into()), field, ..DescriptorProto::default() }
}

fn field(from: &Field) -> FieldDescriptorProto {
    let (kind, inner) = match from.kind {
        Kind::Bool => (Type::Bool, None),
        Kind::Int32 => (Type::Int32, None),
        Kind::Uint32 => (Type::Uint32, None),
        Kind::Sint32 => (Type::Sint32, None),
        Kind::Int64 => (Type::Int64, None),
        Kind::Uint64 => (Type::Uint64, None),
        Kind::Fixed32 => (Type::Fixed32, None),
        Kind::Fixed64 => (Type::Fixed64, None),
        Kind::Sfixed64 => (Type::Sfixed64, None),
        Kind::Double => (Type::Double, None),
        Kind::String => (Type::String, None),
        Kind::Bytes | Kind::Id { .. } => (Type::Bytes, None),
        Kind::Message(inner) => (Type::Message, Some(format!(".{COMMON}.{}", inner.name))),
    };
    let label = if from.rule == Rule::Repeated { Label::Repeated } else { Label::Optional };
    let plain = plain(from.number, &snake_case(from.name), kind, inner);
    FieldDescriptorProto { label: Some(label.into()), json_name: Some(from.name.into()), ..plain }
}

fn plain(number: u32, name: &str, kind: Type, inner: Option<String>) -> FieldDescriptorProto {
    FieldDescriptorProto {
        name: Some(name.into()),
        number: i32::try_from(number).ok(),
        label: Some(Label::Optional.into()),
        r#type: Some(kind.into()),
        type_name: inner,
        ..FieldDescriptorProto::default()
    }
}

/// As the protocol's files name what JSON calls `timeUnixNano`.
fn snake_case(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}
