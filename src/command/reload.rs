//! `forebay reload`.

use std::path::Path;

use serde_json::Value;

use super::{Done, block_on, load, print};
use crate::api::control::{Order, ask};

/// Makes the running process read its configuration again, and says what changed or why nothing did.
///
/// # Errors
/// Where the file is invalid, or no process runs in its `data_dir`.
pub fn reload(file: Option<&Path>) -> Done {
    let config = load(file).map_err(|e| e.to_string())?;
    let answer: Option<Value> = block_on(ask(&config.data_dir, &Order::Reload))?;
    let none = || format!("no forebay runs in {}", config.data_dir.display());
    let changes = serde_json::to_string_pretty(&answer.ok_or_else(none)?).map_err(|e| e.to_string())?;
    print(&(changes + "\n"))
}
