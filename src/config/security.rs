//! The sections `tls` and `auth`: who may talk to the listeners, and how privately. They hold for all of them alike.

use std::{borrow::Cow, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use forebay_actors::event::Timestamp;
use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::units;

/// A handshake is two or three packets each way; this is a bad mobile network, twice.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Half of the month before its end in which most automatic renewals happen: by then one has failed for a while.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 24 * 3600);
/// The key that most systems give it.
const TENANT_KEY: &str = "tenant";
/// A client with a wrong token that tries again in a loop gets 401 for a while, and then is told to come less often.
const REFUSALS_PER_SECOND: u32 = 1;
const REFUSALS_BURST: u32 = 30;
/// With what a stored hash begins: the name of its function.
const HASH_PREFIX: &str = "sha256:";
const HASH_DIGITS: usize = 64;

/// TLS of every listener; on where there is a certificate. The files are looked at every two seconds, and read again
/// where they have changed; what is wrong then is said, and the certificate before it stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate and those between it and its authority, in PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, in PEM.
    pub key_file: Option<PathBuf>,
    /// Certificates of the authorities whose clients are let in, in PEM. Without them no client certificate is asked for.
    pub client_ca_file: Option<PathBuf>,
    /// Of a client certificate, where there is client_ca_file: required or optional. One that is sent has to be right in
    /// any case.
    pub client_auth: ClientAuth,
    /// How long a client may take for the handshake.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub handshake_timeout: Duration,
    /// How long before the certificate expires the log begins to warn, and /health shows it.
    #[serde(with = "units::duration")]
    #[schemars(with = "units::Span")]
    pub expiry_warning: Duration,
}

/// Whether a client has to have a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuth {
    /// Who has none is not let in.
    #[default]
    Required,
    /// Who has none is let in.
    Optional,
}

/// Who may do what: tokens, and the networks they may come from. Applied live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Tokens that are let in; `forebay token new` makes one and its entry. Without any, and without tokens_file, nobody is
    /// asked.
    pub tokens: Vec<TokenConfig>,
    /// A YAML file with further ones, under its key tokens. It is looked at every two seconds.
    pub tokens_file: Option<PathBuf>,
    /// What needs no token: health (/health, /live, /ready, grpc.health.v1), metrics, docs (/docs, /openapi.json,
    /// reflection).
    pub public: Vec<PublicRoute>,
    /// Under which key a token's tenant is put on what it sends: in an event's metadata, and among the attributes of an
    /// OpenTelemetry resource. What the sender says under that key is replaced.
    pub tenant_key: String,
    /// Networks or addresses that are let in, like 10.0.0.0/8 or 192.0.2.7; all, where there is none. It is the
    /// connection's own address that counts, never X-Forwarded-For.
    pub allow: Vec<Network>,
    /// How often one address may be refused in a second, and at once; beyond that it gets 429.
    pub refusals: RefusalLimit,
}

/// One token, by its hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// What logs and metrics call it.
    pub name: String,
    /// What `forebay token hash` makes of it: `sha256:` and 64 hexadecimal digits.
    pub hash: TokenHash,
    /// What it may do: ingest, relay, query, metrics, admin.
    pub scopes: Vec<Scope>,
    /// Whose events it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// How often it may be used, over all addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<TokenLimits>,
    /// Until when it is good, like 2027-01-31T00:00:00Z.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
}

/// What a token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Send events.
    Ingest,
    /// Send events, and hand on those of others with the ids and the time of arrival that they have from another Forebay.
    Relay,
    /// Ask for events, and read metrics.
    Query,
    /// Read metrics, and nothing else.
    Metrics,
    /// Ask for the actors and bring them down, where `admin.chaos` is on.
    Admin,
}

/// Routes that may be open to all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PublicRoute {
    /// Probes, which have no token.
    Health,
    /// What Prometheus reads.
    Metrics,
    /// What the interfaces are, which is the same for every Forebay.
    Docs,
}

/// Requests that a token may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenLimits {
    /// Requests a second.
    pub per_second: u32,
    /// Requests that may come at once after a pause; as many as a second's where absent.
    #[serde(default)]
    pub burst: Option<u32>,
}

/// Refusals that an address gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RefusalLimit {
    /// A second.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// The SHA-256 of a token. It says nothing about a token that nobody can guess; it is not shown all the same, because
/// not every token is one of ours.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct TokenHash(String);

/// A network, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

// === impl TlsConfig ===

impl TlsConfig {
    /// Whether the listeners speak TLS.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some()
    }

    /// Whether a running process can change to `new`: to other files, but not to other rules.
    pub fn can_become(&self, new: &Self) -> bool {
        let rules = |tls: &Self| {
            let asks = tls.client_ca_file.is_some().then_some(tls.client_auth);
            (tls.is_on(), asks, tls.handshake_timeout)
        };
        rules(self) == rules(new)
    }
}

