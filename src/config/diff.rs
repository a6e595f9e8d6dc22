//! What is different between two configurations, by what it takes to apply it.

use super::{Config, LogConfig};

/// The differences of a new configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Sinks that the new one has in addition.
    pub sinks_added: Vec<String>,
    /// Sinks that it has no more.
    pub sinks_removed: Vec<String>,
    /// Sinks that it describes differently. Their cursors go on.
    pub sinks_changed: Vec<String>,
    /// Keys that can be applied while everything runs.
    pub live: Vec<&'static str>,
    /// Keys that take effect at the next start.
    pub needs_restart: Vec<&'static str>,
}

impl Changes {
    /// Whether nothing is different.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Config {
    /// What is different in `new`.
    pub fn diff(&self, new: &Self) -> Changes {
        // Taken apart whole, so that a key added later cannot be forgotten here.
        let Self {
            data_dir,
            shutdown_timeout,
            log: LogConfig { level, format },
            http,
            otlp,
            ingest,
            tls,
            auth,
            buffer,
            batch,
            retention,
            limits,
            supervisor,
            dead_letters,
            admin,
            sinks,
        } = self;
        // Whoever has another's destination has a new one with it.
        let is_changed = |name: &str| {
            let (own, new) = (sinks.get(name), new.sinks.get(name));
            own.is_some() && new.is_some() && own != new
        };
        let names = |keys: &[(&'static str, bool)]| {
            keys.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect()
        };
        Changes {
            sinks_added: new.sinks.keys().filter(|name| !sinks.contains_key(*name)).cloned().collect(),
            sinks_removed: sinks.keys().filter(|name| !new.sinks.contains_key(*name)).cloned().collect(),
            sinks_changed: sinks
                .iter()
                .filter(|(name, sink)| {
                    let of_another = sink.standbys().any(|(_, to)| is_changed(to));
                    is_changed(name) || new.sinks.contains_key(*name) && of_another
                })
                .map(|(name, _)| name.clone())
                .collect(),
            live: names(&[
                ("log.level", *level != new.log.level),
                ("limits", *limits != new.limits),
                ("retention", *retention != new.retention),
                ("tls", *tls != new.tls && tls.can_become(&new.tls)),
                ("auth", *auth != new.auth),
            ]),
            needs_restart: names(&[
                ("data_dir", *data_dir != new.data_dir),
                ("shutdown_timeout", *shutdown_timeout != new.shutdown_timeout),
                ("log.format", *format != new.log.format),
                ("http", *http != new.http),
                ("otlp", *otlp != new.otlp),
                ("ingest", *ingest != new.ingest),
                ("tls", !tls.can_become(&new.tls)),
                ("buffer", *buffer != new.buffer),
                ("batch", *batch != new.batch),
                ("supervisor", *supervisor != new.supervisor),
                ("dead_letters", *dead_letters != new.dead_letters),
                ("admin", *admin != new.admin),
            ]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConsoleSink, LogFormat, SinkConfig, SinkKind};

    #[test]
    fn changes_are_sorted_by_what_they_take() {
        let old = Config::default();
        assert!(old.diff(&old.clone()).is_empty());

        let console = SinkConfig::new(SinkKind::Console(ConsoleSink {}));
        let mut new = old.clone();
        new.log.level = "debug".to_owned();
        new.log.format = LogFormat::Json;
        new.retention.days = 3;
        new.http.workers = 2;
        new.admin.token = Some(crate::config::Secret::new("another"));
        new.tls.cert_file = Some("cert.pem".into());
        new.auth.tenant_key = "customer".to_owned();
        new.sinks.insert("out".to_owned(), console.clone());
        let changes = old.diff(&new);
        assert_eq!(changes.live, ["log.level", "retention", "auth"]);
        assert_eq!(changes.needs_restart, ["log.format", "http", "tls", "admin"]);
        assert_eq!(changes.sinks_added, ["out"]);

        let mut newer = new.clone();
        newer.tls.cert_file = Some("other.pem".into());
        newer.sinks.remove("events");
        newer.sinks.insert("out".to_owned(), SinkConfig { concurrency: 2.into(), ..console });
        let changes = new.diff(&newer);
        assert_eq!(changes.sinks_removed, ["events"]);
        assert_eq!(changes.sinks_changed, ["out"]);
        assert_eq!(changes.live, ["tls"], "only the file is another");
        assert!(changes.needs_restart.is_empty());
    }
}
