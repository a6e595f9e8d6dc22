//! A configuration file: it loads, or every mistake in it has a place.

use forebay::config::{Config, ConfigError, Format};

/// The first byte chooses the format, the others are the file.
///
/// # Panics
/// Where a mistake has no place, or what was read is written as something else.
pub fn config(input: &[u8]) {
    let Some((format, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let format = [Format::Yaml, Format::Toml, Format::Json][usize::from(*format) % 3];
    match Config::parse(text, format, "f", &environment) {
        Ok(config) => {
            let written = config.to_yaml();
            let again = Config::parse(&written, Format::Yaml, "f", &|_| None);
            let again =
                again.unwrap_or_else(|error| panic!("what was written is refused: {error}\n{written}"));
            assert_eq!(again, config, "{written}");
            drop(config.redacted().to_yaml());
        }
        Err(ConfigError::Invalid { problems, .. }) => {
            assert!(!problems.is_empty());
            let last = 1 + text.matches(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            for problem in problems {
                assert!(!problem.message.is_empty(), "{problem:?}");
                let line = problem.line.unwrap_or_else(|| panic!("it has no line: {problem:?}"));
                // A file may end in the middle of what began on its last line.
                assert!((1..=last + 1).contains(&line), "of {last} lines: {problem:?}");
            }
        }
        Err(other) => panic!("a text is no file: {other}"),
    }
}

fn environment(name: &str) -> Option<String> {
    match name {
        "A" => Some("1".to_owned()),
        "EMPTY" => Some(String::new()),
        "EVIL" => Some("x}\n- [: ${A} $$ \u{0}\t'\"".to_owned()),
        _ => None,
    }
}
