//! What is counted of those who come, by causes and by the names of tokens.

use forebay_actors::runtime::metrics::{counters, gauges};
use prometheus::{IntCounterVec, IntGaugeVec, Registry};

const NO_LABELS: &[&str] = &[];

/// Why somebody is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Without a token.
    Missing,
    /// With a token that nobody has.
    Unknown,
    /// With a token that was good once.
    Expired,
    /// With a token that may do something else.
    Scope,
    /// With a token in the address.
    Query,
    /// From a network that is not allowed.
    Network,
    /// With a token that is used too often.
    Rate,
}

/// What is counted; one for all listeners.
#[derive(Debug, Clone)]
pub struct SecurityMetrics {
    pub(super) accepted: IntCounterVec,
    refused: IntCounterVec,
    pub(super) reloads: IntCounterVec,
    /// Without labels, and as a family all the same: one that was never set is not shown, and 0 would be an alarm.
    expiry_seconds: IntGaugeVec,
}

impl Cause {
    /// Its label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Scope => "scope",
            Self::Query => "query_string",
            Self::Network => "network",
            Self::Rate => "rate",
        }
    }
}

impl SecurityMetrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Self {
        let counters = |name, help, labels| counters(registry, name, help, labels);
        Self {
            accepted: counters("forebay_auth_accepted_total", "Requests let in, by token", &["token"]),
            refused: counters("forebay_auth_refused_total", "Requests not let in, by cause", &["cause"]),
            reloads: counters(
                "forebay_security_file_reloads_total",
                "Changed files of certificates and tokens, by outcome: applied, failed",
                &["outcome"],
            ),
            expiry_seconds: gauges(
                registry,
                "forebay_tls_certificate_expiry_seconds",
                "Seconds until the listeners' certificate expires",
                &[],
            ),
        }
    }

    pub(super) fn refused(&self, cause: Cause) {
        self.refused.with_label_values(&[cause.as_str()]).inc();
    }

    pub(super) fn expiry(&self, seconds: i64) {
        self.expiry_seconds.with_label_values(NO_LABELS).set(seconds);
    }
}
