//! The server of gRPC and of OpenTelemetry over HTTP: which connection is answered by whom.
//!
//! Every address takes HTTP/1.1, HTTP/2 and every call of gRPC, so a client that is pointed at the wrong of the ports works all
//! the same. It runs on threads of its own, because actix-web knows no trailers, without which there is no gRPC.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
};
use tokio::{
    runtime::Runtime,
    sync::{Semaphore, watch},
};

use tonic::body::Body;

use super::{grpc::Calls, otlp};
use crate::config::Config;

/// Calls at a time on one connection of HTTP/2: each may hold a body, which the budget of all bodies bounds.
const STREAMS_MAX: u32 = 256;

/// Bytes a client may send ahead on one stream and on one connection: a usual request whole, without waiting for a window.
/// They are read as they come, into the budget of all bodies.
pub const STREAM_WINDOW_BYTES: u32 = 512 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// How long accepting rests where the process has no file descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// What a header that is longer gets: 431.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// A server that runs.
pub struct GrpcServer {
    /// Where it listens, with the ports it was given, by the key that says so.
    pub addresses: Vec<(&'static str, SocketAddr)>,
    stop: watch::Sender<bool>,
    runtime: Option<Runtime>,
    ended: Vec<tokio::task::JoinHandle<()>>,
}

/// Starts to listen on every address of the configuration.
///
/// # Errors
/// Where it cannot listen, with the key and the address.
pub fn start(config: &Config, calls: Arc<Calls>) -> Result<GrpcServer, String> {
    let http = &config.http;
    let mut listeners = Vec::new();
    for (key, address) in config.grpc_addresses() {
        let at = |error: io::Error| format!("{key} {address}: {error}; null does not listen");
        let listener = TcpListener::bind(address).map_err(at)?;
        listener.set_nonblocking(true).map_err(at)?;
        let address = listener.local_addr().map_err(at)?;
        listeners.push((key, address, listener));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if http.workers == 0 { cores } else { http.workers };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .max_blocking_threads(workers + 2)
        .thread_name("grpc")
        .enable_all()
        .build()
        .map_err(|error| format!("gRPC: threads cannot be started: {error}"))?;
    let (stop, stopping) = watch::channel(false);
    let connections = Arc::new(Semaphore::new(config.otlp.max_connections));
    let (mut addresses, mut ended) = (Vec::new(), Vec::new());
    for (key, address, listener) in listeners {
        addresses.push((key, address));
        let serving = Serving {
            calls: calls.clone(),
            connections: connections.clone(),
            header_timeout: http.header_timeout,
        };
        ended.push(runtime.spawn(serving.serve(listener, stopping.clone())));
    }
    Ok(GrpcServer { addresses, stop, runtime: Some(runtime), ended })
}

impl GrpcServer {
    /// Takes no more connections, and lets those that are there end within `patience`.
    pub async fn stop(mut self, patience: Duration) {
        // Where every listener has ended there is nobody to tell.
        let _ = self.stop.send(true);
        let ended = std::mem::take(&mut self.ended);
        let all = async {
            for listener in ended {
                let _ = listener.await;
            }
        };
        if tokio::time::timeout(patience, all).await.is_err() {
            tracing::debug!("connections of gRPC are cut off at the end");
        }
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Within another runtime this must not wait.
            runtime.shutdown_background();
        }
    }
}

#[derive(Clone)]
struct Serving {
    calls: Arc<Calls>,
    connections: Arc<Semaphore>,
    header_timeout: Duration,
}

impl Serving {
    async fn serve(self, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener of gRPC cannot be served"),
        };
        let mut server = Builder::new(TokioExecutor::new());
        server
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            .max_buf_size(64 * 1024);
        server
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS_MAX)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .keep_alive_interval(Duration::from_secs(60))
            .keep_alive_timeout(Duration::from_secs(20));
        let graceful = GracefulShutdown::new();
        loop {
            let permit = tokio::select! {
                permit = self.connections.clone().acquire_owned() => permit,
                _ = stopping.changed() => break,
            };
            let Ok(permit) = permit else { break };
            let (socket, peer) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "a connection of gRPC could not be taken");
                        tokio::time::sleep(ACCEPT_REST).await;
                        continue;
                    }
                },
                _ = stopping.changed() => break,
            };
            // Where it fails, answers are a little slower.
            let _ = socket.set_nodelay(true);
            let calls = self.calls.clone();
            let service = service_fn(move |request| {
                let calls = calls.clone();
                async move { Ok::<_, Infallible>(answer(&calls, peer.ip(), request).await) }
            });
            let connection = server.serve_connection(TokioIo::new(socket), service).into_owned();
            let connection = graceful.watch(connection);
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(%peer, %error, "a connection of gRPC ended");
                }
                drop(permit);
            });
        }
        graceful.shutdown().await;
    }
}

async fn answer(calls: &Calls, peer: IpAddr, request: Request<Incoming>) -> Response<Body> {
    if calls.takes(request.headers()) {
        return calls.answer(peer, request).await;
    }
    otlp::http::answer(calls.otlp(), peer, request).await.map(|body| Body::new(Full::new(body)))
}
