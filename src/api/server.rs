//! The HTTP server: which path is answered by whom.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use actix_web::{
    App, FromRequest, Handler, HttpRequest, HttpServer, Resource, Responder, dev::ServerHandle, web,
};
use prometheus::Registry;
use tokio::time::Instant;

use super::{
    admin::{self, Admin},
    error::{ApiError, method_not_allowed, not_found},
    gate,
    health::{self, ResourceMeter},
    openapi::{self, Documentation},
    query, unread,
};
use crate::{
    config::HttpConfig,
    ingress::{
        courier::Courier,
        limits::Limits,
        post::{Ingress, post_events},
    },
    pipeline::View,
    security::Security,
    store::EventStore,
};

/// Threads of each worker for questions to the store and for unpacking.
const BLOCKING_THREADS: usize = 4;

/// actix-http counts a request's time from a clock that it reads twice a second: without this, a client could have had
/// half a second less than it should, or no time at all.
const CLOCK_STEP: Duration = Duration::from_millis(500);

/// Every path, and its methods. What is not here is not served, and what is here is in the document at `/openapi.json`.
pub const ROUTES: &[(&str, &str)] = &[
    ("/events", "GET, HEAD, POST"),
    ("/events/stats", "GET, HEAD"),
    ("/events/{event_id}", "GET, HEAD"),
    ("/health", "GET, HEAD"),
    ("/health/live", "GET, HEAD"),
    ("/health/ready", "GET, HEAD"),
    ("/live", "GET, HEAD"),
    ("/ready", "GET, HEAD"),
    ("/metrics", "GET, HEAD"),
    ("/openapi.json", "GET, HEAD"),
    ("/docs", "GET, HEAD"),
];

/// What the handlers share.
pub struct Shared {
    /// What runs.
    pub view: View,
    /// Rates.
    pub limits: Limits,
    /// All metrics.
    pub registry: Registry,
    /// The event store, where there is one. Changes with the configuration.
    pub store: RwLock<Option<Arc<dyn EventStore>>>,
    /// Where everything lives.
    pub data_dir: PathBuf,
    /// Who may ask at all.
    pub security: Security,
    /// Who may bring actors down; nobody by default.
    pub admin: Option<Admin>,
    /// What the process takes.
    pub resources: ResourceMeter,
    /// When the process began.
    pub started: Instant,
}

impl Shared {
    /// The event store, where there is one.
    pub fn event_store(&self) -> Option<Arc<dyn EventStore>> {
        self.store.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Follows a change of the configuration.
    pub fn set_store(&self, store: Option<Arc<dyn EventStore>>) {
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
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
    documentation: Documentation,
    shutdown_timeout: Duration,
) -> io::Result<Server> {
    let ingress = web::Data::new(ingress);
    let documentation = web::Data::new(documentation);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if config.workers == 0 { cores } else { config.workers };
    let security = shared.security.clone();
    let server = HttpServer::new(move || {
        // Made on the worker's own thread: one courier for each.
        let courier = web::ThinData(Courier::new(ingress.receiver.clone()));
        let app = App::new().app_data(shared.clone()).app_data(ingress.clone()).app_data(courier);
        let app = app.app_data(documentation.clone());
        let gate = shared.security.gate().clone();
        let app = app.wrap_fn(move |request, service| gate::ask(&gate, request, service));
        let app = app.wrap_fn(unread::hold).configure(routes);
        if shared.admin.is_some() { app.configure(admin::routes) } else { app }
    })
    .workers(workers)
    .worker_max_blocking_threads(BLOCKING_THREADS)
    .max_connections(config.max_connections.div_ceil(workers))
    .client_request_timeout(config.header_timeout + CLOCK_STEP)
    .keep_alive(config.keep_alive)
    .shutdown_timeout(shutdown_timeout.as_secs())
    .disable_signals();
    let server = match security.tls() {
        Some(tls) => {
            let mut rustls = (*tls.server_config()).clone();
            // actix-web adds what it speaks, which is HTTP/1.1.
            rustls.alpn_protocols.clear();
            server
                .tls_handshake_timeout(tls.handshake_timeout())
                // With fewer, a worker whose handshakes are slow would take nobody else in meanwhile.
                .max_connection_rate(config.max_connections.div_ceil(workers))
                .bind_rustls_0_23(config.listen, rustls)?
        }
        None => server.bind(config.listen)?,
    };
    let address = server.addrs().first().copied().unwrap_or(config.listen);
    let server = server.run();
    let handle = server.handle();
    actix::spawn(server);
    Ok(Server { handle, address })
}

/// The paths, and who answers.
pub fn routes(app: &mut web::ServiceConfig) {
    let bad_query = |error: actix_web::error::QueryPayloadError, _: &HttpRequest| {
        ApiError::bad_request("invalid_parameter", error.to_string()).into()
    };
    let events = resource("/events")
        .route(web::post().to(post_events))
        .route(web::get().to(query::page))
        .route(web::head().to(query::page));
    app.app_data(web::QueryConfig::default().error_handler(bad_query))
        .service(events)
        .service(read_only("/events/stats", query::stats))
        .service(read_only("/events/{event_id}", query::one))
        .service(read_only("/health", health::health))
        .service(read_only("/metrics", health::metrics))
        .service(read_only("/openapi.json", openapi::json))
        .service(read_only("/docs", openapi::docs));
    for path in ["/health/live", "/live"] {
        app.service(read_only(path, health::live));
    }
    for path in ["/health/ready", "/ready"] {
        app.service(read_only(path, health::ready));
    }
    app.default_service(web::to(not_found));
}

/// A path that can be asked, and not changed. Load balancers like to ask by HEAD.
fn read_only<H, Args>(path: &str, handler: H) -> Resource
where
    H: Handler<Args> + Clone,
    Args: FromRequest + 'static,
    H::Output: Responder + 'static,
{
    resource(path).route(web::get().to(handler.clone())).route(web::head().to(handler))
}

/// A path of the table.
fn resource(path: &str) -> Resource {
    let found = ROUTES.iter().find(|(known, _)| *known == path);
    let (_, methods) = *found.expect("every path that is served stands in ROUTES");
    web::resource(path).default_service(web::to(move |request| method_not_allowed(request, methods)))
}
