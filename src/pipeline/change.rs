//! What changes while everything runs: sinks come and go with the configuration.

use std::{collections::BTreeMap, sync::Arc};

use forebay_actors::{
    record::SinkName,
    runtime::supervisor::supervise,
    sink::{Sink, SinkSpec, Source},
    state::Cursors,
};

use super::{
    Parts, Pipeline, RETENTION, SinkMember, arbiter,
    end::ended,
    niceness,
    spec::{catch_up, condition, queue_messages, restart_policy, retention_spec, sink_policy, when_full},
    start_retention,
};
use crate::{
    config::{Changes, Config, SinkConfig},
    shared_journal::JetStream,
};

/// Blocking threads of a sink: reading the journal, delivering, and dead letters.
const SINK_BLOCKING_THREADS: usize = 3;

/// The same with a standby, which delivers and keeps books, too.
const STANDBY_BLOCKING_THREADS: usize = 5;

/// The place of the house's thread among the arbiters.
const HOUSE: usize = 1;

// === impl Pipeline ===

impl Pipeline {
    /// Starts sinks of the configuration; those that only stand by have nothing to start.
    pub(super) fn add_sinks(&mut self, names: &[String]) {
        // First, because others show what they do with these.
        for name in names {
            let probe = self.parts.sink_metrics.of(&SinkName::from(name.as_str()));
            if self.config.sinks[name].only_as_fallback {
                self.stand_by(name, &probe);
            }
            self.probes.insert(SinkName::from(name.as_str()), probe);
        }
        for name in names {
            let sink = self.config.sinks[name].clone();
            if !sink.only_as_fallback {
                self.add_sink(SinkName::from(name.as_str()), &sink);
            }
        }
    }

    fn add_sink(&mut self, name: SinkName, config: &SinkConfig) {
        let parts = &self.parts;
        let probe = self.probes[&name].clone();
        let standby = self.standby_spec(&name, config);
        let queue = parts.shared.as_ref().map(|shared| shared.queue(&name, queue_messages(config)));
        let spec = SinkSpec {
            name: name.clone(),
            factory: (parts.destinations)(&name, config),
            policy: sink_policy(config, &self.config.batch),
            when: condition(config),
            source: queue.clone().map_or_else(|| Source::Log(parts.journal.clone()), Source::Queue),
            cursors: parts.cursors.clone(),
            dead_letters: parts.dead_letters.clone(),
            buffer: self.buffer.clone(),
            clock: parts.clock.clone(),
            probe: probe.clone(),
            standby,
            catch_up: catch_up(&self.config.buffer),
        };
        let has_standby = spec.standby.is_some();
        let blocking_threads = if has_standby { STANDBY_BLOCKING_THREADS } else { SINK_BLOCKING_THREADS };
        let arbiter = arbiter(blocking_threads, niceness::go_behind);
        let policy = restart_policy(&self.config);
        let actor = actor_name(&name);
        let build = |probe| Sink::new(spec, probe);
        let (mailbox, child) =
            supervise(&arbiter.handle(), &actor, config.mailbox_batches, policy, &parts.actor_metrics, build);
        parts.watched.add(child.clone(), Some(probe));
        if queue.is_none() {
            parts.broadcast.add(name.clone(), mailbox.clone());
        }
        self.sinks.insert(name, SinkMember { child, queue, mailbox, arbiter });
    }

    /// Ends sinks, all at once. Their cursors stay where they are.
    pub(super) async fn end_sinks(&mut self, names: &[SinkName]) {
        let members: Vec<_> = names.iter().filter_map(|name| self.sinks.remove(name)).collect();
        names.iter().for_each(|name| self.parts.broadcast.remove(name));
        let children: Vec<_> = members.iter().map(|member| member.child.clone()).collect();
        for child in &children {
            self.parts.watched.remove(child.name());
            child.end();
        }
        ended(&children).await;
        // Only now: what it still had on its way would be delivered here and there.
        let queues: Vec<_> = members.iter().filter_map(|member| member.queue.clone()).collect();
        let (held, ended) = (self.parts.held.clone(), names.to_vec());
        let released = tokio::task::spawn_blocking(move || {
            queues.iter().for_each(|queue| queue.release());
            held.end(&ended);
        });
        let released = released.await;
        if released.is_err() {
            tracing::error!("giving back what was not delivered panicked; others get it later");
        }
        members.iter().for_each(|member| {
            member.arbiter.stop();
        });
    }

