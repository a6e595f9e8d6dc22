//! `forebay run`: start, serve, reload, drain.

use std::{
    io::{IsTerminal as _, Write as _, stderr, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use actix_web::{dev::ServerHandle, web};
use forebay_actors::runtime::clock::Clock;
use prometheus::{IntGaugeVec, Registry};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::Instant,
};
use tracing_subscriber::{
    EnvFilter, Registry as Subscribers, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use super::{Done, EXIT_DEADLINE, block_on, dead_letter, load, progress::Progress, replay};
use crate::{
    api::{
        admin::Admin,
        control::{self, Order, Ordered},
        health::ResourceMeter,
        openapi::Documentation,
        server::{self, Server, Shared},
    },
    budget::MemoryBudget,
    config::{Config, Format, LogConfig, LogFormat, SinkKind},
    data_dir::{self, DataDir},
    destination::pushgateway::{Gateways, OwnMetrics},
    ingress::{
        batch::{self, BatchIngress},
        body::{BodyBudget, BodyLimits},
        grpc::{Calls, Readiness},
        limits::Limits,
        otlp::OtlpIngress,
        post::{Ingress, IngressMetrics},
        server::{self as grpc_server, GrpcServer},
    },
    pipeline::{self, Pipeline},
    security::{Security, exposure},
    store,
};

/// What a shell says of a process that a signal ended.
const EXIT_SIGNAL_BASE: i32 = 128;

/// Time for the last answers, when everything else has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

type LogHandle = reload::Handle<EnvFilter, Subscribers>;

/// Everything a running process consists of.
struct Running {
    pipeline: Pipeline,
    shared: web::Data<Shared>,
    server: Server,
    grpc: GrpcServer,
    control: Option<ServerHandle>,
    orders: mpsc::Receiver<Ordered>,
    security: Security,
    own_metrics: OwnMetrics,
    gateways: Arc<Gateways>,
    file: Option<PathBuf>,
    log: LogHandle,
    data_dir: DataDir,
}

/// What somebody may tell the process from outside.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// From now on they are heard; until now each of them would have ended the process.
    fn hear() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|e| format!("signals cannot be heard: {e}"));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn second(&mut self) -> SignalKind {
        tokio::select! {
            _ = self.terminate.recv() => SignalKind::terminate(),
            _ = self.interrupt.recv() => SignalKind::interrupt(),
        }
    }
}

/// Runs until a signal ends it.
///
/// # Errors
/// Where it cannot start.
pub fn run(file: Option<&Path>) -> Done {
    let config = load(file).map_err(|e| e.to_string())?;
    let log = start_log(&config.log)?;
    block_on(async {
        // Before anybody can know that the process is there: a signal that comes during the start waits for its end.
        let signals = Signals::hear()?;
        let running = start(config, file, log).await?;
        running.serve(signals).await
    })
}

/// What is logged: by the configuration, less what the HTTP server says of its own threads, and the drivers of Cassandra and
/// NATS of their connections, which their sinks say.
fn log_filter(config: &LogConfig) -> Result<EnvFilter, String> {
    let level = format!("actix_server=warn,scylla=warn,async_nats=off,{}", config.level);
    EnvFilter::try_new(level).map_err(|e| format!("log.level: {e}"))
}

fn start_log(config: &LogConfig) -> Result<LogHandle, String> {
    let filter = log_filter(config)?;
    let (filter, handle) = reload::Layer::new(filter);
    let subscribers = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    match config.format {
        LogFormat::Text => subscribers.with(layer).init(),
        LogFormat::Json => subscribers.with(layer.json()).init(),
    }
    Ok(handle)
}

