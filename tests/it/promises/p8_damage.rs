//! P8: a corrupt record never stops the process or loops; it is counted and reported, and reading goes on.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use forebay_actors::state::Reason;

use crate::support::testbed::{TestBed, config, events_with, journal_dir, run};

/// Records of the damaged journal, and events of each.
const RECORDS: usize = 10;
const EVENTS: usize = 20;

/// What every record in the file begins with.
const MAGIC: &[u8] = b"FBR1";

/// Scenario: a bit of one record in the middle of a generation flips while the process is down.
/// Guarantee: the next start reads on behind it: the events of that record are dead letters with the reason
/// `damaged`, all others are delivered in order, and the damage is counted.
#[test]
fn p8_a_flipped_bit_costs_one_record() {
    run(async {
        let bed = damaged_by(|log| {
            let mut bytes = fs::read(log).expect("the log can be read");
            let at = records_in(&bytes)[4];
            bytes[at + 60] ^= 1;
            fs::write(log, bytes).expect("the log can be written");
        })
        .await;
        assert_damage(bed, 4..5).await;
    });
}

/// Scenario: the same for the last record: nothing in the file follows it.
/// Guarantee: the same, and no position is given twice.
#[test]
fn p8_a_flipped_bit_at_the_end_costs_one_record() {
    run(async {
        let bed = damaged_by(|log| {
            let mut bytes = fs::read(log).expect("the log can be read");
            let at = *records_in(&bytes).last().expect("there are records");
            bytes[at + 60] ^= 1;
            fs::write(log, bytes).expect("the log can be written");
        })
        .await;
        assert_damage(bed, RECORDS - 1..RECORDS).await;
    });
}

/// Scenario: the file ends after its third record: the rest was never written, or was cut off.
/// Guarantee: the same for all that is missing.
#[test]
fn p8_a_truncated_generation_costs_what_is_missing() {
    run(async {
        let bed = damaged_by(|log| {
            let bytes = fs::read(log).expect("the log can be read");
            let at = records_in(&bytes)[3];
            fs::write(log, &bytes[..at]).expect("the log can be written");
        })
        .await;
        assert_damage(bed, 3..RECORDS).await;
    });
}

/// Scenario: nothing in the file is what it was.
/// Guarantee: the process starts all the same, accounts for every event, and works.
#[test]
fn p8_a_generation_of_garbage_does_not_stop_the_process() {
    run(async {
        let bed = damaged_by(|log| {
            let bytes = fs::read(log).expect("the log can be read");
            let mut random = fastrand::Rng::with_seed(3);
            let garbage: Vec<_> = bytes.iter().map(|_| random.u8(..)).collect();
            fs::write(log, garbage).expect("the log can be written");
        })
        .await;
        assert_damage(bed, 0..RECORDS).await;
    });
}

/// A pipeline that was ended with a backlog, and whose log was damaged before it was started again.
async fn damaged_by(damage: impl Fn(&Path)) -> TestBed {
    let config = config(&["a", "b"]);
    let bed = TestBed::start_with(&config, |fake| {
        ["a", "b"].iter().for_each(|name| fake(name).order(|orders| orders.hang = true));
    })
    .await;
    for _ in 0..RECORDS {
        // One after the other, so that each is a record of its own.
        bed.post_many(EVENTS).await;
    }
    let bed = bed.restart_after(&config, Duration::ZERO, |data_dir| damage(&log_of(data_dir))).await;
    ["a", "b"].iter().for_each(|name| bed.fake(name).heal());
    bed
}

async fn assert_damage(bed: TestBed, records: std::ops::Range<usize>) {
    let before = bed.acknowledged();
    let later = bed.post_many(EVENTS).await;
    let damaged = records.start * EVENTS..records.end * EVENTS;
    let lost = damaged.len();
    let whole = before[..damaged.start].iter().chain(&before[damaged.end..]).chain(&later);
    let whole: Vec<_> = whole.map(String::as_str).collect();
    for name in ["a", "b"] {
        bed.settled(name).await;
        assert_eq!(bed.fake(name).seen().distinct(), whole, "{name}");
        let letters = bed.dead_letters(name);
        assert_eq!(events_with(&letters, Reason::Damaged), lost as u64, "{name}: {letters:?}");
        let spans: Vec<_> = letters.iter().map(|letter| letter.span.first.0 as usize).collect();
        assert_eq!(spans.first(), Some(&damaged.start));
        let labels = [("sink", name), ("reason", "damaged")];
        assert_eq!(bed.metric("forebay_sink_dead_letters_total", &labels), lost as f64);
    }
    assert!(bed.pipeline.view().journal.usage().damaged >= 1);
    crate::support::testbed::eventually("the damage is in the metrics", || {
        bed.metric("forebay_buffer_damaged_records", &[]) >= 1.0
    })
    .await;
    bed.end().await;
}

/// The log of the only generation there is.
fn log_of(data_dir: &Path) -> PathBuf {
    let generations = fs::read_dir(journal_dir(data_dir)).expect("the journal can be read");
    let mut logs: Vec<_> = generations
        .map(|entry| entry.expect("it is there").path().join("db"))
        .filter(|log| log.exists())
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.remove(0)
}

/// Where records begin.
fn records_in(bytes: &[u8]) -> Vec<usize> {
    let found: Vec<_> =
        bytes.windows(MAGIC.len()).enumerate().filter(|(_, at)| *at == MAGIC).map(|(at, _)| at).collect();
    assert_eq!(found.len(), RECORDS);
    found
}
