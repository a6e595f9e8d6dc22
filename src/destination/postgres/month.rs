//! Months, by which a table can be partitioned.

use std::fmt;

use chrono::{Datelike as _, NaiveDate};
use forebay_actors::event::Timestamp;

/// Months back and ahead of an event's arrival that get partitions of their own: a wrong clock must not make thousands.
const BACK_MAX: i32 = 10 * 12;
const AHEAD_MAX: i32 = 12;

/// A month of the calendar, UTC, by its number since the year 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Month(i32);

impl Month {
    /// The month of a time.
    pub(super) fn of(time: Timestamp) -> Self {
        let time = time.to_chrono();
        Self(time.year() * 12 + time.month0() as i32)
    }

    /// Whether an event that arrived at `arrival` and is of this month has a partition of its month.
    pub(super) fn is_near(self, arrival: Timestamp) -> bool {
        let months = self.0 - Self::of(arrival).0;
        (-BACK_MAX..=AHEAD_MAX).contains(&months)
    }

    /// The month after it.
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its first day.
    pub(super) fn first_day(self) -> NaiveDate {
        let (year, month) = (self.0.div_euclid(12), self.0.rem_euclid(12) as u32 + 1);
        NaiveDate::from_ymd_opt(year, month, 1).expect("every month of the years that a Timestamp has begins")
    }
}

/// As it stands in a partition's name: `2026_11`.
impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}_{:02}", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}
