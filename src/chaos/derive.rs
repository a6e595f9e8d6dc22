//! The configuration of the process under attack: the operator's own, but for what would keep the attack from being one.

use std::{collections::BTreeSet, path::PathBuf};

use super::{
    sandbox::Sandbox,
    schedule::{DEATHS_MAX, DEATHS_WINDOW, FaultKind},
};
use crate::config::{
    AdminConfig, AuthConfig, Compression, Config, FileSink, HttpSink, LimitsConfig, OtlpConfig, OtlpListen,
    Secret, SinkKind, SupervisorConfig, TlsConfig,
};

/// The smallest journal that can be configured: it is full soonest.
const SMALL_JOURNAL_BYTES: u64 = 128 << 20;

/// The operator's configuration as the process under attack gets it.
///
/// | key | becomes | because |
/// |---|---|---|
/// | `data_dir` | one of this run | the operator's own must not be touched |
/// | `http.listen` | a free port of this machine | nobody else should post, and the operator's process may run |
/// | `otlp`, `ingest.grpc.listen` | nowhere | the same |
/// | `admin` | chaos, with a token of this run | faults are asked for there |
/// | `tls`, `auth` | none | the load speaks in the clear and has no token; only this machine can reach it |
/// | `limits` | none | the load is one client, and would be refused |
/// | `supervisor` | a restart budget of at least what the schedule spends | an actor that rests shows nothing |
/// | `buffer.max_bytes` | 128 MiB, for `disk-full` | it has to be filled |
/// | `sinks` | with `sandbox`: `http` ones, of the same names and policies | the sandbox writes down what comes |
/// | `fallback` | with `sandbox`: files of this run | what is held must not lie where the operator's own is |
/// | `on_failure` | with `sandbox`: none | what goes elsewhere for good would count as lost |
pub fn derive(
    own: &Config,
    data_dir: PathBuf,
    token: &str,
    kinds: &[FaultKind],
    sandbox: Option<&Sandbox>,
) -> Config {
    let mut config = own.clone();
    config.data_dir = data_dir;
    config.http.listen.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    config.http.listen.set_port(0);
    let nowhere = OtlpListen { listen: None };
    config.otlp = OtlpConfig { listen: None, http: nowhere, grpc: nowhere, ..config.otlp };
    config.ingest.grpc = nowhere;
    config.admin = AdminConfig { chaos: true, token: Some(Secret::new(token)) };
    (config.tls, config.auth) = (TlsConfig::default(), AuthConfig::default());
    config.limits = LimitsConfig::default();
    let SupervisorConfig { restarts_max, restarts_window, .. } = &mut config.supervisor;
    *restarts_max = (*restarts_max).max(DEATHS_MAX as u32 + 1);
    *restarts_window = (*restarts_window).min(DEATHS_WINDOW);
    if kinds.contains(&FaultKind::DiskFull) {
        config.buffer.max_bytes = config.buffer.max_bytes.min(SMALL_JOURNAL_BYTES);
    }
    let Some(sandbox) = sandbox else { return config };
    let holders: BTreeSet<_> = config.sinks.values().filter_map(|sink| sink.fallback.clone()).collect();
    config.sinks.retain(|name, sink| !sink.only_as_fallback || holders.contains(name));
    let holds_only: BTreeSet<_> =
        holders.into_iter().filter(|name| config.sinks[name].only_as_fallback).collect();
    for (name, sink) in &mut config.sinks {
        sink.on_failure = None;
        // One that gets events of its own has to be of the sandbox.
        sink.fallback = sink.fallback.take().filter(|holder| holds_only.contains(holder));
        if sink.only_as_fallback {
            sink.kind = SinkKind::File(FileSink {
                path: config.data_dir.join(format!("{name}.ndjson")),
                rotate_bytes: None,
                rotate_every: None,
                compression: Compression::None,
                keep_files: None,
            });
            continue;
        }
        let timeout = match &sink.kind {
            SinkKind::Http(http) => Some(http.timeout),
            _ => None,
        };
        let mut http = HttpSink::to(sandbox.url(name));
        http.timeout = timeout.unwrap_or(http.timeout);
        sink.kind = SinkKind::Http(http);
    }
    config
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc, time::Duration};

    use super::*;
    use crate::{
        chaos::ledger::Ledger,
        config::{Format, RateLimit, SinkConfig},
    };

    /// The derived configuration is one, touches nothing of the operator's, and keeps the policies of its sinks.
    #[actix::test]
    async fn what_is_derived_is_apart_and_keeps_the_policies() {
        let mut own = Config { data_dir: "/var/lib/forebay".into(), ..Config::default() };
        own.http.listen = "0.0.0.0:8080".parse().unwrap();
        own.limits.ingest = Some(RateLimit { global_per_second: Some(1), ..RateLimit::default() });
        own.supervisor.restarts_max = 1;
        own.supervisor.restarts_window = Duration::from_secs(3600);
        own.sinks.get_mut("events").unwrap().retry.backoff_min = Duration::from_millis(7);
        let ledger = Rc::new(RefCell::new(Ledger::new(1, [])));
        let holder = FileSink {
            path: "/var/held".into(),
            rotate_bytes: None,
            rotate_every: None,
            compression: Compression::None,
            keep_files: None,
        };
        let holder = SinkConfig { only_as_fallback: true, ..SinkConfig::new(SinkKind::File(holder)) };
        own.sinks.insert("holder".to_owned(), holder);
        own.sinks.get_mut("events").unwrap().fallback = Some("holder".to_owned());
        let sandbox = Sandbox::start(ledger).await.unwrap();
        let token = "0123456789abcdef";
        let derived = derive(&own, "/tmp/x".into(), token, &FaultKind::ALL, Some(&sandbox));
        let read = Config::parse(&derived.to_yaml(), Format::Yaml, "derived", &|_| None);
        assert_eq!(read.unwrap(), derived);
        assert_eq!(derived.data_dir, PathBuf::from("/tmp/x"));
        assert_eq!(derived.http.listen.to_string(), "127.0.0.1:0");
        assert_eq!(derived.buffer.max_bytes, SMALL_JOURNAL_BYTES);
        assert_eq!(derived.limits, LimitsConfig::default());
        assert_eq!((derived.supervisor.restarts_max, derived.supervisor.restarts_window.as_secs()), (5, 60));
        let SinkConfig { kind: SinkKind::Http(http), retry, .. } = &derived.sinks["events"] else { panic!() };
        assert_eq!(http.url, sandbox.url("events"));
        assert_eq!(retry.backoff_min, Duration::from_millis(7));
        let SinkKind::File(holder) = &derived.sinks["holder"].kind else { panic!() };
        assert_eq!(holder.path, PathBuf::from("/tmp/x/holder.ndjson"));
        let real = derive(&own, "/tmp/x".into(), token, &[FaultKind::Crash], None);
        assert_eq!((real.sinks, real.buffer), (own.sinks, own.buffer));
    }
}