impl Default for TlsConfig {
    fn default() -> Self {
        Self {
            cert_file: None,
            key_file: None,
            client_ca_file: None,
            client_auth: ClientAuth::default(),
            handshake_timeout: HANDSHAKE_TIMEOUT,
            expiry_warning: EXPIRY_WARNING,
        }
    }
}

// === impl AuthConfig ===

impl AuthConfig {
    /// Whether anybody is asked who he is.
    pub fn is_on(&self) -> bool {
        !self.tokens.is_empty() || self.tokens_file.is_some()
    }
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            tokens: Vec::new(),
            tokens_file: None,
            public: vec![PublicRoute::Health, PublicRoute::Docs],
            tenant_key: TENANT_KEY.to_owned(),
            allow: Vec::new(),
            refusals: RefusalLimit::default(),
        }
    }
}

impl Default for RefusalLimit {
    fn default() -> Self {
        Self { per_second: REFUSALS_PER_SECOND, burst: REFUSALS_BURST }
    }
}

// === impl TokenConfig ===

impl TokenConfig {
    /// What makes no sense in it.
    pub fn problems(&self) -> Vec<super::Problem> {
        super::check::check_tokens(std::slice::from_ref(self))
    }

    /// When it expires; `None` where it never does.
    ///
    /// # Errors
    /// What is wrong with the time.
    pub fn expiry(&self) -> Result<Option<Timestamp>, String> {
        self.expires.as_deref().map(Timestamp::parse).transpose().map_err(|error| error.to_string())
    }
}

impl Scope {
    /// As it is written.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Relay => "relay",
            Self::Query => "query",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }
}

// === impl TokenHash ===

impl TokenHash {
    /// Of these bytes.
    pub fn of_bytes(hash: &[u8; 32]) -> Self {
        Self(hash.iter().fold(HASH_PREFIX.to_owned(), |text, byte| text + &format!("{byte:02x}")))
    }

    /// Its bytes; `None` where it is none.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        let digits = self.0.strip_prefix(HASH_PREFIX)?;
        if digits.len() != HASH_DIGITS || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        let mut bytes = [0; 32];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).ok()?;
        }
        Some(bytes)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What stands in its place where it is not shown.
    pub(super) fn redacted() -> Self {
        Self(format!("{HASH_PREFIX}***"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

// === impl Network ===

impl Network {
    /// Whether the address is in it. An address of IPv4 that is written as one of IPv6 is the same address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let network = network.map_err(|_| {
            format!(
                "{text:?} is neither a network nor an address; like 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32"
            )
        })?;
        // `::ffff:10.0.0.0/104` is meant as 10.0.0.0/8.
        if let IpNet::V6(v6) = network
            && let Some(v4) = v6.addr().to_ipv4_mapped()
            && let Some(bits) = v6.prefix_len().checked_sub(96)
        {
            let narrowed = IpNet::new(v4.into(), bits).map_err(|error| format!("{text:?}: {error}"))?;
            return Ok(Self(narrowed.trunc()));
        }
        Ok(Self(network.trunc()))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Network {
    fn schema_name() -> Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"description": "a network or an address, like 10.0.0.0/8 or 192.0.2.7", "type": "string"})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    /// An address of IPv4 is the same one in its form of IPv6, in the list and on the connection.
    #[test]
    fn networks_contain_what_they_should() {
        for (network_text, inside, outside) in [
            ("10.0.0.0/8", "10.200.3.4", "11.0.0.1"),
            ("10.1.2.3/8", "::ffff:10.200.3.4", "::ffff:11.0.0.1"),
            ("::ffff:10.0.0.0/104", "10.9.9.9", "::10.9.9.9"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:1::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
            ("0.0.0.0/0", "::ffff:1.2.3.4", "::1"),
        ] {
            let network = network(network_text);
            assert!(network.contains(inside.parse().unwrap()), "{network_text} {inside}");
            assert!(!network.contains(outside.parse().unwrap()), "{network_text} {outside}");
        }
        assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
        for wrong in ["", "10.0.0.0/33", "localhost", "10.0.0", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Network>().unwrap_err().contains("like 10.0.0.0/8"), "{wrong}");
        }
    }

    #[test]
    fn a_hash_is_read_and_not_shown() {
        let bytes: [u8; 32] = std::array::from_fn(|i| i as u8 * 7);
        let hash = TokenHash::of_bytes(&bytes);
        assert_eq!(hash.bytes(), Some(bytes));
        assert_eq!(format!("{hash:?}"), "***");
        let digits = hash.as_str().strip_prefix("sha256:").unwrap();
        for wrong in
            [digits, "sha256:", &format!("sha256:{}", &digits[1..]), &format!("sha256:{}+", &digits[1..])]
        {
            assert_eq!(TokenHash(wrong.to_owned()).bytes(), None, "{wrong}");
        }
    }
}
