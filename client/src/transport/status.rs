//! What a gRPC status carries beside its code: `google.rpc.Status` with `RetryInfo`, by hand, because these two messages are
//! all of it that is needed.

use std::time::Duration;

use prost::Message;

const RETRY_INFO: &str = "type.googleapis.com/google.rpc.RetryInfo";

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

#[derive(Clone, PartialEq, Message)]
struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    retry_delay: Option<prost_types::Duration>,
}

/// When the server says to try again: none where it does not say that trying again makes sense.
pub(super) fn retry_info(details: &[u8]) -> Option<Duration> {
    let status = Status::decode(details).ok()?;
    let any = status.details.into_iter().find(|any| any.type_url == RETRY_INFO)?;
    let info = RetryInfo::decode(&*any.value).ok()?;
    // Nothing said, and a time in the past, are both: at once.
    Some(info.retry_delay.and_then(|delay| delay.try_into().ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(type_url: &str, value: Vec<u8>) -> Vec<u8> {
        let any = |type_url: &str, value| prost_types::Any { type_url: type_url.to_owned(), value };
        let details = vec![any("type.googleapis.com/google.rpc.BadRequest", vec![]), any(type_url, value)];
        Status { details }.encode_to_vec()
    }

    /// The delay is found among other details; what is none, or damaged, is none.
    #[test]
    fn the_delay_is_found() {
        // Field 1 of RetryInfo: a Duration of 2 s and 500,000,000 ns.
        let bytes = vec![0x0a, 0x08, 0x08, 0x02, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01];
        assert_eq!(retry_info(&details(RETRY_INFO, bytes.clone())), Some(Duration::from_millis(2500)));
        assert_eq!(retry_info(&details(RETRY_INFO, Vec::new())), Some(Duration::ZERO));
        assert_eq!(retry_info(&details("type.googleapis.com/google.rpc.Help", bytes.clone())), None);
        assert_eq!(retry_info(&details(RETRY_INFO, bytes[..5].to_vec())), None);
        assert_eq!((retry_info(&[]), retry_info(&[0xff; 9])), (None, None));
    }
}
