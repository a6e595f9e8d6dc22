//! `${VAR}` and `${VAR:-default}` in values. It happens after the file was parsed, one value at a time, so a
//! variable can be any text without ever becoming structure, and a comment is never looked at.

use super::tree::Scalar;

/// Reads an environment variable; a parameter, so that tests need no process environment.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Replaces the variables of a value. As in a shell, `:-` also applies where the variable is set but empty.
/// `$$` is a dollar sign, and so is a `$` before anything but `{`. What a variable holds is not looked at
/// again.
///
/// # Errors
/// What is wrong and what would be right, where a variable is not set or the form is another one.
pub(super) fn substitute(scalar: &mut Scalar, env: Environment<'_>) -> Result<(), String> {
    if !scalar.text.contains('$') {
        return Ok(());
    }
    let (mut text, mut variables) = (String::new(), Vec::new());
    let mut rest = scalar.text.as_str();
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        if let Some(after) = after.strip_prefix('{') {
            let (inside, after) = after
                .split_once('}')
                .ok_or("a `${` is not closed; write ${NAME}, or $$ for a dollar sign")?;
            let (name, default) = parse(inside)?;
            text.push_str(&value(name, default, env)?);
            variables.push(name.to_owned());
            rest = after;
        } else {
            text.push('$');
            rest = after.strip_prefix('$').unwrap_or(after);
        }
    }
    text.push_str(rest);
    // What comes from a variable may be a number also where the format made the quotes necessary.
    scalar.quoted &= variables.is_empty();
    (scalar.text, scalar.variables) = (text, variables);
    Ok(())
}

/// Text that [`substitute`] turns back into `text`.
pub(super) fn escape(text: &str) -> String {
    text.replace('$', "$$")
}

fn parse(inside: &str) -> Result<(&str, Option<&str>), String> {
    let end = inside.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(inside.len());
    let (name, form) = inside.split_at(end);
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    match (form, form.strip_prefix(":-")) {
        ("", _) if named => Ok((name, None)),
        (_, Some(default)) if named && !default.contains("${") => Ok((name, Some(default))),
        _ => Err(format!(
            "`${{{inside}}}` is not a variable; write ${{NAME}}, ${{NAME:-default}}, or $$ for a dollar sign"
        )),
    }
}

fn value(name: &str, default: Option<&str>, env: Environment<'_>) -> Result<String, String> {
    match (env(name), default) {
        (Some(value), None) => Ok(value),
        (Some(value), Some(_)) if !value.is_empty() => Ok(value),
        (_, Some(default)) => Ok(default.replace("$$", "$")),
        (None, None) => Err(format!(
            "the environment variable {name} is not set; set it, or give a default: ${{{name}:-default}}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(text: &str) -> Result<String, String> {
        let mut scalar = Scalar { text: text.to_owned(), quoted: true, variables: Vec::new() };
        let env = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("x}\nsinks: ${A} $$".to_owned()),
            _ => None,
        };
        substitute(&mut scalar, &env).map(|()| scalar.text)
    }

    #[test]
    fn variables_defaults_and_escapes() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${A}", "1"),
            ("x${A}y${B:-2}z", "x1y2z"),
            ("${EMPTY}", ""),
            ("${EMPTY:-full}", "full"),
            ("${B:-}", ""),
            ("${B:-0 3 * * *}", "0 3 * * *"),
            ("${B:-a$$b}", "a$b"),
            ("$$", "$"),
            ("$${A}", "${A}"),
            ("5$ and $A", "5$ and $A"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{text}");
        }
    }

    /// A variable's value is text to the end: nothing in it is a variable or an escape.
    #[test]
    fn values_are_not_looked_at_again() {
        assert_eq!(run("[${EVIL}]").unwrap(), "[x}\nsinks: ${A} $$]");
    }

    #[test]
    fn errors_name_the_variable_or_the_form() {
        assert!(run("${NOPE}").unwrap_err().contains("variable NOPE is not set"));
        for text in ["${", "${}", "${1A}", "${A-b}", "${A:?b}", "${A B}", "${A:-${B}}"] {
            assert!(run(text).unwrap_err().contains("write ${NAME}"), "{text}");
        }
    }

    #[test]
    fn escaped_text_comes_back() {
        for text in ["$", "$$", "${A}", "a$b${"] {
            assert_eq!(run(&escape(text)).unwrap(), text);
        }
    }
}
