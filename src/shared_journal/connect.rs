//! The connection to the servers, as the configuration says.

use std::time::Duration;

use async_nats::{ConnectOptions, ServerAddr};

use super::ASK_WAIT;
use crate::{
    config::{JetstreamConfig, TlsClient},
    destination,
};

/// How often a connection on which nothing comes is asked whether it is still there; two answers that are missing end it.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// Longest pause between two tries to connect again.
const RECONNECT_WAIT_MAX: Duration = Duration::from_secs(2);

/// Connects, or says why not.
pub(super) async fn connect(config: &JetstreamConfig) -> Result<async_nats::Client, String> {
    let options = options(config)?;
    let servers: Vec<ServerAddr> = config
        .servers()
        .map_err(|why| format!("buffer.jetstream.url {why}"))?
        .into_iter()
        .map(|server| server.parse::<ServerAddr>().map_err(|e| format!("buffer.jetstream.url: {e}")))
        .collect::<Result<_, _>>()?;
    let connected = tokio::time::timeout(2 * ASK_WAIT, options.connect(servers)).await;
    let connected = connected.map_err(|_| format!("no connection within {:?}", 2 * ASK_WAIT))?;
    connected.map_err(|error| destination::chain(&error))
}

fn options(config: &JetstreamConfig) -> Result<ConnectOptions, String> {
    let mut options = ConnectOptions::new()
        .name("forebay journal")
        .connection_timeout(ASK_WAIT)
        .request_timeout(Some(ASK_WAIT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(None::<usize>)
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts).unwrap_or(u32::MAX).min(10);
            (Duration::from_millis(20) * 2_u32.pow(exponent)).min(RECONNECT_WAIT_MAX)
        })
        .event_callback(|event| async move {
            match event {
                async_nats::Event::Connected => tracing::info!("connected to the journal's server"),
                event => tracing::warn!(%event, "the connection to the journal's server"),
            }
        });
    if let Some(file) = &config.credentials_file {
        let wrong = |e: std::io::Error| format!("buffer.jetstream.credentials_file: {}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(wrong)?;
        options = options.credentials(&text).map_err(wrong)?;
    }
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        options = options.user_and_password(user.clone(), password.reveal().to_owned());
    }
    if let Some(token) = &config.token {
        options = options.token(token.reveal().to_owned());
    }
    if let Some(seed) = &config.nkey {
        options = options.nkey(seed.reveal().to_owned());
    }
    let is_encrypted = config.url.split(',').any(|server| server.trim().starts_with("tls://"));
    if is_encrypted || config.tls != TlsClient::default() {
        let tls = destination::tls_client_with(&config.tls)
            .map_err(|e| format!("buffer.jetstream.{}", e.message))?;
        options = options.tls_client_config(tls).require_tls(true);
    }
    Ok(options)
}
