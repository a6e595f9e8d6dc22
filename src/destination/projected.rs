//! A destination that gets a part of the metadata: whatever it does with an event, it does with what `fields` lets out.
//!
//! It stands around the destination, not in the sink: replays go the same way, and no message of the destination can have in
//! it what it never saw. The journal and the dead letters have the events whole.

use std::sync::Arc;

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination},
    examination::Examination,
    holding::Holding,
    projection::Projection,
    record::Batch,
};
use futures::future::LocalBoxFuture;

/// Another destination, and what it gets of the metadata.
pub struct ProjectedDestination {
    inner: Box<dyn Destination>,
    projection: Arc<Projection>,
}

impl ProjectedDestination {
    /// In front of that one.
    pub fn new(inner: Box<dyn Destination>, projection: Arc<Projection>) -> Self {
        Self { inner, projection }
    }
}

impl Destination for ProjectedDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        self.inner.deliver(Arc::new((*batch).clone().with_fields(self.projection.clone())))
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        self.inner.probe()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        self.inner.examine()
    }

    /// What is held is held whole: it goes to another destination later.
    fn holding(&self) -> Option<&dyn Holding> {
        self.inner.holding()
    }
}

#[cfg(test)]
mod tests {
    use forebay_actors::{
        destination::{Cause, Receipt},
        event::{BlockBuilder, Draft, Stamp, Timestamp},
        record::{Position, Record, Span},
    };

    use super::*;
    use crate::{
        config::{Config, FileSink, SinkConfig, SinkKind},
        pipeline,
    };

    fn batch(metadata: &str) -> Arc<Batch> {
        let mut builder = BlockBuilder::default();
        let (event_id, timestamp) = (Some("e"), None);
        builder.push(&Draft { event_id, timestamp, service: "s", message: "m", metadata: Some(metadata) });
        let stamp = Stamp { first_id: uuid::Uuid::nil(), ingested_at: Timestamp::from_nanos(1) };
        let payload = builder.finish().remove(0).stamped(stamp).bytes().clone();
        let record = Record { first: Position(0), count: 1, written_at: Timestamp::default(), payload };
        Arc::new(Batch::new(Span { first: record.first, end: record.end() }, vec![record.into()]))
    }

    /// Scenario: a file sink of a configuration that drops one key and renames another.
    /// Guarantee: what is written has neither the key nor its value; the event in the batch still has both.
    #[tokio::test]
    async fn what_is_dropped_does_not_go_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.ndjson");
        let file = serde_json::from_value::<FileSink>(serde_json::json!({ "path": path })).unwrap();
        let mut sink = SinkConfig::new(SinkKind::File(file));
        let fields = serde_json::json!({ "drop": ["metadata.user.password"], "rename": { "metadata.msg": "metadata.text" } });
        sink.fields = Some(serde_json::from_value(fields).unwrap());
        let clock = forebay_actors::runtime::clock::Clock::system();
        let destination =
            pipeline::destinations(&Config::default(), dir.path(), clock)(&"a".into(), &sink)().unwrap();
        let batch = batch(r#"{"user":{"name":"ann","password":"s3cret"},"msg":"hello"}"#);
        destination.deliver(batch.clone()).await.unwrap();
        let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(written["metadata"], serde_json::json!({ "user": { "name": "ann" }, "text": "hello" }));
        assert_eq!((&written["event_id"], &written["message"]), (&"e".into(), &"m".into()));
        let mut events = batch.events();
        assert!(events.next_event().unwrap().unwrap().metadata.unwrap().contains("s3cret"));
    }

    /// Says what it was given.
    struct Tells;

    impl Destination for Tells {
        fn deliver(&self, batch: Arc<Batch>) -> Delivery {
            let mut events = batch.events();
            let said = events.next_event().unwrap().unwrap().metadata.unwrap().to_owned();
            Box::pin(std::future::ready(Err::<Receipt, _>(DeliveryError::transient(Cause::Server, said))))
        }

        fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    /// Scenario: a destination repeats in its error what it was sent, as servers do.
    /// Guarantee: what was dropped is not in it, so it comes into no dead letter's `error`.
    #[tokio::test]
    async fn what_is_dropped_is_in_no_error() {
        let fields = Projection::new(None, vec!["password"], vec![]);
        let destination = ProjectedDestination::new(Box::new(Tells), Arc::new(fields));
        let batch = batch(r#"{"password":"s3cret","a":1}"#);
        let error = destination.deliver(batch).await.unwrap_err();
        assert_eq!(error.message, r#"{"a":1}"#);
    }
}
