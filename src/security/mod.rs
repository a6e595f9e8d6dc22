//! Who may talk to the listeners, and how privately: one gate for all of them.
//!
//! - Owns: the tokens and networks in force, the certificate in force, and their files' last contents.
//! - Asked by: every server, with the head of each request before anything of its body is read.
//! - On failure: what is wrong with a new file is logged and counted, and what was in force stays so.
//! - Limits: refusals by address, requests by token.
//!
//! Tokens are 256 random bits, so their plain SHA-256 is kept: a slow function such as argon2 protects secrets that can be
//! guessed, and would cost every request its milliseconds. It is the address of the connection that counts;
//! `X-Forwarded-For` is whatever a client writes into it, and is not looked at.

pub mod exposure;
mod files;
mod gate;
mod metrics;
mod route;
pub mod tls;
pub mod token;
mod tokens;

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use forebay_actors::runtime::clock::Clock;
use prometheus::Registry;

use self::{
    files::{FILES_LOOK, Files},
    gate::Rules,
    tls::{Material, TlsError},
    tokens::{Tokens, TokensError},
};
pub use self::{
    gate::{Caller, Gate, Tenant},
    metrics::SecurityMetrics,
    route::Route,
    tls::Tls,
};
use crate::config::{AuthConfig, Config, TlsConfig};

/// Why the listeners cannot be protected as the configuration says.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Tokens.
    #[error(transparent)]
    Tokens(#[from] TokensError),
}

/// What protects the listeners. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Security(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    tls: Option<Tls>,
    metrics: SecurityMetrics,
    clock: Clock,
    /// Held while files are read or put in force, so that a look at them and a reload do not overtake each other.
    files: Mutex<Files>,
    configs: RwLock<(TlsConfig, AuthConfig)>,
    /// What is wrong with the files of `tls`: on its own, so that no probe waits for a file system.
    tls_problem: Mutex<Option<String>>,
}

/// What a new configuration comes to, with all its files read: to be put in force as a whole, or not at all.
#[derive(Debug)]
pub struct Prepared {
    config: (TlsConfig, AuthConfig),
    material: Option<(Material, files::Content)>,
    tokens: (Tokens, files::Content),
}

impl Security {
    /// Reads everything that the configuration names.
    ///
    /// # Errors
    /// What is wrong with a file, with its key.
    pub fn open(config: &Config, registry: &Registry, clock: Clock) -> Result<Self, SecurityError> {
        let metrics = SecurityMetrics::new(registry);
        let material = config.tls.is_on().then(|| tls::read(&config.tls)).transpose()?;
        let (tokens, tokens_content) = tokens::read(&config.auth, &metrics, None)?;
        let (material, tls_content) = material.unzip();
        let mut files = Files::default();
        files.tls.put(tls_content.unwrap_or_default());
        files.tokens.put(tokens_content);
        let admin = config.admin.token.clone().filter(|_| config.admin.chaos);
        let gate = Gate::new(Rules::new(&config.auth, tokens, None), admin, metrics.clone(), clock.clone());
        let tls = material.map(|material| Tls::new(material, &config.tls)).transpose()?;
        let configs = RwLock::new((config.tls.clone(), config.auth.clone()));
        let (files, tls_problem) = (Mutex::new(files), Mutex::default());
        let security = Self(Arc::new(Inner { gate, tls, metrics, clock, files, configs, tls_problem }));
        security.show_expiry();
        Ok(security)
    }

    /// Reads everything that the configuration names, and puts nothing in force.
    ///
    /// # Errors
    /// What is wrong with a file, with its key.
    pub fn examine(config: &Config) -> Result<(), SecurityError> {
        Self::open(config, &Registry::new(), Clock::system()).map(drop)
    }

    /// Who is asked about requests.
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// The listeners' TLS, where they speak it.
    pub fn tls(&self) -> Option<&Tls> {
        self.0.tls.as_ref()
    }

    /// Reads what a new configuration names.
    ///
    /// # Errors
    /// What is wrong with a file, with its key; nothing has changed then.
    pub fn prepare(&self, config: &Config) -> Result<Prepared, SecurityError> {
        let inner = &self.0;
        let (tls, _) = self.configs();
        // What cannot change while the process runs is said to need a restart, and stays.
        let tls = if tls.can_become(&config.tls) { config.tls.clone() } else { tls };
        let material = tls.is_on().then(|| tls::read(&tls)).transpose()?;
        let known = inner.gate.rules();
        let tokens = tokens::read(&config.auth, &inner.metrics, Some(known.tokens()))?;
        Ok(Prepared { config: (tls, config.auth.clone()), material, tokens })
    }