async fn start(config: Config, file: Option<&Path>, log: LogHandle) -> Result<Running, String> {
    let data_dir = DataDir::open(&config.data_dir).map_err(|e| e.to_string())?;
    let (clock, registry) = (Clock::system(), Registry::new());
    let build_info = prometheus::opts!("forebay_build_info", "1, with what was built in its labels");
    let build_info = IntGaugeVec::new(build_info, &["version"]).map_err(|e| e.to_string())?;
    build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
    registry.register(Box::new(build_info)).map_err(|e| e.to_string())?;

    let security = Security::open(&config, &registry, clock.clone()).map_err(|e| e.to_string())?;
    exposure::warnings(&config).iter().for_each(|warning| tracing::warn!("{warning}"));
    let (destinations, gateways) = pipeline::destinations_of_sinks(&config, data_dir.path(), clock.clone());
    let pipeline = Pipeline::start(&config, data_dir.path(), &registry, clock, destinations);
    let pipeline = pipeline.map_err(|e| e.to_string())?;
    let limits = Limits::new(&config.limits);
    let view = pipeline.view();
    let shared = web::Data::new(Shared {
        view: view.clone(),
        limits: limits.clone(),
        store: std::sync::RwLock::new(store::open(&config, data_dir.path())),
        data_dir: data_dir.path().to_owned(),
        security: security.clone(),
        admin: Admin::new(&config.admin, view.watched.clone()),
        resources: ResourceMeter::default(),
        started: Instant::now(),
        registry: registry.clone(),
    });
    let http = &config.http;
    let budget = BodyBudget::new(http.max_inflight_bytes);
    let body = |max_bytes, key| BodyLimits::new(max_bytes, key, http.request_timeout, budget.clone());
    let metrics = IngressMetrics::new(&registry);
    let otlp = OtlpIngress::new(
        pipeline.receiver(),
        body(config.otlp.max_body_bytes, "otlp.max_body_bytes"),
        http.max_event_bytes,
        limits.clone(),
        view.received.clone(),
        config.otlp.cors.clone(),
        &metrics,
    );
    let batches = BatchIngress {
        receiver: pipeline.receiver(),
        body: body(config.ingest.max_batch_bytes, "ingest.max_batch_bytes"),
        max_event_bytes: http.max_event_bytes,
        limits: limits.clone(),
        received: view.received.clone(),
        times: metrics.of("ingest_grpc"),
        readiness: Readiness::new(view.clone()),
        own: batch::Own::new(&config.ingest, &view, &registry),
    };
    let grpc = grpc_server::start(&config, Arc::new(Calls::new(otlp, batches)?), &security)?;
    let ingress = Arc::new(Ingress {
        receiver: pipeline.receiver(),
        body: body(http.max_body_bytes, "http.max_body_bytes"),
        max_event_bytes: http.max_event_bytes,
        limits,
        received: view.received,
        times: metrics.of("http"),
    });
    if shared.admin.is_some() {
        tracing::warn!("admin.chaos is on: whoever has the token can bring actors down");
    }
    let addresses: Vec<_> = grpc
        .addresses
        .iter()
        .filter(|(key, _)| key.starts_with("otlp."))
        .map(|(_, address)| *address)
        .collect();
    let mut own_metrics = OwnMetrics::new(&registry).map_err(|e| e.to_string())?;
    let documentation = Documentation::new(&addresses, shared.admin.is_some());
    let server = server::start(&config.http, shared.clone(), ingress, documentation, LAST_ANSWERS);
    let server = server.map_err(|e| format!("http.listen {}: {e}", config.http.listen))?;
    let socket = data_dir::control_socket(data_dir.path());
    // A path may be too long for a socket. Events matter more than commands: those can wait for a restart.
    let (control, orders) = match control::listen(&socket) {
        Ok((handle, orders)) => (Some(handle), orders),
        Err(error) => {
            tracing::warn!(socket = %socket.display(), %error, "no control socket: reload by SIGHUP, other commands when stopped");
            (None, mpsc::channel(1).1)
        }
    };
    actix::spawn(security.clone().watch());
    own_metrics.follow(&config, server.address).await;
    banner(&config, &server, &grpc, data_dir.path(), file);
    let file = file.map(Path::to_owned);
    Ok(Running {
        pipeline,
        shared,
        server,
        grpc,
        control,
        orders,
        security,
        own_metrics,
        gateways,
        file,
        log,
        data_dir,
    })
}

