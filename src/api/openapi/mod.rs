//! `/openapi.json` and `/docs`: what can be asked of the process, for programs and for people.
//!
//! The document is made by the code: answers are described by the types in [`answers`], OpenTelemetry's messages by the table
//! that reads them, and which paths there are by [`super::server::ROUTES`]. The page is one file that needs no other.

pub mod answers;
mod operations;
mod otlp;
mod page;

use std::net::SocketAddr;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use bytes::Bytes;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathsBuilder,
    path::PathItemBuilder,
    security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    server::ServerBuilder,
    tag::TagBuilder,
};

use super::{error::ApiError, server::Shared};
use crate::ingress::limits::RouteClass;

/// The name of the scheme of tokens.
const BEARER: &str = "bearer";

/// The document and the page, as they are sent.
#[derive(Debug, Clone)]
pub struct Documentation {
    json: Bytes,
    page: page::Page,
}

impl Documentation {
    /// Of a process that takes OpenTelemetry at these addresses, and may have a route to bring actors down.
    pub fn new(otlp: &[SocketAddr], has_admin: bool) -> Self {
        let document = document(otlp, has_admin);
        let json = document.to_json().expect("a document is made of texts and numbers");
        Self { json: json.into(), page: page::Page::new() }
    }
}

/// What can be asked, in OpenAPI 3.1.
pub fn document(otlp: &[SocketAddr], has_admin: bool) -> OpenApi {
    let mut paths = PathsBuilder::new();
    for (path, methods) in operations::all(has_admin) {
        let item = methods
            .into_iter()
            .fold(PathItemBuilder::new(), |item, (method, operation)| item.operation(method, operation));
        paths = paths.path(path, item.build());
    }
    let mut components = answers::schemas(ComponentsBuilder::new());
    if !otlp.is_empty() {
        for (path, item) in otlp::paths(otlp) {
            paths = paths.path(path, item);
        }
        components = otlp::schemas(components);
    }
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(
        "A token. Where the configuration asks for none, none is needed; the routes below `/admin` always want theirs.",
    ));
    let components = components.security_scheme(BEARER, SecurityScheme::Http(bearer.build())).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Forebay")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(DESCRIPTION))
                .license(Some(
                    LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build(),
                ))
                .build(),
        )
        .servers(Some([ServerBuilder::new().url("/").description(Some("This process")).build()]))
        .paths(paths.build())
        .components(Some(components))
        .security(Some([SecurityRequirement::default(), SecurityRequirement::new(BEARER, [] as [&str; 0])]))
        .tags(Some(TAGS.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())))
        .build()
}

const DESCRIPTION: &str = "A durable event and telemetry relay. A success answer to events means that they are on disk.\n\n\
    Every error of this port is `{\"error\": {\"code\", \"message\", \"details\"}}`: `code` is for programs and does not change, \
    `message` says what is wrong, where, and what would be right. An error that passes by itself has `Retry-After`.";

const TAGS: [(&str, &str); 6] = [
    ("events", "Events in, and questions to the event store."),
    (
        "opentelemetry",
        "OpenTelemetry over HTTP, on ports of its own, which also take gRPC. An error is a `google.rpc.Status` in the encoding of the request.",
    ),
    ("health", "How it is."),
    ("metrics", "Numbers for Prometheus."),
    ("documentation", "This."),
    ("admin", "Faults on purpose, where `admin.chaos` is on."),
];

/// The document.
///
/// # Errors
/// 429.
pub async fn json(
    request: HttpRequest,
    shared: web::Data<Shared>,
    documentation: web::Data<Documentation>,
) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    Ok(HttpResponse::Ok().content_type("application/json").body(documentation.json.clone()))
}

/// The page.
///
/// # Errors
/// 429.
pub async fn docs(
    request: HttpRequest,
    shared: web::Data<Shared>,
    documentation: web::Data<Documentation>,
) -> Result<HttpResponse, ApiError> {
    check(&request, &shared)?;
    Ok(HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CONTENT_SECURITY_POLICY, documentation.page.policy.clone()))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"))
        .body(documentation.page.html))
}

fn check(request: &HttpRequest, shared: &Shared) -> Result<(), ApiError> {
    shared.limits.check(RouteClass::Health, request.peer_addr().map(|peer| peer.ip()))
}
