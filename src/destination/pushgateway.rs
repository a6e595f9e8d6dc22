//! `type: pushgateway`: the latest value of every series of OpenTelemetry metrics, pushed to a Prometheus Pushgateway.
//!
//! - A gateway holds one value of a series, the last, and a push replaces all series of the metrics that are in it. So the
//!   latest values are kept here, group by group, and each batch pushes the groups that it had something for.
//! - What a batch changes counts only when all its pushes were taken. One that comes again, after a failure or a crash, changes
//!   the same once more, to the same values. Deltas are added up from the first that came in this process' life: behind a
//!   restart a counter begins anew, as Prometheus expects of counters.
//! - What is at the gateway belongs to the sink, not to a destination: replays and what a panic makes anew go on with it, and
//!   with `delete_on_exit` it is deleted when the sink ends. A replay of a command for which no process runs begins with nothing.
//! - What is no metric, and points that a gateway cannot have, are counted as refused, with a line in the log for each reason.
//!
//! Limits: latest values of `state_bytes`, and as much again while a batch is pushed; `PUSHES_MAX` pushes at a time.

mod groups;
mod latest;
mod names;
mod own;
mod request;
mod wire;

use std::{collections::BTreeMap, fmt, rc::Rc, sync::Arc};

use forebay_actors::{
    destination::{Delivery, DeliveryError, Destination, Receipt},
    examination::Examination,
    otlp::Signal,
    record::{Batch, Part},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::LocalBoxFuture, stream};
use prost::Message as _;

use self::{
    groups::{Group, GroupKey, Grouping, Refused},
    latest::{Groups, Pushed},
    request::Request,
    wire::Wire,
};
pub use self::{
    latest::{Gateways, Latest},
    own::OwnMetrics,
};
use super::unreadable;
use crate::config::PushMethod;

/// Groups of a batch that are pushed at a time.
const PUSHES_MAX: usize = 4;

/// Pushes the latest values.
pub struct PushgatewayDestination {
    gateway: Rc<Gateway>,
}

struct Gateway {
    wire: Wire,
    grouping: Grouping,
    /// Of all destinations of the sink.
    latest: Arc<Latest>,
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
    /// A destination that has not connected yet, for the sink that `latest` is of. Reads certificates.
    ///
    /// # Errors
    /// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the URL, a header or the certificates cannot be used.
    pub fn new(latest: Arc<Latest>) -> Result<Self, DeliveryError> {
        let (wire, grouping) = (Wire::new(&latest.options)?, Grouping::of(&latest.options));
        Ok(Self { gateway: Rc::new(Gateway { wire, grouping, latest }) })
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
        self.latest.begin().await;
        let Pushed { options, groups, said, .. } = &**self.latest;
        let mut groups = groups.lock().await;
        let changes = self.changes(batch, &groups)?;
        let pushes = changes.groups.iter().map(|(key, group)| {
            let text = group.text();
            let bytes = text.len() as u64;
            // A push by names leaves what it does not name.
            let method = if groups.would_lose(key, group) { PushMethod::Put } else { options.method };
            self.wire.push(self.wire.place(key), text, method).map(move |pushed| pushed.map(|()| bytes))
        });
        let bytes = stream::iter(pushes)
            .buffer_unordered(PUSHES_MAX)
            .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
            .await?;
        said.say(&self.wire.shown, &changes);
        let Refused { exponential, other_type, no_room } = changes.refused;
        let refused = changes.others + exponential + other_type + no_room;
        groups.keep(changes.groups, options.state_bytes);
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
                let refused = group.apply(metrics, &self.grouping, &key, self.latest.options.state_bytes);
                changes.refused.add(refused);
                points += metrics.points();
            }
        }
        changes.others = batch.count().saturating_sub(points);
        Ok(changes)
    }
}