/// What somebody wants to know who has just started it.
fn banner(config: &Config, server: &Server, grpc: &GrpcServer, data_dir: &Path, file: Option<&Path>) {
    let address = server.address;
    let file = file.map_or("the embedded defaults".to_owned(), |file| file.display().to_string());
    let sinks: Vec<_> =
        config.sinks.iter().map(|(name, sink)| format!("{name} ({})", sink.kind.name())).collect();
    let listening = |what: &str, is_one: fn(&str) -> bool| {
        let of = grpc.addresses.iter().filter(|(key, _)| is_one(key));
        match &of.map(|(_, address)| address.to_string()).collect::<Vec<_>>()[..] {
            [] => String::new(),
            some => format!("{what} on {}\n", some.join(" and ")),
        }
    };
    let otlp = listening("OpenTelemetry over HTTP and gRPC", |key| key.starts_with("otlp."));
    let batches = listening("batches over gRPC", |key| key.starts_with("ingest."));
    let budget = MemoryBudget::of(config);
    let text = format!(
        "forebay {version}, configured by {file}\n\
         listening on {scheme}://{address}\n\
         {otlp}\
         {batches}\
         data in {data_dir}\n\
         sinks: {sinks}\n\
         memory at most, by part:\n{budget}\n\
         try:\n  curl -H 'Content-Type: application/json' -d '{{\"service\":\"demo\",\"message\":\"hello\"}}'{token} {scheme}://{address}/events\n",
        scheme = if config.tls.is_on() { "https" } else { "http" },
        token = if config.auth.is_on() { " -H \"Authorization: Bearer $TOKEN\"" } else { "" },
        version = env!("CARGO_PKG_VERSION"),
        data_dir = data_dir.display(),
        sinks = sinks.join(", "),
    );
    // Standard output belongs to a console sink, where there is one. Whoever started it may not listen.
    let console = config.sinks.values().any(|sink| matches!(sink.kind, SinkKind::Console(_)));
    let _ = match console {
        true => stderr().write_all(text.as_bytes()),
        false => stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()),
    };
}

