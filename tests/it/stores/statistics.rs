//! Counts over time.

use forebay::store::{QueryError, STATS_ROWS_MAX, StatsQuery, StoreError};
use forebay_actors::event::Timestamp;

use super::{Subject, draft, time};
use crate::support::thorough;

fn query(bucket_seconds: u32) -> StatsQuery {
    StatsQuery { bucket_seconds, ..StatsQuery::default() }
}

fn counts(subject: &Subject, query: &StatsQuery) -> Vec<(i64, Option<String>, u64)> {
    let rows = subject.stats(query).unwrap();
    rows.into_iter().map(|r| (r.bucket_start.nanos() / 1_000_000_000, r.service, r.events)).collect()
}

/// One event every ten seconds of two hours, by turns of two services, from before the epoch on.
fn two_hours(subject: &Subject) {
    let ids: Vec<_> = (-360..360).map(|i| (i * 10, format!("e{i}"))).collect();
    let service = |at: i64| if at % 20 == 0 { "even" } else { "odd" };
    let drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, service(*at))).collect();
    subject.deliver(0, &drafts);
}

/// Buckets begin at multiples of their length, before the epoch too, and hold what lies in them.
pub fn buckets_hold_their_events(subject: &Subject) {
    assert_eq!(counts(subject, &query(60)), []);
    two_hours(subject);
    assert_eq!(counts(subject, &query(3600)), [(-3600, None, 360), (0, None, 360)]);
    assert_eq!(counts(subject, &query(60)).len(), 120);
    let of_service = StatsQuery { service: Some("odd".into()), ..query(3600) };
    assert_eq!(counts(subject, &of_service), [(-3600, None, 180), (0, None, 180)]);
    let by_service = StatsQuery { group_by_service: true, ..query(86_400) };
    let (even, odd) = (Some("even".to_owned()), Some("odd".to_owned()));
    let expected = [(-86_400, even.clone(), 180), (-86_400, odd.clone(), 180), (0, even, 180), (0, odd, 180)];
    assert_eq!(counts(subject, &by_service), expected);
}

/// For every pair of bounds, on a minute or not, in one minute or in two, with and without whole minutes
/// between them, exactly the events from `from` to before `to` are counted.
pub fn bounds_are_exact_wherever_they_lie(subject: &Subject) {
    two_hours(subject);
    let all = [-4000, -3600, -3595, -61, -60, -59, -50, 0, 1, 10, 11, 59, 60, 61, 119, 120, 3599, 5000];
    let bounds = &all[thorough(9, 0)..];
    for (from, to) in bounds.iter().flat_map(|from| bounds.iter().map(|to| (*from, *to))) {
        for service in [None, Some("even")] {
            let step = if service.is_some() { 20 } else { 10 };
            let expected = (-3600..3600).step_by(step).filter(|at| (from..to).contains(at)).count() as u64;
            for group_by_service in [false, true] {
                let (from, to) = (Some(time(from)), Some(time(to)));
                let service = service.map(str::to_owned);
                let query = StatsQuery { from, to, bucket_seconds: 120, service, group_by_service };
                let rows = subject.stats(&query).unwrap();
                assert_eq!(rows.iter().map(|r| r.events).sum::<u64>(), expected, "{query:?}");
                assert!(rows.iter().all(|r| r.events > 0 && r.service.is_some() == group_by_service));
                assert!(rows.is_sorted_by_key(|r| (r.bucket_start, r.service.clone())));
            }
        }
    }
}

/// Events at the ends of time are counted, and bounds there overflow nothing.
pub fn the_ends_of_time_are_counted(subject: &Subject) {
    let (first, last) = (Timestamp::from_nanos(i64::MIN), Timestamp::from_nanos(i64::MAX));
    let mut drafts = [draft("a", 0, "s"), draft("b", 0, "s"), draft("c", 0, "s")];
    (drafts[0].timestamp, drafts[2].timestamp) = (Some(first), Some(last));
    subject.deliver(0, &drafts);
    let sum = |from, to| {
        let rows = subject.stats(&StatsQuery { from, to, ..query(604_800) }).unwrap();
        rows.iter().map(|r| r.events).sum::<u64>()
    };
    assert_eq!(sum(None, None), 3);
    assert_eq!(sum(Some(first), Some(last)), 2);
    assert_eq!(sum(Some(last), None), 1);
    assert_eq!(sum(None, Some(first)), 0);
    assert_eq!(sum(Some(time(1)), Some(time(0))), 0);
}

/// A bucket that counts cannot be added up to, and an answer past the limit, are refused by name.
pub fn wrong_statistics_are_refused(subject: &Subject) {
    for seconds in [0, 1, 90] {
        let error = subject.stats(&query(seconds)).unwrap_err();
        assert!(matches!(error, StoreError::Query(QueryError::BucketSeconds(s)) if s == seconds));
    }
    let ids: Vec<_> = (0..=STATS_ROWS_MAX as i64).map(|i| (i * 60, format!("e{i}"))).collect();
    let drafts: Vec<_> = ids.iter().map(|(at, id)| draft(id, *at, id)).collect();
    subject.deliver(0, &drafts);
    for query in [query(60), StatsQuery { group_by_service: true, ..query(86_400) }] {
        let error = subject.stats(&query).unwrap_err();
        assert!(error.to_string().contains("10000 rows"), "{error}");
        let shorter = StatsQuery { to: Some(time(60 * STATS_ROWS_MAX as i64)), ..query };
        assert_eq!(subject.stats(&shorter).unwrap().len(), STATS_ROWS_MAX);
    }
}
