//! Endless load: a fixed rate of numbered events on the release binary, while its destination fails in every way by a seeded
//! schedule and the server is reloaded and, if asked for, killed.
//!
//! `cargo bench --bench soak -- [--seconds N] [--rate N] [--seed N] [--csv FILE] [--svg FILE] ...`
//!
//! Twice a second it looks at throughput, lag, memory, disk and open files. The exit code is 1 where an acknowledged event
//! did not arrive at the end, or where memory, disk or open files grew (`judge.rs` says what is called growth).
//!
//! A further kind of fault is a variant of `schedule::Fault`, a step in `stand.rs` and a colour in `plot.rs`.
//!
//! Limits: Linux (memory and files come from `/proc`), loopback only, and every wait has an end.

mod arguments;
mod judge;
mod ledger;
mod load;
mod numbers;
mod plot;
mod report;
mod sample;
mod schedule;
#[path = "../shared/mod.rs"]
#[allow(dead_code, reason = "each benchmark uses its part of what is shared")]
mod shared;
mod stand;

use std::process::ExitCode;

use arguments::Arguments;
use shared::{Failure, client, process, sink};

fn main() -> ExitCode {
    let outcome = match Arguments::parse(std::env::args().skip(1)) {
        Ok(Some(arguments)) => soak(&arguments),
        Ok(None) => {
            println!("{}", arguments::USAGE);
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => Err(failure),
    };
    outcome.unwrap_or_else(|failure| {
        eprintln!("soak: {failure}");
        ExitCode::FAILURE
    })
}

fn soak(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::io("start the runtime"))?;
    eprintln!(
        "soak: {} events/s for {} s, seed {} ...",
        arguments.rate,
        arguments.total.as_secs(),
        arguments.seed
    );
    let outcome = tokio::task::LocalSet::new().block_on(&runtime, stand::run(arguments))?;
    print!("{outcome}");
    if let Some(path) = &arguments.svg {
        std::fs::write(path, outcome.svg(arguments))
            .map_err(Failure::io(format!("write {}", path.display())))?;
    }
    Ok(if outcome.faulted().is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
