//! `forebay.ingest.v1.IngestService/SendBatch`.

use std::{error::Error as _, pin::Pin, time::Duration};

use forebay_proto::ingest::v1::{
    self as contract, EventBatchRequest, EventBatchResponse, event::MetadataForm,
    ingest_service_client::IngestServiceClient,
};
use tonic::{
    Code, Request, Status,
    codec::CompressionEncoding,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use super::{Answer, Fault, Rejection, Transport, Verdict, chain, status::retry_info, tls::Tls};
use crate::{Event, error::BuildError};

/// A connection whose other end is gone without a word is noticed after these two.
const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(30);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(10);

/// The way over gRPC.
pub(crate) struct Grpc {
    client: IngestServiceClient<Channel>,
    authorization: Option<MetadataValue<Ascii>>,
    source: String,
}

impl Grpc {
    /// To the server at this address, which begins with `http` or `https`. Connects when there is something to send.
    pub fn new(
        url: String,
        token: Option<&str>,
        tls: &Tls,
        gzip: bool,
        connect_timeout: Duration,
        source: String,
    ) -> Result<Self, BuildError> {
        let secure = url.starts_with("https");
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(|e| BuildError::Url { url, why: chain(&e) })?
            .user_agent(concat!("forebay-client/", env!("CARGO_PKG_VERSION")))
            .expect("the agent's name is a constant that a header may have")
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE_EVERY)
            .keep_alive_timeout(KEEP_ALIVE_ANSWER);
        let endpoint = if secure {
            endpoint.tls_config(tls.tonic()?).map_err(|e| BuildError::Tls(chain(&e)))?
        } else {
            endpoint
        };
        let mut client = IngestServiceClient::new(endpoint.connect_lazy());
        if gzip {
            client = client.send_compressed(CompressionEncoding::Gzip);
        }
        let authorization = token.map(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {token}").parse().map_err(|_| BuildError::Token)?;
            value.set_sensitive(true);
            Ok::<_, BuildError>(value)
        });
        Ok(Self { client, authorization: authorization.transpose()?, source })
    }
}

impl Transport for Grpc {
    fn deliver<'a>(
        &'a self,
        batch_id: &'a str,
        events: Vec<&'a Event>,
    ) -> Pin<Box<dyn Future<Output = Answer> + Send + 'a>> {
        Box::pin(async move {
            let count = events.len();
            let mut request = Request::new(EventBatchRequest {
                batch_id: batch_id.to_owned(),
                source: self.source.clone(),
                events: events.into_iter().map(message).collect(),
                ..EventBatchRequest::default()
            });
            if let Some(authorization) = &self.authorization {
                request.metadata_mut().insert("authorization", authorization.clone());
            }
            let answer = self.client.clone().send_batch(request).await;
            answer.map_err(|status| fault(&status)).and_then(|answer| judge(answer.into_inner(), count))
        })
    }
}

fn message(event: &Event) -> contract::Event {
    let nanos = event.unix_nanos();
    contract::Event {
        event_id: event.id().unwrap_or_default().to_owned(),
        timestamp: Some(prost_types::Timestamp {
            seconds: nanos.div_euclid(1_000_000_000),
            nanos: i32::try_from(nanos.rem_euclid(1_000_000_000))
                .expect("below a second there are below 2^30 of them"),
        }),
        service: event.service().to_owned(),
        message: event.message().to_owned(),
        metadata_form: event.metadata().map(|text| MetadataForm::MetadataJson(text.to_owned())),
        ingested_at: None,
    }
}

/// What an answer means.
fn judge(answer: EventBatchResponse, events: usize) -> Answer {
    let rejected: Vec<_> = answer
        .rejected
        .into_iter()
        .map(|rejected| {
            let reason = match &*rejected.field {
                // Some reasons begin with the field themselves.
                field if field.is_empty() || rejected.reason.starts_with(field) => rejected.reason,
                field => format!("{field}: {}", rejected.reason),
            };
            Rejection { index: rejected.index as usize, error: reason }
        })
        .collect();
    if answer.received_count as usize + rejected.len() == events {
        return Ok(rejected);
    }
    let wait = Duration::from_millis(answer.retry_after_ms.into());
    let verdict = match (answer.success, wait.is_zero()) {
        (false, false) => Verdict::Retry { after: Some(wait) },
        _ => Verdict::Refuse,
    };
    let received = answer.received_count;
    Err(Fault { verdict, words: format!("{received} of {events} events were taken: {}", answer.message) })
}