    /// Puts in force what was prepared.
    pub fn put(&self, prepared: Prepared) {
        let inner = &self.0;
        let mut files = inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Prepared { config, material, tokens: (tokens, content) } = prepared;
        let known = inner.gate.rules();
        inner.gate.put(Rules::new(&config.1, tokens, Some(&known)));
        files.tokens.put(content);
        if let (Some(tls), Some((material, content))) = (&inner.tls, material) {
            tls.put(material);
            files.tls.put(content);
        }
        *inner.configs.write().unwrap_or_else(PoisonError::into_inner) = config;
        self.note_problem(&files);
        drop(files);
        self.show_expiry();
    }

    /// Looks at the files again and again, until it is dropped.
    pub async fn watch(self) {
        let mut warned = None;
        loop {
            tokio::time::sleep(FILES_LOOK).await;
            let security = self.clone();
            // Files may lie on a network.
            let looked = tokio::task::spawn_blocking(move || security.look()).await;
            if looked.is_err() {
                tracing::error!("looking at the files of tls and auth panicked; it is tried again");
            }
            self.warn_of_expiry(&mut warned);
        }
    }

    /// Puts in force what has changed in the files.
    fn look(&self) {
        let inner = &self.0;
        let mut files = inner.files.lock().unwrap_or_else(PoisonError::into_inner);
        let (tls_config, auth) = self.configs();
        if let Some(tls) = &inner.tls {
            let content = tls::content(&tls_config);
            files.tls.follow(content, "the certificate", &inner.metrics.reloads, || {
                tls::read(&tls_config).map(|(material, content)| {
                    tls.put(material);
                    content
                })
            });
        }
        if auth.tokens_file.is_some() {
            let content = tokens::content(&auth);
            files.tokens.follow(content, "the file of tokens", &inner.metrics.reloads, || {
                let known = inner.gate.rules();
                tokens::read(&auth, &inner.metrics, Some(known.tokens())).map(|(tokens, content)| {
                    inner.gate.put(Rules::new(&auth, tokens, Some(&known)));
                    content
                })
            });
        }
        self.note_problem(&files);
        drop(files);
        self.show_expiry();
    }

    fn note_problem(&self, files: &Files) {
        let problem = files.tls.problem().map(str::to_owned);
        *self.0.tls_problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    fn configs(&self) -> (TlsConfig, AuthConfig) {
        self.0.configs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn show_expiry(&self) {
        if let Some(tls) = &self.0.tls {
            self.0.metrics.expiry(tls.expires_in_seconds(self.0.clock.now()));
        }
    }

    /// Once a day, or where the certificate is another one.
    fn warn_of_expiry(&self, warned: &mut Option<i64>) {
        let Some(tls) = &self.0.tls else { return };
        let left = tls.expires_in_seconds(self.0.clock.now());
        let days = left.div_euclid(24 * 3600);
        if left as f64 > self.configs().0.expiry_warning.as_secs_f64() {
            *warned = None;
        } else if warned.replace(days) != Some(days) {
            let file = self.configs().0.cert_file.unwrap_or_default();
            match left {
                ..=0 => {
                    tracing::error!(file = %file.display(), "the certificate has expired: clients refuse it")
                }
                _ => tracing::warn!(file = %file.display(), days, "the certificate expires soon"),
            }
        }
    }

    /// What `/health` says of the certificate; `None` where there is none.
    pub fn health(&self) -> Option<serde_json::Value> {
        let tls = self.0.tls.as_ref()?;
        let left = tls.expires_in_seconds(self.0.clock.now());
        let problem = self.0.tls_problem.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let soon = left as f64 <= self.configs().0.expiry_warning.as_secs_f64();
        let status = if left <= 0 {
            "unhealthy"
        } else if soon || problem.is_some() {
            "degraded"
        } else {
            "healthy"
        };
        Some(serde_json::json!({
            "status": status,
            "certificate_expires": tls.expires().to_string(),
            "certificate_expires_in_seconds": left,
            "error": problem,
        }))
    }
}
