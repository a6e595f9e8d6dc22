//! What a request is for, by its method and path, over all listeners.

use crate::config::{PublicRoute, Scope};

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Sending events, in whatever protocol.
    Ingest,
    /// Asking for events.
    Query,
    /// Asking for the actors, and bringing them down.
    Admin,
    /// Probes.
    Health,
    /// What Prometheus reads.
    Metrics,
    /// What the interfaces are.
    Docs,
    /// What a browser asks before it sends, which it does without a token.
    Preflight,
    /// Anything else, of which there is nothing.
    Other,
}

impl Route {
    /// Of a request. The path must be the one by which the server finds who answers, so that there is no second way of
    /// writing it.
    pub fn of(method: &str, path: &str) -> Self {
        if method == "OPTIONS" {
            return Self::Preflight;
        }
        // As many as there are: whoever answers calls is as generous.
        let path = path.trim_start_matches('/');
        let (first, rest) = path.split_once('/').unwrap_or((path, ""));
        match first {
            "events" if rest.is_empty() && method == "POST" => Self::Ingest,
            "events" => Self::Query,
            "v1" => Self::Ingest,
            "admin" => Self::Admin,
            "health" | "live" | "ready" => Self::Health,
            "metrics" => Self::Metrics,
            "docs" | "openapi.json" => Self::Docs,
            _ => Self::of_call(first, rest),
        }
    }

    /// Of a call of gRPC.
    fn of_call(service: &str, method: &str) -> Self {
        match (service, method) {
            ("grpc.health.v1.Health", _) | ("forebay.ingest.v1.IngestService", "HealthCheck") => Self::Health,
            ("forebay.ingest.v1.IngestService", _) => Self::Ingest,
            (service, _) if service.starts_with("opentelemetry.proto.collector.") => Self::Ingest,
            (service, _) if service.starts_with("grpc.reflection.") => Self::Docs,
            _ => Self::Other,
        }
    }

    /// By which name it may be open to all.
    pub(super) fn public(self) -> Option<PublicRoute> {
        match self {
            Self::Health => Some(PublicRoute::Health),
            Self::Metrics => Some(PublicRoute::Metrics),
            Self::Docs => Some(PublicRoute::Docs),
            Self::Ingest | Self::Query | Self::Admin | Self::Preflight | Self::Other => None,
        }
    }

    /// The scopes of which a token needs one; any token will do where there is none.
    pub(super) fn scopes(self) -> &'static [Scope] {
        match self {
            Self::Ingest => &[Scope::Ingest, Scope::Relay],
            Self::Query => &[Scope::Query],
            Self::Admin => &[Scope::Admin],
            Self::Metrics => &[Scope::Metrics, Scope::Query],
            Self::Health | Self::Docs | Self::Preflight | Self::Other => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_known_by_their_paths() {
        for (method, path, route) in [
            ("POST", "/events", Route::Ingest),
            ("GET", "/events", Route::Query),
            ("POST", "/events/", Route::Ingest),
            ("POST", "/events/stats", Route::Query),
            ("GET", "/events/some-id", Route::Query),
            ("POST", "/v1/logs", Route::Ingest),
            ("GET", "/health/ready", Route::Health),
            ("GET", "/live", Route::Health),
            ("GET", "/metrics", Route::Metrics),
            ("POST", "/admin/actors/buffer/kill", Route::Admin),
            ("GET", "/openapi.json", Route::Docs),
            ("GET", "/docs/page.js", Route::Docs),
            ("POST", "/opentelemetry.proto.collector.logs.v1.LogsService/Export", Route::Ingest),
            ("POST", "/forebay.ingest.v1.IngestService/SendBatch", Route::Ingest),
            ("POST", "/forebay.ingest.v1.IngestService/HealthCheck", Route::Health),
            ("POST", "//forebay.ingest.v1.IngestService/SendBatch", Route::Ingest),
            ("POST", "/grpc.health.v1.Health/Watch", Route::Health),
            ("POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Route::Docs),
            ("GET", "/", Route::Other),
            ("GET", "", Route::Other),
            ("OPTIONS", "*", Route::Preflight),
            ("OPTIONS", "/v1/logs", Route::Preflight),
            ("GET", "/eventsandmore", Route::Other),
        ] {
            assert_eq!(Route::of(method, path), route, "{method} {path}");
        }
    }
}