/// What a status means.
fn fault(status: &Status) -> Fault {
    let after = retry_info(status.details());
    let verdict = match status.code() {
        // Not the server's word, but what happened on the way to it.
        _ if status.source().is_some() => Verdict::Retry { after: None },
        Code::Unavailable | Code::DeadlineExceeded => Verdict::Retry { after },
        Code::ResourceExhausted if after.is_some() => Verdict::Retry { after },
        Code::ResourceExhausted => Verdict::Split,
        _ => Verdict::Refuse,
    };
    let words = match status.source() {
        Some(cause) => chain(cause),
        None => format!("{:?}: {}", status.code(), status.message()),
    };
    Fault { verdict, words }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What may pass is tried again; a batch that is too large is split; everything else is refused once.
    #[test]
    fn codes_have_one_meaning() {
        let verdict = |code| fault(&Status::new(code, "m")).verdict;
        assert_eq!(verdict(Code::Unavailable), Verdict::Retry { after: None });
        assert_eq!(verdict(Code::DeadlineExceeded), Verdict::Retry { after: None });
        assert_eq!(verdict(Code::ResourceExhausted), Verdict::Split);
        for code in
            [Code::InvalidArgument, Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented]
        {
            assert_eq!(verdict(code), Verdict::Refuse, "{code:?}");
        }
        let info: Vec<u8> = {
            let value = vec![0x0a, 0x02, 0x08, 0x07];
            let url = b"type.googleapis.com/google.rpc.RetryInfo";
            let mut any = vec![0x0a, url.len() as u8];
            any.extend_from_slice(url);
            any.extend([0x12, value.len() as u8]);
            any.extend(value);
            [vec![0x1a, any.len() as u8], any].concat()
        };
        let status = Status::with_details(Code::ResourceExhausted, "slow down", info.into());
        assert_eq!(fault(&status).verdict, Verdict::Retry { after: Some(Duration::from_secs(7)) });
        let cut = Status::from_error(Box::new(std::io::Error::other("reset")));
        assert_eq!(fault(&cut), Fault::passing("reset"));
    }

    /// Every event of a batch is accounted for, or the batch counts as not taken.
    #[test]
    fn counts_have_to_come_out_even() {
        let answer = |success, received_count, rejected: &[(u32, &str, &str)], retry_after_ms| {
            let rejected = rejected.iter().map(|(index, field, reason)| contract::RejectedEvent {
                index: *index,
                field: (*field).to_owned(),
                reason: (*reason).to_owned(),
                ..contract::RejectedEvent::default()
            });
            let rejected = rejected.collect();
            judge(
                EventBatchResponse {
                    success,
                    received_count,
                    rejected,
                    retry_after_ms,
                    ..Default::default()
                },
                2,
            )
        };
        assert_eq!(answer(true, 2, &[], 0), Ok(vec![]));
        let one = vec![Rejection { index: 1, error: "service: it is required".to_owned() }];
        assert_eq!(answer(true, 1, &[(1, "service", "it is required")], 0), Ok(one.clone()));
        assert_eq!(answer(true, 1, &[(1, "service", "service: it is required")], 0), Ok(one));
        assert_eq!(answer(false, 0, &[(0, "", "a"), (1, "", "b")], 0).map(|all| all.len()), Ok(2));
        assert_eq!(answer(true, 1, &[], 0).unwrap_err().verdict, Verdict::Refuse);
        let wait = Verdict::Retry { after: Some(Duration::from_millis(9)) };
        assert_eq!(answer(false, 0, &[], 9).unwrap_err().verdict, wait);
    }
}
