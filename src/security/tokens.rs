//! The tokens in force.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use forebay_actors::event::Timestamp;
use governor::{DefaultDirectRateLimiter, Quota, clock::Clock as _};
use prometheus::IntCounter;
use subtle::ConstantTimeEq as _;

use super::{
    files::{self, Content},
    gate::Tenant,
    metrics::SecurityMetrics,
    token::sha256,
};
use crate::config::{AuthConfig, Scope, TokenConfig, TokenLimits, TokensFile};

/// What is wrong with `auth.tokens_file`.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    /// It cannot be read, or what it says is wrong.
    #[error("auth.tokens_file: {0}")]
    File(String),
    /// A token stands in both places.
    #[error(
        "auth.tokens_file: {file}: the {what} of the token {name:?} is that of another in auth.tokens too; \
         give each its own"
    )]
    Twice {
        /// The file.
        file: String,
        /// Its name in the file.
        name: String,
        /// What they have in common.
        what: &'static str,
    },
}

/// One token.
#[derive(Debug)]
pub(super) struct Known {
    pub name: String,
    pub tenant: Option<Arc<Tenant>>,
    pub accepted: IntCounter,
    hash: [u8; 32],
    scopes: Vec<Scope>,
    expires: Option<Timestamp>,
    limits: Option<TokenLimits>,
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// By the first bytes of the hash. How long this takes says something about these bytes of a hash that the asker
    /// cannot choose; the rest is compared in a time that says nothing.
    by_hash: HashMap<[u8; 8], Vec<Arc<Known>>>,
    is_on: bool,
}

impl Known {
    fn new(
        config: &TokenConfig,
        hash: [u8; 32],
        tenant_key: &str,
        metrics: &SecurityMetrics,
        before: Option<&Tokens>,
    ) -> Self {
        // Whoever has used up its rate does not get it back by a reload.
        let before = before.and_then(|tokens| tokens.of_hash(&hash));
        let limiter = config.limits.and_then(|limits| {
            let kept = before.filter(|before| before.limits == Some(limits));
            kept.and_then(|before| before.limiter.clone()).or_else(|| limiter(limits))
        });
        let tenant = config.tenant.clone();
        Self {
            name: config.name.clone(),
            tenant: tenant.map(|value| Arc::new(Tenant { key: tenant_key.to_owned(), value })),
            accepted: metrics.accepted.with_label_values(&[config.name.as_str()]),
            hash,
            scopes: config.scopes.clone(),
            expires: config.expiry().ok().flatten(),
            limits: config.limits,
            limiter,
        }
    }

    pub(super) fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Counts a request; how long to wait where it is one too many.
    pub(super) fn check_rate(&self) -> Result<(), Duration> {
        let Some(limiter) = &self.limiter else { return Ok(()) };
        let now = || governor::clock::DefaultClock::default().now();
        limiter.check().map_err(|wait| wait.wait_time_from(now()))
    }
}

fn limiter(limits: TokenLimits) -> Option<Arc<DefaultDirectRateLimiter>> {
    let rate = NonZeroU32::new(limits.per_second)?;
    let burst = limits.burst.and_then(NonZeroU32::new).unwrap_or(rate);
    Some(Arc::new(DefaultDirectRateLimiter::direct(Quota::per_second(rate).allow_burst(burst))))
}

impl Tokens {
    /// Whether anybody is asked who he is. With a file of tokens that is empty, nobody is let in.
    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whose token this is.
    pub(super) fn find(&self, token: &[u8]) -> Option<&Arc<Known>> {
        self.of_hash(&sha256(token))
    }

    /// Whether this one is still among them.
    pub(super) fn has(&self, known: &Known) -> bool {
        self.of_hash(&known.hash).is_some()
    }

    fn of_hash(&self, hash: &[u8; 32]) -> Option<&Arc<Known>> {
        let candidates = self.by_hash.get(&hash[..8])?;
        candidates.iter().find(|known| known.hash.ct_eq(hash).into())
    }

    fn names(&self) -> BTreeSet<&str> {
        self.by_hash.values().flatten().map(|known| known.name.as_str()).collect()
    }
}

/// What the file of tokens holds.
pub(super) fn content(auth: &AuthConfig) -> Content {
    Content::of(auth.tokens_file.as_deref())
}

/// The tokens of the configuration and of its file.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn read(
    auth: &AuthConfig,
    metrics: &SecurityMetrics,
    before: Option<&Tokens>,
) -> Result<(Tokens, Content), TokensError> {
    // First: what changes while it is read is then seen as a change.
    let content = content(auth);
    let mut all: Vec<&TokenConfig> = auth.tokens.iter().collect();
    let file = auth.tokens_file.as_ref().map(|path| {
        let bytes = files::read(path).map_err(TokensError::File)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| TokensError::File(format!("{}: it is not UTF-8", path.display())))?;
        let environment = |name: &str| std::env::var(name).ok();
        let file = TokensFile::parse(&text, path, &environment);
        file.map_err(|error| TokensError::File(error.to_string()))
    });
    let file = file.transpose()?;
    if let Some((file, path)) = file.as_ref().zip(auth.tokens_file.as_ref()) {
        for token in &file.tokens {
            let same_name = auth.tokens.iter().any(|other| other.name == token.name);
            let same_hash = auth.tokens.iter().any(|other| other.hash.bytes() == token.hash.bytes());
            if same_name || same_hash {
                let what = if same_name { "name" } else { "hash" };
                let (file, name) = (path.display().to_string(), token.name.clone());
                return Err(TokensError::Twice { file, name, what });
            }
        }
        all.extend(&file.tokens);
    }
    let mut tokens = Tokens { is_on: auth.is_on(), ..Tokens::default() };
    let mut names = BTreeSet::new();
    for config in all {
        // Checked with the configuration.
        let Some(hash) = config.hash.bytes() else { continue };
        let known = Arc::new(Known::new(config, hash, &auth.tenant_key, metrics, before));
        names.insert(config.name.as_str());
        let prefix = std::array::from_fn(|at| hash[at]);
        tokens.by_hash.entry(prefix).or_default().push(known);
    }
    // A token that is gone is not counted for ever.
    for gone in before.map(Tokens::names).unwrap_or_default() {
        if !names.contains(gone) {
            let _ = metrics.accepted.remove_label_values(&[gone]);
        }
    }
    Ok((tokens, content))
}
