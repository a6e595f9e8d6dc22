//! `forebay dead-letter`.

use std::{path::Path, process::ExitCode, sync::Arc};

use clap::Subcommand;
use forebay_actors::{
    destination::DestinationFactory,
    event::{Events, write_json},
    record::SinkName,
    runtime::clock::Clock,
    state::{DeadLetter, DeadLetters, StateDb, StateError},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Done, EXIT_FAILURE, block_on, load, print,
    progress::{Progress, waiting},
    redeliver::redeliver,
};
use crate::{
    api::control,
    config::Config,
    data_dir::{self, DataDir},
    pipeline,
};

/// Letters listed where nobody says how many.
const LIST_DEFAULT: usize = 50;

/// What is said of a letter whose event was refused by partial success; the destination's own words are in the log of whoever
/// delivered it.
const LEFT_OUT: &str = "the destination took the request but left the event out of it (partial success)";

/// Letters read at a time.
const READ_LETTERS: usize = 100;

/// `forebay dead-letter …`.
#[derive(Debug, Subcommand)]
pub enum DeadLetterCommand {
    /// Lists what there is: totals by sink, or the letters of one sink.
    List {
        /// The sink; totals of all sinks without it.
        sink: Option<String>,
        /// Letters at most.
        #[arg(long, default_value_t = LIST_DEFAULT)]
        limit: usize,
        /// Begin behind this id.
        #[arg(long)]
        after: Option<u64>,
    },
    /// Shows one letter whole, with its event.
    Show {
        /// The sink.
        sink: String,
        /// Its id, as `list` shows it.
        id: u64,
    },
    /// Delivers letters again; what is delivered is removed.
    Replay {
        /// The sink.
        sink: String,
        /// Ids; all of the sink without any.
        ids: Vec<u64>,
    },
    /// Removes letters for good.
    Drop {
        /// The sink.
        sink: String,
        /// Ids.
        #[arg(required_unless_present = "all")]
        ids: Vec<u64>,
        /// All of the sink.
        #[arg(long, conflicts_with = "ids")]
        all: bool,
    },
}

/// What is asked of dead letters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Totals by sink.
    Totals,
    /// Letters of a sink in order, behind an id.
    List(SinkName, Option<u64>, usize),
    /// One letter.
    Show(SinkName, u64),
    /// Deliver again: these, or all.
    Replay(SinkName, Option<Vec<u64>>),
    /// Remove: these, or all.
    Drop(SinkName, Option<Vec<u64>>),
}

impl From<&DeadLetterCommand> for Request {
    fn from(command: &DeadLetterCommand) -> Self {
        let some = |ids: &Vec<u64>| (!ids.is_empty()).then(|| ids.clone());
        match command {
            DeadLetterCommand::List { sink: None, .. } => Self::Totals,
            DeadLetterCommand::List { sink: Some(sink), limit, after } => {
                Self::List(sink.as_str().into(), *after, *limit)
            }
            DeadLetterCommand::Show { sink, id } => Self::Show(sink.as_str().into(), *id),
            DeadLetterCommand::Replay { sink, ids } => Self::Replay(sink.as_str().into(), some(ids)),
            DeadLetterCommand::Drop { sink, ids, .. } => Self::Drop(sink.as_str().into(), some(ids)),
        }
    }
}

