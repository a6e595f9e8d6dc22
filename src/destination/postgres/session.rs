//! Sessions: how the server is reached, and what drives a connection to it.

use std::path::Path;

use forebay_actors::destination::DeliveryError;
use tokio_postgres::{Client, Config, Error, config::Host};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::super::{tls, unbuildable};
use crate::config::PostgresSink;

/// The way to a server.
pub(crate) struct Access {
    config: Config,
    tls: MakeRustlsConnect,
    place: String,
}

/// Drives a connection, and ends with it: a server that does not answer keeps no socket.
pub(crate) struct Driver(tokio::task::JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Access {
    /// As the options of a sink say. Reads certificates, and reaches nobody.
    ///
    /// # Errors
    /// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the URL or the certificates cannot be used.
    pub(crate) fn new(options: &PostgresSink) -> Result<Self, DeliveryError> {
        let config = options.connection().map_err(|why| unbuildable(format!("the url {why}")))?;
        Ok(Self {
            place: place(&config),
            tls: MakeRustlsConnect::new(tls::client_with(&options.tls)?),
            config,
        })
    }

    /// The server and its database, for people: without user and password.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Opens a session.
    pub(crate) async fn connect(&self) -> Result<(Client, Driver), Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let driver = tokio::spawn(async move {
            // The same error comes to whoever waits for an answer.
            let _ = connection.await;
        });
        Ok((client, Driver(driver)))
    }
}

/// The server and its database, for people.
fn place(config: &Config) -> String {
    let ports = config.get_ports();
    let port = |at: usize| ports.get(at).or(ports.first()).copied().unwrap_or(5432);
    let host = |(at, host): (usize, &Host)| match host {
        Host::Tcp(name) => format!("{name}:{}", port(at)),
        Host::Unix(path) => format!("{}:{}", Path::display(path), port(at)),
    };
    let hosts: Vec<_> = config.get_hosts().iter().enumerate().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres {}/{database}", hosts.join(","))
}
