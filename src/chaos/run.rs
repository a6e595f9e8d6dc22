//! One run, from the start of the process to the judgement.

mod judge;

use std::{cell::RefCell, collections::BTreeMap, path::Path, rc::Rc, time::Duration};

use forebay_actors::runtime::clock::{Clock, seed};
use serde_json::Value;
use tokio::{sync::watch, time::Instant};

use super::{
    ChaosError, Live, Plan,
    derive::derive,
    ledger::Ledger,
    load::Load,
    place::Place,
    process::Process,
    recovery::Watch,
    report::Report,
    sandbox::Sandbox,
    schedule::{FaultKind, Injection, SINK_PREFIX, schedule},
};

/// How exactly a schedule is kept.
const TICK: Duration = Duration::from_millis(10);

/// How often a run shows how far it has come.
const LIVE_INTERVAL: Duration = Duration::from_millis(200);

/// Filling the journal is given up after this: on a slow device, or where sinks drop their oldest.
const FILLING_MAX: Duration = Duration::from_secs(30);

/// How long a full journal stays full.
const FULL_FOR: Duration = Duration::from_millis(1500);

/// Sinks that are behind nothing for this long have had everything they will ever have.
const QUIET: Duration = Duration::from_secs(2);

/// Lines of the process' log that an error shows.
const LAST_WORDS_LINES: usize = 15;

/// Attacks a process of the plan's binary and judges it. Ends early when `interrupts` counts to 1, and stops waiting for
/// sinks at 2. Needs a `LocalSet` around it, as an actix system has one.
///
/// # Errors
/// Where there is nothing to judge: the process does not start, or ends by itself.
pub async fn run(
    plan: &Plan,
    interrupts: watch::Receiver<u32>,
    show: &mut dyn FnMut(Live),
) -> Result<Report, ChaosError> {
    let run = seed() as u32;
    let mut place = Place::new(run)?;
    match attack(plan, run, &place, interrupts, show).await {
        Ok(mut report) => {
            if !report.findings().is_empty() {
                place.keep();
                report.notes.push(format!("log and data are kept in {}", place.path().display()));
            }
            Ok(report)
        }
        Err(error) => {
            place.keep();
            let (last_words, place) = (last_words(&place.log_file()), place.path().to_owned());
            Err(ChaosError::WithLog { error: Box::new(error), last_words, place })
        }
    }
}

async fn attack(
    plan: &Plan,
    run: u32,
    place: &Place,
    interrupts: watch::Receiver<u32>,
    show: &mut dyn FnMut(Live),
) -> Result<Report, ChaosError> {
    let since = Clock::system().now();
    // Those that only stand by get nothing of their own.
    let own = plan.config.sinks.iter().filter(|(_, sink)| !sink.only_as_fallback);
    let sinks: Vec<_> = own.map(|(name, _)| name.clone()).collect();
    let ledger = Rc::new(RefCell::new(Ledger::new(run, sinks.clone())));
    let sandbox = match plan.sandbox {
        true => Some(Sandbox::start(ledger.clone()).await.map_err(ChaosError::Sandbox)?),
        false => None,
    };
    let token = format!("{:016x}{:016x}", seed(), seed());
    let data_dir = plan.data_dir.clone().unwrap_or_else(|| place.data_dir());
    let config = derive(&plan.config, data_dir, &token, &plan.faults, sandbox.as_ref());
    place.write(&config)?;
    let process = Process::new(plan.binary.clone(), place.config_file(), &place.log_file(), token)?;
    let process = Rc::new(process);
    process.start().await?;
    // The first answer also shows that faults can be asked for at all.
    let _: Value = process.get("/admin/actors").await.map_err(ChaosError::NoActors)?;
    let watch = Rc::new(Watch::default());
    watch.look(&process).await;
    let timeline = schedule(plan.seed, plan.duration, &plan.faults, &watch.actors());
    let load = Load::start(process.clone(), ledger.clone(), plan.rate, config.http.max_event_bytes);
    let mut attack = Attack {
        plan,
        sinks,
        process: process.clone(),
        ledger: ledger.clone(),
        watch: watch.clone(),
        sandbox,
        load,
        interrupts,
        show,
        began: Instant::now(),
        shown: None,
        running: Vec::new(),
        filling: None,
        faults: BTreeMap::new(),
        last: None,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let attacked = tokio::select! {
        attacked = attack.carry_out(&timeline) => attacked,
        () = watch.look_on(&process, &ledger, plan.sandbox) => unreachable!("it looks for ever"),
    };
    attacked?;
    attack.judge(&config, since, timeline).await
}

/// A run while it goes on.
struct Attack<'a> {
    plan: &'a Plan,
    sinks: Vec<String>,
    process: Rc<Process>,
    ledger: Rc<RefCell<Ledger>>,
    watch: Rc<Watch>,
    sandbox: Option<Sandbox>,
    load: Load,
    interrupts: watch::Receiver<u32>,
    show: &'a mut dyn FnMut(Live),
    began: Instant,
    shown: Option<Instant>,
    /// Faults that last: when each ends, its number and its target.
    running: Vec<(Instant, usize, String)>,
    filling: Option<Filling>,
    faults: BTreeMap<FaultKind, u64>,
    last: Option<FaultKind>,
    problems: Vec<String>,
    notes: Vec<String>,
}

