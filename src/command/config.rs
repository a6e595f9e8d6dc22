//! `forebay config`.

use clap::Subcommand;

use super::{Done, print};
use crate::config::{defaults_yaml, json_schema};

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
/// `forebay config …`.
pub enum ConfigCommand {
    /// Every key with its default, as a file that can be loaded.
    Defaults,
    /// The JSON Schema, for editors.
    Schema,
}

/// Prints what is asked for.
///
/// # Errors
/// Where standard output cannot be written.
pub fn config(command: &ConfigCommand) -> Done {
    match command {
        ConfigCommand::Defaults => print(&defaults_yaml()),
        ConfigCommand::Schema => {
            let schema = serde_json::to_string_pretty(&json_schema()).map_err(|e| e.to_string())?;
            print(&(schema + "\n"))
        }
    }
}
