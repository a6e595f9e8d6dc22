//! Who is let in, by the head of a request: address, then token, scope and rate. Nothing of a body has been read then.

use std::{
    net::IpAddr,
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix_web::http::StatusCode;
use forebay_actors::runtime::clock::Clock;
use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota,
    clock::{Clock as _, DefaultClock},
};

use super::{
    metrics::{Cause, SecurityMetrics},
    route::Route,
    tokens::{Known, Tokens},
};
use crate::{
    api::error::{ApiError, Challenge},
    config::{AuthConfig, Network, PublicRoute, RefusalLimit, Scope, Secret},
    ingress::limits::{FORGET_EVERY, network, too_many},
};

/// Parameters in which people send tokens where they should not.
const TOKEN_PARAMETERS: [&str; 9] = [
    "token",
    "access_token",
    "auth_token",
    "api_key",
    "apikey",
    "api-key",
    "x-api-key",
    "authorization",
    "bearer",
];

/// Lines of the log about refusals a second, over all addresses: the counters have them all.
const LOGGED_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).expect("5 is not 0");

/// Decides about every request of every listener. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: RwLock<Arc<Rules>>,
    /// `admin.token`, which lets in where actors are brought down.
    admin: Option<Secret>,
    metrics: SecurityMetrics,
    logged: DefaultDirectRateLimiter,
    clock: Clock,
}

/// What is in force. Replaced as a whole.
#[derive(Debug)]
pub(super) struct Rules {
    tokens: Tokens,
    allow: Vec<Network>,
    public: Vec<PublicRoute>,
    limit: RefusalLimit,
    refusals: Arc<Refusals>,
}

/// How often addresses were refused.
#[derive(Debug)]
struct Refusals {
    limiter: Option<DefaultKeyedRateLimiter<IpAddr>>,
    count: AtomicU32,
}

/// Whose events these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    /// The key under which it is put on them.
    pub key: String,
    /// Its name.
    pub value: String,
}

/// Who asks, once he is let in.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    token: Option<(Gate, Arc<Known>)>,
    is_admin: bool,
}

// === impl Caller ===

impl Caller {
    /// Who was found to make this request; nobody in particular, where nobody was asked.
    pub fn of(extensions: &http::Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Whose events he sends, where his token says so.
    pub fn tenant(&self) -> Option<&Arc<Tenant>> {
        self.token.as_ref()?.1.tenant.as_ref()
    }

    /// Whether he may say of events when they arrived, and which ids they have: where nobody is asked who he is, anybody may.
    ///
    /// # Errors
    /// 403 where his token may only send.
    pub fn check_relay(&self) -> Result<(), ApiError> {
        let Some((gate, known)) = self.token.as_ref().filter(|(_, known)| !known.may(Scope::Relay)) else {
            return Ok(());
        };
        let message = format!(
            "the token {:?} may not hand on events with the time at which another accepted them (ingested_at), nor \
             requests of OpenTelemetry in a batch; the scope relay may",
            known.name
        );
        let error = ApiError::new(StatusCode::FORBIDDEN, "forbidden", message);
        let error = error.with_challenge(Challenge::Scope);
        Err(gate.refuse(&gate.rules(), None, Cause::Scope, Some(known), error))
    }

    /// Counts a further message of a call that was let in.
    ///
    /// # Errors
    /// 401 where his token is gone since or has expired, 429 where it is used too often.
    pub fn check_again(&self) -> Result<(), ApiError> {
        let Some((gate, known)) = &self.token else { return Ok(()) };
        let rules = gate.rules();
        let is_known = rules.tokens.has(known);
        if rules.tokens.is_on() && (!is_known || known.has_expired(gate.0.clock.now())) {
            let cause = if is_known { Cause::Expired } else { Cause::Unknown };
            return Err(gate.refuse(&rules, None, cause, Some(known), unauthorized()));
        }
        known.check_rate().map_err(|wait| {
            gate.0.metrics.refused(Cause::Rate);
            too_often(known, wait)
        })
    }

    /// The name of his token, where he has one.
    pub fn token_name(&self) -> Option<&str> {
        self.token.as_ref().map(|(_, known)| known.name.as_str())
    }

    /// Whether he said who he is; where nobody is asked, there is nothing to remember.
    pub fn is_somebody(&self) -> bool {
        self.token.is_some() || self.is_admin
    }

    /// Whether he may ask for the actors and bring them down.
    pub fn is_admin(&self) -> bool {
        self.is_admin
    }
}

// === impl Rules ===

impl Rules {
    /// As configured. Addresses that were refused often stay so where the limit is the same.
    pub(super) fn new(auth: &AuthConfig, tokens: Tokens, before: Option<&Self>) -> Self {
        let kept = before.filter(|before| before.limit == auth.refusals);
        let refusals = kept.map_or_else(|| Arc::new(Refusals::new(auth.refusals)), |b| b.refusals.clone());
        let (allow, public) = (auth.allow.clone(), auth.public.clone());
        Self { tokens, allow, public, limit: auth.refusals, refusals }
    }

