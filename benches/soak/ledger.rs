//! Which events were acknowledged and which arrived, by their numbers: a sum would hide a loss behind a double.

use std::sync::{Mutex, PoisonError};

const BITS: u64 = u64::BITS as u64;

/// Numbers from 0 on, a bit each: a day at 20,000 a second is 216 MB.
#[derive(Debug, Default)]
pub struct Numbers {
    words: Vec<u64>,
    count: u64,
}

/// The two sides of a run.
#[derive(Debug, Default)]
pub struct Ledger {
    acknowledged: Mutex<Numbers>,
    delivered: Mutex<(Numbers, u64)>,
}

// === impl Numbers ===

impl Numbers {
    /// Notes a number; false where it was there.
    pub fn insert(&mut self, number: u64) -> bool {
        let (word, bit) = ((number / BITS) as usize, 1 << (number % BITS));
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(is_new);
        is_new
    }

    /// How many are here and not there.
    pub fn missing_in(&self, there: &Self) -> u64 {
        let theirs = there.words.iter().chain(std::iter::repeat(&0));
        self.words.iter().zip(theirs).map(|(ours, theirs)| u64::from((ours & !theirs).count_ones())).sum()
    }

    /// The first that is here and not there.
    pub fn first_missing_in(&self, there: &Self) -> Option<u64> {
        let theirs = there.words.iter().chain(std::iter::repeat(&0));
        let mut missing =
            (0..).zip(self.words.iter().zip(theirs)).map(|(at, (ours, theirs))| (at, ours & !theirs));
        let (at, word): (u64, u64) = missing.find(|(_, word)| *word != 0)?;
        Some(at * BITS + u64::from(word.trailing_zeros()))
    }
}

// === impl Ledger ===

impl Ledger {
    /// These were answered with success.
    pub fn acknowledge(&self, numbers: std::ops::Range<u64>) {
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        for number in numbers {
            acknowledged.insert(number);
        }
    }

    /// These arrived, and were answered with success.
    pub fn deliver(&self, numbers: &[u64]) {
        let mut delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        for number in numbers {
            if !delivered.0.insert(*number) {
                delivered.1 += 1;
            }
        }
    }

    /// How many were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// How many arrived, and how many of these a further time.
    pub fn delivered(&self) -> (u64, u64) {
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        (delivered.0.count, delivered.1)
    }

    /// How many were acknowledged and did not arrive, and the first of them.
    pub fn lost(&self) -> (u64, Option<u64>) {
        let acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let delivered = self.delivered.lock().unwrap_or_else(PoisonError::into_inner);
        (acknowledged.missing_in(&delivered.0), acknowledged.first_missing_in(&delivered.0))
    }
}
