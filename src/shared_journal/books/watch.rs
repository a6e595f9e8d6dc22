//! Following the bucket, and renewing the marks of what this process has at hand.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::kv::{self, Operation};
use forebay_actors::state::Stage;
use futures::StreamExt as _;
use tokio::time::{Instant, timeout};

use super::{
    BEATS, SharedBooks,
    mirror::{Entry, Id, Known},
};
use crate::destination;

/// A pause after something failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// The server counts what a reader has still to come when he begins, and what goes meanwhile never comes: after such a pause all
/// has come.
const READ_PAUSE: Duration = Duration::from_secs(1);

/// How long the mark of an entry that is gone stays in the bucket: whoever follows it has met it by then.
const GONE_KEPT: Duration = Duration::from_secs(60);

/// Follows the bucket, for ever.
pub(super) async fn follow(books: Arc<SharedBooks>, store: kv::Store) {
    let mut failing = false;
    loop {
        if let Err(error) = follow_once(&books, &store, &mut failing).await
            && !std::mem::replace(&mut failing, true)
        {
            tracing::error!(
                bucket = books.bucket,
                error,
                "the books of what is held could not be followed; it is tried again"
            );
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow_once(books: &SharedBooks, store: &kv::Store, failing: &mut bool) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| destination::chain(error);
    books.state().mirror.is_read(Instant::now());
    let is_empty = store.status().await.map_err(|e| failed(&e))?.values() == 0;
    let mut entries = store.watch_with_history(">").await.map_err(|e| failed(&e))?;
    let (mut is_read, mut of_others) = (is_empty, 0_u64);
    loop {
        if is_read {
            books.state().mirror.was_read();
            books.is_known.send_replace(true);
            if std::mem::take(failing) {
                tracing::info!(bucket = books.bucket, "the books of what is held are followed again");
            }
            tell_of_others(books, of_others);
            break;
        }
        match timeout(READ_PAUSE, entries.next()).await {
            Err(_) => is_read = true,
            Ok(None) => return Err("the server ended it".to_owned()),
            Ok(Some(entry)) => {
                let entry = entry.map_err(|e| failed(&e))?;
                of_others += u64::from(!meet(books, &entry));
                if entry.operation != Operation::Put {
                    // Nobody may be left who wrote it.
                    books.state().gone.push((entry.key.clone(), Instant::now()));
                }
                is_read = entry.seen_current;
            }
        }
    }
    while let Some(entry) = entries.next().await {
        meet(books, &entry.map_err(|e| failed(&e))?);
    }
    Err("the server ended it".to_owned())
}

/// Takes in what the bucket has; `false` where that is of another stream.
fn meet(books: &SharedBooks, entry: &kv::Entry) -> bool {
    match Id::parse(&entry.key) {
        Some(id) => apply(books, &id, Some(entry)),
        None => {
            tracing::error!(
                bucket = books.bucket,
                key = entry.key,
                "is no entry of Forebay's; it is left alone"
            );
            true
        }
    }
}

/// The same for an entry that was asked for; `None` where there is none.
pub(super) fn apply(books: &SharedBooks, id: &Id, entry: Option<&kv::Entry>) -> bool {
    let Some(entry) = entry else {
        books.state().mirror.remove(id, u64::MAX);
        return true;
    };
    if entry.operation != Operation::Put {
        books.state().mirror.remove(id, entry.revision);
        return true;
    }
    match serde_json::from_slice::<Entry>(&entry.value) {
        Ok(said) => books.state().mirror.put(id.clone(), said, entry.revision, Instant::now()),
        Err(error) => {
            tracing::error!(bucket = books.bucket, key = entry.key, %error, "an entry cannot be read; it is left alone");
            true
        }
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

/// Renews the marks of what is at hand here, lets go of what was at the hand of the dead, and clears up, for ever.
pub(super) async fn beat(books: Arc<SharedBooks>, store: kv::Store) {
    loop {
        tokio::time::sleep(books.ack_wait / BEATS).await;
        renew(&books, &store).await;
        let_go_of_the_dead(&books, &store).await;
        clear_up(&books, &store).await;
    }
}

async fn renew(books: &SharedBooks, store: &kv::Store) {
    let own = |entry: &Entry| entry.by == Some(books.me);
    let at_hand: Vec<_> = {
        let state = books.state();
        let own = state.mirror.iter().filter(|(_, known)| own(&known.entry));
        own.map(|(id, known)| (id.clone(), known.clone())).collect()
    };
    for (id, known) in at_hand {
        let renewed = Entry { beat: known.entry.beat + 1, ..known.entry };
        // Where it fails, the next comes in time; where another was quicker, it is at hand no more.
        let _ = books.change(store, &id, Some(renewed), known.revision).await;
    }
}

/// What a process that is gone was giving to a holder: its events come again from the stream.
async fn let_go_of_the_dead(books: &SharedBooks, store: &kv::Store) {
    let now = Instant::now();
    let dead: Vec<_> = {
        let state = books.state();
        let is_dead = |known: &Known| {
            let is_of_another = known.entry.by != Some(books.me);
            known.entry.stage == Stage::Intended && is_of_another && state.mirror.is_stale(known, now)
        };
        let dead = state.mirror.iter().filter(|(_, known)| is_dead(known));
        dead.map(|(id, known)| (id.clone(), known.clone())).collect()
    };
    for (id, known) in dead {
        let leaving = known.entry.turned(Stage::Leaving, known.entry.note);
        let _ = books.change(store, &id, Some(leaving), known.revision).await;
    }
}

async fn clear_up(books: &SharedBooks, store: &kv::Store) {
    let gone: Vec<_> = {
        let mut state = books.state();
        let now = Instant::now();
        let (due, kept) = std::mem::take(&mut state.gone)
            .into_iter()
            .partition(|(_, since)| now.saturating_duration_since(*since) >= GONE_KEPT);
        state.gone = kept;
        due
    };
    for (name, since) in gone {
        let purged = store.stream.purge().filter(format!("{}{name}", store.prefix)).await;
        if purged.is_err() {
            books.state().gone.push((name, since));
        }
    }
}
