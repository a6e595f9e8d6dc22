//! Reading a sink.
//!
//! By hand, because serde's tagged and flattened forms read everything into a buffer of its own first, and what is wrong then no
//! longer has a place in the file. Here the type's own struct reads from the same map, through a view that keeps the common keys
//! to itself. For that, `type` has to come first: our own formats see to it, others (a JSON text read by serde_json) have to be
//! written so, as ours are.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{
    BlackholeSink, CassandraSink, ClickhouseSink, ConsoleSink, FileSink, ForebaySink, HttpSink, NatsSink,
    OtlpSink, PostgresSink, PushgatewaySink, S3Sink, SinkConfig, SinkKind, StoreSink,
};

impl<'de> Deserialize<'de> for SinkConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(SinkVisitor)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SinkType {
    Store,
    Http,
    Otlp,
    Forebay,
    Postgres,
    Clickhouse,
    S3,
    Nats,
    Pushgateway,
    Cassandra,
    File,
    Console,
    Blackhole,
}

struct SinkVisitor;

impl<'de> Visitor<'de> for SinkVisitor {
    type Value = SinkConfig;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section with a type")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SinkConfig, A::Error> {
        if map.next_key::<String>()?.is_none_or(|key| key != "type") {
            return Err(A::Error::missing_field("type"));
        }
        let sink_type: SinkType = map.next_value()?;
        let mut sink = SinkConfig::new(SinkKind::Store(StoreSink {}));
        let own = MapAccessDeserializer::new(OwnKeys { map, sink: &mut sink });
        sink.kind = match sink_type {
            SinkType::Store => SinkKind::Store(StoreSink::deserialize(own)?),
            SinkType::Http => SinkKind::Http(HttpSink::deserialize(own)?),
            SinkType::Otlp => SinkKind::Otlp(OtlpSink::deserialize(own)?),
            SinkType::Forebay => SinkKind::Forebay(ForebaySink::deserialize(own)?),
            SinkType::Postgres => SinkKind::Postgres(PostgresSink::deserialize(own)?),
            SinkType::Clickhouse => SinkKind::Clickhouse(ClickhouseSink::deserialize(own)?),
            SinkType::S3 => SinkKind::S3(S3Sink::deserialize(own)?),
            SinkType::Nats => SinkKind::Nats(NatsSink::deserialize(own)?),
            SinkType::Pushgateway => SinkKind::Pushgateway(PushgatewaySink::deserialize(own)?),
            SinkType::Cassandra => SinkKind::Cassandra(CassandraSink::deserialize(own)?),
            SinkType::File => SinkKind::File(FileSink::deserialize(own)?),
            SinkType::Console => SinkKind::Console(ConsoleSink::deserialize(own)?),
            SinkType::Blackhole => SinkKind::Blackhole(BlackholeSink::deserialize(own)?),
        };
        Ok(sink)
    }
}

/// The keys of a sink that are its type's own; the common ones go into the sink on the way.
struct OwnKeys<'a, A> {
    map: A,
    sink: &'a mut SinkConfig,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for OwnKeys<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            match key.as_str() {
                "when" => self.sink.when = self.map.next_value()?,
                "fields" => self.sink.fields = self.map.next_value()?,
                "when_full" => self.sink.when_full = self.map.next_value()?,
                "batch" => self.sink.batch = self.map.next_value()?,
                "concurrency" => self.sink.concurrency = self.map.next_value()?,
                "mailbox_batches" => self.sink.mailbox_batches = self.map.next_value()?,
                "retry" => self.sink.retry = self.map.next_value()?,
                "breaker" => self.sink.breaker = self.map.next_value()?,
                "fallback" => self.sink.fallback = self.map.next_value()?,
                "on_failure" => self.sink.on_failure = self.map.next_value()?,
                "only_as_fallback" => self.sink.only_as_fallback = self.map.next_value()?,
                _ => return seed.deserialize(key.into_deserializer()).map(Some),
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}
