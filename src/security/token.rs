//! Tokens: what they look like, and what is kept of them.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    digest::{SHA256, digest},
    rand::{SecureRandom as _, SystemRandom},
};

use crate::config::TokenHash;

/// With what a token begins, so that people and scanners for leaked secrets recognise one.
pub const PREFIX: &str = "fby_";

/// Random bytes of a token.
const RANDOM_BYTES: usize = 32;

/// Characters of a token that somebody else made: 22 of base64 are 128 bits, if they are random.
pub const CHARS_MIN: usize = 22;

/// A new token.
///
/// # Errors
/// Where the operating system has no random numbers.
pub fn generate() -> Result<String, String> {
    let mut random = [0; RANDOM_BYTES];
    SystemRandom::new().fill(&mut random).map_err(|_| "the operating system has no random numbers")?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(random)))
}

/// The SHA-256 of a token.
pub(super) fn sha256(token: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token).as_ref());
    hash
}

/// What is kept of a token.
pub fn hash(token: &str) -> TokenHash {
    TokenHash::of_bytes(&sha256(token.as_bytes()))
}

/// Why this could not be a token.
pub fn unfit(token: &str) -> Option<String> {
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Some("it has characters that a header cannot carry".to_owned());
    }
    (token.len() < CHARS_MIN).then(|| {
        format!(
            "it has fewer than {CHARS_MIN} characters: its SHA-256 would give it away to whoever reads it; \
             `forebay token new` makes one that nobody can guess"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash is what other tools print, so that a token can be hashed without Forebay.
    #[test]
    fn a_hash_is_that_of_sha256sum() {
        let expected = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hash("abc").as_str(), expected);
    }

    #[test]
    fn tokens_are_fit_and_never_the_same() {
        let (one, two) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.len(), PREFIX.len() + 43);
        assert_eq!(unfit(&one), None);
        assert!(unfit("password1").is_some_and(|why| why.contains("forebay token new")));
        assert!(unfit("a token with spaces in it, long enough").is_some());
    }
}
