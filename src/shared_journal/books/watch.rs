//! Following the bucket, and renewing the marks of what this process has at hand.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    HeaderMap,
    connection::State as Connection,
    jetstream::{
        Message,
        consumer::{DeliverPolicy, ReplayPolicy, pull},
        kv,
    },
};
use forebay_actors::state::Stage;
use futures::StreamExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    BEATS, SharedBooks,
    mirror::{Entry, Id, Known},
};
use crate::destination;

/// A pause after something failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often it is looked whether the connection is still the one over which the bucket was read: the client makes a new one
/// without a word, and what went from the bucket meanwhile is not told.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Looks at the connection for each at the bucket itself.
const LOOKS_A_CHECK: u32 = 5;

/// Looks in a row at which nothing has come, after which a reading that is not at its end is given up.
const SILENT_LOOKS: u32 = 5;

/// How long the mark of an entry that is gone stays in the bucket: whoever follows it has met it by then.
const GONE_KEPT: Duration = Duration::from_secs(60);

/// Entries that are cleared up at a time.
const CLEARED_MAX: usize = 100;

/// Marks that are renewed at the same time.
const RENEWALS_MAX: usize = 8;

/// What an entry of the bucket says.
pub(super) enum Said {
    Entry(Entry),
    /// It is gone.
    Gone,
    /// Nothing of Forebay's.
    Nothing,
}

/// Follows the bucket, for ever.
pub(super) async fn follow(books: Arc<SharedBooks>, mut store: kv::Store) {
    let mut failing = false;
    loop {
        let Err(error) = follow_once(&books, &store, &mut failing).await;
        books.state().hears = false;
        if !std::mem::replace(&mut failing, true) {
            let bucket = &books.bucket;
            tracing::warn!(bucket, error, "the books of what is held cannot be followed; it is tried again");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
        // Whoever has nothing held needs none.
        if matches!(books.open(false).await, Ok(None)) && !books.state().owners.is_empty() {
            let (bucket, batches) = (&books.bucket, books.state().mirror.iter().count());
            match books.open(true).await {
                Ok(Some(anew)) => {
                    tracing::error!(
                        bucket,
                        batches,
                        "somebody has removed the bucket, and it was made anew: what was held lies at its holders and is not read back"
                    );
                    store = anew.clone();
                    books.state().store = Some(anew);
                }
                Ok(None) => {}
                Err(error) => tracing::debug!(bucket, %error, "the bucket is gone and cannot be made"),
            }
        }
    }
}

async fn follow_once(
    books: &SharedBooks,
    store: &kv::Store,
    failing: &mut bool,
) -> Result<std::convert::Infallible, String> {
    let failed = |error: &dyn std::error::Error| destination::chain(error);
    let connection = Looked::at(books);
    let bucket = store.stream.get_info().await.map_err(|e| failed(&e))?;
    books.state().mirror.is_read(Instant::now());
    // Pulled, because what is pushed needs one more right for its flow control, and stands still without a word where it is missing.
    let reader = pull::OrderedConfig {
        filter_subject: format!("{}>", store.prefix),
        deliver_policy: DeliverPolicy::LastPerSubject,
        replay_policy: ReplayPolicy::Instant,
        ..pull::OrderedConfig::default()
    };
    let reader = store.stream.create_consumer(reader).await.map_err(|e| failed(&e))?;
    let mut is_read = reader.cached_info().num_pending == 0;
    let mut messages = reader.messages().await.map_err(|e| failed(&e))?;
    let (mut of_others, mut silent, mut met) = (0_u64, 0, HashSet::new());
    while !is_read {
        match timeout(LOOK_INTERVAL, messages.next()).await {
            Ok(None) => return Err(ENDED.to_owned()),
            Ok(Some(message)) => {
                let message = message.map_err(|e| failed(&e))?;
                silent = 0;
                books.is_known.send_modify(|_| ());
                is_read = message.info().is_ok_and(|info| info.pending == 0);
                met.insert(message.subject.to_string());
                of_others += u64::from(!meet(books, store, &message, true));
            }
            Err(_) => {
                connection.check(books)?;
                // What was to come when it began may have gone: then all that is left has come.
                let left = store.stream.get_info().await.map_err(|e| failed(&e))?.state.messages;
                is_read = met.len() as u64 >= left;
                silent += 1;
                if !is_read && silent >= SILENT_LOOKS {
                    return Err(format!("of {left} entries {} have come, and no more do", met.len()));
                }
            }
        }
    }
    drop(met);
    connection.check(books)?;
    {
        let mut state = books.state();
        let state = &mut *state;
        state.mirror.was_read(&state.at_hand);
        state.hears = true;
    }
    books.is_known.send_replace(true);
    if std::mem::take(failing) {
        tracing::info!(bucket = books.bucket, "the books of what is held are followed again");
    }
    tell_of_others(books, of_others);
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut looked, mut came) = (0, true);
    // What was there last when everything had come.
    let mut last = store.stream.get_info().await.map_err(|e| failed(&e))?.state.last_sequence;
    loop {
        tokio::select! {
            message = messages.next() => {
                let message = message.ok_or_else(|| ENDED.to_owned())?.map_err(|e| failed(&e))?;
                last = last.max(message.info().map_or(0, |info| info.stream_sequence));
                came = true;
                meet(books, store, &message, false);
            }
            _ = looks.tick() => {
                connection.check(books)?;
                looked += 1;
                if looked % LOOKS_A_CHECK == 0 {
                    // The client begins again where it was, without a word, also in another bucket.
                    let now = store.stream.get_info().await.map_err(|e| failed(&e))?;
                    if now.created != bucket.created {
                        return Err("the bucket was made anew".to_owned());
                    }
                    if now.state.last_sequence > last && !came {
                        return Err(format!("entry {} does not come", now.state.last_sequence));
                    }
                    came = false;
                }
            }
        }
    }
}