    pub(super) fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    fn allows(&self, peer: Option<IpAddr>) -> bool {
        self.allow.is_empty()
            || peer.is_some_and(|peer| self.allow.iter().any(|network| network.contains(peer)))
    }
}

impl Refusals {
    fn new(limit: RefusalLimit) -> Self {
        let rate = NonZeroU32::new(limit.per_second).zip(NonZeroU32::new(limit.burst));
        let limiter = rate
            .map(|(rate, burst)| DefaultKeyedRateLimiter::keyed(Quota::per_second(rate).allow_burst(burst)));
        Self { limiter, count: AtomicU32::new(0) }
    }

    /// Counts one; how long to wait where it is one too many.
    fn check(&self, peer: Option<IpAddr>) -> Result<(), Duration> {
        let Some((limiter, peer)) = self.limiter.as_ref().zip(peer) else { return Ok(()) };
        if self.count.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            limiter.retain_recent();
        }
        let wait = limiter.check_key(&network(peer.to_canonical()));
        wait.map_err(|wait| wait.wait_time_from(DefaultClock::default().now()))
    }
}

// === impl Gate ===

impl Gate {
    pub(super) fn new(rules: Rules, admin: Option<Secret>, metrics: SecurityMetrics, clock: Clock) -> Self {
        let rules = RwLock::new(Arc::new(rules));
        let logged = DefaultDirectRateLimiter::direct(Quota::per_second(LOGGED_PER_SECOND));
        Self(Arc::new(Inner { rules, admin, metrics, logged, clock }))
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.0.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn put(&self, rules: Rules) {
        *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Lets a request in, or says why not. `header` gives the value of a header by its name in small letters, whatever
    /// kind of map it is in.
    ///
    /// # Errors
    /// 400 where a token stands in the query, 401 without a good token, 403 where it may not do this or the address is
    /// not allowed, 429 where it comes too often.
    pub fn admit<'h>(
        &self,
        peer: Option<IpAddr>,
        route: Route,
        query: Option<&str>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Caller, ApiError> {
        if self.asks_nobody(peer, route, query) {
            return Ok(Caller::default());
        }
        let rules = self.rules();
        if !rules.allows(peer) {
            let message = "this address is not among those that are let in (auth.allow)";
            let error = ApiError::new(StatusCode::FORBIDDEN, "address_not_allowed", message);
            return Err(self.refuse(&rules, peer, Cause::Network, None, error));
        }
        if let Some(name) = query.and_then(token_parameter) {
            let message = format!(
                "{name}: a token does not belong in the address, which proxies and logs keep; send it as \
                 `Authorization: Bearer …` or `x-api-key: …`, and replace this one, which others may have seen"
            );
            let error = ApiError::bad_request("token_in_query", message);
            return Err(self.refuse(&rules, peer, Cause::Query, None, error));
        }
        let sent = bearer(header("authorization")).or_else(|| header("x-api-key"));
        if route == Route::Admin
            && let (Some(admin), Some(sent)) = (&self.0.admin, sent)
            && admin.is(sent)
        {
            return Ok(Caller { token: None, is_admin: true });
        }
        self.with_token(&rules, peer, route, sent)
    }

    /// Whether the request is let in without a token. Looks at the rules where they are: most requests come by here, and the
    /// count of a copy would go from core to core with each.
    fn asks_nobody(&self, peer: Option<IpAddr>, route: Route, query: Option<&str>) -> bool {
        let rules = self.0.rules.read().unwrap_or_else(PoisonError::into_inner);
        let is_public =
            || route == Route::Preflight || route.public().is_some_and(|route| rules.public.contains(&route));
        rules.allows(peer)
            && query.and_then(token_parameter).is_none()
            && (!rules.tokens.is_on() || is_public())
    }

    fn with_token(
        &self,
        rules: &Rules,
        peer: Option<IpAddr>,
        route: Route,
        sent: Option<&[u8]>,
    ) -> Result<Caller, ApiError> {
        let found = sent.and_then(|sent| rules.tokens.find(sent));
        let Some(known) = found else {
            let cause = if sent.is_some() { Cause::Unknown } else { Cause::Missing };
            return Err(self.refuse(rules, peer, cause, None, unauthorized()));
        };
        if known.has_expired(self.0.clock.now()) {
            return Err(self.refuse(rules, peer, Cause::Expired, Some(known), unauthorized()));
        }
        let scopes = route.scopes();
        if !scopes.is_empty() && !scopes.iter().any(|scope| known.may(*scope)) {
            let wanted: Vec<_> = scopes.iter().map(|scope| scope.as_str()).collect();
            let message =
                format!("the token {:?} may not do this; the scope {} may", known.name, wanted.join(" or "));
            let error = ApiError::new(StatusCode::FORBIDDEN, "forbidden", message);
            let error = error.with_challenge(Challenge::Scope);
            return Err(self.refuse(rules, peer, Cause::Scope, Some(known), error));
        }
        if let Err(wait) = known.check_rate() {
            self.0.metrics.refused(Cause::Rate);
            return Err(too_often(known, wait));
        }
        known.accepted.inc();
        Ok(Caller { is_admin: route == Route::Admin, token: Some((self.clone(), known.clone())) })
    }

    /// Counts a refusal, and writes it down unless there are very many. Who is refused again and again is told to come
    /// less often; who has a good token is let in all the same, because many may stand behind one address, and a token
    /// cannot be guessed.
    fn refuse(
        &self,
        rules: &Rules,
        peer: Option<IpAddr>,
        cause: Cause,
        known: Option<&Arc<Known>>,
        error: ApiError,
    ) -> ApiError {
        self.0.metrics.refused(cause);
        if self.0.logged.check().is_ok() {
            let peer = peer.map_or("?".to_owned(), |peer| peer.to_canonical().to_string());
            let token = known.map(|known| known.name.as_str());
            tracing::warn!(peer, cause = cause.as_str(), token, "a request is not let in");
        }
        match rules.refusals.check(peer) {
            Ok(()) => error,
            Err(wait) => too_many("requests that are not let in", wait),
        }
    }
}

/// What follows `Bearer `.
fn bearer(header: Option<&[u8]>) -> Option<&[u8]> {
    let (scheme, token) = header?.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

/// The same for a wrong token, for one that has expired and for none: it says nothing about which it was.
fn unauthorized() -> ApiError {
    let message = "this needs a token, as `Authorization: Bearer …` or `x-api-key: …`";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).with_challenge(Challenge::Token)
}

fn too_often(known: &Known, wait: Duration) -> ApiError {
    too_many(&format!("the token {:?}", known.name), wait)
}

/// The parameter of a query in which a token is sent; never its value.
fn token_parameter(query: &str) -> Option<&'static str> {
    let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |(name, _)| name));
    names
        .filter_map(|name| TOKEN_PARAMETERS.into_iter().find(|known| known.eq_ignore_ascii_case(name)))
        .next()
}

#[cfg(test)]
mod tests;
