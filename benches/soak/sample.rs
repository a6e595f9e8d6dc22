//! What is looked at twice a second, as a line of CSV.

use std::time::Duration;

/// How often.
pub const EVERY: Duration = Duration::from_millis(500);

/// The first line of the CSV.
pub const CSV_HEADER: &str = "seconds,acknowledged_events_per_second,delivered_events_per_second,lag_events,rss_bytes,disk_bytes,open_files,fault";

/// A look at the run.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Sample {
    /// Since the load began.
    pub seconds: f64,
    /// Since the look before.
    pub acknowledged_per_s: f64,
    /// Since the look before; events that come twice are counted twice.
    pub delivered_per_s: f64,
    /// Events that the destination does not have yet, as the server counts them.
    pub lag_events: f64,
    /// Memory of the server that is resident.
    pub rss_bytes: f64,
    /// What its data directory takes up on the device.
    pub disk_bytes: f64,
    /// Its open files and sockets.
    pub open_files: f64,
}

// === impl Sample ===

impl Sample {
    /// The line of CSV, with what was wrong at that moment.
    pub fn csv(&self, fault: &str) -> String {
        let Self {
            seconds,
            acknowledged_per_s,
            delivered_per_s,
            lag_events,
            rss_bytes,
            disk_bytes,
            open_files,
        } = self;
        format!(
            "{seconds:.1},{acknowledged_per_s:.0},{delivered_per_s:.0},{lag_events:.0},{rss_bytes:.0},{disk_bytes:.0},\
             {open_files:.0},{fault}"
        )
    }
}