    /// Brings the pipeline to a new configuration: sinks that changed are replaced, all others live on.
    pub async fn apply(&mut self, new: Config) -> Changes {
        let changes = self.config.diff(&new);
        // What a sink shares with its successor is there until that has it: a sink that is paced in another way has not ended.
        let succeeding = |name: &String| {
            let sink = new.sinks.get(name)?;
            Some((self.parts.destinations)(&SinkName::from(name.as_str()), sink))
        };
        let _lasting: Vec<_> = changes.sinks_changed.iter().filter_map(succeeding).collect();
        let ending: Vec<_> =
            changes.sinks_removed.iter().chain(&changes.sinks_changed).map(|n| n.as_str().into()).collect();
        self.tell_of_left(&changes.sinks_removed);
        self.end_sinks(&ending).await;
        // Not one that comes back at once: meanwhile the journal could be trimmed of what it still needs.
        for name in &changes.sinks_removed {
            let name = SinkName::from(name.as_str());
            self.parts.cursors.deactivate(&name);
            self.parts.sink_metrics.forget(&name);
            self.parts.actor_metrics.forget(&actor_name(&name));
            self.probes.remove(&name);
        }
        self.forget_standbys(&new);
        self.config.sinks.clone_from(&new.sinks);
        match self.parts.shared.clone() {
            None => {
                activate(&self.parts, &new.sinks);
                save_cursors(self.parts.cursors.clone()).await;
            }
            Some(shared) => make_consumers(shared, sink_names(&new.sinks)).await,
        }
        let beginning: Vec<_> = changes.sinks_added.iter().chain(&changes.sinks_changed).cloned().collect();
        self.add_sinks(&beginning);
        if self.config.retention != new.retention || !changes.is_empty() {
            self.config.retention = new.retention;
            self.restart_retention().await;
        }
        self.config.log = new.log;
        self.config.limits = new.limits;
        self.config.auth = new.auth;
        if self.config.tls.can_become(&new.tls) {
            self.config.tls = new.tls;
        }
        changes
    }

    /// Retention keeps no state but its schedule, and it has to know whether there is a store: a new one is the
    /// simplest way to both.
    async fn restart_retention(&mut self) {
        let Some(index) = self.children.iter().position(|child| child.name() == RETENTION) else { return };
        self.children[index].end();
        ended(&self.children[index..=index]).await;
        let spec =
            retention_spec(&self.config, &self.data_dir, self.parts.clock.clone(), self.buffer.clone());
        let policy = restart_policy(&self.config);
        let child = start_retention(&self.arbiters[HOUSE], spec, policy, &self.parts.actor_metrics);
        self.parts.watched.add(child.clone(), None);
        self.children[index] = child;
    }
}

/// Counts all these sinks in, with their policies. One that was never seen begins at the head. Where no sink was ever
/// seen, but the journal has events, the cursors are lost: then everything that is kept is delivered, some of it again.
pub(super) fn activate(parts: &Parts, sinks: &BTreeMap<String, SinkConfig>) {
    let span = parts.journal.span();
    let lost = parts.cursors.is_empty() && span.count() > 0;
    if lost {
        tracing::error!(
            events = span.count(),
            "the cursors are lost: every sink begins at the oldest event that is kept"
        );
    }
    let start = if lost { span.first } else { span.end };
    for (name, sink) in sinks {
        let name = SinkName::from(name.as_str());
        if sink.only_as_fallback {
            // The journal keeps nothing for it, also where it once was a sink like others.
            parts.cursors.deactivate(&name);
        } else {
            parts.cursors.activate(&name, when_full(sink), start);
        }
    }
}

/// Those that the journal keeps events for: not what only stands by for others.
pub(super) fn sink_names(sinks: &BTreeMap<String, SinkConfig>) -> Vec<SinkName> {
    let own = sinks.iter().filter(|(_, sink)| !sink.only_as_fallback);
    own.map(|(name, _)| SinkName::from(name.as_str())).collect()
}

async fn make_consumers(shared: Arc<JetStream>, sinks: Vec<SinkName>) {
    match tokio::task::spawn_blocking(move || shared.make_consumers(&sinks)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "consumers could not be made; each sink tries it again"),
        Err(_) => tracing::error!("making consumers panicked"),
    }
}

async fn save_cursors(cursors: Arc<Cursors>) {
    match tokio::task::spawn_blocking(move || cursors.save()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::error!(%error, "cursors could not be saved; it is tried again with the next that moves")
        }
        Err(_) => tracing::error!("saving cursors panicked"),
    }
}

/// The name of a sink's actor.
fn actor_name(sink: &SinkName) -> String {
    format!("sink:{sink}")
}
