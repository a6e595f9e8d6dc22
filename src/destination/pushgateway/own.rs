//! `own_metrics`: what `GET /metrics` answers, pushed to a gateway as well.
//!
//! They take no way through the journal: when that is full or broken, its metrics matter most. They are one group, that of a
//! service `forebay` whose `service.instance.id` is the host and the port of the HTTP API, as Prometheus would scrape it.

use std::{collections::BTreeMap, net::SocketAddr, panic::AssertUnwindSafe, time::Duration};

use forebay_actors::destination::{Cause, DeliveryError};
use futures::{FutureExt as _, future::join_all};
use prometheus::{IntCounter, IntCounterVec, Registry, TextEncoder};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};

use super::{
    groups::{Grouping, INSTANCE, SERVICE},
    request::{Any, AnyValue, Attribute},
    wire::{FAREWELL_TIME_MAX, Wire},
};
use crate::{
    config::{Config, PushMethod, PushgatewaySink, SinkKind},
    destination::unbuildable,
};

/// Pushes the metrics of this process to every gateway that is to have them.
pub struct OwnMetrics {
    registry: Registry,
    pushes: IntCounterVec,
    followed: BTreeMap<String, Followed>,
}

/// One gateway, and what pushes to it.
struct Followed {
    options: PushgatewaySink,
    address: SocketAddr,
    /// Dropped when there is to be no further push.
    stop: oneshot::Sender<()>,
    pusher: JoinHandle<()>,
}

struct Push {
    sink: String,
    wire: Wire,
    place: reqwest::Url,
    method: PushMethod,
    registry: Registry,
    /// By outcome.
    done: IntCounter,
    failed: IntCounter,
}

// === impl OwnMetrics ===

impl OwnMetrics {
    /// Of a process whose metrics are in `registry`. Pushes nothing before [`follow`](Self::follow).
    ///
    /// # Errors
    /// Where the registry has other metrics of the same name.
    pub fn new(registry: &Registry) -> Result<Self, prometheus::Error> {
        let about = prometheus::opts!(
            "forebay_own_metrics_pushes_total",
            "Pushes of this process' own metrics to a Pushgateway, by sink and outcome (ok, failed)"
        );
        let pushes = IntCounterVec::new(about, &["sink", "outcome"])?;
        registry.register(Box::new(pushes.clone()))?;
        Ok(Self { registry: registry.clone(), pushes, followed: BTreeMap::new() })
    }

    /// From now on pushes as the configuration says, for a process that answers HTTP at `address`. What it says as before goes on.
    pub async fn follow(&mut self, config: &Config, address: SocketAddr) {
        let wanted = wanted(config);
        let is_wanted = |name: &String, followed: &Followed| wanted.get(name) == Some(&&followed.options);
        let ended = self.followed.extract_if(.., |name, followed| !is_wanted(name, followed)).collect();
        self.leave(ended).await;
        for (name, options) in wanted {
            let Some(every) = options.own_metrics.filter(|_| !self.followed.contains_key(name)) else {
                continue;
            };
            match self.push(name, options, address) {
                Ok(push) => {
                    let (stop, stopped) = oneshot::channel();
                    let (options, pusher) = (options.clone(), actix::spawn(push.every(every, stopped)));
                    self.followed.insert(name.clone(), Followed { options, address, stop, pusher });
                }
                Err(error) => tracing::error!(sink = name, %error, "own metrics cannot be pushed"),
            }
        }
    }

    /// Takes leave of all gateways, in a few seconds at most.
    pub async fn end(mut self) {
        let followed = std::mem::take(&mut self.followed);
        self.leave(followed).await;
    }

    /// The last values are pushed, or the group is deleted where nothing is to stay.
    async fn leave(&self, ended: BTreeMap<String, Followed>) {
        let deadline = Instant::now() + FAREWELL_TIME_MAX;
        let farewells = ended.into_iter().map(|(name, followed)| async move {
            let Followed { options, address, stop, mut pusher } = followed;
            drop(stop);
            // One that is on its way could come behind the last.
            if timeout_at(deadline, &mut pusher).await.is_err() {
                pusher.abort();
            }
            match self.push(&name, &options, address) {
                Ok(push) if options.delete_on_exit => {
                    // What fails is in the log.
                    drop(spawn_blocking(move || push.wire.delete(vec![push.place]).join()).await);
                }
                // Counted as any other.
                Ok(push) => drop(timeout_at(deadline, push.once()).await),
                Err(error) => tracing::error!(sink = name, %error, "own metrics cannot be pushed"),
            }
        });
        join_all(farewells).await;
    }

    fn push(
        &self,
        name: &str,
        options: &PushgatewaySink,
        address: SocketAddr,
    ) -> Result<Push, DeliveryError> {
        let wire = Wire::new(options)?;
        let attribute = |key: &str, value: &str| {
            let value = AnyValue { value: Some(Any::Text(value.to_owned())) };
            Attribute { key: key.to_owned(), value: Some(value) }
        };
        let host = sysinfo::System::host_name().unwrap_or_else(|_| address.ip().to_string());
        let instance = format!("{host}:{}", address.port());
        let this = [attribute(SERVICE, "forebay"), attribute(INSTANCE, &instance)];
        let place = wire.place(&Grouping::of(options).key(&this));
        let [done, failed] = ["ok", "failed"].map(|outcome| self.pushes.with_label_values(&[name, outcome]));
        let (sink, registry) = (name.to_owned(), self.registry.clone());
        Ok(Push { sink, wire, place, method: options.method, registry, done, failed })
    }
}

fn wanted(config: &Config) -> BTreeMap<&String, &PushgatewaySink> {
    let sinks = config.sinks.iter().filter_map(|(name, sink)| match &sink.kind {
        SinkKind::Pushgateway(options) if options.own_metrics.is_some() => Some((name, options)),
        _ => None,
    });
    sinks.collect()
}

// === impl Push ===

impl Push {
    async fn every(self, every: Duration, mut stopped: oneshot::Receiver<()>) {
        let mut ticks = interval(every);
        // A gateway that was slow does not get what it missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut fails = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = &mut stopped => return,
            }
            let pushed = AssertUnwindSafe(self.once()).catch_unwind().await;
            let panicked = |_| Err(DeliveryError::transient(Cause::Panicked, "pushing panicked"));
            let error = pushed.unwrap_or_else(panicked).err();
            match &error {
                Some(error) if !fails => {
                    tracing::warn!(sink = self.sink, %error, "own metrics cannot be pushed; it is tried again");
                }
                None if fails => tracing::info!(sink = self.sink, "own metrics are pushed again"),
                _ => {}
            }
            fails = error.is_some();
        }
    }

    async fn once(&self) -> Result<(), DeliveryError> {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather());
        let text = text.map_err(|error| unbuildable(format!("the metrics cannot be written: {error}")));
        let pushed = match text {
            Ok(text) => self.wire.push(self.place.clone(), text, self.method).await,
            Err(error) => Err(error),
        };
        if pushed.is_ok() {
            self.done.inc()
        } else {
            self.failed.inc()
        }
        pushed
    }
}
