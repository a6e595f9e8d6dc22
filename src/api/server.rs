//! The HTTP server: which path is answered by whom.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use actix_web::{App, HttpServer, dev::ServerHandle, web};
use prometheus::Registry;
use tokio::time::Instant;

use super::{
    error::{ApiError, method_not_allowed, not_found},
    health::{self, ResourceMeter},
    query, unread,
};
use crate::{
    config::HttpConfig,
    ingress::{
        limits::Limits,
        post::{Ingress, post_events},
    },
    pipeline::View,
    store::Reader,
};

/// Threads of each worker for questions to the store and for unpacking.
const BLOCKING_THREADS: usize = 4;

/// actix-http counts a request's time from a clock that it reads twice a second: without this, a client could have had
/// half a second less than it should, or no time at all.
const CLOCK_STEP: Duration = Duration::from_millis(500);

/// What the handlers share.
pub struct Shared {
    /// What runs.
    pub view: View,
    /// Rates.
    pub limits: Limits,
    /// All metrics.
    pub registry: Registry,
    /// The event store, where there is one. Changes with the configuration.
    pub store: RwLock<Option<Reader>>,
    /// Where everything lives.
    pub data_dir: PathBuf,
    /// What the process takes.
    pub resources: ResourceMeter,
    /// When the process began.
    pub started: Instant,
}

impl Shared {
    /// The event store, where there is one.
    pub fn store_reader(&self) -> Option<Reader> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows a change of the configuration.
    pub fn set_store(&self, reader: Option<Reader>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = reader;
    }
}

/// A server that runs.
pub struct Server {
    /// Stops it.
    pub handle: ServerHandle,
    /// Where it listens, with the port it was given.
    pub address: SocketAddr,
}

/// Starts the HTTP server.
///
/// # Errors
/// Where it cannot listen.
pub fn start(
    config: &HttpConfig,
    shared: web::Data<Shared>,
    ingress: Arc<Ingress>,
    shutdown_timeout: Duration,
) -> io::Result<Server> {
    let ingress = web::Data::new(ingress);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if config.workers == 0 { cores } else { config.workers };
    let server = HttpServer::new(move || {
        let app = App::new().app_data(shared.clone()).app_data(ingress.clone());
        app.wrap_fn(unread::hold).configure(routes)
    })
    .workers(workers)
    .worker_max_blocking_threads(BLOCKING_THREADS)
    .max_connections(config.max_connections.div_ceil(workers))
    .client_request_timeout(config.header_timeout + CLOCK_STEP)
    .keep_alive(config.keep_alive)
    .shutdown_timeout(shutdown_timeout.as_secs())
    .disable_signals()
    .bind(config.listen)?;
    let address = server.addrs().first().copied().unwrap_or(config.listen);
    let server = server.run();
    let handle = server.handle();
    actix::spawn(server);
    Ok(Server { handle, address })
}

/// The paths, and who answers.
pub fn routes(app: &mut web::ServiceConfig) {
    let wrong_method = || web::to(method_not_allowed);
    let get = |path: &str| web::resource(path.to_owned()).default_service(wrong_method());
    let bad_query = |error: actix_web::error::QueryPayloadError, _: &actix_web::HttpRequest| {
        ApiError::bad_request("invalid_parameter", error.to_string()).into()
    };
    app.app_data(web::QueryConfig::default().error_handler(bad_query))
        .service(get("/events").route(web::post().to(post_events)).route(web::get().to(query::page)))
        .service(get("/events/stats").route(web::get().to(query::stats)))
        .service(get("/events/{event_id}").route(web::get().to(query::one)))
        .service(get("/health").route(web::get().to(health::health)))
        .service(get("/metrics").route(web::get().to(health::metrics)));
    for path in ["/health/live", "/live"] {
        app.service(get(path).route(web::get().to(health::live)));
    }
    for path in ["/health/ready", "/ready"] {
        app.service(get(path).route(web::get().to(health::ready)));
    }
    app.default_service(web::to(not_found));
}
