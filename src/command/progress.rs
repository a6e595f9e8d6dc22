//! A progress bar for what takes longer than a second, where somebody is looking.

use std::{
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Below this nobody wants to see a bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Shows how far something has come.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    total: u64,
    what: &'static str,
    looked_at: bool,
}

impl Progress {
    /// Of `total` things; 0 where their number is not known.
    pub fn new(what: &'static str, total: u64) -> Self {
        Self { bar: None, began: Instant::now(), total, what, looked_at: stdout().is_terminal() }
    }

    /// Of something that nobody waits for at this terminal.
    pub fn silent() -> Self {
        let mut progress = Self::new("", 0);
        progress.looked_at = false;
        progress
    }

    /// So many are done.
    pub fn at(&mut self, done: u64) {
        if !self.looked_at || self.began.elapsed() < SHOWN_AFTER {
            return;
        }
        let (total, what) = (self.total, self.what);
        let bar = self.bar.get_or_insert_with(|| {
            let template = "{msg} {wide_bar} {pos}/{len} {elapsed}, {eta} to go";
            let style =
                ProgressStyle::with_template(template).expect("the template is a constant that parses");
            ProgressBar::new(total).with_style(style).with_message(what)
        });
        bar.set_position(done);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Waits for something whose progress is not known; shows that it goes on.
pub async fn waiting<F: Future>(what: &'static str, work: F) -> F::Output {
    let mut work = std::pin::pin!(work);
    if !stdout().is_terminal() {
        return work.await;
    }
    let mut ticks = tokio::time::interval(SHOWN_AFTER / 5);
    let began = Instant::now();
    let spinner = ProgressBar::hidden().with_message(what);
    loop {
        tokio::select! {
            done = &mut work => {
                spinner.finish_and_clear();
                return done;
            }
            _ = ticks.tick() => {
                if began.elapsed() >= SHOWN_AFTER {
                    spinner.set_draw_target(ProgressDrawTarget::stderr());
                    spinner.tick();
                }
            }
        }
    }
}
