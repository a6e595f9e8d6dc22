//! `forebay validate`.

mod books;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use forebay_actors::{
    examination::{Examination, Finding},
    journal,
    record::SinkName,
    runtime::clock::Clock,
};

use self::table::Table;
use super::{Done, EXIT_FAILURE, block_on, load, print, progress::Progress};
use crate::{
    api::control::{self, Order},
    budget::MemoryBudget,
    config::{Backend, Config, SinkKind},
    data_dir, pipeline,
    security::Security,
    shared_journal, store,
};

/// How long a destination may take to answer everything it is asked.
const EXAMINATION_TIMEOUT: Duration = Duration::from_secs(10);

/// `forebay validate …`.
#[derive(Debug, Args)]
pub struct Validate {
    /// The file; what --config says, or the embedded configuration, without it.
    file: Option<PathBuf>,
    /// Do not reach out to destinations.
    #[arg(long)]
    offline: bool,
}

/// Collects what was found, a line each.
#[derive(Default)]
struct Findings {
    text: String,
    failed: bool,
}

impl Findings {
    fn ok(&mut self, what: &str, how: impl std::fmt::Display) {
        self.text.push_str(&format!("ok    {what}: {how}\n"));
    }

    fn warn(&mut self, what: &str, why: impl std::fmt::Display) {
        self.text.push_str(&format!("warn  {what}: {why}\n"));
    }

    fn fail(&mut self, what: &str, why: impl std::fmt::Display) {
        self.failed = true;
        self.text.push_str(&format!("FAIL  {what}: {why}\n"));
    }
}

