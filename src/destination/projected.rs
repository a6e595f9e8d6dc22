//! A destination that gets a part of the metadata: whatever it does with an event, it does with what `fields` lets out.
//!
//! It stands around the destination, not in the sink: replays go the same way, and no message of the destination can have in
//! it what it never saw. The journal and the dead letters have the events whole.

use std::sync::Arc;

use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination},
    examination::Examination,
    holding::{Fetched, HeldKey, Holding, Released},
    projection::Projection,
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};

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

    fn projected(&self, batch: &Batch) -> Arc<Batch> {
        Arc::new(batch.clone().with_fields(self.projection.clone()))
    }

    /// The inner one as a holder, which it is where this one was said to be.
    fn holder(&self) -> Result<&dyn Holding, DeliveryError> {
        let cannot = || DeliveryError::transient(Cause::Build, "it cannot hold batches of another sink");
        self.inner.holding().ok_or_else(cannot)
    }
}

impl Destination for ProjectedDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        self.inner.deliver(self.projected(&batch))
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        self.inner.probe()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        self.inner.examine()
    }

    fn holding(&self) -> Option<&dyn Holding> {
        self.inner.holding().map(|_| self as &dyn Holding)
    }
}

/// What is held is held whole, since it goes to another destination later; what a holder shows of it meanwhile is what
/// `fields` lets out.
impl Holding for ProjectedDestination {
    fn hold(&self, key: &HeldKey, batch: Arc<Batch>) -> Delivery {
        match self.holder() {
            Ok(holder) => holder.hold(key, self.projected(&batch)),
            Err(error) => std::future::ready(Err(error)).boxed_local(),
        }
    }

    fn fetch(&self, key: &HeldKey) -> Fetched {
        match self.holder() {
            Ok(holder) => holder.fetch(key),
            Err(error) => std::future::ready(Err(error)).boxed_local(),
        }
    }

    fn release(&self, key: &HeldKey) -> Released {
        match self.holder() {
            Ok(holder) => holder.release(key),
            Err(error) => std::future::ready(Err(error)).boxed_local(),
        }
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        match self.holder() {
            Ok(holder) => holder.examine(),
            Err(error) => std::future::ready(Examination::failed(&error)).boxed_local(),
        }
    }
}

#[cfg(test)]
mod tests {
    use forebay_actors::{
        destination::{Cause, Receipt},
        event::{BlockBuilder, Draft, Stamp, Timestamp},
        holding::{pack, unpack},
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

    /// Says what it was given, to deliver or to hold.
    struct Tells;

    impl Holding for Tells {
        fn hold(&self, _: &HeldKey, batch: Arc<Batch>) -> Delivery {
            let packed = pack(&batch).unwrap();
            assert!(unpack(&packed).is_some_and(|held| told(&held).contains("s3cret")), "it is held whole");
            self.deliver(batch)
        }

        fn fetch(&self, _: &HeldKey) -> Fetched {
            Box::pin(std::future::ready(Ok(None)))
        }

        fn release(&self, _: &HeldKey) -> Released {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    fn told(batch: &Batch) -> String {
        let mut events = batch.events();
        events.next_event().unwrap().unwrap().metadata.unwrap().to_owned()
    }

    impl Destination for Tells {
        fn holding(&self) -> Option<&dyn Holding> {
            Some(self)
        }

        fn deliver(&self, batch: Arc<Batch>) -> Delivery {
            let error = DeliveryError::transient(Cause::Server, told(&batch));
            Box::pin(std::future::ready(Err::<Receipt, _>(error)))
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

    /// Scenario: a sink with `fields` holds a batch for another sink, and shows what is in it.
    /// Guarantee: it is held with everything; what is shown has not what was dropped.
    #[tokio::test]
    async fn what_is_dropped_is_held_and_not_shown() {
        let fields = Projection::new(None, vec!["password"], vec![]);
        let destination = ProjectedDestination::new(Box::new(Tells), Arc::new(fields));
        let batch = batch(r#"{"password":"s3cret","a":1}"#);
        let key = HeldKey { owner: "a".into(), span: batch.span(), number: 1 };
        let holding = destination.holding().expect("the inner one can hold");
        let error = holding.hold(&key, batch).await.unwrap_err();
        assert_eq!(error.message, r#"{"a":1}"#);
        assert_eq!(holding.fetch(&key).await.unwrap(), None);
        holding.release(&key).await.unwrap();
    }
}
