//! What `POST /events`, `GET /events…`, `/health…` and `/metrics` say, to good clients and to bad ones.

mod admin;
mod bad_input;
mod documented;
mod hostile;
mod ingest;
mod observe;
pub mod query;

use serde_json::{Value, json};

/// A good event with this id.
fn event(id: &str) -> Value {
    json!({"service": "api", "message": format!("this is {id}"), "event_id": id})
}

/// Good events, an array of them.
fn array(ids: &[&str]) -> String {
    json!(ids.iter().map(|id| event(id)).collect::<Vec<_>>()).to_string()
}