const ENDED: &str = "the server ended it";

/// The connection as it was.
struct Looked {
    connects: u64,
}

impl Looked {
    fn at(books: &SharedBooks) -> Self {
        Self { connects: books.context.client().statistics().connects.load(Ordering::Relaxed) }
    }

    fn check(&self, books: &SharedBooks) -> Result<(), String> {
        let is_up = books.context.client().connection_state() == Connection::Connected;
        match is_up && Self::at(books).connects == self.connects {
            true => Ok(()),
            false => Err("the connection was lost".to_owned()),
        }
    }
}

/// Takes in what the bucket has; `false` where that is of another stream.
fn meet(books: &SharedBooks, store: &kv::Store, message: &Message, is_first_reading: bool) -> bool {
    let Ok(revision) = message.info().map(|info| info.stream_sequence) else { return true };
    let key = message.subject.strip_prefix(&*store.prefix).unwrap_or_default();
    let Some(id) = Id::parse(key) else {
        tracing::error!(bucket = books.bucket, key, "is no entry of Forebay's; it is left alone");
        return true;
    };
    let said = said(books, key, message.headers.as_ref(), &message.payload);
    if is_first_reading && matches!(said, Said::Gone) {
        // Whoever wrote it may be gone as well.
        books.state().gone.insert(key.to_owned(), Instant::now());
    }
    apply(books, &id, said, revision)
}

/// What a message of the bucket says.
pub(super) fn said(books: &SharedBooks, key: &str, headers: Option<&HeaderMap>, payload: &[u8]) -> Said {
    // Written by whoever deletes or purges, this client or another; of an entry itself there is none.
    if headers.is_some_and(|headers| headers.get("KV-Operation").is_some_and(|how| how.as_str() != "PUT")) {
        return Said::Gone;
    }
    match serde_json::from_slice(payload) {
        Ok(entry) => Said::Entry(entry),
        Err(error) => {
            tracing::error!(bucket = books.bucket, key, %error, "an entry cannot be read; it is left alone");
            Said::Nothing
        }
    }
}