impl Running {
    async fn serve(mut self, mut signals: Signals) -> Done {
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.hangup.recv() => {
                    // The log says how it went; a signal has nobody to answer.
                    let _ = self.reload().await;
                }
                Some(order) = self.orders.recv() => self.carry_out(order).await,
            }
        }
        let timeout = self.pipeline.config().shutdown_timeout;
        tracing::info!(?timeout, "shutting down; a second signal ends at once");
        tokio::select! {
            code = self.shut_down(timeout) => code,
            signal = signals.second() => {
                tracing::warn!("a second signal: ending at once; what was not delivered stays in the journal");
                std::process::exit(EXIT_SIGNAL_BASE + signal.as_raw_value())
            }
        }
    }

    /// Ingress first, then the pipeline in its own order.
    async fn shut_down(self, timeout: Duration) -> Done {
        let deadline = Instant::now() + timeout;
        if let Some(control) = &self.control {
            control.stop(false).await;
        }
        let buffer = &self.pipeline.config().buffer;
        let memory = buffer.durability == crate::config::Durability::Memory;
        let shared = buffer.backend == crate::config::Backend::Jetstream;
        // The gate closes first: from now on events are refused, and readiness says so, while health and metrics can be
        // read to the end.
        let drained = self.pipeline.drain(deadline).await;
        // With what the end has changed.
        futures::join!(self.own_metrics.end(), self.gateways.end());
        self.grpc.stop(LAST_ANSWERS).await;
        if tokio::time::timeout(LAST_ANSWERS, self.server.handle.stop(true)).await.is_err() {
            self.server.handle.stop(false).await;
        }
        drop(self.data_dir);
        if drained.left.is_empty() {
            match shared {
                true => tracing::info!("everything that was taken from the journal was delivered"),
                false => tracing::info!("everything was delivered"),
            }
            return Ok(ExitCode::SUCCESS);
        }
        for (sink, events) in &drained.left {
            if memory {
                tracing::error!(%sink, events, "not delivered, and lost with the memory they were in");
            } else {
                tracing::warn!(%sink, events, "not delivered by the deadline; they stay in the journal");
            }
        }
        Ok(ExitCode::from(EXIT_DEADLINE))
    }

    /// Reads the configuration again and brings the process to it, or leaves everything as it was.
    async fn reload(&mut self) -> Result<Value, String> {
        let reloaded = self.read_again().await;
        match &reloaded {
            Ok(changes) => tracing::info!(%changes, "the configuration was read again"),
            Err(error) => tracing::error!("the configuration stays as it was: {error}"),
        }
        reloaded
    }

    async fn read_again(&mut self) -> Result<Value, String> {
        let new = load(self.file.as_deref()).map_err(|e| e.to_string())?;
        let filter = log_filter(&new.log)?;
        // All that can be wrong is found before anything changes.
        let prepared = self.security.prepare(&new).map_err(|e| e.to_string())?;
        let misplaced = self.pipeline.misplaced(&new, true).await.map_err(|e| e.to_string())?;
        if let Some(misplaced) = misplaced.first() {
            return Err(misplaced.to_string());
        }
        let before = self.pipeline.config().clone();
        let changes = self.pipeline.apply(new).await;
        let config = self.pipeline.config();
        self.security.put(prepared);
        if before.log.level != config.log.level {
            self.log.reload(filter).map_err(|e| e.to_string())?;
        }
        if before.limits != config.limits {
            self.shared.limits.replace(&config.limits);
        }
        self.shared.set_store(store::open(config, self.data_dir.path()));
        self.own_metrics.follow(config, self.server.address).await;
        Ok(json!({
            "sinks_added": changes.sinks_added,
            "sinks_removed": changes.sinks_removed,
            "sinks_changed": changes.sinks_changed,
            "applied": changes.live,
            "needs_restart": changes.needs_restart,
        }))
    }

    async fn carry_out(&mut self, (order, reply): Ordered) {
        let view = self.pipeline.view();
        match order {
            Order::Misplaced(config) => {
                let found = Config::parse(&config, Format::Yaml, "the configuration", &|_| None);
                let found = match found {
                    Ok(config) => self.pipeline.misplaced(&config, false).await.map_err(|e| e.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                let found = found.map(|found| found.iter().map(ToString::to_string).collect());
                // Who asked may have gone.
                let _ = reply.send(found);
            }
            Order::Reload => {
                // Who asked may have gone.
                let _ = reply.send(self.reload().await);
            }
            Order::DeadLetters(request) => {
                let factory = match &request {
                    dead_letter::Request::Replay(sink, _) => self.pipeline.factory(sink),
                    _ => None,
                };
                actix::spawn(async move {
                    let done = dead_letter::carry_out(
                        view.dead_letters,
                        |_| factory.clone(),
                        request,
                        Progress::silent(),
                    )
                    .await;
                    let _ = reply.send(done);
                });
            }
            Order::Replay(request) => {
                let factory = self.pipeline.factory(&request.sink);
                let when = self.pipeline.condition(&request.sink);
                actix::spawn(async move {
                    let done = match factory {
                        Some(factory) => {
                            replay::carry_out(view.journal, factory, when, request, Progress::silent()).await
                        }
                        None => {
                            Err(format!("there is no sink {:?} in the configuration", request.sink.as_str()))
                        }
                    };
                    let _ = reply.send(done.map(|report| json!(report)));
                });
            }
        }
    }
}
