//! Asks the gate about each request, before anything of its body is read.

use actix_web::{
    Error, HttpMessage as _, ResponseError as _,
    dev::{Service, ServiceRequest, ServiceResponse},
    http::header::HeaderValue,
};
use futures::future::{Either, ready};

use crate::security::{Gate, Route};

/// Passes a request on with its [`Caller`](crate::security::Caller) among its extensions, or answers it; to be wrapped
/// around all routes.
pub fn ask<S>(
    gate: &Gate,
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse, Error>> + use<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse, Error = Error>,
{
    let admitted = {
        let (head, headers) = (request.head(), request.headers());
        // As the router sees it: what is written with `%` is undone there.
        let route = Route::of(head.method.as_str(), request.match_info().as_str());
        let header = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        gate.admit(request.peer_addr().map(|peer| peer.ip()), route, head.uri.query(), header)
    };
    match admitted {
        Ok(caller) => {
            if caller.is_somebody() {
                request.extensions_mut().insert(caller);
            }
            Either::Left(service.call(request))
        }
        // Its body is not read, so nothing can follow on the connection.
        Err(error) => Either::Right(ready(Ok(request.into_response(error.closing().error_response())))),
    }
}
