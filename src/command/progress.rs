//! A progress bar for what takes longer than a second, where somebody is looking.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

/// Below this nobody wants to see a bar.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// Between two signs of life of what has no steps, or long ones.
const TICK: Duration = Duration::from_millis(200);

/// How it looks where the number of steps is known, and where it is not.
const STEPS: &str = "{msg} {wide_bar} {pos}/{len} {elapsed}, {eta} to go";
const NO_STEPS: &str = "{spinner} {msg} {elapsed}";

/// Shows how far something has come.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    what: Cow<'static, str>,
    /// `None` where nobody knows how many steps there are.
    total: Option<u64>,
    done: u64,
    /// Where it is drawn; `None` where nobody is looking, and while `bar` has it.
    target: Option<ProgressDrawTarget>,
}

impl Progress {
    /// Of something that begins now, in steps of which nobody knows yet how many.
    pub fn new(what: impl Into<Cow<'static, str>>) -> Self {
        // A pipe gets what the command says and nothing else. indicatif itself looks whether there is anybody at standard error.
        Self::on(stdout().is_terminal().then(ProgressDrawTarget::stderr), what)
    }

    /// Of something that nobody waits for at this terminal.
    pub fn silent() -> Self {
        Self::on(None, "")
    }

    fn on(target: Option<ProgressDrawTarget>, what: impl Into<Cow<'static, str>>) -> Self {
        Self { bar: None, began: Instant::now(), what: what.into(), total: None, done: 0, target }
    }

    /// The next part begins, with so many steps where their number is known. The second before it is shown goes on.
    pub fn turn_to(&mut self, what: impl Into<Cow<'static, str>>, total: Option<u64>) {
        (self.what, self.total, self.done) = (what.into(), total, 0);
        if let Some(bar) = &self.bar {
            bar.reset_eta();
            dress(bar, self.what.clone(), total);
        }
        self.show();
    }

    /// The same steps go on, with something else.
    pub fn say(&mut self, what: impl Into<Cow<'static, str>>) {
        self.what = what.into();
        if let Some(bar) = &self.bar {
            bar.set_message(self.what.clone());
        }
        self.show();
    }

    /// So many are done.
    pub fn at(&mut self, done: u64) {
        self.done = done;
        self.show();
    }

    /// Waits for something and shows that it goes on.
    pub async fn during<F: Future>(&mut self, work: F) -> F::Output {
        let mut work = std::pin::pin!(work);
        if self.target.is_none() && self.bar.is_none() {
            return work.await;
        }
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => self.show(),
            }
        }
    }

    fn show(&mut self) {
        if self.bar.is_none() {
            let is_due = self.began.elapsed() >= SHOWN_AFTER;
            let Some(target) = self.target.take_if(|_| is_due) else { return };
            let bar = ProgressBar::with_draw_target(self.total, target).with_elapsed(self.began.elapsed());
            dress(&bar, self.what.clone(), self.total);
            self.bar = Some(bar);
        }
        if let Some(bar) = &self.bar {
            bar.set_position(self.done);
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn dress(bar: &ProgressBar, what: Cow<'static, str>, total: Option<u64>) {
    let template = if total.is_some() { STEPS } else { NO_STEPS };
    let style = ProgressStyle::with_template(template).expect("the templates are constants that parse");
    bar.set_style(style);
    match total {
        Some(total) => bar.set_length(total),
        None => bar.unset_length(),
    }
    bar.set_message(what);
}

/// Waits for something whose progress is not known; shows that it goes on.
pub async fn waiting<F: Future>(what: &'static str, work: F) -> F::Output {
    Progress::new(what).during(work).await
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use indicatif::TermLike;

    use super::*;

    /// A terminal of one line that remembers everything it was sent.
    #[derive(Debug, Clone, Default)]
    struct Paper(Arc<Mutex<String>>);

    impl Paper {
        fn text(&self) -> String {
            self.0.lock().unwrap().clone()
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            100
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap().push_str(text);
            Ok(())
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(paper: &Paper, what: &'static str) -> Progress {
        Progress::on(Some(ProgressDrawTarget::term_like(Box::new(paper.clone()))), what)
    }

    /// Nothing is drawn within the first second, nor made that could be drawn; then what is done, and of how much.
    #[tokio::test(start_paused = true)]
    async fn a_bar_comes_after_a_second() {
        let paper = Paper::default();
        let mut progress = on(&paper, "reading");
        progress.turn_to("replaying", Some(7));
        tokio::time::advance(SHOWN_AFTER - Duration::from_millis(1)).await;
        progress.at(3);
        assert!(progress.bar.is_none() && paper.text().is_empty(), "{}", paper.text());
        tokio::time::advance(Duration::from_millis(1)).await;
        progress.at(4);
        assert!(paper.text().contains("replaying") && paper.text().contains("4/7"), "{}", paper.text());
        // The next part does not wait for a second of its own, and has no steps.
        progress.turn_to("asking sink up", None);
        let last = paper.text().rsplit("asking").next().unwrap().to_owned();
        assert!(last.starts_with(" sink up") && !last.contains("/7"), "{}", paper.text());
    }

    /// What has no steps at all is shown to go on, after a second, too.
    #[tokio::test(start_paused = true)]
    async fn waiting_shows_that_it_goes_on() {
        let paper = Paper::default();
        let mut progress = on(&paper, "working");
        let short = SHOWN_AFTER - Duration::from_millis(1);
        assert_eq!(
            progress
                .during(async {
                    tokio::time::sleep(short).await;
                    5
                })
                .await,
            5
        );
        assert!(paper.text().is_empty(), "{}", paper.text());
        progress.during(tokio::time::sleep(3 * TICK)).await;
        assert!(paper.text().matches("working").count() > 1, "{}", paper.text());
    }

    /// Where nobody is looking nothing is ever drawn: a test's standard output is no terminal, as that of a script.
    #[tokio::test(start_paused = true)]
    async fn nobody_is_shown_anything_who_is_not_looking() {
        let mut progress = if stdout().is_terminal() { Progress::silent() } else { Progress::new("working") };
        tokio::time::advance(10 * SHOWN_AFTER).await;
        progress.turn_to("replaying", Some(7));
        progress.at(1);
        progress.during(tokio::time::sleep(SHOWN_AFTER)).await;
        assert!(progress.bar.is_none());
    }
}
