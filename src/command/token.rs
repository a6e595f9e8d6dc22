//! `forebay token`.

use std::io::{Read as _, stdin};

use clap::{Args, Subcommand};
use forebay_actors::event::Timestamp;

use super::{Done, print};
use crate::{
    config::{Scope, TokenConfig, quoted},
    security::token::{generate, hash, unfit},
};

/// Bytes of a token that is read; no header carries more.
const TOKEN_BYTES_MAX: u64 = 8192;

/// `forebay token …`.
#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub enum TokenCommand {
    /// Makes a token: prints it, once, and its entry for auth.tokens or for the file of tokens.
    New(New),
    /// Reads a token from standard input, and prints the hash that is kept of it.
    Hash,
}

/// `forebay token new …`.
#[derive(Debug, Args)]
pub struct New {
    /// What logs and metrics call it.
    #[arg(long, default_value = "default")]
    name: String,
    /// What it may do; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE", default_values = ["ingest"])]
    scopes: Vec<Scope>,
    /// Whose events it sends.
    #[arg(long)]
    tenant: Option<String>,
    /// Until when it is good, like 2027-01-31T00:00:00Z.
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// Carries it out.
///
/// # Errors
/// Where there is no token, or standard output cannot be written.
pub fn token(command: &TokenCommand) -> Done {
    match command {
        TokenCommand::New(new) => make(new),
        TokenCommand::Hash => {
            let mut text = String::new();
            let read = stdin().lock().take(TOKEN_BYTES_MAX).read_to_string(&mut text);
            read.map_err(|error| format!("standard input: {error}"))?;
            let token = text.trim();
            if let Some(why) = unfit(token) {
                return Err(format!("this is no token: {why}"));
            }
            print(&format!("{}\n", hash(token).as_str()))
        }
    }
}

fn make(new: &New) -> Done {
    if let Some(expires) = &new.expires {
        Timestamp::parse(expires).map_err(|error| format!("--expires: {error}"))?;
    }
    let token = generate()?;
    let entry = TokenConfig {
        name: new.name.clone(),
        hash: hash(&token),
        scopes: new.scopes.clone(),
        tenant: new.tenant.clone(),
        limits: None,
        expires: new.expires.clone(),
    };
    if let Some(problem) = entry.problems().first() {
        return Err(format!("{problem}"));
    }
    print(&format!(
        "{token}\n\n# It is not shown again, and nobody can find it out from this, which belongs under auth.tokens, or under\n\
         # tokens in auth.tokens_file:\n{}",
        entry_yaml(&entry)
    ))
}

fn entry_yaml(entry: &TokenConfig) -> String {
    let scopes: Vec<_> = entry.scopes.iter().map(|scope| scope.as_str()).collect();
    let mut yaml = format!(
        "    - name: {}\n      hash: {}\n      scopes: [{}]\n",
        quoted(&entry.name),
        quoted(entry.hash.as_str()),
        scopes.join(", ")
    );
    for (key, value) in [("tenant", &entry.tenant), ("expires", &entry.expires)] {
        if let Some(value) = value {
            yaml.push_str(&format!("      {key}: {}\n", quoted(value)));
        }
    }
    yaml
}
