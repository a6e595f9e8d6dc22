//! The control socket: what `forebay reload`, `forebay dead-letter` and `forebay replay` ask of a running process.
//!
//! A Unix socket in the data directory, for the user who runs the process and nobody else: whoever may write there may
//! do all this with the files anyway.

use std::{io, os::unix::fs::PermissionsExt as _, path::Path};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, http::StatusCode, web};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::error::ApiError;

/// Orders that may wait.
const ORDERS_MAX: usize = 8;

/// What can be asked of a running process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Read the configuration file again.
    Reload,
    /// What of the batches that are held would not be read back with this configuration, in YAML without variables.
    Misplaced(String),
    /// What is asked of dead letters.
    DeadLetters(crate::command::dead_letter::Request),
    /// Deliver events of the past to a sink once more.
    Replay(crate::command::replay::Request),
}

/// An order on its way to the one who carries it out; the answer goes to `reply`.
pub type Ordered = (Order, oneshot::Sender<Result<Value, String>>);

/// Opens the socket. Orders come out of the receiver.
///
/// # Errors
/// Where the socket cannot be made.
pub fn listen(socket: &Path) -> io::Result<(ServerHandle, mpsc::Receiver<Ordered>)> {
    // The data directory is locked by this process: a socket that is there is a dead one.
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let (orders, receiver) = mpsc::channel(ORDERS_MAX);
    let orders = web::Data::new(orders);
    let server = HttpServer::new(move || {
        let order = web::resource("/order").route(web::post().to(take));
        App::new().app_data(orders.clone()).app_data(web::JsonConfig::default().limit(1 << 20)).service(order)
    })
    .workers(1)
    .disable_signals()
    .shutdown_timeout(1)
    .bind_uds(socket)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600))?;
    let server = server.run();
    let handle = server.handle();
    actix::spawn(server);
    Ok((handle, receiver))
}

async fn take(
    order: web::Json<Order>,
    orders: web::Data<mpsc::Sender<Ordered>>,
) -> Result<HttpResponse, ApiError> {
    let (reply, answer) = oneshot::channel();
    let gone = || ApiError::internal("the process is shutting down");
    orders.send((order.into_inner(), reply)).await.map_err(|_| gone())?;
    match answer.await.map_err(|_| gone())? {
        Ok(value) => Ok(HttpResponse::Ok().json(json!({ "ok": value }))),
        Err(message) => Err(ApiError::new(StatusCode::CONFLICT, "refused", message)),
    }
}

/// Gives an order to the process that runs in this data directory; `None` where there is none.
///
/// # Errors
/// What the process said, or why it could not be asked.
pub async fn ask<T: DeserializeOwned>(data_dir: &Path, order: &Order) -> Result<Option<T>, String> {
    let socket = crate::data_dir::control_socket(data_dir);
    if !socket.exists() {
        return Ok(None);
    }
    let client = crate::destination::local_client().map_err(|e| e.to_string())?;
    let client = client.unix_socket(socket).build().map_err(|e| e.to_string())?;
    let request = client.post("http://forebay/order").header("Content-Type", "application/json");
    let body = serde_json::to_vec(order).map_err(|e| e.to_string())?;
    let response = match request.body(body).send().await {
        Ok(response) => response,
        // The socket of a process that was killed.
        Err(error) if error.is_connect() => return Ok(None),
        Err(error) => return Err(format!("the running process does not answer: {error}")),
    };
    let body = response.bytes().await.map_err(|e| e.to_string())?;
    let mut answer: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
    if let Some(message) = answer["error"]["message"].as_str() {
        return Err(message.to_owned());
    }
    serde_json::from_value(answer["ok"].take()).map(Some).map_err(|e| e.to_string())
}
