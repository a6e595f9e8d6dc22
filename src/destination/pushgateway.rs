//! `type: pushgateway`: the latest value of every series of OpenTelemetry metrics, pushed to a Prometheus Pushgateway.
//!
//! - A gateway holds one value of a series, the last, and a push replaces all series of the metrics that are in it. So the
//!   latest values are kept here, group by group, and each batch pushes the groups that it had something for.
//! - What a batch changes counts only when all its pushes were taken. One that comes again, after a failure or a crash, changes
//!   the same once more, to the same values. Deltas are added up from the first that came in this process' life: behind a
//!   restart a counter begins anew, as Prometheus expects of counters.
//! - What is no metric, and points that a gateway cannot have, are counted as refused, with a line in the log for each reason.
//!
//! Limits: latest values of `state_bytes`, and as much again while a batch is pushed; `PUSHES_MAX` pushes at a time.

mod groups;
mod names;
mod own;
mod request;
mod wire;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    fmt,
    rc::Rc,
    sync::Arc,
};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    examination::Examination,
    otlp::Signal,
    record::{Batch, Part},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::LocalBoxFuture, stream};
use prost::Message as _;
use tokio::sync::Mutex;

pub use self::own::OwnMetrics;
use self::{
    groups::{Group, GroupKey, Grouping, Label, Refused},
    request::Request,
    wire::Wire,
};
use super::unreadable;
use crate::config::PushgatewaySink;

/// Groups of a batch that are pushed at a time.
const PUSHES_MAX: usize = 4;

/// Pushes the latest values.
pub struct PushgatewayDestination {
    gateway: Rc<Gateway>,
}

struct Gateway {
    wire: Wire,
    grouping: Grouping,
    options: PushgatewaySink,
    /// Held while a batch is pushed: what the next one changes, it changes in what this one has made.
    groups: Mutex<Groups>,
    said: Said,
}

/// What was pushed, as far as there is room for it.
#[derive(Debug, Default)]
struct Groups {
    held: HashMap<GroupKey, Held>,
    bytes: usize,
    batches: u64,
}

#[derive(Debug)]
struct Held {
    group: Group,
    /// The last batch that had something for it.
    batch: u64,
}

/// Reasons that were logged: each says the same for every batch.
#[derive(Debug, Default)]
struct Said {
    others: Cell<bool>,
    exponential: Cell<bool>,
    other_type: Cell<bool>,
    no_room: Cell<bool>,
}

/// What a batch makes of the groups that it has something for.
#[derive(Debug, Default)]
struct Changes {
    groups: BTreeMap<GroupKey, Group>,
    refused: Refused,
    /// Events, logs and spans.
    others: u64,
}

// === impl PushgatewayDestination ===

impl PushgatewayDestination {
    /// A destination that has not connected yet. Reads certificates.
    ///
    /// # Errors
    /// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the URL, a header or the certificates cannot be used.
    pub fn new(options: &PushgatewaySink) -> Result<Self, DeliveryError> {
        let wire = Wire::new(options)?;
        let (groups, said) = Default::default();
        let (grouping, options) = (Grouping::of(options), options.clone());
        Ok(Self { gateway: Rc::new(Gateway { wire, grouping, options, groups, said }) })
    }
}

impl fmt::Debug for PushgatewayDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PushgatewayDestination").field(&self.gateway.wire.shown).finish()
    }
}

impl Destination for PushgatewayDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let gateway = self.gateway.clone();
        async move { gateway.deliver(&batch).await }.boxed_local()
    }

    /// Asks whether the gateway is ready. Whether it would take a push only shows with the first.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let gateway = self.gateway.clone();
        async move { gateway.wire.ready().await }.boxed_local()
    }

    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let gateway = self.gateway.clone();
        async move { gateway.wire.examine().await }.boxed_local()
    }
}

// === impl Gateway ===

