//! `forebay completions` and `forebay man`.

use std::{fs, path::PathBuf};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Arguments, Done, print};

/// `forebay completions …`.
#[derive(Debug, Args)]
pub struct Completions {
    /// bash, elvish, fish, powershell or zsh.
    shell: Shell,
}

/// `forebay man …`.
#[derive(Debug, Args)]
pub struct Man {
    /// The command whose page it is, as `dead-letter replay`; the page of forebay itself without it.
    command: Vec<String>,
    /// Write the pages of all commands into this directory: forebay.1, forebay-run.1 and so on.
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
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

/// Prints a manual page, for `man -l -`, or writes all of them.
///
/// # Errors
/// Where there is no such command, or the pages cannot be written.
pub fn man(man: &Man) -> Done {
    // Every page refers to those of its commands: `help` has none, since it says the same.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    if let Some(dir) = &man.dir {
        let failed = |e: std::io::Error| format!("{}: {e}", dir.display());
        fs::create_dir_all(dir).map_err(failed)?;
        let pages = pages(&command);
        for page in &pages {
            page.generate_to(dir).map_err(failed)?;
        }
        return print(&format!("{} pages in {}\n", pages.len(), dir.display()));
    }
    for name in &man.command {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| format!("`{}` has no command {name:?}", shown(&command)))?;
    }
    let mut text = Vec::new();
    page(command).render(&mut text).map_err(|e| e.to_string())?;
    print(&String::from_utf8_lossy(&text))
}

fn shown(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_else(|| command.get_name())
}

/// The page of a command and those of all commands below it.
fn pages(command: &Command) -> Vec<clap_mangen::Man> {
    let mut all = vec![page(command.clone())];
    command.get_subcommands().for_each(|below| all.extend(pages(below)));
    all
}

fn page(command: Command) -> clap_mangen::Man {
    clap_mangen::Man::new(command).source(concat!("forebay ", env!("CARGO_PKG_VERSION")))
}