/// Checks everything that can be checked without starting, and changes nothing.
///
/// # Errors
/// Where standard output cannot be written.
pub fn validate(validate: &Validate, file: Option<&Path>) -> Done {
    let file = validate.file.as_deref().or(file);
    let name = file.map_or("the embedded configuration".to_owned(), |file| file.display().to_string());
    let mut findings = Findings::default();
    let mut progress = Progress::new("reading the configuration");
    match load(file) {
        Err(error) => findings.fail("configuration", format!("\n{error}")),
        Ok(config) => {
            findings.ok("configuration", name);
            let budget = MemoryBudget::of(&config);
            findings.ok("memory budget", format!("{} MiB at most", budget.sum().div_ceil(1 << 20)));
            match Security::examine(&config) {
                Ok(()) if config.tls.is_on() || config.auth.is_on() => {
                    findings.ok("tls and auth", "their files can be used")
                }
                Ok(()) => {}
                Err(error) => findings.fail("tls and auth", error),
            }
            check_data_dir(&config, &mut findings);
            block_on(check_held(&config, validate.offline, &mut findings, &mut progress));
            match (config.buffer.backend, validate.offline) {
                (Backend::Disk, _) => check_journal(&config, &mut findings, &mut progress),
                (Backend::Jetstream, true) => findings.ok("journal", "its options can be used"),
                (Backend::Jetstream, false) => {
                    block_on(check_shared_journal(&config, &mut findings, &mut progress));
                }
            }
            block_on(check_destinations(&config, validate.offline, &mut findings, &mut progress));
        }
    }
    drop(progress);
    print(&findings.text)?;
    Ok(if findings.failed { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

fn check_data_dir(config: &Config, findings: &mut Findings) {
    let dir = &config.data_dir;
    let shown = dir.display();
    match std::fs::metadata(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            findings.ok("data_dir", format!("{shown} is not there yet; it will be made"));
        }
        Err(error) => findings.fail("data_dir", format!("{shown}: {error}")),
        Ok(found) if !found.is_dir() => findings.fail("data_dir", format!("{shown} is no directory")),
        Ok(_) => match writable(dir) {
            Ok(()) => findings.ok("data_dir", shown),
            Err(error) => findings.fail("data_dir", format!("{shown} cannot be written: {error}")),
        },
    }
}

async fn check_shared_journal(config: &Config, findings: &mut Findings, progress: &mut Progress) {
    let (options, event_bytes_max) = (config.buffer.jetstream.clone(), config.http.max_event_bytes);
    progress.turn_to("asking for the journal's stream", None);
    let examining = tokio::task::spawn_blocking(move || shared_journal::examine(&options, event_bytes_max));
    match progress.during(examining).await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(found) => findings.ok("journal", found),
        Err(error) => findings.fail("journal", format!("{}: {error}", config.buffer.jetstream.url)),
    }
}

fn check_journal(config: &Config, findings: &mut Findings, progress: &mut Progress) {
    let journal = data_dir::journal(&config.data_dir);
    if !journal.exists() {
        return findings.ok("journal", "empty");
    }
    progress.turn_to("looking through the journal", None);
    let tell = |done: usize, all: usize| {
        if done == 1 {
            progress.turn_to("looking through the journal", Some(all as u64));
        }
        progress.at(done as u64);
    };
    match journal::verify_telling(&journal, tell) {
        Err(error) => findings.fail("journal", error),
        Ok(found) if found.damaged > 0 => {
            let (damaged, events) = (found.damaged, found.events);
            let kept = "they will be put aside and counted at the start";
            findings.fail("journal", format!("{damaged} events are damaged, {events} are whole; {kept}"));
        }
        Ok(found) => {
            let mib = found.disk_bytes.div_ceil(1 << 20);
            let (events, generations) = (found.events, found.generations);
            findings.ok("journal", format!("{events} events in {generations} generations, {mib} MiB"));
        }
    }
}

/// Whether what is held for sinks would be read back. The running process knows, or the books do where none runs.
async fn check_held(config: &Config, offline: bool, findings: &mut Findings, progress: &mut Progress) {
    let order = Order::Misplaced(config.to_yaml());
    progress.turn_to("asking the running process", None);
    let found = match progress.during(control::ask::<Vec<String>>(&config.data_dir, &order)).await {
        Ok(None) if offline && config.buffer.backend == Backend::Jetstream => return,
        Ok(None) => {
            progress.turn_to("looking into the books", None);
            let config = config.clone();
            let looking = tokio::task::spawn_blocking(move || books::misplaced(&config));
            progress.during(looking).await.unwrap_or_else(|error| Err(error.to_string()))
        }
        Ok(Some(found)) => Ok(found),
        Err(error) => Err(error),
    };
    match found {
        Ok(found) if found.is_empty() => {}
        Ok(found) => found.into_iter().for_each(|misplaced| findings.fail("fallback", misplaced)),
        // A start finds the same, and then refuses.
        Err(error) => {
            findings.warn(
                "fallback",
                format!("whether all that is held would be read back cannot be told: {error}"),
            );
        }
    }
}

/// Tries, and leaves nothing behind.
fn writable(dir: &Path) -> std::io::Result<()> {
    let probe = dir.join(format!(".validate-{}", std::process::id()));
    std::fs::write(&probe, "?")?;
    std::fs::remove_file(&probe)
}

async fn check_destinations(
    config: &Config,
    offline: bool,
    findings: &mut Findings,
    progress: &mut Progress,
) {
    let destinations = pipeline::destinations(config, &config.data_dir, Clock::system());
    let mut table = Table::default();
    progress.turn_to("looking at the sinks", Some(config.sinks.len() as u64));
    for (index, (name, sink)) in config.sinks.iter().enumerate() {
        let what = format!("sink {name}");
        progress.at(index as u64);
        progress.say(format!("asking {what}"));
        // Its own probe could make or migrate the database.
        if matches!(sink.kind, SinkKind::Store(_)) {
            let found = check_store(&data_dir::store(&config.data_dir));
            if offline {
                match &found.reachable {
                    Finding::Unfit(why) => findings.fail(&what, why),
                    _ => findings.ok(&what, found.note.unwrap_or_default()),
                }
            } else {
                table.add(name, sink.kind.name(), found);
            }
            continue;
        }
        // Building reaches nobody, and finds options that cannot be used together.
        match destinations(&SinkName::from(name.as_str()), sink)() {
            Ok(_) if offline => findings.ok(&what, "its options can be used"),
            Err(error) if offline => findings.fail(&what, error),
            Ok(destination) => {
                let is_holder = config.sinks.values().any(|other| other.fallback.as_ref() == Some(name));
                let examining = async {
                    let examined = destination.examine().await;
                    match destination.holding().filter(|_| is_holder) {
                        Some(holding) => examined.and(holding.examine().await),
                        None => examined,
                    }
                };
                let examined = progress.during(tokio::time::timeout(EXAMINATION_TIMEOUT, examining)).await;
                let late = |_| Examination::unreachable(format!("no answer within {EXAMINATION_TIMEOUT:?}"));
                table.add(name, sink.kind.name(), examined.unwrap_or_else(late));
            }
            Err(error) => table.add(name, sink.kind.name(), Examination::failed(&error)),
        }
    }
    table.write(findings);
}

fn check_store(path: &Path) -> Examination {
    match store::Reader::count_from_outside(path) {
        Ok(0) => Examination { note: Some("empty, or not there yet".to_owned()), ..Examination::fit() },
        Ok(events) => {
            Examination { schema: Finding::Fit, note: Some(format!("{events} events")), ..Examination::fit() }
        }
        Err(error) => Examination::unreachable(error.to_string()),
    }
}
