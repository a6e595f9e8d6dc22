//! NATS: the sink beside a bare loop of its own client, which publishes the same messages to the same stream, with as many on
//! their way and every acknowledgement waited for.

use std::{collections::VecDeque, sync::Arc};

use async_nats::{
    HeaderMap,
    jetstream::{self, Context, context::ContextBuilder, stream::Config},
};
use bytes::Bytes;
use forebay::{config::NatsSink, destination::nats::NatsDestination};
use forebay_actors::record::Batch;
use futures::StreamExt as _;

use super::{Target, compare, service::Service};

const STREAM: &str = "events";

struct Nats {
    service: Service,
    /// What the sink published: subject, id and payload.
    saved: std::sync::Mutex<Vec<(String, String, Bytes)>>,
}

/// Whether the sink reaches what is wanted of it.
pub async fn measure(batches: &[Arc<Batch>]) -> bool {
    // With a sync at each message both would wait for the disk alone.
    let Some(service) = Service::start_with("nats", 1, &[("NATS_SYNC", "2m")], &[]) else { return true };
    let server = Nats { service, saved: Default::default() };
    let mut options = NatsSink::to(server.url());
    options.stream = Some(STREAM.to_owned());
    options.manage_stream = true;
    let sink = NatsDestination::new(&options).expect("the options are right");
    compare("nats", 0.80, &server, &sink, batches).await
}

impl Nats {
    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.service.ports[0])
    }

    /// On a thread of its own, since the sink's may not be blocked by another runtime.
    fn with<T: Send>(&self, work: impl AsyncFnOnce(Context) -> T + Send) -> T {
        let url = self.url();
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let client = async_nats::connect(url).await.expect("the server is there");
                    work(ContextBuilder::new().max_ack_inflight(1 << 20).build(client)).await
                })
            });
            worker.join().expect("it ends")
        })
    }
}

impl Target for Nats {
    fn empty(&self) {
        // Without the ids of what was there, which a purge would keep.
        self.with(async |context: Context| {
            let stream = context.get_stream(STREAM).await.expect("it is there");
            let config: Config = stream.cached_info().config.clone();
            context.delete_stream(STREAM).await.expect("it was just there");
            context.create_stream(config).await.expect("it was the same before");
        });
    }

    fn count(&self) -> u64 {
        self.with(async |context: Context| {
            context.get_stream(STREAM).await.expect("it is there").cached_info().state.messages
        })
    }

    fn save(&self) {
        let saved = self.with(async |context: Context| {
            let stream = context.get_stream(STREAM).await.expect("it is there");
            let count = stream.cached_info().state.messages as usize;
            let consumer = stream
                .create_consumer(jetstream::consumer::pull::OrderedConfig::default())
                .await
                .expect("a consumer");
            let messages = consumer.messages().await.expect("messages").take(count);
            let message = |message: Result<jetstream::Message, jetstream::consumer::pull::OrderedError>| {
                let message = message.expect("a message");
                let id =
                    message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).expect("an id");
                (message.subject.to_string(), id.to_string(), message.payload.clone())
            };
            messages.map(message).collect::<Vec<_>>().await
        });
        *self.saved.lock().expect("nobody panicked with it") = saved;
    }

    fn load(&self) {
        let pending_max = NatsSink::to(String::new()).pending_max;
        let saved = self.saved.lock().expect("nobody panicked with it").clone();
        self.with(async move |context: Context| {
            let mut pending = VecDeque::new();
            for (subject, id, payload) in saved {
                if pending.len() == pending_max {
                    let oldest: jetstream::context::PublishAckFuture =
                        pending.pop_front().expect("there are some");
                    oldest.await.expect("an acknowledgement");
                }
                let mut headers = HeaderMap::new();
                headers.insert("Nats-Msg-Id", id);
                headers.insert("Nats-Expected-Stream", STREAM);
                let ack = context.publish_with_headers(subject, headers, payload).await.expect("it is sent");
                pending.push_back(ack);
            }
            for ack in pending {
                ack.await.expect("an acknowledgement");
            }
        });
    }
}