impl Gateway {
    async fn deliver(&self, batch: &Batch) -> Result<Receipt, DeliveryError> {
        let mut groups = self.groups.lock().await;
        let changes = self.changes(batch, &groups)?;
        let pushes = changes.groups.iter().map(|(key, group)| {
            let text = group.text();
            let bytes = text.len() as u64;
            self.wire.push(self.wire.place(key), text).map(move |pushed| pushed.map(|()| bytes))
        });
        let bytes = stream::iter(pushes)
            .buffer_unordered(PUSHES_MAX)
            .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
            .await?;
        self.said.say(&self.wire.shown, &changes);
        let Refused { exponential, other_type, no_room } = changes.refused;
        let refused = changes.others + exponential + other_type + no_room;
        groups.keep(changes.groups, self.options.state_bytes);
        Ok(Receipt { refused: refused.min(batch.count()), ..Receipt::of(bytes) })
    }

    /// The groups as they are with the batch.
    fn changes(&self, batch: &Batch, groups: &Groups) -> Result<Changes, DeliveryError> {
        let (mut changes, mut points) = (Changes::default(), 0);
        let mut parts = batch.events();
        while let Some(at) = parts.position() {
            // A record that holds fewer events than it says must not pass as delivered.
            let part =
                parts.next_part().ok_or_else(|| unreadable(batch, &format!("there is none at {at}")))?;
            let part = part.map_err(|error| unreadable(batch, &error.to_string()))?;
            let Part::Otlp { signal: Signal::Metrics, request, .. } = part else { continue };
            let request = Request::decode(request).map_err(|error| unreadable(batch, &error.to_string()))?;
            for metrics in &request.resource_metrics {
                let resource = metrics.resource.as_ref().map(|resource| resource.attributes.as_slice());
                let key = self.grouping.key(resource.unwrap_or_default());
                let group = changes.groups.entry(key.clone()).or_insert_with(|| groups.group(&key));
                let refused = group.apply(metrics, &self.grouping, &key, self.options.state_bytes);
                changes.refused.add(refused);
                points += metrics.points();
            }
        }
        changes.others = batch.count().saturating_sub(points);
        Ok(changes)
    }
}

impl Drop for Gateway {
    /// Deletes what was pushed, where that is wanted.
    fn drop(&mut self) {
        let groups = std::mem::take(self.groups.get_mut()).held;
        if self.options.delete_on_exit {
            self.wire.delete(groups.keys().map(|key| self.wire.place(key)).collect());
        }
    }
}

// === impl Groups ===

impl Groups {
    fn group(&self, key: &[Label]) -> Group {
        self.held.get(key).map(|held| held.group.clone()).unwrap_or_default()
    }

    /// Keeps what was pushed, and forgets the groups that were not heard of for the longest time where there is more.
    fn keep(&mut self, groups: BTreeMap<GroupKey, Group>, bytes_max: usize) {
        self.batches += 1;
        for (key, group) in groups {
            self.bytes += group.bytes;
            let held = Held { group, batch: self.batches };
            self.bytes -= self.held.insert(key, held).map_or(0, |before| before.group.bytes);
        }
        while self.bytes > bytes_max && self.held.len() > 1 {
            let oldest = self.held.iter().min_by_key(|(_, held)| held.batch).map(|(key, _)| key.clone());
            let Some(oldest) = oldest else { return };
            self.bytes -= self.held.remove(&oldest).map_or(0, |held| held.group.bytes);
        }
    }
}

// === impl Said ===

impl Said {
    fn say(&self, shown: &str, changes: &Changes) {
        let Refused { exponential, other_type, no_room } = changes.refused;
        for (said, count, why) in [
            (&self.others, changes.others, "a Pushgateway takes only metrics"),
            (&self.exponential, exponential, "its text format has no exponential histograms"),
            (
                &self.other_type,
                other_type,
                "there is a metric of their name and of another type in the group",
            ),
            (&self.no_room, no_room, "state_bytes has no room for further series of the group"),
        ] {
            if count > 0 && !said.replace(true) {
                tracing::warn!(gateway = %shown, count, why, "events are refused, and counted as such from now on");
            }
        }
    }
}
