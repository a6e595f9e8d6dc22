//! `forebay chaos`.

use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, stdout},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use forebay_actors::runtime::clock::seed;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use super::{Done, EXIT_FAILURE, block_on, load, print};
use crate::{
    chaos::{self, Live, Plan, schedule::FaultKind},
    config::parse_duration,
};

/// Seeds are for people to read and to type again.
const SEED_DIGITS: u64 = 1_000_000;

/// What `--help` says behind the options, in lines of its own: nobody breaks them.
const AFTER_HELP: &str = "\
The process is this binary with the configuration that --config names, but with a data directory,
a port and a token of its own, without rate limits, and with a restart budget that the schedule does
not spend. For disk-full, buffer.max_bytes is 128MiB.

Without --sandbox, events go to the configured destinations themselves: numbered ones, of the
service `forebay-chaos`. The event store is then asked for each of them; of other sinks only the
cursor is looked at, and the table says so. What a console sink prints is thrown away.

crash needs buffer.durability: fsync. With interval and memory it may lose what was acknowledged
last, as those promise, so that there would be nothing to judge.

An event whose request was not acknowledged is not judged, and not sent again. Recovery from a fault
is counted from its end, until posts are acknowledged again and the sink that was hit gets on;
where another fault hits it meanwhile, that one has to end first.

Exit codes: 0 where everything acknowledged has its outcome, 1 where something was lost or could not
be proven, 2 for arguments that make no sense. Ctrl-C ends the faults early and judges all the same;
a second one stops waiting for sinks.";

/// `forebay chaos …`.
#[derive(Debug, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct Chaos {
    /// Take the place of every sink's destination by an HTTP server in this process, which fails as the schedule says and
    /// knows every event that came.
    #[arg(long)]
    sandbox: bool,
    /// What the schedule is drawn from: the same seed gives the same faults at the same times. At random without it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How long faults are injected.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    duration: Duration,
    /// Events a second that are posted meanwhile.
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// Only these kinds of faults, with commas between them; all that are possible without it.
    #[arg(long, value_name = "KINDS", value_delimiter = ',')]
    faults: Vec<FaultKind>,
    /// Where the report goes, as JSON.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// How long to wait, when all faults have ended, for recovery and for every sink to catch up.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    settle: Duration,
    /// Keep the data here. Without it the data is in a temporary directory; never in the configuration's own.
    #[arg(long, value_name = "DIRECTORY")]
    data_dir: Option<PathBuf>,
}

fn time(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text).filter(|time| !time.is_zero());
    time.ok_or_else(|| "it is no time; 500ms, 60s and 5m are".to_owned())
}

/// Attacks a process of this binary, and says what it kept of its promises.
///
/// # Errors
/// Where the process cannot be attacked, or ends by itself.
pub fn chaos(chaos: &Chaos, file: Option<&Path>) -> Done {
    let config = load(file).map_err(|e| e.to_string())?;
    let kinds = Plan::kinds(&config, &chaos.faults, chaos.sandbox)?;
    let binary = std::env::current_exe().map_err(|e| format!("this binary cannot be found: {e}"))?;
    let plan = Plan {
        config,
        binary,
        seed: chaos.seed.unwrap_or_else(|| seed() % SEED_DIGITS),
        duration: chaos.duration,
        rate: chaos.rate,
        faults: kinds,
        sandbox: chaos.sandbox,
        data_dir: chaos.data_dir.clone(),
        settle: chaos.settle,
    };
    print(&header(&plan, chaos.faults.is_empty()))?;
    let report = block_on(async {
        let interrupts = count_interrupts()?;
        let bar = stdout().is_terminal().then(spinner);
        let mut show = |live: Live| {
            if let Some(bar) = &bar {
                bar.set_message(line(&live, plan.duration));
                bar.tick();
            }
        };
        let report = chaos::run(&plan, interrupts, &mut show).await;
        bar.iter().for_each(ProgressBar::finish_and_clear);
        report.map_err(|e| e.to_string())
    })?;
    if let Some(path) = &chaos.report {
        let json = serde_json::to_string_pretty(&report).map_err(|e| e.to_string())?;
        std::fs::write(path, json + "\n").map_err(|e| format!("--report {}: {e}", path.display()))?;
    }
    print(&report.table())?;
    Ok(if report.findings().is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_FAILURE) })
}

/// What is going to happen; the seed first, so that it is known whatever happens then.
fn header(plan: &Plan, all: bool) -> String {
    let names = |kinds: &[FaultKind]| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    let kinds = names(&plan.faults);
    let sinks: Vec<_> = plan.config.sinks.keys().map(String::as_str).collect();
    let sinks = sinks.join(", ");
    let mut left_out = BTreeMap::<_, Vec<_>>::new();
    for kind in FaultKind::ALL.into_iter().filter(|_| all) {
        if let Some(why) = Plan::why_not(&plan.config, kind, plan.sandbox) {
            left_out.entry(why).or_default().push(kind);
        }
    }
    let left_out: String =
        left_out.iter().map(|(why, kinds)| format!("left out: {} ({why})\n", names(kinds))).collect();
    let place = if plan.sandbox { "in the sandbox" } else { "at their real destinations" };
    format!(
        "chaos with --seed {}: {:?} at {} events/s, sinks {place}: {sinks}\nfaults: {kinds}\n{left_out}\n",
        plan.seed, plan.duration, plan.rate
    )
}

/// As wide as the terminal and no wider: a line that breaks cannot be drawn over.
fn spinner() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {wide_msg}");
    ProgressBar::new_spinner().with_style(style.expect("the template is a constant that parses"))
}

fn line(live: &Live, duration: Duration) -> String {
    let Live { phase, elapsed, acknowledged, injected, open, lag_events, last } = live;
    let last = last.map_or(String::new(), |kind| format!(", {}", kind.as_str()));
    let (elapsed, duration) = (elapsed.as_secs(), duration.as_secs());
    format!(
        "{phase}: {elapsed}/{duration} s, {acknowledged} acknowledged, {lag_events} behind, {injected} faults, {open} \
         open{last}"
    )
}

/// Counts requests to end; from now on none of them ends this process, which has another to end first.
fn count_interrupts() -> Result<watch::Receiver<u32>, String> {
    let (count, counted) = watch::channel(0);
    let count = std::rc::Rc::new(count);
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind).map_err(|e| format!("signals cannot be heard: {e}"))?;
        let count = count.clone();
        actix::spawn(async move {
            while signals.recv().await.is_some() {
                count.send_modify(|count| *count += 1);
            }
        });
    }
    Ok(counted)
}
