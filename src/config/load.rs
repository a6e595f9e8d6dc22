//! From a file to a configuration, or to everything that is wrong with it.

use std::{fmt, io, path::Path};

use serde::Deserialize;

use super::{
    Config, Environment, TokenConfig,
    check::check_tokens,
    sink::{COMMON_KEYS, SINK_TYPES},
    substitute::substitute,
    toml,
    tree::{KeyPath, Node},
    typed::{self, Hints},
    yaml,
};

/// The shipped file: what holds where no file is named, so that the variables in it work there too.
const SHIPPED: &str = include_str!("../../config/forebay.yaml");

/// The name of [`SHIPPED`] in errors.
const SHIPPED_NAME: &str = "config/forebay.yaml (built in)";

/// The format of a configuration file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `.yaml`, `.yml`.
    Yaml,
    /// `.toml`.
    Toml,
    /// `.json`.
    Json,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key; empty where the file as such is wrong.
    pub path: KeyPath,
    /// The line of the key, or of the section where it is missing; none for a value that is in no file.
    pub line: Option<usize>,
    /// What is wrong; what would be right.
    pub message: String,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read: {error}")]
    Read {
        /// The file, as it was named.
        file: String,
        /// What the operating system says.
        error: io::Error,
    },
    /// The extension is not one of a format.
    #[error("{file}: the format is not known; the name should end in .yaml, .yml, .toml or .json")]
    Format {
        /// The file, as it was named.
        file: String,
    },
    /// What it says is wrong.
    #[error("{}", lines(file, problems))]
    Invalid {
        /// The file, as it was named.
        file: String,
        /// Everything that is wrong, in the file's order.
        problems: Vec<Problem>,
    },
}

fn lines(file: &str, problems: &[Problem]) -> String {
    let line = |problem: &Problem| match problem.line {
        Some(line) => format!("{file}:{line}: {problem}"),
        None => format!("{file}: {problem}"),
    };
    problems.iter().map(line).collect::<Vec<_>>().join("\n")
}

// === impl Problem ===

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.0.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

// === impl Format ===

impl Format {
    /// The format that the file's extension says.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "yaml" | "yml" => Some(Self::Yaml),
            "toml" => Some(Self::Toml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn parse(self, text: &str) -> Result<Node, Vec<Problem>> {
        match self {
            Self::Yaml => yaml::parse(text).map_err(|problem| vec![problem]),
            Self::Json => yaml::parse_json(text).map_err(|problem| vec![problem]),
            Self::Toml => toml::parse(text),
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`] with everything that is wrong.
    pub fn load(path: &Path, env: Environment<'_>) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let Some(format) = Format::of(path) else { return Err(ConfigError::Format { file }) };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Err(ConfigError::Read { file, error }),
        };
        Self::parse(&text, format, &file, env)
    }

    /// Reads the shipped file, which is built in: the defaults, and the variables that it names.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] where a variable's value is wrong.
    pub fn embedded(env: Environment<'_>) -> Result<Self, ConfigError> {
        Self::parse(SHIPPED, Format::Yaml, SHIPPED_NAME, env)
    }

    /// Reads a text; errors name it `file`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn parse(text: &str, format: Format, file: &str, env: Environment<'_>) -> Result<Self, ConfigError> {
        read(text, format, env).map_err(|mut problems| {
            problems.sort_by_key(|problem| problem.line);
            ConfigError::Invalid { file: file.to_owned(), problems }
        })
    }
}

/// A file of tokens: the key `tokens`, with entries as those of `auth.tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensFile {
    /// The entries.
    pub tokens: Vec<TokenConfig>,
}

impl TokensFile {
    /// Reads a text, as YAML unless the file's extension says otherwise; errors name the file.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn parse(text: &str, path: &Path, env: Environment<'_>) -> Result<Self, ConfigError> {
        let read = || {
            let (mut root, substituted, mut problems) =
                tree(text, Format::of(path).unwrap_or(Format::Yaml), env)?;
            let hints = Hints { more_keys: &|_| &[], values: &|_| None };
            let file = typed::read::<Self>(&mut root, &mut problems, &hints);
            let checked = file.as_ref().map(|file| check_tokens(&file.tokens)).unwrap_or_default();
            add_checked(&mut problems, checked, &substituted);
            file.filter(|_| problems.is_empty()).ok_or(problems)
        };
        read().map_err(|mut problems: Vec<Problem>| {
            problems.sort_by_key(|problem| problem.line);
            ConfigError::Invalid { file: path.display().to_string(), problems }
        })
    }
}

/// The tree of a text; the same with what its variables hold, also where that was wrong; and what was.
fn tree(
    text: &str,
    format: Format,
    env: Environment<'_>,
) -> Result<(Node, Node, Vec<Problem>), Vec<Problem>> {
    let mut root = format.parse(text)?;
    let whole = root.clone();
    let mut problems = Vec::new();
    root.scalars_mut(&KeyPath::default(), &mut |path, scalar| {
        if let Err(message) = substitute(scalar, env) {
            problems.push(Problem { path: path.clone(), line: Some(whole.locate(path).0), message });
        }
    });
    let substituted = root.clone();
    // From the end, so that the place of an item in a list is still its place when it is removed.
    for problem in problems.iter().rev() {
        root.remove(&problem.path);
    }
    Ok((root, substituted, problems))
}

/// Adds what a check found, with its lines.
fn add_checked(problems: &mut Vec<Problem>, checked: Vec<Problem>, substituted: &Node) {
    // A section from which something was taken out may lack just that.
    let whole_section = |p: &Problem| !problems.iter().any(|known| known.path.0.starts_with(&p.path.0));
    let checked: Vec<_> = checked.into_iter().filter(whole_section).collect();
    problems.extend(checked.into_iter().map(|problem| {
        let (line, node) = substituted.locate(&problem.path);
        let message = format!("{}{}", typed::origin(node), problem.message);
        Problem { line: Some(line), message, ..problem }
    }));
}

fn read(text: &str, format: Format, env: Environment<'_>) -> Result<Config, Vec<Problem>> {
    let (mut root, substituted, mut problems) = tree(text, format, env)?;
    let more_keys = |section: &KeyPath| match section.0.as_slice() {
        [sinks, _] if sinks == "sinks" => COMMON_KEYS.as_slice(),
        _ => &[],
    };
    let values = |key: &KeyPath| match key.0.as_slice() {
        [sinks, _, last] if sinks == "sinks" && last == "type" => Some(SINK_TYPES),
        _ => None,
    };
    let hints = Hints { more_keys: &more_keys, values: &values };
    let config = typed::read::<Config>(&mut root, &mut problems, &hints);
    let checked = match &config {
        // Two values can only be compared where both are there.
        Some(config) if problems.is_empty() => config.check(),
        Some(config) => config.check_values(),
        None => Vec::new(),
    };
    add_checked(&mut problems, checked, &substituted);
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems),
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
