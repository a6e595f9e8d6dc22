//! A connection to a server, which is given up for good when something is wrong with it.
//!
//! The client would connect again by itself, and go on with what it had still queued. That would overtake what was lost with
//! the connection, so it is kept from it: a connection that broke fails all that is on its way, and the sink's next try opens
//! another one.

use std::{
    cell::Cell,
    future::ready,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{
    AuthError, ConnectErrorKind, ConnectOptions, Event, ServerError,
    jetstream::context::{Context, ContextBuilder},
};
use forebay_actors::destination::{Cause, DeliveryError};
use tokio::sync::{Semaphore, watch};

use super::{super::http::one_line, Server};

/// Time to reach one server and be let in; of several, each has it.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// What requests about streams, which not every user may make, begin with.
const API: &str = "$JS.API";

pub(super) struct Connection {
    pub(super) context: Context,
    /// Whether the stream was looked at, and found fit, since it last failed.
    pub(super) is_looked_at: Cell<bool>,
    told: watch::Receiver<Told>,
    place: String,
}

/// What the server has told beside its answers.
#[derive(Debug, Default)]
struct Told {
    /// After which nothing is to be expected of the connection.
    trouble: Option<(Cause, String)>,
    /// That this user may not ask about streams.
    is_api_denied: bool,
}

impl Connection {
    pub(super) async fn open(server: &Server) -> Result<Self, DeliveryError> {
        let (sender, told) = watch::channel(Told::default());
        let is_open = Arc::new(AtomicBool::new(false));
        let credentials = server.credentials.clone();
        let was_open = is_open.clone();
        let options = ConnectOptions::with_auth_callback(move |nonce| {
            ready(if was_open.load(Ordering::Relaxed) {
                Err(AuthError::new("a connection that broke is not taken up again"))
            } else {
                credentials.answer(&nonce)
            })
        });
        let connected = options
            .name("forebay")
            .event_callback(move |event| {
                sender.send_if_modified(|told| told.hear(&event));
                ready(())
            })
            .tls_client_config(server.tls.clone())
            .connection_timeout(CONNECT_TIME_MAX.min(server.options.timeout))
            .request_timeout(Some(server.options.timeout))
            .ignore_discovered_servers()
            .max_reconnects(server.servers.len())
            .reconnect_delay_callback(|_| Duration::ZERO)
            .connect(server.servers.as_slice())
            .await;
        let client = connected.map_err(|error| {
            let cause = match error.kind() {
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => Cause::Refused,
                ConnectErrorKind::TimedOut => Cause::Timeout,
                _ => Cause::Connect,
            };
            let words = one_line(error.to_string().as_bytes());
            DeliveryError::transient(cause, format!("{}: {words}", server.place))
        })?;
        is_open.store(true, Ordering::Relaxed);
        // How many messages are on their way is bounded by each delivery, which waits for the oldest of its own. Were they to
        // share the client's own bound, each could wait for what another one has.
        let context = ContextBuilder::new()
            .timeout(server.options.timeout)
            .max_ack_inflight(Semaphore::MAX_PERMITS)
            .build(client);
        Ok(Self { context, is_looked_at: Cell::new(false), told, place: server.place.clone() })
    }

    /// What is wrong with it.
    pub(super) fn trouble(&self) -> Option<DeliveryError> {
        let told = self.told.borrow();
        let (cause, text) = told.trouble.as_ref()?;
        Some(DeliveryError::transient(*cause, format!("{}: {text}", self.place)))
    }

    /// Waits until something is wrong with it.
    pub(super) async fn failed(&self) -> DeliveryError {
        let mut told = self.told.clone();
        // Its end, too, is the connection's.
        let _ = told.wait_for(|told| told.trouble.is_some()).await;
        let broke =
            || DeliveryError::transient(Cause::Connect, format!("{}: the connection ended", self.place));
        self.trouble().unwrap_or_else(broke)
    }

    /// The answer to a question about streams; `None` where this user may not ask.
    ///
    /// # Errors
    /// Where the connection fails meanwhile.
    pub(super) async fn ask<T>(&self, question: impl Future<Output = T>) -> Result<Option<T>, DeliveryError> {
        let denied = async {
            let mut told = self.told.clone();
            if told.wait_for(|told| told.is_api_denied).await.is_err() {
                // What fails then fails by the connection.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            answer = question => Ok(Some(answer)),
            () = denied => Ok(None),
            error = self.failed() => Err(error),
        }
    }
}

impl Told {
    /// Whether the event says anything new. Of several troubles the first says why.
    fn hear(&mut self, event: &Event) -> bool {
        let trouble = match event {
            Event::ServerError(ServerError::Other(text)) if text.contains(API) => {
                self.is_api_denied = true;
                return true;
            }
            Event::ServerError(error) => {
                let text = one_line(error.to_string().as_bytes());
                // Only rights and credentials are the user's.
                let is_refusal = text.to_ascii_lowercase().contains("violation");
                (if is_refusal { Cause::Refused } else { Cause::Connect }, text)
            }
            Event::Disconnected | Event::Closed | Event::ClientError(_) => {
                (Cause::Connect, "the connection broke".to_owned())
            }
            _ => return false,
        };
        let is_new = self.trouble.is_none();
        self.trouble.get_or_insert(trouble);
        is_new
    }
}
