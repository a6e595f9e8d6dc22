//! The examples that are published with the protocol, read by Forebay and by the protocol's own library.

use forebay_actors::otlp::{
    Signal,
    json::{RequestSeed, Style, write},
};
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
    trace::v1::ExportTraceServiceRequest,
};
use prost::Message;
use serde::de::{DeserializeOwned, DeserializeSeed as _};

use crate::support::{data_dir, skipped};

const EXAMPLES: [(&str, Signal); 4] = [
    ("logs.json", Signal::Logs),
    ("events.json", Signal::Logs),
    ("metrics.json", Signal::Metrics),
    ("trace.json", Signal::Traces),
];

/// The text of an example; `None`, loudly, where the examples are not there.
pub(super) fn example(name: &str) -> Option<String> {
    let path = data_dir().join("otlp").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            skipped("otlp::messages", &format!("{}: {error}", path.display()));
            None
        }
    }
}

fn request(signal: Signal, json: &str) -> Vec<u8> {
    RequestSeed(signal).deserialize(&mut serde_json::Deserializer::from_str(json)).unwrap()
}

fn same<M: Message + Default + DeserializeOwned + PartialEq + std::fmt::Debug>(
    name: &str,
    ours: &[u8],
    json: &str,
) {
    let ours = M::decode(ours).unwrap();
    let theirs: M = serde_json::from_str(json).unwrap();
    assert!(ours == theirs, "{name}: {ours:?}\n{theirs:?}");
}

/// The published examples come to the same protobuf as with the protocol's own library, and back to the same JSON.
#[test]
fn the_examples_are_read_as_everybody_reads_them() {
    for (name, signal) in EXAMPLES {
        let Some(json) = example(name) else { return };
        let bytes = request(signal, &json);
        let mut back = Vec::new();
        write(&bytes, signal.request(), Style::Protocol, &mut back);
        // And what Forebay writes is read by the others as what it was.
        for text in [&json, &String::from_utf8(back).unwrap()] {
            match signal {
                Signal::Logs => same::<ExportLogsServiceRequest>(name, &bytes, text),
                Signal::Metrics => same::<ExportMetricsServiceRequest>(name, &bytes, text),
                Signal::Traces => same::<ExportTraceServiceRequest>(name, &bytes, text),
            }
        }
    }
}
