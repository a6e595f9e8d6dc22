//! `grpc.health.v1`: whether calls would be taken, as `/ready` says it over HTTP.

use std::{pin::Pin, sync::Arc, time::Duration};

use forebay_actors::otlp::wire::{put_bytes, put_varint};
use futures::{Stream, stream};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{Health, HealthServer},
};

use crate::{api::health::not_ready, pipeline::View};

/// How often the answer is looked up for those who watch it.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// Those who may watch at a time: each costs a look at the health of everybody every [`WATCH_INTERVAL`].
const WATCHERS_MAX: usize = 256;

/// Whoever is asked for. The empty name is the process as a whole. All of them take events into one journal, so all of them do or
/// none.
const SERVICES: [&str; 5] = [
    "",
    "forebay.ingest.v1.IngestService",
    "opentelemetry.proto.collector.logs.v1.LogsService",
    "opentelemetry.proto.collector.metrics.v1.MetricsService",
    "opentelemetry.proto.collector.trace.v1.TraceService",
];

/// Says whether events would be taken now.
#[derive(Clone)]
pub struct Readiness(View);

impl Readiness {
    /// By what the pipeline shows.
    pub fn new(view: View) -> Self {
        Self(view)
    }

    /// Why events would be refused now.
    pub fn why_not(&self) -> Option<&'static str> {
        not_ready(&self.0)
    }

    /// Whether the process is about to end.
    pub fn is_ending(&self) -> bool {
        self.0.gate.is_closed()
    }

    fn of(&self, service: &str) -> Option<ServingStatus> {
        SERVICES.contains(&service).then(|| match self.why_not() {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        })
    }
}

/// The service.
pub(super) fn server(readiness: Readiness) -> HealthServer<Board> {
    HealthServer::new(Board { readiness, watchers: Arc::new(Semaphore::new(WATCHERS_MAX)) })
}

/// `List`: every service with its status.
pub(super) fn list(readiness: &Readiness) -> Vec<u8> {
    let mut out = Vec::new();
    for service in SERVICES {
        let (mut status, mut entry) = (Vec::new(), Vec::new());
        put_varint(&mut status, 1 << 3);
        put_varint(&mut status, readiness.of(service).unwrap_or(ServingStatus::ServiceUnknown) as u64);
        put_bytes(&mut entry, 1, service.as_bytes());
        put_bytes(&mut entry, 2, &status);
        put_bytes(&mut out, 1, &entry);
    }
    out
}

/// What is answered from.
pub(super) struct Board {
    readiness: Readiness,
    watchers: Arc<Semaphore>,
}

#[tonic::async_trait]
impl Health for Board {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        let status = self.readiness.of(&service).ok_or_else(|| {
            Status::not_found(format!(
                "there is no service {service:?}; there are {}",
                SERVICES[1..].join(", ")
            ))
        })?;
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The status now and at every change. Of a service that is not there, too: the protocol has a status for it.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let watcher = self.watchers.clone().try_acquire_owned().map_err(|_| {
            Status::unavailable(format!(
                "{WATCHERS_MAX} watch already, and no more may; ask by Check instead"
            ))
        })?;
        let (service, readiness) = (request.into_inner().service, self.readiness.clone());
        let changes = stream::unfold((None, readiness), move |(last, readiness)| {
            let _until_it_ends = &watcher;
            let service = service.clone();
            async move {
                loop {
                    let status = readiness.of(&service).unwrap_or(ServingStatus::ServiceUnknown);
                    if last != Some(status) {
                        let response = HealthCheckResponse { status: status.into() };
                        return Some((Ok(response), (Some(status), readiness)));
                    }
                    tokio::time::sleep(WATCH_INTERVAL).await;
                }
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
