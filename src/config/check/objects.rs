//! What makes no sense in a sink `s3`: keys that belong to another store above all.

use base64::Engine as _;

use super::{
    Found,
    sinks::{is_url, tls_client},
};
use crate::config::{Cloud, KeyTemplate, S3Encryption, S3Place, S3Sink, Secret};

pub(super) fn values(name: &str, sink: &S3Sink, found: &mut Found) {
    let place = sink.place();
    match &place {
        Ok(place) => {
            of_others(name, sink, place, found);
            credentials(name, sink, place, found);
        }
        Err(why) => found.add(&["sinks", name, "url"], why),
    }
    if let Err(why) = sink.key.parse::<KeyTemplate>() {
        found.add(&["sinks", name, "key"], why);
    }
    if sink.endpoint.as_ref().is_some_and(|endpoint| !is_url(endpoint)) {
        found.add(&["sinks", name, "endpoint"], "is not a URL; like `http://minio:9000`");
    }
    if sink.kms_key_id.is_some() && sink.encryption != Some(S3Encryption::Kms) {
        found.add(&["sinks", name, "kms_key_id"], "is of no use without encryption: kms");
    }
    found.zero_duration(&["sinks", name, "timeout"], sink.timeout);
    tls_client(name, &sink.tls, found);
}

/// Keys that mean nothing where the URL points to: they were meant for something.
fn of_others(name: &str, sink: &S3Sink, place: &S3Place, found: &mut Found) {
    // The key, whether it is set, whose it is where not every bucket's, and whether it says who writes.
    let keys = [
        ("endpoint", sink.endpoint.is_some(), None, false),
        ("region", sink.region.is_some(), Some(Cloud::S3), false),
        ("access_key_id", sink.access_key_id.is_some(), Some(Cloud::S3), true),
        ("secret_access_key", sink.secret_access_key.is_some(), Some(Cloud::S3), true),
        ("session_token", sink.session_token.is_some(), Some(Cloud::S3), true),
        ("credentials_file", sink.credentials_file.is_some(), Some(Cloud::Google), true),
        ("credentials_json", sink.credentials_json.is_some(), Some(Cloud::Google), true),
        ("account", sink.account.is_some(), Some(Cloud::Azure), true),
        ("account_key", sink.account_key.is_some(), Some(Cloud::Azure), true),
        ("sas_token", sink.sas_token.is_some(), Some(Cloud::Azure), true),
        ("storage_class", sink.storage_class.is_some(), None, false),
        ("encryption", sink.encryption.is_some(), Some(Cloud::S3), false),
        ("kms_key_id", sink.kms_key_id.is_some(), Some(Cloud::S3), false),
    ];
    for (key, _, whose, is_credential) in keys.into_iter().filter(|(_, is_set, ..)| *is_set) {
        let message = match (place, whose) {
            (S3Place::Directory(_), _) => "means nothing in a directory; leave it away".to_owned(),
            (S3Place::Bucket { cloud, .. }, Some(whose)) if *cloud != whose => {
                let right = if is_credential {
                    format!("who writes to {} is said by {}", cloud.scheme(), credentials_of(*cloud))
                } else {
                    "leave it away".to_owned()
                };
                format!("is of {} alone; {right}", whose.scheme())
            }
            (S3Place::Bucket { .. }, _) => continue,
        };
        found.add(&["sinks", name, key], message);
    }
}

/// The keys that say who writes, for people.
const fn credentials_of(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::S3 => "access_key_id and secret_access_key",
        Cloud::Google => "credentials_file or credentials_json",
        Cloud::Azure => "account and account_key, or sas_token",
    }
}

fn credentials(name: &str, sink: &S3Sink, place: &S3Place, found: &mut Found) {
    let S3Place::Bucket { cloud, .. } = place else { return };
    let mut add = |key: &str, message: &str| found.add(&["sinks", name, key], message);
    match cloud {
        Cloud::S3 => match (&sink.access_key_id, &sink.secret_access_key) {
            (None, Some(_)) => add("access_key_id", "is missing; secret_access_key needs it"),
            (Some(_), None) => add("secret_access_key", "is missing; access_key_id needs it"),
            _ => {}
        },
        Cloud::Google => {
            let Some(json) = &sink.credentials_json else { return };
            if sink.credentials_file.is_some() {
                add("credentials_json", "is there beside credentials_file; one of them is enough");
            } else if !is_json_object(json) {
                let message =
                    "is not the JSON of a service account; give the text of its file, or credentials_file";
                add("credentials_json", message);
            }
        }
        Cloud::Azure => {
            if sink.account_key.is_some() && sink.sas_token.is_some() {
                add("sas_token", "is there beside account_key; one of them is enough");
            } else if sink.sas_token.as_ref().is_some_and(|token| !is_signature(token)) {
                add("sas_token", "is not a shared access signature; like sv=…&sig=…");
            }
            if sink.account_key.as_ref().is_some_and(|key| !is_base64(key)) {
                add("account_key", "is not in base64; give it as Azure shows it");
            }
        }
    }
}

fn is_json_object(text: &Secret) -> bool {
    serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text.reveal()).is_ok()
}

fn is_base64(text: &Secret) -> bool {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text.reveal());
    decoded.is_ok_and(|bytes| !bytes.is_empty())
}

fn is_signature(text: &Secret) -> bool {
    let mut pairs = text.reveal().trim_start_matches('?').split('&');
    pairs.clone().all(|pair| pair.contains('=')) && pairs.any(|pair| pair.starts_with("sig="))
}
