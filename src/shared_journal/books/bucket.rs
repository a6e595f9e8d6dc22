//! The bucket itself: opened, and changed an entry at a time.

use std::sync::Arc;

use async_nats::jetstream::kv;
use forebay_actors::state::{Note, StateError};
use tokio::time::Instant;

use super::{
    SharedBooks,
    mirror::{Entry, Id, Known},
    watch,
};
use crate::{
    destination,
    shared_journal::{ASK_WAIT, open::find},
};

/// Tries of one step, where others change the same entry.
const STEP_TRIES: usize = 5;

/// What became of an attempt to change an entry.
pub(super) enum Change {
    Made,
    /// Another process was quicker.
    Refused,
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
                }
                store
            }
        };
        let mut is_known = self.is_known.subscribe();
        match tokio::time::timeout(2 * ASK_WAIT, is_known.wait_for(|is_known| *is_known)).await {
            Ok(Ok(_)) => Ok(Some(store)),
            _ => Err(self.failed(format_args!("it could not be read within {:?}", 2 * ASK_WAIT))),
        }
    }

    async fn open(&self, make: bool) -> Result<Option<kv::Store>, StateError> {
        let name = format!("KV_{}", self.bucket);
        let found = find(&self.context, &name).await.map_err(|e| self.failed(e))?;
        if let Some(found) = &found
            && !(found.config.max_age.is_zero() && found.config.max_messages <= 0)
        {
            return Err(self.failed("it would lose entries: max_age should be 0 and max_msgs -1"));
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
                        state.gone.push((name, now));
                    }
                }
                Ok(Change::Made)
            }
            Err(error) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => {
                self.refresh(store, id).await?;
                Ok(Change::Refused)
            }
            Err(error) => Err(self.failed(destination::chain(&error))),
        }
    }

    /// Asks for an entry that is another than was known.
    pub(super) async fn refresh(&self, store: &kv::Store, id: &Id) -> Result<(), StateError> {
        let entry = store.entry(id.name()).await.map_err(|e| self.failed(destination::chain(&e)))?;
        watch::apply(self, id, entry.as_ref());
        Ok(())
    }

    /// Takes a step from where the entry is known to be, unless `may` refuses that; `None` where it was not taken. `to` is the
    /// stage it comes to, and what is noted then; without it, the entry goes.
    pub(super) async fn step(
        &self,
        id: &Id,
        may: impl Fn(&Known) -> bool,
        to: impl Fn(&Known) -> Option<Entry>,
    ) -> Result<Option<Note>, StateError> {
        let Some(store) = self.opened() else { return Ok(None) };
        for _ in 0..STEP_TRIES {
            let known = self.state().mirror.get(id).cloned();
            let Some(known) = known.filter(&may) else { return Ok(None) };
            if let Change::Made = self.change(&store, id, to(&known), known.revision).await? {
                return Ok(Some(known.entry.note));
            }
        }
        Ok(None)
    }
}
