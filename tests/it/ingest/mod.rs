//! Batches over gRPC: the contract, by the client that is generated from it, against the real process.

mod calls;
mod duplicates;
mod kinds;
mod relays;
mod streams;

use std::{future::Future, net::SocketAddr};

use bytes::{Buf as _, BufMut as _, Bytes};
use forebay_proto::ingest::v1::{
    Event, EventBatchRequest, EventBatchResponse, ingest_service_client::IngestServiceClient,
};
use serde_json::Value as Json;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};

use crate::support::{binary::Forebay, eventually};

/// Runs a client, whose calls are asynchronous, within a test, which is not.
fn block_on<T>(client: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(client)
}

async fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn client(address: SocketAddr) -> IngestServiceClient<Channel> {
    IngestServiceClient::new(channel(address).await)
}

fn event(service: &str, message: &str) -> Event {
    Event { service: service.into(), message: message.into(), ..Event::default() }
}

/// A batch of events of a service, which is called like its source.
fn batch(service: &str, batch_id: &str, messages: &[&str]) -> EventBatchRequest {
    EventBatchRequest {
        batch_id: batch_id.into(),
        source: service.into(),
        events: messages.iter().map(|message| event(service, message)).collect(),
        ..EventBatchRequest::default()
    }
}

/// An answer without anything to complain of.
fn taken(batch_id: &str, received_count: u32) -> EventBatchResponse {
    EventBatchResponse {
        success: true,
        batch_id: batch_id.into(),
        received_count,
        ..EventBatchResponse::default()
    }
}

fn says_retry(status: &Status) -> bool {
    String::from_utf8_lossy(status.details()).contains("google.rpc.RetryInfo")
}

/// Waits until the store has so many events of the service, and returns them, oldest first.
#[track_caller]
fn stored(forebay: &Forebay, service: &str, count: usize) -> Vec<Json> {
    eventually(&format!("{count} events of {service} are stored"), || {
        let events = forebay.all_events(&format!("service={service}&order=oldest&limit=1000"));
        assert!(events.len() <= count, "{} events instead of {count}", events.len());
        (events.len() == count).then_some(events)
    })
}

/// Messages as bytes: for a client that knows no contract, or does not keep to it.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// One call with bytes.
async fn call(address: SocketAddr, path: &'static str, message: Vec<u8>) -> Result<Bytes, Status> {
    let mut grpc = tonic::client::Grpc::new(channel(address).await);
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(path);
    grpc.unary(tonic::Request::new(message), path, Raw).await.map(tonic::Response::into_inner)
}
