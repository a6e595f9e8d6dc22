//! `GET /events`, `GET /events/{event_id}`, `GET /events/stats`: questions to the event store, whichever it is.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use forebay_actors::event::Timestamp;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use super::{error::ApiError, server::Shared};
use crate::{
    ingress::limits::RouteClass,
    store::{Cursor, EventStore, Order, PAGE_EVENTS_MAX, Page, Query, StatsQuery, StoreError},
};

/// Events of a page where the question does not say.
const LIMIT_DEFAULT: usize = 100;

/// What a parameter says. An empty one is as good as none: forms send what nobody filled in.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "String")]
struct Given(Option<String>);

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self(Some(text).filter(|text| !text.is_empty()))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PageQuery {
    service: Given,
    from: Given,
    to: Given,
    q: Given,
    limit: Given,
    cursor: Given,
    order: Given,
    count: Given,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StatsParameters {
    service: Given,
    from: Given,
    to: Given,
    bucket: Given,
    group_by: Given,
}

/// A page of events.
///
/// # Errors
/// 400 for a question that makes no sense, 404 without a `store` sink, 429, 503.
pub async fn page(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    let store = store(&request, &shared)?;
    let parameters: PageQuery = parameters(&request)?;
    let order = match parameters.order.0.as_deref() {
        None | Some("newest" | "desc") => Order::Newest,
        Some("oldest" | "asc") => Order::Oldest,
        Some(other) => return Err(invalid("order", format!("{other:?} is no order; newest and oldest are"))),
    };
    let cursor = parameters.cursor.0.map(|text| text.parse::<Cursor>()).transpose();
    let query = Query {
        service: parameters.service.0,
        from: time("from", parameters.from.0)?,
        to: time("to", parameters.to.0)?,
        q: parameters.q.0,
        limit: limit(parameters.limit.0)?,
        cursor: cursor.map_err(|e| invalid("cursor", e.to_string()))?,
        order,
        count: flag("count", parameters.count.0)?,
    };
    let is_counted = query.count;
    let page = store.page(query).await.map_err(failure)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(page_json(&page, is_counted)))
}

/// One event.
///
/// # Errors
/// 404 where there is none of that id.
pub async fn one(
    request: HttpRequest,
    id: web::Path<String>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let store = store(&request, &shared)?;
    let event = store.one(id.clone()).await.map_err(failure)?.ok_or_else(|| {
        ApiError::new(StatusCode::NOT_FOUND, "event_not_found", format!("no event has the id {:?}", *id))
    })?;
    let mut body = Vec::new();
    event.write_json(&mut body);
    Ok(HttpResponse::Ok().content_type("application/json").body(body))
}

/// Counts over time.
///
/// # Errors
/// As [`page`].
pub async fn stats(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    let store = store(&request, &shared)?;
    let parameters: StatsParameters = parameters(&request)?;
    let group_by_service = match parameters.group_by.0.as_deref() {
        None => false,
        Some("service") => true,
        Some(other) => return Err(invalid("group_by", format!("{other:?} is not known; service is"))),
    };
    let query = StatsQuery {
        from: time("from", parameters.from.0)?,
        to: time("to", parameters.to.0)?,
        bucket_seconds: bucket(parameters.bucket.0.as_deref().unwrap_or("1m"))?,
        service: parameters.service.0,
        group_by_service,
    };
    let bucket_seconds = query.bucket_seconds;
    let rows = store.stats(query).await.map_err(failure)?;
    let buckets: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut bucket = json!({"bucket": row.bucket_start.to_string(), "count": row.events});
            if let Some(service) = &row.service {
                bucket["service"] = json!(service);
            }
            bucket
        })
        .collect();
    Ok(HttpResponse::Ok().json(json!({"bucket_seconds": bucket_seconds, "buckets": buckets})))
}

fn store(request: &HttpRequest, shared: &Shared) -> Result<Arc<dyn EventStore>, ApiError> {
    shared.limits.check(RouteClass::Query, request.peer_addr().map(|peer| peer.ip()))?;
    shared.event_store().ok_or_else(|| {
        let message = "there is no event store; a sink of `type: store` is one, and so is one of `type: postgres` with \
                       `store: true`";
        ApiError::new(StatusCode::NOT_FOUND, "no_store", message)
    })
}

