//! `forebay chaos` itself: that it finds nothing where nothing is lost, and something where something is.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use forebay::{
    chaos::{self, ChaosError, Live, Plan, report::Proof, schedule::FaultKind},
    config::{Config, Format},
};
use serde_json::Value;
use tokio::sync::watch;

use crate::support::{
    PATIENCE,
    binary::{Finished, Place, command},
    thorough, until,
};

/// Retries soon after a failure: a run is short.
const PATIENT: &str =
    "retry: { backoff_min: 20ms, backoff_max: 200ms }, breaker: { open_for: 100ms, successes: 1 }";

/// The command, with a directory of its own for what is temporary.
fn chaos_command(place: &Place, arguments: &[&str]) -> Command {
    place.write();
    let temporary = place.file("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut command = command();
    let report = place.file("report.json");
    command.env("TMPDIR", temporary).current_dir(place.file("")).arg("--config").arg(place.config_file());
    command.arg("chaos").args(arguments).arg("--report").arg(report);
    command
}

fn report(place: &Place) -> Value {
    serde_json::from_slice(&fs::read(place.file("report.json")).unwrap()).unwrap()
}

/// The numbers that a report promises, of one sink: acknowledged, delivered, duplicated, lost.
fn counts(report: &Value, sink: &str) -> [u64; 4] {
    ["acknowledged", "delivered", "duplicated", "lost"]
        .map(|key| report["sinks"][sink][key].as_u64().unwrap_or_else(|| panic!("{key}: {report}")))
}

fn assert_nothing_is_left(place: &Place) {
    let left: Vec<_> = fs::read_dir(place.file("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!place.data_dir().exists(), "the operator's own data directory was used");
}

/// A run in the sandbox with every kind of fault (in a plain test all but the one that takes long) loses nothing, says so
/// in a table and a report, ends with 0, and leaves nothing behind. In CI the seed is another each time; what the command
/// printed, which begins with it, stands in the failure.
#[test]
fn a_run_in_the_sandbox_loses_nothing() {
    let place = Place::empty()
        .sink("first", &format!("{{ type: store, {PATIENT} }}"))
        .sink("second", &format!("{{ type: http, url: \"http://127.0.0.1:9/\", {PATIENT} }}"));
    let quick =
        "sink-kill,actor-kill,panic,stall,sink-fail,sink-slow,sink-throttle,sink-garbage,sink-cut,crash";
    let quick = ["--sandbox", "--seed", "5", "--duration", "6s", "--faults", quick];
    let arguments = thorough(&quick[..], &["--sandbox", "--duration", "60s"]);
    let finished = Finished::of(&mut chaos_command(&place, arguments));
    let said = finished.stdout.clone();
    let printed = finished.ok();
    assert!(printed.contains("\nOK: nothing that was acknowledged was lost\n"), "{said}");
    let report = report(&place);
    let seed = report["seed"].as_u64().unwrap();
    assert!(printed.starts_with(&format!("chaos with --seed {seed}: ")), "{said}");
    for sink in ["first", "second"] {
        let [acknowledged, delivered, _, lost] = counts(&report, sink);
        assert!(acknowledged > 100 && delivered == acknowledged && lost == 0, "{said}");
        assert_eq!(report["sinks"][sink]["proof"], "received");
    }
    let of = |key: &str| report[key].as_object().unwrap().values().map(|v| v.as_u64().unwrap()).sum::<u64>();
    let faults = of("faults");
    assert!(faults >= thorough(4, 30), "{said}");
    let kills = ["sink-kill", "actor-kill", "panic"].map(|kind| report["faults"][kind].as_u64().unwrap_or(0));
    // Not each: a fault that waits for an actor to end its stall dies with the process.
    assert!((1..=kills.iter().sum()).contains(&of("restarts")), "{said}");
    assert_eq!(report["process_restarts"], report["faults"].get("crash").unwrap_or(&Value::from(0)).clone());
    assert!(report["recovery_ms"]["p50"].is_u64() && report["recovery_ms"]["p99"].is_u64(), "{report}");
    assert_eq!(report["timeline"].as_array().unwrap().len() as u64, faults);
    assert_nothing_is_left(&place);
}

/// The journal is filled until posts are refused; when the sinks are well again everything that was acknowledged comes.
#[test]
fn a_full_journal_recovers() {
    let place = Place::empty().sink("up", &format!("{{ type: blackhole, {PATIENT} }}"));
    let arguments = ["--sandbox", "--seed", "1", "--duration", "2s", "--faults", "disk-full"];
    let printed = Finished::of(&mut chaos_command(&place, &arguments)).ok();
    assert!(!printed.contains("was not full"), "{printed}");
    let report = report(&place);
    assert_eq!(report["faults"]["disk-full"], 1);
    let [acknowledged, delivered, _, lost] = counts(&report, "up");
    assert!(acknowledged > 0 && delivered == acknowledged && lost == 0, "{printed}");
    assert!(report["posted"].as_u64().unwrap() > acknowledged, "some were refused: {printed}");
    assert_nothing_is_left(&place);
}

/// With the real sinks the event store is asked for every event, and has each once; what is known of a file by its
/// cursor stands in the file.
#[test]
fn real_sinks_get_everything() {
    let place = Place::new().sink("out", "{ type: file, path: ./out.ndjson }");
    let arguments = ["--seed", "3", "--duration", "4s", "--faults", "crash,panic,sink-kill"];
    let printed = Finished::of(&mut chaos_command(&place, &arguments)).ok();
    let report = report(&place);
    let [acknowledged, delivered, duplicated, lost] = counts(&report, "events");
    assert!(acknowledged > 100 && delivered == acknowledged && lost == 0 && duplicated == 0, "{printed}");
    assert_eq!(report["sinks"]["events"]["proof"], "stored");
    let out = &report["sinks"]["out"];
    assert_eq!(
        (&out["proof"], &out["duplicated"], &out["lost"]),
        (&"cursor".into(), &Value::Null, &0.into())
    );
    assert_eq!(out["delivered"], acknowledged);
    let lines = fs::read_to_string(place.file("out.ndjson")).unwrap().lines().count() as u64;
    assert!(lines >= acknowledged, "{lines} lines in the file, {printed}");
    assert_nothing_is_left(&place);
}

/// A journal in memory loses what is not delivered when the process is killed, and the judge finds exactly that: here the
/// engine is asked for what the command refuses.
#[test]
fn a_loss_is_found() {
    let yaml = "buffer: { durability: memory }\nbatch: { max_wait: 3s }\nsinks: { up: { type: blackhole } }";
    let plan = plan(yaml, vec![FaultKind::Crash]);
    let report = actix::System::new().block_on(run(&plan)).expect("there is something to judge");
    let up = &report.sinks["up"];
    assert_eq!((up.proof, up.undelivered, up.dead_letters), (Proof::Received, 0, 0));
    assert!(up.lost > 0 && up.delivered + up.lost == up.acknowledged, "{}", report.table());
    assert!(!up.lost_ids.is_empty() && up.lost_ids.iter().all(|id| id.starts_with("chaos-")));
    let findings = report.findings();
    assert!(findings.len() == 1 && findings[0].contains("are lost at sink up: chaos-"), "{findings:?}");
    let kept = report.notes.last().and_then(|note| note.strip_prefix("log and data are kept in "));
    let kept = PathBuf::from(kept.expect("the place is kept"));
    assert!(kept.join("forebay.yaml").exists() && kept.join("data").exists());
    fs::remove_dir_all(kept).unwrap();
}

/// A process that does not run is an error with its last words, not a verdict.
#[test]
fn a_process_that_ends_is_no_verdict() {
    let mut plan = plan("sinks: { up: { type: blackhole } }", vec![FaultKind::Panic]);
    plan.binary = "/bin/false".into();
    let error = actix::System::new().block_on(run(&plan)).expect_err("nothing runs");
    let ChaosError::WithLog { error, place, .. } = error else { panic!("{error}") };
    assert!(matches!(*error, ChaosError::Ended(_)), "{error}");
    fs::remove_dir_all(place).unwrap();
}

/// An interrupt ends the faults early; it is judged all the same.
#[test]
fn an_interrupt_ends_early_and_judges() {
    let place = Place::empty().sink("out", "{ type: file, path: ./out.ndjson }");
    let mut command = chaos_command(&place, &["--duration", "1h", "--faults", "stall"]);
    let process = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let has_lines = || fs::metadata(place.file("out.ndjson")).is_ok_and(|file| file.len() > 0);
    until("events arrive", has_lines);
    let sent = Command::new("kill").arg("-INT").arg(process.id().to_string()).status();
    assert!(sent.unwrap().success());
    let output = process.wait_with_output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{printed}");
    let [acknowledged, lost] =
        ["acknowledged", "lost"].map(|key| report(&place)["sinks"]["out"][key].as_u64().unwrap());
    assert!(acknowledged > 0 && lost == 0, "{printed}");
    assert_nothing_is_left(&place);
}

/// What cannot be done is said before anything is started.
#[test]
fn what_cannot_be_done_is_refused() {
    let place = Place::new();
    let run = |arguments: &[&str]| Finished::of(&mut chaos_command(&place, arguments));
    let said = run(&["--faults", "sink-kill,sink-cut"]).failed(1);
    assert!(said.contains("--faults sink-cut: only the destinations of --sandbox do that"), "{said}");
    let said = run(&["--faults", "sink-kil"]).failed(2);
    assert!(said.contains("sink-throttle") && said.contains("disk-full"), "{said}");
    for wrong in [["--duration", "soon"], ["--duration", "0s"], ["--rate", "0"]] {
        run(&wrong).failed(2);
    }
    let place = Place::new().section("buffer: { durability: interval }");
    let said = Finished::of(&mut chaos_command(&place, &["--faults", "crash"])).failed(1);
    assert!(said.contains("buffer.durability"), "{said}");
    assert_nothing_is_left(&place);
}

fn plan(yaml: &str, faults: Vec<FaultKind>) -> Plan {
    Plan {
        config: Config::parse(yaml, Format::Yaml, "test", &|_| None).unwrap(),
        binary: env!("CARGO_BIN_EXE_forebay").into(),
        seed: 1,
        duration: Duration::from_secs(3),
        rate: 200,
        faults,
        sandbox: true,
        data_dir: None,
        settle: PATIENCE,
    }
}

async fn run(plan: &Plan) -> Result<chaos::report::Report, ChaosError> {
    let (_interrupt, interrupts) = watch::channel(0);
    chaos::run(plan, interrupts, &mut |_: Live| ()).await
}
