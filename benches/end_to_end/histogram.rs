//! Latencies in logarithmic buckets: a fixed 16 KiB, two shifts a record, an error of at most 1/32.

use std::time::Duration;

/// Bits of a value that a bucket tells apart.
const PRECISION_BITS: u32 = 5;
const STEPS: usize = 1 << PRECISION_BITS;
const BUCKETS: usize = (u64::BITS - PRECISION_BITS + 1) as usize * STEPS;

/// Counts of durations, in microseconds.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS].into(), count: 0 }
    }
}

// === impl Histogram ===

impl Histogram {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
        self.count += 1;
    }

    /// The duration that `share` of the recorded ones do not exceed, in milliseconds: the upper edge of its
    /// bucket. None where nothing was recorded.
    pub fn quantile_ms(&self, share: f64) -> Option<f64> {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(upper_edge(found) as f64 / 1e3)
    }
}

/// Values below two octaves of steps have a bucket each; beyond, every octave has [`STEPS`].
fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(PRECISION_BITS + 1);
    shift as usize * STEPS + (value >> shift) as usize
}

fn upper_edge(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    let leading = (bucket - shift * STEPS) as u64;
    (leading << shift) + ((1 << shift) - 1)
}
