//! Forebay end to end: the release binary, a load generator, an HTTP destination and a floor, in one run on
//! one machine.
//!
//! `cargo bench --bench end_to_end -- [--only NAME,..] [--seconds N] [--json FILE] ...`
//!
//! Every scenario gets a fresh process, a fresh data directory and a fresh sink, so that peak memory,
//! commits and lost events are its own. The floor is a bare actix-web handler that only parses the same
//! bodies: what a server would reach on this machine, under this load generator, if it kept no promise.
//!
//! Limits: Linux (CPU and memory come from `/proc`), loopback only, and every wait has an end. The exit code is 1
//! where an acknowledged event did not arrive or a part failed, whatever the targets say.

mod arguments;
mod events;
mod floor;
mod histogram;
mod load;
mod otlp;
mod report;
mod rig;
mod scenario;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of what is shared")]
mod shared;

use std::{process::ExitCode, time::Duration};

use arguments::{Arguments, Mode};
use shared::{Failure, client, process, sink};

/// The whole run; a machine on which it takes longer is not one to measure on.
const RUN_MAX: Duration = Duration::from_secs(60 * 60);

fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Mode::Bench(arguments)) => bench(&arguments),
        Ok(Mode::Floor) => floor::serve().map(|()| ExitCode::SUCCESS),
        Ok(Mode::Usage) => {
            println!("{}", arguments::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => Err(failure),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("end_to_end: {failure}");
        ExitCode::FAILURE
    })
}

/// Runs what was asked for. A signal drops the run, and with it every child process and the data directory.
fn bench(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start the runtime"))?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(Failure::io("listen for SIGTERM"))?;
        let report = tokio::select! {
            report = tokio::time::timeout(RUN_MAX, scenario::run(arguments)) => {
                report.map_err(|_| Failure::Timeout(format!("the run took longer than {RUN_MAX:?}")))??
            }
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::from(130)),
            _ = terminate.recv() => return Ok(ExitCode::from(143)),
        };
        print!("{report}");
        if let Some(path) = &arguments.json {
            let json = serde_json::to_vec_pretty(&report).expect("a report has only string keys");
            std::fs::write(path, json).map_err(Failure::io(format!("write {}", path.display())))?;
        }
        Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}
