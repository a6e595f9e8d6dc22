//! `type: pushgateway`: the latest value of every series of OpenTelemetry metrics, pushed to a Prometheus Pushgateway.
//!
//! - A gateway holds one value of a series, the last, and a push replaces all series of the metrics that are in it. So the
//!   latest values are kept here, group by group, and each batch pushes the groups that it had something for.
//! - What a batch changes counts only when all its pushes were taken. One that comes again, after a failure or a crash, changes
//!   the same once more, to the same values. Deltas are added up from the first that came in this process' life: behind a
//!   restart a counter begins anew, as Prometheus expects of counters.
//! - What is no metric, and points that a gateway cannot have, are counted as refused, with a line in the log for each reason.
//!
//! | answer | what it means here |
//! |---|---|
//! | 2xx | delivered |
//! | 400 | the values are rejected, with the gateway's own words: it found them inconsistent with others that it has |
//! | no answer, 408, 429, 5xx | tried again, not before the server's `Retry-After` |
//! | any other | refused: tried again, since whatever were pushed would fail the same way |
//!
//! Limits: latest values of `state_bytes`, and as much again while a batch is pushed; `PUSHES_MAX` pushes at a time.

mod groups;
mod names;
mod request;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashMap},
    fmt,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE};
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt, Verdict},
    otlp::Signal,
    record::{Batch, Part},
};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, future::LocalBoxFuture, stream};
use prost::Message as _;
use reqwest::{
    Client, Method, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect::Policy,
};
use tokio::sync::Mutex;

use self::{
    groups::{Group, GroupKey, Grouping, Label, Refused},
    request::Request,
};
use super::{
    chain,
    http::{
        ANSWER_TIME_MAX, IDLE_MAX, QUOTED_BYTES_MAX, endpoint_url, is_loopback, one_line, retry_after,
        unanswered, without_secrets,
    },
    tls, unbuildable, unreadable,
};
use crate::config::{PushMethod, PushgatewaySink};

/// Groups of a batch that are pushed at a time.
const PUSHES_MAX: usize = 4;

/// Time to delete the groups at the end, all of them together.
const FAREWELL_TIME_MAX: Duration = Duration::from_secs(5);

/// The text format that every gateway takes.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Pushes the latest values.
pub struct PushgatewayDestination {
    gateway: Rc<Gateway>,
}

struct Gateway {
    client: Client,
    url: Url,
    /// The URL for messages: without user, password and query.
    shown: String,
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
    /// [`Cause::Build`] where the URL, a header or the certificates cannot be used.
    pub fn new(options: &PushgatewaySink) -> Result<Self, DeliveryError> {
        let url = endpoint_url(&options.url)?;
        let client = client(options, &url)?;
        let grouping = Grouping { job: options.job.clone(), labels: options.grouping.clone() };
        let (shown, options) = (without_secrets(&url), options.clone());
        let (groups, said) = Default::default();
        Ok(Self { gateway: Rc::new(Gateway { client, url, shown, grouping, options, groups, said }) })
    }
}

fn client(options: &PushgatewaySink, url: &Url) -> Result<Client, DeliveryError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        let key = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| unbuildable(format!("headers: {name:?} is not the name of a header")))?;
        // The value is likely a token, so no message shows it.
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            unbuildable(format!("headers: the value of {name} has characters a header cannot"))
        })?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(TEXT));
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls::client_with(&options.tls)?)
        .default_headers(headers)
        .timeout(options.timeout)
        .pool_idle_timeout(IDLE_MAX)
        .redirect(Policy::none());
    if is_loopback(url) {
        client = client.no_proxy();
    }
    client.build().map_err(|e| unbuildable(format!("no HTTP client can be set up: {}", chain(&e))))
}

impl fmt::Debug for PushgatewayDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PushgatewayDestination").field(&self.gateway.shown).finish()
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
        async move {
            let ready = gateway.at(["-".to_owned(), "ready".to_owned()]);
            gateway.ask(Method::GET, ready, String::new()).await
        }
        .boxed_local()
    }
}

// === impl Gateway ===