/// Asks the running process, or does it itself where there is none.
///
/// # Errors
/// What went wrong, in words.
pub fn dead_letter(command: &DeadLetterCommand, file: Option<&Path>) -> Done {
    let config = load(file).map_err(|e| e.to_string())?;
    let request = Request::from(command);
    let answer: Value = block_on(async {
        let order = control::Order::DeadLetters(request.clone());
        match waiting("working", control::ask(&config.data_dir, &order)).await? {
            Some(answer) => Ok::<Value, String>(answer),
            None => offline(&config, request).await,
        }
    })?;
    let text = match &answer {
        Value::Array(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
        Value::String(text) => format!("{text}\n"),
        other => format!("{}\n", serde_json::to_string_pretty(other).map_err(|e| e.to_string())?),
    };
    print(&text)?;
    // A script has to see that some letters are still there.
    let kept = answer["kept"].as_array().is_some_and(|kept| !kept.is_empty());
    Ok(if kept { ExitCode::from(EXIT_FAILURE) } else { ExitCode::SUCCESS })
}

async fn offline(config: &Config, request: Request) -> Result<Value, String> {
    let data_dir = DataDir::open(&config.data_dir).map_err(|e| e.to_string())?;
    let state = StateDb::open(&data_dir::state(data_dir.path())).map_err(|e| e.to_string())?;
    let letters =
        DeadLetters::open(Arc::new(state), config.dead_letters.max_bytes).map_err(|e| e.to_string())?;
    let destinations = pipeline::destinations(config, data_dir.path(), Clock::system());
    let factory = |sink: &SinkName| config.sinks.get(sink.as_str()).map(|config| destinations(sink, config));
    carry_out(Arc::new(letters), factory, request, Progress::new("reading the dead letters")).await
}

/// Does what is asked; `factory` makes the destination of a sink that is configured.
///
/// # Errors
/// What went wrong, in words.
pub async fn carry_out(
    letters: Arc<DeadLetters>,
    factory: impl Fn(&SinkName) -> Option<DestinationFactory>,
    request: Request,
    mut progress: Progress,
) -> Result<Value, String> {
    if let Request::Replay(sink, ids) = request {
        let factory = factory(&sink);
        let factory =
            factory.ok_or_else(|| format!("there is no sink {:?} in the configuration", sink.as_str()))?;
        return replay(letters, factory, sink, ids, progress).await;
    }
    let answer = tokio::task::spawn_blocking(move || answer(&letters, request, &mut progress)).await;
    answer.map_err(|e| e.to_string())?
}

fn answer(letters: &DeadLetters, request: Request, progress: &mut Progress) -> Result<Value, String> {
    let words = |e: StateError| e.to_string();
    match request {
        Request::Totals => {
            let totals = letters.all_totals().map_err(words)?;
            let line = |(sink, totals): (SinkName, forebay_actors::state::Totals)| json!({"sink": sink, "letters": totals.letters, "bytes": totals.bytes});
            Ok(totals.into_iter().map(line).collect())
        }
        Request::List(sink, after, limit) => {
            let found = letters.list(&sink, after, limit).map_err(words)?;
            Ok(found.iter().map(|(id, letter)| summary(*id, letter)).collect())
        }
        Request::Show(sink, id) => {
            let letter = find(letters, &sink, id)?;
            let mut shown = summary(id, &letter);
            shown["event"] = event(&letter);
            Ok(shown)
        }
        Request::Drop(sink, ids) => {
            let named = ids.is_some();
            let ids = ids.map_or_else(|| all_ids(letters, &sink, progress), Ok)?;
            progress.turn_to("dropping", Some(ids.len() as u64));
            let mut dropped = 0;
            for (index, id) in ids.into_iter().enumerate() {
                dropped += u64::from(letters.remove(&sink, id).map_err(words)?);
                progress.at(index as u64 + 1);
            }
            if named && dropped == 0 {
                return Err(format!("{sink} has no such dead letters; nothing was dropped"));
            }
            Ok(json!(format!("{dropped} dead letters of {sink} dropped")))
        }
        Request::Replay(..) => Err("a replay is not answered here".to_owned()),
    }
}

async fn replay(
    letters: Arc<DeadLetters>,
    factory: DestinationFactory,
    sink: SinkName,
    ids: Option<Vec<u64>>,
    mut progress: Progress,
) -> Result<Value, String> {
    let destination = factory().map_err(|e| e.to_string())?;
    let ids = ids.map_or_else(|| all_ids(&letters, &sink, &mut progress), Ok)?;
    progress.turn_to("replaying", Some(ids.len() as u64));
    let (mut delivered, mut kept) = (0, Vec::new());
    for (index, id) in ids.iter().enumerate() {
        let letter = find(&letters, &sink, *id)?;
        match letter.batch() {
            None => kept.push(json!({"id": id, "error": "its event's bytes are gone"})),
            Some(batch) => {
                let outcome = progress.during(redeliver(&*destination, batch)).await;
                let outcome = outcome.map_err(|e| format!("stopped after {delivered} letters: {e}"))?;
                match outcome.refused.first() {
                    Some((_, error)) => kept.push(json!({"id": id, "error": error})),
                    None if outcome.left_out > 0 => kept.push(json!({"id": id, "error": LEFT_OUT})),
                    None => {
                        letters.remove(&sink, *id).map_err(|e| e.to_string())?;
                        delivered += 1;
                    }
                }
            }
        }
        progress.at(index as u64 + 1);
    }
    Ok(json!({"sink": sink, "delivered": delivered, "kept": kept}))
}

fn find(letters: &DeadLetters, sink: &SinkName, id: u64) -> Result<DeadLetter, String> {
    let found = letters.list(sink, id.checked_sub(1), 1).map_err(|e| e.to_string())?;
    let found = found.into_iter().find(|(other, _)| *other == id);
    found.map(|(_, letter)| letter).ok_or_else(|| format!("{sink} has no dead letter {id}"))
}

fn all_ids(letters: &DeadLetters, sink: &SinkName, progress: &mut Progress) -> Result<Vec<u64>, String> {
    let mut ids = Vec::new();
    loop {
        let found = letters.list(sink, ids.last().copied(), READ_LETTERS).map_err(|e| e.to_string())?;
        if found.is_empty() {
            return Ok(ids);
        }
        ids.extend(found.iter().map(|(id, _)| *id));
        progress.at(ids.len() as u64);
    }
}

fn summary(id: u64, letter: &DeadLetter) -> Value {
    json!({
        "id": id,
        "sink": letter.sink,
        "reason": letter.reason,
        "error": letter.error,
        "status": letter.status,
        "attempts": letter.attempts,
        "at": letter.at.to_string(),
        "first": letter.span.first,
        "events": letter.span.count(),
    })
}

fn event(letter: &DeadLetter) -> Value {
    let payload = letter.event.as_deref().unwrap_or_default();
    let mut events = Events::new(payload);
    let Some(Ok(event)) = events.next_event() else { return Value::Null };
    let mut text = Vec::new();
    write_json(&event, &mut text);
    serde_json::from_slice(&text).unwrap_or_else(|_| json!(String::from_utf8_lossy(&text)))
}
