//! Looking for a text in messages: as it stands, in either case, nothing in it being a pattern.

use memchr::memmem::Finder;

/// Bytes of a message that are put into lower case at a time.
const WINDOW_BYTES: usize = 64 * 1024;

/// A text to look for, made ready for many messages; each takes a time that grows with its length alone.
pub(super) struct Needle {
    /// Of the text in lower case, by Unicode's rules where it has letters beyond ASCII.
    finder: Finder<'static>,
    is_ascii: bool,
    /// A part of a message in lower case.
    window: Vec<u8>,
}

// === impl Needle ===

impl Needle {
    /// Of a text that is not empty.
    pub(super) fn new(text: &str) -> Self {
        // Of ASCII alone, both rules say the same.
        let finder = Finder::new(text.to_lowercase().as_bytes()).into_owned();
        Self { finder, is_ascii: text.is_ascii(), window: Vec::new() }
    }

    /// Whether it stands in the message.
    pub(super) fn is_in(&mut self, message: &str) -> bool {
        if !self.is_ascii {
            // As a whole: how a letter is written may depend on those beside it.
            return self.finder.find(message.to_lowercase().as_bytes()).is_some();
        }
        // No character beyond ASCII has a byte of ASCII in it, so bytes can be compared.
        let (message, behind) = (message.as_bytes(), self.finder.needle().len() - 1);
        (0..message.len()).step_by(WINDOW_BYTES).any(|from| {
            let to = message.len().min(from + WINDOW_BYTES + behind);
            self.window.clear();
            self.window.extend_from_slice(&message[from..to]);
            self.window.make_ascii_lowercase();
            self.finder.find(&self.window).is_some()
        })
    }
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

    /// A long message is looked through part by part: the text is found at its ends, and wherever parts meet.
    #[test]
    fn a_text_is_found_where_parts_meet() {
        let (mut needle, mut longer) = (Needle::new("nEEdle"), Needle::new("needles"));
        let bytes = 2 * WINDOW_BYTES + 100;
        let meeting = (WINDOW_BYTES - 8..WINDOW_BYTES + 2).chain(2 * WINDOW_BYTES - 8..2 * WINDOW_BYTES + 2);
        for at in meeting.chain([0, bytes - 6]) {
            let mut message = "-".repeat(bytes);
            message.replace_range(at..at + 6, "Needle");
            assert!(needle.is_in(&message) && !longer.is_in(&message), "at {at}");
        }
        assert!(!needle.is_in(&"-".repeat(bytes)));
    }
}
