//! Following files by their contents: modification times have too coarse a clock, and a mounted secret is a link that is
//! turned.

use std::{path::Path, time::Duration};

use prometheus::IntCounterVec;
use ring::digest::{Context, SHA256};

/// How often the files are looked at.
pub(super) const FILES_LOOK: Duration = Duration::from_secs(2);

/// Bytes of a file; no certificate and no list of tokens has more.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The digest of what some files hold, or of why they cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Content([u8; 32]);

/// What is known of all files.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub tls: Followed,
    pub tokens: Followed,
}

/// Files that belong together.
#[derive(Debug, Default)]
pub(super) struct Followed {
    in_force: Content,
    /// What they hold since, if that cannot be used; and what is wrong with it, once that was said.
    unusable: Option<(Content, Option<String>)>,
}

impl Content {
    /// Of these files.
    pub(super) fn of<'p>(paths: impl IntoIterator<Item = &'p Path>) -> Self {
        let mut context = Context::new(&SHA256);
        for path in paths {
            match read(path) {
                Ok(bytes) => {
                    context.update(&(bytes.len() as u64).to_be_bytes());
                    context.update(&bytes);
                }
                Err(error) => context.update(error.as_bytes()),
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }
}

/// A file's bytes.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|error| format!("{shown}: {error}"))?.len();
    if length > FILE_BYTES_MAX {
        return Err(format!("{shown} has {length} bytes; {FILE_BYTES_MAX} are the most that is read"));
    }
    std::fs::read(path).map_err(|error| format!("{shown}: {error}"))
}

impl Followed {
    /// Notes what is in force.
    pub(super) fn put(&mut self, content: Content) {
        (self.in_force, self.unusable) = (content, None);
    }

    /// What is wrong with what the files hold now.
    pub(super) fn problem(&self) -> Option<&str> {
        self.unusable.as_ref()?.1.as_deref()
    }

    /// Has the files read again where they hold something else than what is in force. What cannot be used is tried once
    /// more at the next look, before anything is said: of two files, one may have been written before the other.
    pub(super) fn follow<E: std::fmt::Display>(
        &mut self,
        content: Content,
        what: &str,
        reloads: &IntCounterVec,
        read: impl FnOnce() -> Result<Content, E>,
    ) {
        if content == self.in_force {
            if self.unusable.take().is_some_and(|(_, said)| said.is_some()) {
                tracing::info!("{what} is again the one that is in force");
            }
            return;
        }
        let seen_before = match &self.unusable {
            Some((unusable, Some(_))) if *unusable == content => return,
            Some((unusable, None)) => *unusable == content,
            _ => false,
        };
        match read() {
            Ok(content) => {
                self.put(content);
                tracing::info!("{what} has changed, and the new one is in force");
                reloads.with_label_values(&["applied"]).inc();
            }
            Err(error) if seen_before => {
                tracing::error!(
                    "{what} has changed, but cannot be used; the one before stays in force: {error}"
                );
                reloads.with_label_values(&["failed"]).inc();
                self.unusable = Some((content, Some(error.to_string())));
            }
            Err(_) => self.unusable = Some((content, None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: files change to something unusable, stay so, change to something else unusable, and to something good.
    /// Guarantee: each unusable content is reported once, at its second look; what is good is taken at its first.
    #[test]
    fn what_is_unusable_is_said_once() {
        let reloads = SecurityCounters::new();
        let mut followed = Followed::default();
        let content = |n: u8| Content([n; 32]);
        let mut look =
            |n: u8, good: bool| {
                followed.follow(content(n), "it", &reloads.0, || {
                    if good { Ok(content(n)) } else { Err("broken") }
                });
                (reloads.count("applied"), reloads.count("failed"), followed.problem().is_some())
            };
        assert_eq!(look(0, true), (0, 0, false), "nothing has changed");
        assert_eq!(look(1, false), (0, 0, false), "it may be half of a change");
        assert_eq!(look(1, false), (0, 1, true));
        assert_eq!(look(1, false), (0, 1, true), "it is said already");
        assert_eq!(look(2, false), (0, 1, false));
        assert_eq!(look(2, false), (0, 2, true));
        assert_eq!(look(0, true), (0, 2, false), "back to what is in force");
        assert_eq!(look(3, true), (1, 2, false));
        assert_eq!(look(3, true), (1, 2, false));
    }

    struct SecurityCounters(IntCounterVec);

    impl SecurityCounters {
        fn new() -> Self {
            Self(IntCounterVec::new(prometheus::Opts::new("reloads", "in a test"), &["outcome"]).unwrap())
        }

        fn count(&self, outcome: &str) -> u64 {
            self.0.with_label_values(&[outcome]).get()
        }
    }
}
