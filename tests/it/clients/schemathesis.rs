//! schemathesis: requests made up from the document at `/openapi.json`, right ones and wrong ones. No answer may be another
//! than the document says, none may be a 5xx, what is right has to be taken and what is wrong refused.

use crate::support::{
    binary::Place,
    clients::{command, installed, sources},
    thorough,
};

/// Both ports are tried at once, each by a process of its own.
#[test]
fn schemathesis_finds_the_document_true() {
    let test = "clients::schemathesis::schemathesis_finds_the_document_true";
    let Some(home) = installed("schemathesis", test) else { return };
    let forebay = Place::new().start();
    let document = format!("http://{}/openapi.json", forebay.address);
    // OpenTelemetry's messages have many members and nest: what covers all of them takes a minute, and so do a few more
    // requests that are made up.
    let all = "examples,coverage,fuzzing";
    let (http, otlp) = ((all, thorough("15", "100")), thorough(("examples,fuzzing", "5"), (all, "50")));
    let (from, notes) = (sources().join("schemathesis"), tempfile::tempdir().unwrap());
    let run = |filter: [&str; 2], url: String, (phases, examples): (&str, &str)| {
        let mut run = command(home.join("bin/schemathesis"));
        // It keeps notes where it is started.
        run.current_dir(notes.path()).env("NO_COLOR", "1").env("PYTHONDONTWRITEBYTECODE", "1");
        run.env("SCHEMATHESIS_HOOKS", from.join("hooks.py"))
            .arg("--config-file")
            .arg(from.join("schemathesis.toml"));
        run.args(["run", &document, "--url", &url]).args(filter);
        run.args(["--phases", phases, "--max-examples", examples, "--continue-on-failure"]);
        run.args(["--generation-database", "none"]);
        run.output().expect("it was installed")
    };
    std::thread::scope(|scope| {
        let http = scope
            .spawn(|| run(["--exclude-path-regex", "^/v1/"], format!("http://{}", forebay.address), http));
        let otlp = scope
            .spawn(|| run(["--include-path-regex", "^/v1/"], format!("http://{}", forebay.otlp()), otlp));
        for run in [http, otlp] {
            let run = run.join().unwrap();
            let said = String::from_utf8_lossy(&run.stdout);
            assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
            let tested = said.lines().find_map(|line| line.trim().strip_prefix("Tested: ")).unwrap_or("0");
            assert!(
                tested.parse::<u32>().is_ok_and(|tested| tested >= 3),
                "it has to have tried something:\n{said}"
            );
        }
    });
    assert_eq!(forebay.get("/ready").status, 200);
}
