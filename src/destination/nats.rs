//! `type: nats`: each event is a message in a stream of NATS JetStream, or each request of OpenTelemetry is.
//!
//! - Every message carries an id, `Nats-Msg-Id`: that of its event, or the positions of its request. A stream knows the ids of
//!   its `duplicate_window`, so what comes again after a crash, within it, is there once.
//! - Messages are published without waiting for each other, `pending_max` at a time, and delivered means that the stream
//!   acknowledged every one of a batch: by its own word they are stored.
//! - After a failure nothing more of the batch is published. What was acknowledged of it is not sent again, as long as this
//!   process lives; what was behind the message that failed may stand before it.
//! - An event that the server or the stream finds too large is rejected alone.
//!
//! Limits: a batch is held once more as messages, as large as its records and 170 bytes an event; one connection, which
//! deliveries at the same time share.

mod connection;
mod credentials;
mod fault;
mod messages;
mod stream;

use std::{collections::VecDeque, fmt, pin::pin, rc::Rc, sync::Arc, time::Duration};

use async_nats::{
    ServerAddr,
    jetstream::{context::PublishAckFuture, message::PublishMessage},
};
use forebay_actors::{
    destination::{Cause, Delivery, DeliveryError, Destination, Receipt},
    examination::{ClockReading, Examination, Finding},
    record::Batch,
};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rustls::ClientConfig;
use tokio::{sync::Mutex, time::Instant};

use self::{
    connection::Connection,
    credentials::Credentials,
    messages::{Message, Messages, Recipe},
};
use super::{encoding, taken::Taken, tls, unbuildable};
use crate::config::NatsSink;

/// Publishes batches to a stream.
pub struct NatsDestination {
    server: Rc<Server>,
}

/// All that one delivery needs.
struct Server {
    servers: Vec<ServerAddr>,
    tls: ClientConfig,
    credentials: Arc<Credentials>,
    /// The servers for messages; their URLs have no secrets in them.
    place: String,
    recipe: Arc<Recipe>,
    options: NatsSink,
    taken: Arc<Taken>,
    connection: Mutex<Option<Rc<Connection>>>,
}

/// Messages of a batch on their way.
#[derive(Default)]
struct Flight {
    /// All messages before this one are acknowledged.
    stored: usize,
    pending: VecDeque<(usize, PublishAckFuture)>,
    bytes: u64,
}

// === impl NatsDestination ===

impl NatsDestination {
    /// A destination that has not connected yet. Reads certificates and credentials.
    ///
    /// # Errors
    /// [`Cause::Build`] where the URL, the subject, the certificates or the credentials cannot be used.
    pub fn new(options: &NatsSink) -> Result<Self, DeliveryError> {
        let servers = options.servers().map_err(|why| unbuildable(format!("the url {why}")))?;
        let address = |server: &&str| {
            server
                .parse::<ServerAddr>()
                .map_err(|error| unbuildable(format!("the url {server} is none of a server: {error}")))
        };
        let servers = servers.iter().map(address).collect::<Result<_, _>>()?;
        let template = options.subject().map_err(|why| unbuildable(format!("the subject {why}")))?;
        let subject_mark = messages::subject_mark(options.subject.as_deref());
        let recipe = Recipe { template, encoding: options.encoding, stream: String::new(), subject_mark };
        let server = Server {
            servers,
            tls: tls::client_with(&options.tls)?,
            credentials: Arc::new(Credentials::of(options)?),
            place: options.url.clone(),
            recipe: Arc::new(recipe),
            options: options.clone(),
            taken: Arc::default(),
            connection: Mutex::default(),
        };
        Ok(Self { server: Rc::new(server) })
    }

    /// The same with `stream` in the ids of requests: positions begin at 0 in every data directory.
    pub fn of_stream(mut self, stream: &str) -> Self {
        const BUILT: &str = "nobody else holds a destination that is being built";
        let server = Rc::get_mut(&mut self.server).expect(BUILT);
        stream.clone_into(&mut Arc::get_mut(&mut server.recipe).expect(BUILT).stream);
        self
    }
}

impl fmt::Debug for NatsDestination {
    /// Only what has no secret in it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NatsDestination").field(&self.server.place).finish()
    }
}

impl Destination for NatsDestination {
    fn deliver(&self, batch: Arc<Batch>) -> Delivery {
        let server = self.server.clone();
        async move { server.deliver(batch).await }.boxed_local()
    }

    /// Connects, and looks whether a stream would keep what is published. Makes and publishes nothing.
    fn probe(&self) -> LocalBoxFuture<'static, Result<(), DeliveryError>> {
        let server = self.server.clone();
        async move {
            let connection = server.connection().await?;
            stream::look(&server, &connection, false).await.map(drop)
        }
        .boxed_local()
    }

    /// What a user may publish, a server says to nobody: it shows with the first message.
    fn examine(&self) -> LocalBoxFuture<'static, Examination> {
        let server = self.server.clone();
        async move {
            match server.clock().await {
                Ok(clock) => {
                    let why = "it lets this user in; whether they may publish only a message would show";
                    let authorised = Finding::Unknown(format!("{}: {why}", server.place));
                    Examination { authorised, ..Examination::fit() }.with_clock(clock)
                }
                Err(error) => Examination::failed(&error),
            }
        }
        .boxed_local()
    }
}

