//! Several sinks replaced by one reload.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use forebay::{
    config::{BlackholeSink, Config, SinkConfig, SinkKind},
    pipeline::{Destinations, Pipeline},
};
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt},
    event::{BlockBuilder, Draft},
    message::Admit,
    record::Batch,
    runtime::clock::Clock,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use prometheus::Registry;
use tempfile::TempDir;
use tokio::{sync::oneshot, time::sleep};

use crate::support::PATIENCE;

const EVENTS: u64 = 10;

/// What the two destinations share.
#[derive(Default)]
struct Scene {
    /// Whether `a` takes events.
    up: AtomicBool,
    /// `b` holds its thread while this is set.
    held: AtomicBool,
    /// `b` has come to hold it.
    holding: AtomicBool,
    /// Events that `a` has taken.
    taken: Mutex<BTreeSet<u64>>,
}

struct Member {
    name: String,
    scene: Arc<Scene>,
}

impl Destination for Member {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let (scene, span) = (self.scene.clone(), batch.span());
        if self.name == "b" && span.end.0 == EVENTS {
            while scene.held.load(Ordering::Relaxed) {
                scene.holding.store(true, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_millis(5));
            }
        }
        let taken = self.name == "b" || scene.up.load(Ordering::Relaxed);
        if self.name == "a" && taken {
            scene.taken.lock().unwrap().extend(span.first.0..span.end.0);
        }
        let down = || Err(DeliveryError::transient(Cause::Server, "down"));
        async move { if taken { Ok(Receipt::of(1)) } else { down() } }.boxed_local()
    }

    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        async { Ok(()) }.boxed_local()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let looking = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("not until now: {what}"));
}

fn sink(concurrency: usize) -> SinkConfig {
    let mut sink = SinkConfig::new(SinkKind::Blackhole(BlackholeSink::default()));
    sink.concurrency = concurrency.into();
    sink.retry.backoff_max = Duration::from_millis(500);
    sink.breaker.open_for = Duration::from_millis(50);
    sink
}

/// A sink that a reload replaced was counted out until its successor was there. Where another sink took seconds to end,
/// the journal was trimmed meanwhile, and what the first one had not delivered was lost. It counts on.
#[test]
fn r0106_a_replaced_sink_keeps_its_backlog() {
    let scene = Arc::new(Scene::default());
    scene.held.store(true, Ordering::Relaxed);
    let mut config = Config::default();
    config.buffer.durability = forebay::config::Durability::Memory;
    config.batch.max_wait = Duration::from_millis(1);
    config.sinks = [("a".to_owned(), sink(1)), ("b".to_owned(), sink(1))].into();
    let for_factories = scene.clone();
    let destinations: Destinations = Arc::new(move |name, _| {
        let (name, scene) = (name.to_string(), for_factories.clone());
        Arc::new(move || Ok(Box::new(Member { name: name.clone(), scene: scene.clone() })))
    });
    actix::System::new().block_on(async {
        let dir = TempDir::new().unwrap();
        let started = Pipeline::start(&config, dir.path(), &Registry::new(), Clock::system(), destinations);
        let mut pipeline = started.unwrap();
        let cursors = pipeline.view().cursors;
        for i in 1..=EVENTS {
            let mut builder = BlockBuilder::with_capacity(100);
            builder.push(&Draft {
                event_id: None,
                timestamp: None,
                service: "s",
                message: "m",
                metadata: None,
            });
            let (reply, answer) = oneshot::channel();
            let admitted = pipeline.receiver().offer(Admit::one(builder.finish(), reply));
            assert!(admitted.is_ok());
            answer.await.unwrap().unwrap();
            until("b has it, but for the last", || i == EVENTS || cursors.get(&"b".into()).next.0 == i).await;
        }
        until("b holds its thread", || scene.holding.load(Ordering::Relaxed)).await;

        let mut new = config.clone();
        new.sinks = [("a".to_owned(), sink(2)), ("b".to_owned(), sink(2))].into();
        pipeline.apply(new).await;
        scene.held.store(false, Ordering::Relaxed);
        scene.up.store(true, Ordering::Relaxed);
        until("a has come to the end", || cursors.get(&"a".into()).next.0 == EVENTS).await;
        assert_eq!(*scene.taken.lock().unwrap(), (0..EVENTS).collect());
        let drained = pipeline.drain(tokio::time::Instant::now() + PATIENCE).await;
        assert!(drained.left.is_empty(), "{drained:?}");
    });
}