/// The journal is being filled.
struct Filling {
    number: usize,
    began: Instant,
    /// Refusals before.
    refused: u64,
    /// Since when it is full.
    full: Option<Instant>,
}

impl Attack<'_> {
    /// Injects everything at its time, waits until all of it has an end and the process has recovered, then until every
    /// sink has what it will get.
    async fn carry_out(&mut self, timeline: &[Injection]) -> Result<(), ChaosError> {
        let mut due = timeline.iter().enumerate().peekable();
        // What is late, because a crash took its time, still comes: the seed has promised it.
        while (due.peek().is_some() || self.began.elapsed() < self.plan.duration) && self.interrupted() == 0 {
            self.tick("faults").await?;
            while let Some((number, injection)) = due.next_if(|(_, next)| next.at <= self.began.elapsed()) {
                self.inject(number, injection).await?;
                self.tick("faults").await?;
            }
        }
        while self.filling.is_some() && self.interrupted() == 0 {
            self.tick("faults").await?;
        }
        self.end_all();
        let deadline = Instant::now() + self.plan.settle;
        while self.watch.open() > 0 && Instant::now() < deadline && self.interrupted() < 2 {
            self.tick("recovery").await?;
        }
        self.load.stop().await;
        self.settle(Instant::now() + self.plan.settle).await
    }

    /// One look at everything that has a time of its own.
    async fn tick(&mut self, phase: &'static str) -> Result<(), ChaosError> {
        tokio::time::sleep(TICK).await;
        if let Some(status) = self.process.ended_by_itself() {
            return Err(ChaosError::Ended(Some(status)));
        }
        self.end_what_is_over();
        self.look_at_filling();
        if self.shown.is_none_or(|shown| shown.elapsed() >= LIVE_INTERVAL) {
            self.shown = Some(Instant::now());
            (self.show)(Live {
                phase,
                elapsed: self.began.elapsed(),
                acknowledged: self.ledger.borrow().acknowledged(),
                injected: self.faults.values().sum(),
                open: self.watch.open(),
                lag_events: self.watch.lag_events_max(),
                last: self.last,
            });
        }
        Ok(())
    }

    fn interrupted(&self) -> u32 {
        *self.interrupts.borrow()
    }

    async fn inject(&mut self, number: usize, injection: &Injection) -> Result<(), ChaosError> {
        let Injection { kind, target, lasting, .. } = injection;
        tracing::debug!(kind = kind.as_str(), target, "a fault");
        *self.faults.entry(*kind).or_default() += 1;
        self.last = Some(*kind);
        let end = Instant::now() + *lasting;
        match kind {
            FaultKind::Crash => self.crash(number).await?,
            FaultKind::SinkKill | FaultKind::ActorKill => self.bring_down(number, target, "kill").await,
            FaultKind::Panic => self.bring_down(number, target, "panic").await,
            FaultKind::Stall => {
                let fault = format!("stall?for={}ms", lasting.as_millis());
                self.order(target, &fault).await;
                self.running.push((end, number, target.clone()));
            }
            FaultKind::DiskFull => self.begin_filling(number),
            FaultKind::SinkFail
            | FaultKind::SinkSlow
            | FaultKind::SinkThrottle
            | FaultKind::SinkGarbage
            | FaultKind::SinkCut => {
                let sandbox = self.sandbox.iter();
                sandbox.for_each(|sandbox| sandbox.begin(number, *kind, name_of(target)));
                self.running.push((end, number, target.clone()));
            }
        }
        Ok(())
    }

    async fn crash(&mut self, number: usize) -> Result<(), ChaosError> {
        // Its restarts would be forgotten.
        self.watch.look(&self.process).await;
        self.process.kill().await;
        self.watch.hit(number, self.sinks.clone(), None);
        self.process.start().await
    }

    async fn bring_down(&mut self, number: usize, actor: &str, fault: &str) {
        self.watch.look(&self.process).await;
        self.watch.hit(number, sinks_of(actor), Some(actor));
        self.order(actor, fault).await;
    }

    async fn order(&mut self, actor: &str, fault: &str) {
        if let Err(error) = self.process.inject(actor, fault).await {
            self.problems.push(format!("{fault} of {actor} could not be injected: {error}"));
        }
    }

    fn begin_filling(&mut self, number: usize) {
        for sink in &self.sinks {
            let sandbox = self.sandbox.iter();
            sandbox.for_each(|sandbox| sandbox.begin(number, FaultKind::DiskFull, sink));
        }
        self.load.fill(true);
        let refused = self.load.refused_full();
        self.filling = Some(Filling { number, began: Instant::now(), refused, full: None });
    }

    fn look_at_filling(&mut self) {
        let Some(filling) = &mut self.filling else { return };
        if filling.full.is_none() && self.load.refused_full() > filling.refused {
            filling.full = Some(Instant::now());
        }
        let is_over = filling.full.is_some_and(|since| since.elapsed() >= FULL_FOR);
        if is_over || filling.began.elapsed() >= FILLING_MAX {
            self.end_filling();
        }
    }

    fn end_filling(&mut self) {
        let Some(Filling { number, began, full, .. }) = self.filling.take() else { return };
        if full.is_none() && began.elapsed() >= FILLING_MAX {
            let note =
                format!("disk-full: the journal was not full after {FILLING_MAX:?}; nothing was refused");
            self.notes.push(note);
        }
        self.load.fill(false);
        self.sandbox.iter().for_each(|sandbox| sandbox.end(number));
        self.watch.hit(number, self.sinks.clone(), None);
    }

    fn end_what_is_over(&mut self) {
        let now = Instant::now();
        let over: Vec<_> = self.running.extract_if(.., |(end, ..)| *end <= now).collect();
        for (_, number, target) in over {
            self.sandbox.iter().for_each(|sandbox| sandbox.end(number));
            self.watch.hit(number, sinks_of(&target), None);
        }
    }

    /// All faults have an end now; a stall ends by itself.
    fn end_all(&mut self) {
        self.end_filling();
        for (_, number, target) in std::mem::take(&mut self.running) {
            self.sandbox.iter().for_each(|sandbox| sandbox.end(number));
            self.watch.hit(number, sinks_of(&target), None);
        }
    }

    /// Waits until every sink has everything, or has nothing more to come, or nobody wants to wait any longer.
    async fn settle(&mut self, deadline: Instant) -> Result<(), ChaosError> {
        let mut quiet_since = None;
        while Instant::now() < deadline && self.interrupted() < 2 {
            self.tick("settling").await?;
            let complete = |sink: &String| self.sandbox.is_some() && self.ledger.borrow().is_complete(sink);
            if self.sinks.iter().all(complete) {
                return Ok(());
            }
            let behind = self.sinks.iter().any(|sink| self.watch.lag_events(sink) != Some(0));
            let since = *quiet_since.get_or_insert_with(Instant::now);
            if behind {
                quiet_since = None;
            } else if since.elapsed() >= QUIET {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The sink of an actor that is one.
fn sinks_of(actor: &str) -> Option<String> {
    actor.strip_prefix(SINK_PREFIX).map(str::to_owned)
}

fn name_of(actor: &str) -> &str {
    actor.strip_prefix(SINK_PREFIX).unwrap_or(actor)
}

/// The end of the log.
fn last_words(log_file: &Path) -> String {
    let log = std::fs::read_to_string(log_file).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_WORDS_LINES)..].join("\n")
}