// === impl Server ===

impl Server {
    async fn deliver(&self, batch: Arc<Batch>) -> Result<Receipt, DeliveryError> {
        let connection = self.connection().await?;
        if !connection.is_looked_at.get() {
            stream::look(self, &connection, self.options.manage_stream).await?;
            connection.is_looked_at.set(true);
        }
        let (recipe, taken, span) = (self.recipe.clone(), self.taken.clone(), batch.span());
        let messages = encoding(batch, move |batch| recipe.messages(batch, |at| taken.has(at))).await?;
        let mut flight = Flight::default();
        let outcome = self.publish(&connection, &messages, &mut flight).await;
        let Err(error) = outcome else {
            self.taken.forget(span);
            return Ok(Receipt::of(flight.bytes));
        };
        match error.cause {
            // The stream may be another than when it was looked at.
            Cause::Refused => connection.is_looked_at.set(false),
            // Whatever is still on its way with it must not come behind what is sent again.
            Cause::Connect | Cause::Timeout => self.give_up(&connection).await,
            _ => {}
        }
        let is_in_vain = error.cause == Cause::Timeout || connection.trouble().is_some();
        self.settle(flight, &messages, is_in_vain).await;
        Err(error)
    }

    /// What the stream's clock says, if the stream is there, may be looked at and is fit.
    async fn clock(&self) -> Result<Option<ClockReading>, DeliveryError> {
        let connection = self.connection().await?;
        match stream::look(self, &connection, false).await? {
            Some(name) => stream::clock(&connection, &name).await,
            None => Ok(None),
        }
    }

    /// The connection that is there, or another one.
    async fn connection(&self) -> Result<Rc<Connection>, DeliveryError> {
        let mut held = self.connection.lock().await;
        if let Some(connection) = held.as_ref().filter(|connection| connection.trouble().is_none()) {
            return Ok(connection.clone());
        }
        let connection = Rc::new(Connection::open(self).await?);
        *held = Some(connection.clone());
        Ok(connection)
    }

    async fn give_up(&self, connection: &Rc<Connection>) {
        let mut held = self.connection.lock().await;
        if held.as_ref().is_some_and(|held| Rc::ptr_eq(held, connection)) {
            *held = None;
        }
    }

    /// Publishes all messages in order, and waits until every one is acknowledged.
    async fn publish(
        &self,
        connection: &Connection,
        messages: &Messages,
        flight: &mut Flight,
    ) -> Result<(), DeliveryError> {
        let mut failed = pin!(connection.failed());
        let mut published = messages.all.iter().enumerate();
        loop {
            let next = if flight.pending.len() < self.options.pending_max { published.next() } else { None };
            if let Some((index, message)) = next {
                let sent =
                    connection.context.send_publish(message.subject.clone(), self.message(message)).await;
                let ack = sent.map_err(|error| self.unpublished(connection, message, &error))?;
                flight.pending.push_back((index, ack));
                flight.bytes += message.payload.len() as u64;
                continue;
            }
            let Some((index, ack)) = flight.pending.pop_front() else { return Ok(()) };
            let answer = tokio::select! {
                biased;
                answer = ack.into_future() => answer,
                error = &mut failed => return Err(error),
            };
            answer.map_err(|error| self.unpublished(connection, &messages.all[index], &error))?;
            flight.stored = index + 1;
        }
    }

    fn message(&self, message: &Message) -> PublishMessage {
        let publish = PublishMessage::build().payload(message.payload.clone()).message_id(&message.id);
        match &self.options.stream {
            Some(stream) => publish.expected_stream(stream),
            None => publish,
        }
    }

    /// Remembers what is there of a batch that failed. What is still on its way is waited for, unless that is in vain.
    async fn settle(&self, flight: Flight, messages: &Messages, is_in_vain: bool) {
        let mut stored: Vec<_> = (0..flight.stored).collect();
        let until = Instant::now() + if is_in_vain { Duration::ZERO } else { self.options.timeout };
        for (index, ack) in flight.pending {
            if let Ok(Ok(_)) = tokio::time::timeout_at(until, ack.into_future()).await {
                stored.push(index);
            }
        }
        self.taken.add(stored.into_iter().flat_map(|index| messages.spans(index).iter().copied()));
    }

    fn unpublished(
        &self,
        connection: &Connection,
        message: &Message,
        error: &async_nats::jetstream::context::PublishError,
    ) -> DeliveryError {
        let error = fault::unpublished(&self.place, &message.subject, error, self.options.timeout);
        // The server may have said why.
        match error.cause {
            Cause::Connect => connection.trouble().unwrap_or(error),
            _ => error,
        }
    }

    fn refused(&self, what: String) -> DeliveryError {
        DeliveryError::transient(Cause::Refused, format!("{}: {what}", self.place))
    }
}