fn page_json(page: &Page, is_counted: bool) -> Vec<u8> {
    let mut out = b"{\"events\":[".to_vec();
    for (index, event) in page.events.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        event.write_json(&mut out);
    }
    let cursor = page.next_cursor.as_ref().map(ToString::to_string);
    let count = if is_counted { format!(",\"count\":{}", json!(page.count)) } else { String::new() };
    let end = format!("],\"next_cursor\":{},\"partial\":{}{count}}}", json!(cursor), page.partial);
    out.extend_from_slice(end.as_bytes());
    out
}

/// Reads the query string; a parameter that is not known is named.
fn parameters<T: DeserializeOwned>(request: &HttpRequest) -> Result<T, ApiError> {
    let mut seen = BTreeSet::new();
    for pair in request.query_string().split('&').filter(|pair| !pair.is_empty()) {
        let key = pair.split('=').next().unwrap_or(pair);
        if !seen.insert(key) {
            return Err(invalid(key, "it is given twice".to_owned()));
        }
    }
    let query = web::Query::<T>::from_query(request.query_string());
    query.map(web::Query::into_inner).map_err(|e| ApiError::bad_request("invalid_parameter", e.to_string()))
}

fn invalid(parameter: &str, message: String) -> ApiError {
    ApiError::bad_request("invalid_parameter", format!("{parameter}: {message}"))
        .with_details(json!({ "parameter": parameter }))
}

fn limit(text: Option<String>) -> Result<usize, ApiError> {
    let Some(text) = text else { return Ok(LIMIT_DEFAULT) };
    text.parse().map_err(|_| invalid("limit", format!("{text:?} is no number; 1 to {PAGE_EVENTS_MAX} are")))
}

fn flag(parameter: &str, text: Option<String>) -> Result<bool, ApiError> {
    match text.as_deref() {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(invalid(parameter, format!("{other:?} is neither true nor false"))),
    }
}

/// RFC 3339, or milliseconds since the Unix epoch.
fn time(parameter: &str, text: Option<String>) -> Result<Option<Timestamp>, ApiError> {
    let read = |text: String| match text.parse::<i64>() {
        Ok(millis) => Timestamp::from_millis(millis),
        // A `+` of an offset that was not escaped arrives as a space.
        Err(_) => Timestamp::parse(&text.replace(' ', "+")),
    };
    text.map(read).transpose().map_err(|e| invalid(parameter, e.to_string()))
}

/// `1m`, `2h`, `1d`, or seconds.
fn bucket(text: &str) -> Result<u32, ApiError> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let unit_seconds = match unit {
        "s" | "" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        "d" => Some(86_400),
        _ => None,
    };
    let seconds =
        unit_seconds.zip(number.parse::<u32>().ok()).and_then(|(unit, number)| number.checked_mul(unit));
    seconds.ok_or_else(|| invalid("bucket", format!("{text:?} is no length; 1m, 5m, 1h and 1d are")))
}

fn failure(error: StoreError) -> ApiError {
    match error {
        StoreError::Query(error) => ApiError::bad_request("invalid_parameter", error.to_string()),
        error if error.is_transient() => {
            ApiError::unavailable("store_unavailable", error.to_string(), Duration::from_secs(1))
        }
        error => {
            tracing::error!(%error, "the event store cannot answer");
            ApiError::internal("the event store cannot answer; see the log")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_units() {
        assert_eq!(bucket("1m").unwrap(), 60);
        assert_eq!(bucket("90").unwrap(), 90);
        assert_eq!(bucket("1d").unwrap(), 86_400);
        assert!(bucket("1 fortnight").is_err());
        assert!(bucket("99999999d").is_err());
    }

    #[test]
    fn times_are_text_or_milliseconds() {
        let at = |text: &str| time("from", Some(text.to_owned())).unwrap().unwrap();
        assert_eq!(at("1431857103000"), at("2015-05-17T10:05:03Z"));
        assert_eq!(at("2015-05-17T12:05:03 02:00"), at("2015-05-17T10:05:03Z"));
        assert!(time("from", Some("noon".to_owned())).is_err());
    }
}
