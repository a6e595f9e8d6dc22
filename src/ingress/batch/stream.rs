//! `SendBatches`: batches on a stream, each answered as it becomes durable.
//!
//! Some are under way at a time, so that they share commits. Where one cannot be taken now, nothing more is read until it is: the
//! client's sending waits, by the windows of HTTP/2, and what is not read is not in memory beyond them.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use forebay_proto::ingest::v1::EventBatchResponse;
use futures::{
    Stream, StreamExt as _,
    stream::{self, FuturesUnordered},
};
use http::Request;
use hyper::body::{Frame, Incoming};
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};

use super::{
    BatchIngress, Pieces, failure,
    messages::{Message, Messages},
};
use crate::{
    api::error::ApiError,
    ingress::{
        body::{self, Body, Coding},
        grpc::{
            done,
            frame::{coding_of, framed},
            status::{Status, retryable},
            trailers,
        },
        limits::RouteClass,
        post::refusal,
    },
    security::Caller,
};

/// Batches of one stream that are under way at a time, and answers that wait for a client that does not read them.
const UNDER_WAY_MAX: usize = 16;

/// The longest time between two attempts to take a batch.
const ATTEMPT_INTERVAL: Duration = Duration::from_secs(1);

/// How often an idle stream looks whether the process ends.
const END_INTERVAL: Duration = Duration::from_millis(200);

/// When a client should come again for which there is no stream left.
const STREAMS_FULL_RETRY: Duration = Duration::from_secs(5);

type Answers = mpsc::Sender<Frame<Bytes>>;

impl BatchIngress {
    /// Answers one call of `SendBatches`, by the frames of its answer.
    ///
    /// # Errors
    /// Where the stream is not let in.
    pub(in crate::ingress) fn send_batches(
        self: Arc<Self>,
        peer: IpAddr,
        request: Request<Incoming>,
    ) -> Result<impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + use<>, Status> {
        let refused = |error: ApiError| {
            self.received.rejected.with_label_values(&[error.code()]).inc();
            Status::of(&error)
        };
        let (head, incoming) = request.into_parts();
        let caller = Caller::of(&head.extensions);
        let coding = coding_of(&head.headers).map_err(refused)?;
        let permit = self.own.streams.clone().try_acquire_owned().map_err(|_| {
            let message = "as many streams are open as may be (ingest.max_streams)";
            refused(ApiError::unavailable("too_many_streams", message, STREAMS_FULL_RETRY))
        })?;
        let messages = Messages::new(Pieces::new(incoming), coding, self.body.clone());
        let (answers, mut frames) = mpsc::channel(UNDER_WAY_MAX);
        tokio::spawn(async move {
            if let Some(end) = self.serve(peer, &caller, messages, &answers).await {
                // Nobody is there to hear it, perhaps.
                let _ = answers.send(end).await;
            }
            let _until_here: OwnedSemaphorePermit = permit;
        });
        Ok(stream::poll_fn(move |context| frames.poll_recv(context).map(|frame| frame.map(Ok))))
    }

    /// Takes batches until the client has said all or something ends the stream; its last frame, where there is one to send it
    /// to.
    async fn serve(
        self: &Arc<Self>,
        peer: IpAddr,
        caller: &Caller,
        mut messages: Messages,
        answers: &Answers,
    ) -> Option<Frame<Bytes>> {
        let blocked = AtomicUsize::new(0);
        let mut under_way = FuturesUnordered::new();
        let mut look = interval(END_INTERVAL);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut end = loop {
            let may_read = under_way.len() < UNDER_WAY_MAX && blocked.load(Ordering::Relaxed) == 0;
            tokio::select! {
                biased;
                Some(answer) = under_way.next() => match answer {
                    Ok(response) => answers.send(response_frame(&response)).await.ok()?,
                    Err(error) => break Err(error),
                },
                message = messages.next(), if may_read => match message {
                    Ok(Some(message)) => under_way.push(self.take(peer, caller, message, &blocked)),
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                },
                () = answers.closed() => return None,
                _ = look.tick() => if self.readiness.is_ending() {
                    break Err(ending());
                },
            }
        };
        // Those that were read whole are answered for, however the stream ends.
        while let Some(answer) = under_way.next().await {
            match answer {
                Ok(response) => answers.send(response_frame(&response)).await.ok()?,
                Err(error) => end = Err(error),
            }
        }
        Some(match end {
            Ok(()) => done(),
            Err(error) => {
                self.received.rejected.with_label_values(&[error.code()]).inc();
                Frame::trailers(trailers(&Status::of(&retryable(error))))
            }
        })
    }

    /// What became of one batch; waits as long as it cannot be taken.
    ///
    /// # Errors
    /// Where the process ends.
    async fn take(
        self: &Arc<Self>,
        peer: IpAddr,
        caller: &Caller,
        message: Message,
        blocked: &AtomicUsize,
    ) -> Result<EventBatchResponse, ApiError> {
        let began = Instant::now();
        let (body, coding) = match message {
            Message::Whole(body, coding) => (body, coding),
            Message::TooLarge(head) => return Ok(self.refused(&body::too_large(&self.body), &head, began)),
        };
        let bytes = body.bytes.clone();
        let mut body = Ok(body);
        let mut is_first = true;
        loop {
            let attempt = match body {
                Ok(body) => self.attempt(peer, caller, body, coding).await,
                Err(error) => Err(error),
            };
            let error = match attempt {
                Ok(response) => {
                    self.times.observe(if response.success { 200 } else { 400 }, began);
                    return Ok(response);
                }
                Err(error) => error,
            };
            let Some(wait) = error.retry_after() else { return Ok(self.refused(&error, &bytes, began)) };
            if self.readiness.is_ending() {
                return Err(ending());
            }
            if std::mem::take(&mut is_first) {
                self.received.rejected.with_label_values(&[error.code()]).inc();
            }
            blocked.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait.min(ATTEMPT_INTERVAL)).await;
            blocked.fetch_sub(1, Ordering::Relaxed);
            body = body::held(bytes.clone(), &self.body);
        }
    }

    async fn attempt(
        self: &Arc<Self>,
        peer: IpAddr,
        caller: &Caller,
        body: Body,
        coding: Coding,
    ) -> Result<EventBatchResponse, ApiError> {
        self.limits.check(RouteClass::Ingest, Some(peer))?;
        // The stream was let in; its token may be used up or gone by now.
        caller.check_again()?;
        let body = body::unpacked(body, coding, &self.body).await?;
        self.clone().admit(caller, body).await
    }

    fn refused(&self, error: &ApiError, message: &Bytes, began: Instant) -> EventBatchResponse {
        self.received.rejected.with_label_values(&[error.code()]).inc();
        self.times.observe(actix_web::ResponseError::status_code(error).as_u16(), began);
        failure(error, message)
    }
}

fn response_frame(response: &EventBatchResponse) -> Frame<Bytes> {
    Frame::data(framed(&response.encode_to_vec()))
}

fn ending() -> ApiError {
    refusal(forebay_actors::message::Refusal::ShuttingDown)
}
