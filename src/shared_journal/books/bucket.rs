//! The bucket itself: opened, and changed an entry at a time.

use std::{error::Error, sync::Arc, time::Duration};

use async_nats::jetstream::{
    self, ErrorCode, kv,
    stream::{Config, LastRawMessageErrorKind},
};
use forebay_actors::state::{Note, StateError};
use tokio::time::{Instant, timeout};

use super::{
    SharedBooks,
    mirror::{Entry, Id, Known},
    watch,
};
use crate::{
    destination,
    shared_journal::{
        ASK_WAIT,
        open::{find, loses},
    },
};

/// Tries of one step, where others change the same entry.
const STEP_TRIES: usize = 5;

/// Between two of them: in a cluster, what was quicker may still be on its way to be stored.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// What became of an attempt to change an entry.
pub(super) enum Change {
    Made,
    /// Another process was quicker.
    Refused,
}

/// What became of a step.
pub(super) enum Step {
    /// What was noted before it.
    Taken(Note),
    /// It is not to be taken from where the entry is.
    Barred,
    /// Others change the entry all the time.
    Contended,
}

impl SharedBooks {
    /// The bucket, all of which was read, made where it is missing and that is wanted.
    pub(super) async fn store(self: &Arc<Self>, make: bool) -> Result<Option<kv::Store>, StateError> {
        let known = self.state().store.clone();
        let store = match known {
            Some(store) => store,
            None => {
                let Some(store) = self.open(make).await? else { return Ok(None) };
                let begins = {
                    let mut state = self.state();
                    let begins = state.store.is_none();
                    state.store.get_or_insert(store.clone());
                    begins
                };
                if begins {
                    self.runtime.spawn(watch::follow(self.clone(), store.clone()));
                    self.runtime.spawn(watch::beat(self.clone(), store.clone()));
                    self.runtime.spawn(watch::clear_up(self.clone(), store.clone()));
                }
                store
            }
        };
        let mut is_known = self.is_known.subscribe();
        // As long as something comes, it may take its time.
        while !*is_known.borrow_and_update() {
            let comes = timeout(2 * ASK_WAIT, is_known.changed()).await;
            if !matches!(comes, Ok(Ok(()))) {
                return Err(self.failed(format_args!("nothing of it came for {:?}", 2 * ASK_WAIT)));
            }
        }
        Ok(Some(store))
    }

    pub(super) async fn open(&self, make: bool) -> Result<Option<kv::Store>, StateError> {
        let name = format!("KV_{}", self.bucket);
        let found = find(&self.context, &name).await.map_err(|e| self.failed(e))?;
        if let Some(wrong) = found.as_ref().and_then(|found| self.unsuited(&found.config)) {
            return Err(self.failed(format_args!("it would lose entries: {wrong}")));
        }
        if found.is_none() {
            if !make {
                return Ok(None);
            }
            let wanted = kv::Config {
                bucket: self.bucket.clone(),
                description: "What Forebay's fallbacks hold: an entry for each batch.".to_owned(),
                history: 1,
                num_replicas: self.replicas,
                max_bytes: -1,
                ..kv::Config::default()
            };
            match self.context.create_key_value(wanted).await {
                Ok(store) => {
                    tracing::info!(bucket = self.bucket, "the books of what is held were made");
                    return Ok(Some(store));
                }
                // Another process may have been quicker.
                Err(error) if find(&self.context, &name).await.ok().flatten().is_none() => {
                    return Err(
                        self.failed(format_args!("it cannot be made: {}", destination::chain(&error)))
                    );
                }
                Err(_) => {}
            }
        }
        let store = self.context.get_key_value(&self.bucket).await;
        store.map(Some).map_err(|e| self.failed(destination::chain(&e)))
    }

    /// What of a bucket that is there would lose entries, as a machine or the time goes by.
    fn unsuited(&self, bucket: &Config) -> Option<String> {
        let mut wrong = loses(bucket);
        let (has, wanted) = (bucket.num_replicas, self.replicas);
        if has < wanted {
            wrong.push(format!("it has {has} replicas, and the journal's stream has {wanted}"));
        }
        (!wrong.is_empty()).then(|| wrong.join(", "))
    }

    /// The bucket, where there is one that was read.
    pub(super) fn opened(&self) -> Option<kv::Store> {
        self.state().store.clone()
    }

    /// Writes or removes an entry of which this revision is known; 0 where there is none yet.
    pub(super) async fn change(
        &self,
        store: &kv::Store,
        id: &Id,
        to: Option<Entry>,
        revision: u64,
    ) -> Result<Change, StateError> {
        let name = id.name();
        let changed = match &to {
            Some(entry) => {
                let value = serde_json::to_vec(entry).map_err(|e| self.failed(e))?;
                store.update(&name, value.into(), revision).await
            }
            // The mark that it leaves is newer than what is known; how much, no matter.
            None => store.delete_expect_revision(&name, Some(revision)).await.map(|()| revision),
        };
        match changed {
            Ok(revision) => {
                let (mut state, now) = (self.state(), Instant::now());
                match to {
                    Some(entry) => drop(state.mirror.put(id.clone(), entry, revision, now)),
                    None => {
                        state.mirror.remove(id, revision);
                        state.gone.insert(name, now);
                    }
                }
                Ok(Change::Made)
            }
            Err(error) if is_refusal(&error) => {
                self.refresh(store, id).await?;
                Ok(Change::Refused)
            }
            Err(error) => Err(self.failed(destination::chain(&error))),
        }
    }

    /// Asks for an entry that is another than was known. The leader is asked: others may be behind.
    pub(super) async fn refresh(&self, store: &kv::Store, id: &Id) -> Result<(), StateError> {
        let subject = format!("{}{}", store.prefix, id.name());
        match store.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(message) => {
                let said = watch::said(self, &id.name(), Some(&message.headers), &message.payload);
                watch::apply(self, id, said, message.sequence);
                Ok(())
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => {
                self.state().mirror.remove(id, u64::MAX);
                Ok(())
            }
            Err(error) => Err(self.failed(destination::chain(&error))),
        }
    }

    /// Takes a step from where the entry is known to be, unless `may` refuses that. `to` is what it says then; without it, the entry
    /// goes.
    ///
    /// # Errors
    /// Where the servers do not answer or refuse: whether it was taken is not known then.
    pub(super) async fn step(
        &self,
        id: &Id,
        may: impl Fn(&Known) -> bool,
        to: impl Fn(&Known) -> Option<Entry>,
    ) -> Result<Step, StateError> {
        let Some(store) = self.opened() else { return Ok(Step::Barred) };
        for tried in 0..STEP_TRIES {
            if tried > 0 {
                tokio::time::sleep(STEP_PAUSE).await;
            }
            let known = self.state().mirror.get(id).cloned();
            let Some(known) = known.filter(&may) else { return Ok(Step::Barred) };
            if let Change::Made = self.change(&store, id, to(&known), known.revision).await? {
                return Ok(Step::Taken(known.entry.note));
            }
        }
        Ok(Step::Contended)
    }
}

/// Whether the server has another revision than was known, or is about to: in a cluster a change of the same entry may be on its way,
/// of which the client has no name.
fn is_refusal(error: &kv::UpdateError) -> bool {
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    let mut is_on_its_way = false;
    while let Some(error) = source {
        let said = error.downcast_ref::<jetstream::Error>();
        is_on_its_way |=
            said.is_some_and(|said| said.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT);
        source = error.source();
    }
    is_on_its_way || error.kind() == kv::UpdateErrorKind::WrongLastRevision
}
