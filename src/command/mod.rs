//! The command line: one file a command.

pub mod chaos;
pub mod config;
pub mod dead_letter;
pub mod progress;
pub mod redeliver;
pub mod reload;
pub mod replay;
pub mod run;
pub mod send;
pub mod shell;
pub mod token;
pub mod validate;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

use crate::config::{Config, ConfigError};

/// Something was wrong: the message says what.
pub const EXIT_FAILURE: u8 = 1;

/// Arguments that make no sense; clap's own code.
pub const EXIT_USAGE: u8 = 2;

/// The deadline of the shutdown came before everything was delivered; the rest stays in the journal.
pub const EXIT_DEADLINE: u8 = 3;

/// Takes events in, makes them durable before it says yes, and delivers them to every destination at that
/// destination's own pace.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
pub struct Arguments {
    /// The configuration file: .yaml, .toml or .json. Without one the embedded defaults hold.
    #[arg(short, long, global = true, env = "FOREBAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the relay (what happens without a command, too).
    Run,
    /// Checks a configuration, the journal and the destinations without starting anything.
    Validate(validate::Validate),
    /// Prints the configuration's defaults or its schema.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Looks at events that could not be delivered, delivers them again or drops them.
    #[command(subcommand)]
    DeadLetter(dead_letter::DeadLetterCommand),
    /// Sends a file or standard input to a Forebay: events, or OpenTelemetry's requests as JSON.
    Send(send::Send),
    /// Delivers events of the past to a sink once more, from what the journal has kept.
    Replay(replay::Replay),
    /// Makes the running process read its configuration again.
    Reload,
    /// Attacks a process of its own with faults, and judges whether anything acknowledged was lost.
    Chaos(chaos::Chaos),
    /// Makes tokens, and the hashes of tokens that are kept.
    #[command(subcommand)]
    Token(token::TokenCommand),
    /// Prints completions for a shell.
    Completions(shell::Completions),
    /// Prints a manual page, or writes those of all commands.
    Man(shell::Man),
}

/// Carries out what the arguments say.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let file = arguments.config.as_deref();
    let done = match arguments.command {
        None | Some(Command::Run) => run::run(file),
        Some(Command::Validate(validate)) => validate::validate(&validate, file),
        Some(Command::Config(command)) => config::config(&command),
        Some(Command::DeadLetter(command)) => dead_letter::dead_letter(&command, file),
        Some(Command::Send(send)) => send::send(&send, file),
        Some(Command::Replay(replay)) => replay::replay(&replay, file),
        Some(Command::Reload) => reload::reload(file),
        Some(Command::Chaos(command)) => chaos::chaos(&command, file),
        Some(Command::Token(command)) => token::token(&command),
        Some(Command::Completions(completions)) => shell::completions(&completions),
        Some(Command::Man(man)) => shell::man(&man),
    };
    done.unwrap_or_else(|message| {
        // Standard error may be closed; there is nobody else to tell.
        let _ = writeln!(io::stderr(), "forebay: {message}");
        ExitCode::from(EXIT_FAILURE)
    })
}

/// How a command ends: with a code, or with a message for people and [`EXIT_FAILURE`].
pub type Done = Result<ExitCode, String>;

/// The configuration of this file; the embedded one without.
fn load(file: Option<&Path>) -> Result<Config, ConfigError> {
    let environment = |name: &str| std::env::var(name).ok();
    match file {
        Some(path) => Config::load(path, &environment),
        None => Config::embedded(&environment),
    }
}

/// Prints to standard output. A reader that has gone, as of `forebay … | head`, is no error.
fn print(text: &str) -> Done {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("standard output: {error}")),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Runs a future on an actix system of this thread: destinations need one.
fn block_on<F: Future>(future: F) -> F::Output {
    actix::System::new().block_on(future)
}