/// Takes in what was said under that revision; `false` where it is of another stream.
pub(super) fn apply(books: &SharedBooks, id: &Id, said: Said, revision: u64) -> bool {
    let mut state = books.state();
    match said {
        Said::Entry(entry) => state.mirror.put(id.clone(), entry, revision, Instant::now()),
        Said::Gone => {
            state.mirror.remove(id, revision);
            true
        }
        Said::Nothing => true,
    }
}

fn tell_of_others(books: &SharedBooks, batches: u64) {
    if batches > 0 {
        tracing::error!(
            bucket = books.bucket,
            batches,
            "were held when the stream was another one, which is gone; they lie at their holders and are not read back"
        );
    }
}

/// Renews the marks of what is at hand here, and lets go of what was at the hand of the dead, for ever.
pub(super) async fn beat(books: Arc<SharedBooks>, store: kv::Store) {
    loop {
        tokio::time::sleep(books.ack_wait / BEATS).await;
        renew(&books, &store).await;
        let_go_of_the_dead(&books, &store).await;
    }
}

async fn renew(books: &SharedBooks, store: &kv::Store) {
    let at_hand: Vec<_> = {
        let state = books.state();
        let at_hand = state.at_hand.iter().filter_map(|id| Some((id.clone(), state.mirror.get(id)?.clone())));
        at_hand.filter(|(_, known)| known.entry.by == Some(books.me)).collect()
    };
    let renewals = at_hand.into_iter().map(|(id, known)| async move {
        let renewed = Entry { beat: known.entry.beat + 1, ..known.entry };
        // Where it fails, the next comes in time; where another was quicker, it is at hand no more.
        let renewal = books.change(store, &id, Some(renewed), known.revision);
        let _ = timeout(books.ack_wait / BEATS, renewal).await;
    });
    futures::stream::iter(renewals).buffer_unordered(RENEWALS_MAX).for_each(std::future::ready).await;
}

/// What a process that is gone was giving to a holder: its events come again from the stream. And what a holder should have
/// forgotten that has become another's in the configuration: nobody asks it any more.
async fn let_go_of_the_dead(books: &SharedBooks, store: &kv::Store) {
    let now = Instant::now();
    let dead: Vec<_> = {
        let state = books.state();
        let is_dead = |(id, known): &(&Id, &Known)| {
            let is_done_with = match known.entry.stage {
                Stage::Intended => !state.at_hand.contains(*id),
                Stage::Leaving => {
                    state.owners.get(&id.owner).is_some_and(|owner| owner.fallback != id.holder)
                }
                Stage::Held => false,
            };
            is_done_with && state.is_dead(known, now)
        };
        let dead = state.mirror.iter().filter(is_dead).take(CLEARED_MAX);
        dead.map(|(id, known)| (id.clone(), known.clone())).collect()
    };
    for (id, Known { entry, revision, .. }) in dead {
        let to = (entry.stage == Stage::Intended).then(|| entry.turned(Stage::Leaving, entry.note));
        if books.change(store, &id, to, revision).await.is_err() {
            return;
        }
    }
}

/// Clears up the marks of entries that are gone, for ever.
pub(super) async fn clear_up(books: Arc<SharedBooks>, store: kv::Store) {
    loop {
        let due: Vec<_> = {
            let (state, now) = (books.state(), Instant::now());
            let due =
                state.gone.iter().filter(|(_, since)| now.saturating_duration_since(**since) >= GONE_KEPT);
            due.map(|(name, _)| name.clone()).take(CLEARED_MAX).collect()
        };
        let mut is_over = due.len() < CLEARED_MAX;
        for name in due {
            if let Err(error) = store.stream.purge().filter(format!("{}{name}", store.prefix)).await {
                tracing::debug!(bucket = books.bucket, %error, "what is gone could not be cleared up");
                is_over = true;
                break;
            }
            books.state().gone.remove(&name);
        }
        if is_over {
            tokio::time::sleep(books.ack_wait / BEATS).await;
        }
    }
}
