//! Rate limits by class of route: for each client address, and over all clients.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use actix_web::http::StatusCode;
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, clock::Clock as _};

use crate::{
    api::error::ApiError,
    config::{LimitsConfig, RateLimit},
};

/// Requests between two rounds of forgetting clients that have long been silent: it keeps the table as small as the
/// number of clients that were active in the last of these rounds.
pub(crate) const FORGET_EVERY: u32 = 10_000;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteClass {
    /// `POST /events`.
    Ingest,
    /// `GET /events…`.
    Query,
    /// Health and metrics.
    Health,
}

/// The limits in force. Replaced as a whole on a reload; counts begin anew then.
#[derive(Debug, Clone)]
pub struct Limits(Arc<RwLock<Classes>>);

#[derive(Debug)]
struct Classes {
    ingest: Option<Limit>,
    query: Option<Limit>,
    health: Option<Limit>,
}

#[derive(Debug)]
struct Limit {
    global: Option<DefaultDirectRateLimiter>,
    per_client: Option<DefaultKeyedRateLimiter<IpAddr>>,
    requests: AtomicU32,
}

impl Limits {
    /// As configured.
    pub fn new(config: &LimitsConfig) -> Self {
        Self(Arc::new(RwLock::new(Classes::new(config))))
    }

    /// Puts new limits in force.
    pub fn replace(&self, config: &LimitsConfig) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Classes::new(config);
    }

    /// Counts a request.
    ///
    /// # Errors
    /// 429 with `Retry-After` where it is one too many.
    pub fn check(&self, class: RouteClass, client: Option<IpAddr>) -> Result<(), ApiError> {
        let classes = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let limit = match class {
            RouteClass::Ingest => &classes.ingest,
            RouteClass::Query => &classes.query,
            RouteClass::Health => &classes.health,
        };
        limit.as_ref().map_or(Ok(()), |limit| limit.check(client))
    }
}

impl Classes {
    fn new(config: &LimitsConfig) -> Self {
        let limit = |limit: &Option<RateLimit>| limit.as_ref().map(Limit::new);
        Self { ingest: limit(&config.ingest), query: limit(&config.query), health: limit(&config.health) }
    }
}

impl Limit {
    fn new(limit: &RateLimit) -> Self {
        let burst = limit.burst.and_then(NonZeroU32::new);
        let quota = |rate: Option<u32>| {
            rate.and_then(NonZeroU32::new)
                .map(|rate| Quota::per_second(rate).allow_burst(burst.unwrap_or(rate)))
        };
        Self {
            global: quota(limit.global_per_second).map(DefaultDirectRateLimiter::direct),
            per_client: quota(limit.per_client_per_second).map(DefaultKeyedRateLimiter::keyed),
            requests: AtomicU32::new(0),
        }
    }

    fn check(&self, client: Option<IpAddr>) -> Result<(), ApiError> {
        if let Some((clients, address)) = self.per_client.as_ref().zip(client.map(network)) {
            if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
                clients.retain_recent();
            }
            clients.check_key(&address).map_err(|wait| {
                too_many("this client", wait.wait_time_from(governor::clock::DefaultClock::default().now()))
            })?;
        }
        if let Some(global) = &self.global {
            global.check().map_err(|wait| {
                too_many(
                    "all clients together",
                    wait.wait_time_from(governor::clock::DefaultClock::default().now()),
                )
            })?;
        }
        Ok(())
    }
}

/// Who has one IPv6 address has a whole /64 of them.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
    }
}

pub(crate) fn too_many(who: &str, wait: Duration) -> ApiError {
    let message = format!("the rate limit of {who} is reached");
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", message).with_retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(per_client: Option<u32>, global: Option<u32>) -> Limits {
        let limit =
            RateLimit { per_client_per_second: per_client, global_per_second: global, burst: Some(2) };
        Limits::new(&LimitsConfig { ingest: Some(limit), query: None, health: None })
    }

    /// A client that asks too often is refused alone; other classes and clients are not touched.
    #[test]
    fn one_client_is_limited_alone() {
        let limits = limits(Some(1), None);
        let (a, b): (IpAddr, IpAddr) = ("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap());
        let refused = (0..5).filter(|_| limits.check(RouteClass::Ingest, Some(a)).is_err()).count();
        assert_eq!(refused, 3);
        limits.check(RouteClass::Ingest, Some(b)).unwrap();
        limits.check(RouteClass::Query, Some(a)).unwrap();
        limits.replace(&LimitsConfig::default());
        limits.check(RouteClass::Ingest, Some(a)).unwrap();
    }

    /// The global limit counts all clients, and one network of IPv6 is one client.
    #[test]
    fn all_clients_are_limited_together() {
        let limits = limits(None, Some(1));
        let client = |n: u8| Some(IpAddr::from([127, 0, 0, n]));
        let refused = (0..5).filter(|&n| limits.check(RouteClass::Ingest, client(n)).is_err()).count();
        assert_eq!(refused, 3);
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let two: IpAddr = "2001:db8::ffff:2".parse().unwrap();
        assert_eq!(network(one), network(two));
    }
}