impl Gateway {
    async fn deliver(&self, batch: &Batch) -> Result<Receipt, DeliveryError> {
        let mut groups = self.groups.lock().await;
        let changes = self.changes(batch, &groups)?;
        let method = match self.options.method {
            PushMethod::Post => Method::POST,
            PushMethod::Put => Method::PUT,
        };
        let pushes = changes.groups.iter().map(|(key, group)| {
            let (method, place, text) = (method.clone(), self.place(key), group.text());
            let bytes = text.len() as u64;
            self.ask(method, place, text).map(move |pushed| pushed.map(|()| bytes))
        });
        let bytes = stream::iter(pushes)
            .buffer_unordered(PUSHES_MAX)
            .try_fold(0, |sum, bytes| async move { Ok(sum + bytes) })
            .await?;
        self.said.say(&self.shown, &changes);
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

    /// Where a group is pushed to. What cannot stand in a path is in Base64, as the gateway has it.
    fn place(&self, key: &[Label]) -> Url {
        let is_plain = |value: &str| {
            !value.is_empty()
                && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
                && !matches!(value, "." | "..")
        };
        let segments = key.iter().flat_map(|(label, value)| match is_plain(value) {
            true => [label.clone(), value.clone()],
            // Of nothing, the encoding is nothing; the gateway takes padding alone for it.
            false if value.is_empty() => [format!("{label}@base64"), "=".to_owned()],
            false => [format!("{label}@base64"), URL_SAFE.encode(value)],
        });
        self.at(std::iter::once("metrics".to_owned()).chain(segments))
    }

    fn at(&self, segments: impl IntoIterator<Item = String>) -> Url {
        let mut url = self.url.clone();
        url.path_segments_mut().expect("it has a host, so it has a path").pop_if_empty().extend(segments);
        url
    }

    async fn ask(&self, method: Method, url: Url, text: String) -> Result<(), DeliveryError> {
        let answer = self.client.request(method, url).body(text).send().await;
        let answer = answer.map_err(|error| unanswered(&self.shown, error))?;
        if answer.status().is_success() { Ok(()) } else { Err(self.refusal(answer).await) }
    }

    async fn refusal(&self, mut answer: Response) -> DeliveryError {
        let status = answer.status();
        let retry = Verdict::Retry { after: retry_after(answer.headers()) };
        let (cause, verdict) = match status {
            StatusCode::BAD_REQUEST => (Cause::Rejected, Verdict::Reject),
            StatusCode::REQUEST_TIMEOUT => (Cause::Timeout, retry),
            StatusCode::TOO_MANY_REQUESTS => (Cause::Throttled, retry),
            status if status.is_server_error() => (Cause::Server, retry),
            _ => (Cause::Refused, retry),
        };
        let words = match tokio::time::timeout(ANSWER_TIME_MAX, answer.chunk()).await {
            Ok(Ok(Some(words))) => one_line(&words[..words.len().min(QUOTED_BYTES_MAX)]),
            _ => String::new(),
        };
        let message = format!("{}: answered {status}: {words}", self.shown);
        DeliveryError { cause, message, status: Some(status.as_u16()), verdict }
    }
}

impl Drop for Gateway {
    /// Deletes what was pushed, where that is wanted. The sink's own runtime may be at its end already, so this has another.
    fn drop(&mut self) {
        let groups = std::mem::take(self.groups.get_mut()).held;
        if !self.options.delete_on_exit || groups.is_empty() {
            return;
        }
        let places: Vec<_> = groups.keys().map(|key| self.place(key)).collect();
        let (options, url, shown) = (self.options.clone(), self.url.clone(), self.shown.clone());
        let farewell = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| unbuildable(error.to_string()))?;
            // Connections of the other client belong to the other runtime.
            let client = client(&options, &url)?;
            runtime.block_on(async move {
                let deleted = stream::iter(places)
                    .map(|place| client.delete(place).send())
                    .buffer_unordered(PUSHES_MAX);
                let all = deleted.try_for_each(|answer| async move { answer.error_for_status().map(drop) });
                match tokio::time::timeout(FAREWELL_TIME_MAX, all).await {
                    Ok(deleted) => deleted.map_err(|error| unanswered(&shown, error)),
                    Err(_) => {
                        Err(DeliveryError::transient(Cause::Timeout, format!("{shown}: no answer in time")))
                    }
                }
            })
        });
        match farewell.join() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "groups may be left at the gateway"),
            Err(_) => tracing::warn!("groups may be left at the gateway: deleting them panicked"),
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
