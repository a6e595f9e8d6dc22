//! Who a sink says that it is.

use std::fmt;

use async_nats::{Auth, AuthError};
use forebay_actors::destination::DeliveryError;
use nkeys::KeyPair;

use super::super::unbuildable;
use crate::config::NatsSink;

/// Marks around the two parts of a file of credentials.
const JWT: &str = "NATS USER JWT";
const SEED: &str = "USER NKEY SEED";

/// What is shown to a server; a key signs what the server wants signed.
pub(super) struct Credentials {
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    jwt: Option<String>,
    key: Option<KeyPair>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials")
    }
}

impl Credentials {
    /// Those of the options. Reads their file.
    ///
    /// # Errors
    /// [`Cause::Build`](forebay_actors::destination::Cause::Build) where the file or a key cannot be used.
    pub(super) fn of(options: &NatsSink) -> Result<Self, DeliveryError> {
        let revealed =
            |secret: &Option<crate::config::Secret>| secret.as_ref().map(|s| s.reveal().to_owned());
        let (mut jwt, mut key) = (None, None);
        if let Some(seed) = &options.nkey {
            key = Some(pair(seed.reveal()).map_err(|why| unbuildable(format!("nkey: {why}")))?);
        }
        if let Some(file) = &options.credentials_file {
            let wrong = |why: String| unbuildable(format!("credentials_file: {}: {why}", file.display()));
            let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
            let part = |name: &str| {
                part(&text, name)
                    .ok_or_else(|| wrong(format!("there is no {name} in it; `nsc` writes such files")))
            };
            jwt = Some(part(JWT)?.to_owned());
            key = Some(pair(part(SEED)?).map_err(|why| wrong(why.to_owned()))?);
        }
        let (user, password, token) =
            (options.user.clone(), revealed(&options.password), revealed(&options.token));
        Ok(Self { user, password, token, jwt, key })
    }

    /// What to answer to a server that wants this signed.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let mut auth = Auth::new();
        auth.username.clone_from(&self.user);
        auth.password.clone_from(&self.password);
        auth.token.clone_from(&self.token);
        auth.jwt.clone_from(&self.jwt);
        if let Some(key) = &self.key {
            auth.signature = Some(key.sign(nonce).map_err(AuthError::new)?);
            // With a JWT, the server knows the key by it.
            auth.nkey = self.jwt.is_none().then(|| key.public_key());
        }
        Ok(auth)
    }
}

fn pair(seed: &str) -> Result<KeyPair, &'static str> {
    // The error may have a part of the seed in it.
    KeyPair::from_seed(seed.trim())
        .map_err(|_| "is no seed of a user's nkey; one begins with SU and has 58 characters")
}

/// The line between the marks of this name.
fn part<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().skip_while(|line| !(line.contains("BEGIN") && line.contains(name)));
    lines.nth(1).map(str::trim).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn sink() -> NatsSink {
        NatsSink::to("nats://127.0.0.1:4222".to_owned())
    }

    /// A file as `nsc` writes it has a JWT and a key, which signs what the server asks for; what is wrong with one is said
    /// without a word of it.
    #[test]
    fn credentials_come_from_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("user.creds");
        let key = KeyPair::new_user();
        let seed = key.seed().unwrap();
        let text = |jwt: &str, seed: &str| {
            format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n\
                 -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
            )
        };
        std::fs::write(&file, text("e.y.J", &seed)).unwrap();
        let options = NatsSink { credentials_file: Some(file.clone()), ..sink() };
        let auth = Credentials::of(&options).unwrap().answer(b"nonce").unwrap();
        assert_eq!((auth.jwt.as_deref(), auth.nkey), (Some("e.y.J"), None));
        key.verify(b"nonce", &auth.signature.unwrap()).unwrap();
        for wrong in [text("e.y.J", "SUSECRET"), "nothing".to_owned()] {
            std::fs::write(&file, wrong).unwrap();
            let error = Credentials::of(&options).unwrap_err().to_string();
            assert!(error.contains("user.creds") && !error.contains("SUSECRET"), "{error}");
        }
    }

    #[test]
    fn a_seed_has_its_public_key() {
        let key = KeyPair::new_user();
        let nkey = Some(Secret::new(key.seed().unwrap()));
        let auth = Credentials::of(&NatsSink { nkey, ..sink() }).unwrap().answer(b"n").unwrap();
        assert_eq!((auth.nkey, auth.jwt), (Some(key.public_key()), None));
        let nkey = Some(Secret::new("SUSECRET"));
        let error = Credentials::of(&NatsSink { nkey, ..sink() }).unwrap_err().to_string();
        assert!(error.contains("begins with SU") && !error.contains("SUSECRET"), "{error}");
    }
}
