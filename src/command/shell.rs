//! `forebay completions` and `forebay man`.

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Done, print};

/// `forebay completions …`.
#[derive(Debug, Args)]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    shell: Shell,
}

/// Prints a completion script.
///
/// # Errors
/// Where standard output cannot be written.
pub fn completions(completions: &Completions) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(completions.shell, &mut Arguments::command(), "forebay", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Prints the manual page, for `man -l -`.
///
/// # Errors
/// Where standard output cannot be written.
pub fn man() -> Done {
    let mut page = Vec::new();
    clap_mangen::Man::new(Arguments::command()).render(&mut page).map_err(|e| e.to_string())?;
    print(&String::from_utf8_lossy(&page))
}
