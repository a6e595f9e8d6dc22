//! Ends connections whose client never ends its body.
//!
//! actix-http answers before a body has come to its end, and then reads the rest of a chunked one for ever, with no timer
//! running: the connection of a client that sends no further chunk would never be free again. It closes the connection
//! where whoever reads the body still holds it when the answer has been sent; so the answer holds it here.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use actix_web::{
    Error,
    body::{BodySize, BoxBody, MessageBody},
    dev::{Payload, Service, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header::TRANSFER_ENCODING,
};
use bytes::Bytes;
use futures::{FutureExt as _, Stream, StreamExt as _, future::Either};

/// The body of a request, for whoever reads it and for the answer.
#[derive(Clone)]
struct Held(Rc<RefCell<Payload>>);

/// The body of an answer, with that of its request.
struct Holding {
    body: BoxBody,
    _request: Held,
}

/// Passes a request on, and holds its body until it is answered; to be wrapped around all routes.
pub fn hold<S>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse, Error>> + use<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse, Error = Error>,
{
    // A body with a length is closed upon by actix-http itself.
    if !request.headers().contains_key(TRANSFER_ENCODING) {
        return Either::Left(service.call(request));
    }
    let (request, body) = request.into_parts();
    let held = Held(Rc::new(RefCell::new(body)));
    let body: Payload = Payload::Stream { payload: Box::pin(held.clone()) };
    let answered = service.call(ServiceRequest::from_parts(request, body)).map(move |answer| {
        answer.map(|answer| answer.map_body(|_, body| BoxBody::new(Holding { body, _request: held })))
    });
    Either::Right(answered)
}

impl Stream for Held {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next_unpin(cx)
    }
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}
