//! The subject of a message: a template, and what it becomes for an event.

use std::str::FromStr;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectTemplate {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Service,
    Signal,
}

/// What stands for a service whose name is empty: a subject has no empty tokens.
const NO_NAME: &str = "_";

/// Subjects that belong to the server itself begin with it.
const RESERVED: char = '$';

impl FromStr for SubjectTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut pieces, mut rest) = (Vec::new(), text);
        while let Some((before, behind)) = rest.split_once('{') {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            let (name, behind) = behind.split_once('}').ok_or("has a { without a }")?;
            pieces.push(match name {
                "service" => Piece::Service,
                "signal" => Piece::Signal,
                other => return Err(format!("has {{{other}}}, which is not known; service and signal are")),
            });
            rest = behind;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let is_text = |piece: &&Piece| matches!(piece, Piece::Text(_));
        if let Some(c) = pieces.iter().filter(is_text).find_map(|piece| {
            let Piece::Text(text) = piece else { return None };
            text.chars().find(|c| *c != '.' && !is_allowed(*c))
        }) {
            return Err(format!("has {c:?} in it, which no subject to publish to may have"));
        }
        if text.starts_with(RESERVED) {
            return Err("begins with $, as those of the server itself do".to_owned());
        }
        let template = Self { pieces };
        if template.filter().split('.').any(str::is_empty) {
            return Err("has an empty token; one dot between tokens is right, and none around".to_owned());
        }
        Ok(template)
    }
}

/// Whether a token may have it.
fn is_allowed(c: char) -> bool {
    !matches!(c, '.' | '*' | '>') && !c.is_whitespace() && !c.is_control()
}

impl SubjectTemplate {
    /// Whether events of different services get different subjects.
    pub fn has_service(&self) -> bool {
        self.pieces.contains(&Piece::Service)
    }

    /// The subject.
    pub fn render(&self, service: &str, signal: &str) -> String {
        let mut subject = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => subject.push_str(text),
                Piece::Signal => subject.push_str(signal),
                Piece::Service if service.is_empty() => subject.push_str(NO_NAME),
                Piece::Service => {
                    subject.extend(service.chars().map(|c| if is_allowed(c) { c } else { '_' }))
                }
            }
        }
        subject
    }

    /// What matches all its subjects: tokens that differ are `*`.
    pub fn filter(&self) -> String {
        let text: String = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Service | Piece::Signal => "*",
            })
            .collect();
        let token = |token: &str| if token.contains('*') { "*".to_owned() } else { token.to_owned() };
        text.split('.').map(token).collect::<Vec<_>>().join(".")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(template: &str) -> SubjectTemplate {
        template.parse().unwrap()
    }

    /// A placeholder is one token, whatever the service is called; what matches one service matches all.
    #[test]
    fn a_placeholder_is_one_token() {
        for (service, subject) in [
            ("api", "events.api"),
            ("shop.check out", "events.shop_check_out"),
            ("*>\n\u{a0}", "events.____"),
            ("ü\u{1F600}", "events.ü\u{1F600}"),
            ("", "events._"),
        ] {
            assert_eq!(of("events.{service}").render(service, "logs"), subject);
        }
        assert_eq!(of("a.x-{signal}-y.{service}").render("api", "logs"), "a.x-logs-y.api");
        assert_eq!(of("a.x-{signal}-y.{service}").filter(), "a.*.*");
        assert_eq!(of("all").filter(), "all");
    }

    /// Each error names what is wrong.
    #[test]
    fn a_wrong_template_is_explained() {
        for (template, word) in [
            ("", "empty token"),
            ("events.", "empty token"),
            ("events..{service}", "empty token"),
            ("events.*", "'*'"),
            ("events.>", "'>'"),
            ("my events", "' '"),
            ("$JS.x", "begins with $"),
            ("events.{tenant}", "{tenant}, which is not known"),
            ("events.{service", "{ without a }"),
        ] {
            let error = template.parse::<SubjectTemplate>().unwrap_err();
            assert!(error.contains(word), "{template}: {error}");
        }
    }
}
