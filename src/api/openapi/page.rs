//! The page: one file with its style and its script, which a policy allows by what they are and nothing else.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};

/// The page as it is sent.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) html: &'static str,
    /// Its `Content-Security-Policy`: it loads the document from where it came from, and nothing from anywhere else.
    pub(super) policy: String,
}

impl Page {
    pub(super) fn new() -> Self {
        let html = include_str!("page.html");
        let hash = |tag: &str| {
            let text = between(html, &format!("<{tag}>"), &format!("</{tag}>"));
            STANDARD.encode(digest(&SHA256, text.as_bytes()))
        };
        let (style, script) = (hash("style"), hash("script"));
        let policy = format!(
            "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Self { html, policy }
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let rest = text.split_once(begin).expect("the page has a style and a script").1;
    rest.split_once(end).expect("and each has an end").0
}
