//! `/admin/actors`: the tree of actors, and faults on purpose for chaos tools. Only where `admin.chaos` is on, and only
//! for who has the token, or one of `auth.tokens` with the scope `admin`; elsewhere these paths are nothing.

use std::time::Duration;

use actix_web::{
    HttpMessage as _, HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{AUTHORIZATION, HeaderValue, WWW_AUTHENTICATE},
    },
    web,
};
use forebay_actors::{health::Watched, record::SinkName, runtime::fault::Fault};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    error::{ApiError, method_not_allowed},
    server::Shared,
};
use crate::{
    config::{AdminConfig, Secret, parse_duration},
    security::Caller,
};

/// The longest stall that can be asked for: whoever means more means an outage, and stops the process.
const STALL_MAX: Duration = Duration::from_secs(600);

/// What can be done to an actor.
const FAULTS: &str = "kill, panic and stall?for=5s";

/// Who may bring down whom.
#[derive(Debug, Clone)]
pub struct Admin {
    token: Secret,
    watched: Watched,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultQuery {
    r#for: Option<String>,
}

impl Admin {
    /// What the configuration allows; `None` where it allows nothing.
    pub fn new(config: &AdminConfig, watched: Watched) -> Option<Self> {
        let token = config.token.clone().filter(|_| config.chaos)?;
        Some(Self { token, watched })
    }

    /// Whether the request carries the token, or the gate has found one that is as good.
    fn lets_in(&self, request: &HttpRequest) -> bool {
        if request.extensions().get::<Caller>().is_some_and(Caller::is_admin) {
            return true;
        }
        let sent = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let token = sent.and_then(|sent| {
            let (scheme, token) = sent.split_at_checked(b"Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
        });
        token.is_some_and(|token| self.token.is(token))
    }
}

/// The paths, where they are allowed.
pub fn routes(app: &mut web::ServiceConfig) {
    let actors = web::resource("/admin/actors")
        .route(web::get().to(actors))
        .default_service(web::to(|request| method_not_allowed(request, "GET")));
    let fault = web::resource("/admin/actors/{name}/{fault}")
        .route(web::post().to(inject))
        .default_service(web::to(|request| method_not_allowed(request, "POST")));
    app.service(actors).service(fault);
}

/// Every actor: its state, its restarts, its mailbox; and how far each sink has come.
async fn actors(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, ApiError> {
    let Some(admin) = allowed(&request, &shared) else { return Ok(unauthorized()) };
    let end = shared.view.journal.span().end;
    let actors = admin.watched.all().into_iter().map(|(child, sink)| {
        let mut actor = json!({
            "name": child.name(),
            "state": child.state().as_str(),
            "restarts": child.restarts(),
            "mailbox": { "messages": child.waiting().max(0), "capacity": child.capacity() },
            "messages_handled": child.handled(),
        });
        if let Some(sink) = sink {
            let (report, name) = (sink.report(), child.name().trim_start_matches("sink:"));
            // From the cursor itself: a sink that was just built has not reported yet. Who takes from a queue has none.
            let next = shared.view.cursors.get(&SinkName::from(name)).next;
            let lag_events = if shared.view.journal.usage().backlog.is_some() {
                report.lag_events
            } else {
                end.since(next)
            };
            actor["sink"] = json!({
                "state": report.state,
                "breaker": report.breaker,
                "next": next,
                "lag_events": lag_events,
                "retry_attempts": report.retry_attempts,
                "error": report.error,
            });
        }
        actor
    });
    Ok(HttpResponse::Ok().json(json!({ "journal_end": end, "actors": actors.collect::<Value>() })))
}

/// Brings one actor down.
async fn inject(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    shared: web::Data<Shared>,
) -> Result<HttpResponse, ApiError> {
    let Some(admin) = allowed(&request, &shared) else { return Ok(unauthorized()) };
    let (name, fault) = path.into_inner();
    let stall_for = stall_for(&request)?;
    let fault = match (fault.as_str(), stall_for) {
        ("kill", None) => Fault::Stop,
        ("panic", None) => Fault::Panic,
        ("stall", Some(time)) => Fault::Stall(time),
        ("stall", None) => return Err(bad_for("is missing")),
        ("kill" | "panic", Some(_)) => return Err(bad_for("is only of use with stall")),
        (other, _) => {
            let message = format!("{other:?} is nothing that can be done to an actor; {FAULTS} are");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "fault_not_found", message));
        }
    };
    let children = admin.watched.all();
    let Some((child, _)) = children.iter().find(|(child, _)| child.name() == name) else {
        let names: Vec<_> = children.iter().map(|(child, _)| child.name()).collect();
        let message = format!("there is no actor {name:?}; there are {}", names.join(", "));
        let error = ApiError::new(StatusCode::NOT_FOUND, "actor_not_found", message);
        return Err(error.with_details(json!({ "actors": names })));
    };
    tracing::warn!(actor = name, ?fault, "a fault was asked for over HTTP");
    // Asked first: the actor may be down before this thread goes on.
    let restarts_before = child.restarts();
    child.inject(fault);
    Ok(HttpResponse::Accepted().json(json!({ "actor": name, "restarts_before": restarts_before })))
}

/// How long to stall, where that is said.
fn stall_for(request: &HttpRequest) -> Result<Option<Duration>, ApiError> {
    let query = web::Query::<FaultQuery>::from_query(request.query_string());
    let query = query.map_err(|e| ApiError::bad_request("invalid_parameter", e.to_string()))?;
    let Some(text) = query.into_inner().r#for else { return Ok(None) };
    match parse_duration(&text) {
        Some(time) if !time.is_zero() && time <= STALL_MAX => Ok(Some(time)),
        Some(_) => Err(bad_for(&format!("is {text:?}"))),
        None => Err(bad_for(&format!("is {text:?}, which is no time"))),
    }
}

fn bad_for(what: &str) -> ApiError {
    let most = STALL_MAX.as_secs() / 60;
    let message = format!("for: {what}; 250ms, 5s or 1m are times, up to {most}m, as in stall?for=5s");
    ApiError::bad_request("invalid_parameter", message).with_details(json!({ "parameter": "for" }))
}

fn allowed<'a>(request: &HttpRequest, shared: &'a Shared) -> Option<&'a Admin> {
    shared.admin.as_ref().filter(|admin| admin.lets_in(request))
}

/// The same for a wrong token as for none: it says nothing about which it was.
fn unauthorized() -> HttpResponse {
    let message = "this needs the configuration's admin.token, as Authorization: Bearer …";
    let error = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message);
    let mut response = actix_web::ResponseError::error_response(&error);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"forebay\""));
    response
}
