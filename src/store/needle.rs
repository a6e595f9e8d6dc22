//! Looking for a text in messages: as it stands, in either case, nothing in it being a pattern.

/// A text to look for, made ready for being compared with many messages.
pub(super) enum Needle {
    /// Lower case.
    Ascii(Vec<u8>),
    /// Lower case, by Unicode's rules.
    Unicode(String),
}

// === impl Needle ===

impl Needle {
    /// Of a text that is not empty.
    pub(super) fn new(text: &str) -> Self {
        if text.is_ascii() {
            Self::Ascii(text.to_ascii_lowercase().into_bytes())
        } else {
            Self::Unicode(text.to_lowercase())
        }
    }

    /// Whether it stands in the message.
    pub(super) fn is_in(&self, message: &str) -> bool {
        match self {
            // No character beyond ASCII has a byte of ASCII in it, so bytes can be compared.
            Self::Ascii(lower) => contains_ascii(message.as_bytes(), lower),
            Self::Unicode(lower) => message.to_lowercase().contains(lower.as_str()),
        }
    }
}

/// Whether `lower`, which is not empty, stands in `text` in whatever case.
fn contains_ascii(text: &[u8], lower: &[u8]) -> bool {
    let (first, rest) = (lower[0], &lower[1..]);
    let upper = first.to_ascii_uppercase();
    let Some(starts) = text.len().checked_sub(rest.len()) else { return false };
    (0..starts).any(|at| {
        (text[at] == first || text[at] == upper) && text[at + 1..at + lower.len()].eq_ignore_ascii_case(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text is found in either case, at both ends and as the whole; nothing in it stands for anything else.
    #[test]
    fn a_text_is_found_as_it_stands() {
        let message = "GET /a_b 100% \u{c4}RGER \u{20ac}";
        let all = message.to_lowercase();
        for text in ["get", "/A_B", "100%", "0% ", "\u{e4}rger", "RGER", "\u{20ac}", "%", "_", message, &all]
        {
            assert!(Needle::new(text).is_in(message), "{text:?} is in it");
        }
        for text in ["getx", "a%b", "/axb", "/a__b", "*", "\u{f6}", &format!("{message}+")] {
            assert!(!Needle::new(text).is_in(message), "{text:?} is not in it");
        }
        assert!(!Needle::new("a").is_in("") && !Needle::new("\u{e4}").is_in(""));
    }
}
