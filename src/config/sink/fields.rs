//! Which keys of the metadata a sink sends, and under which name, as a configuration says it.

use std::collections::BTreeMap;

use forebay_actors::{
    condition::Field,
    projection::{PATHS_MAX, Projection},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ClickhouseOtel, SinkKind};

/// Which keys of an event's metadata go out, and under which name. The other fields always do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Fields {
    /// Only these, with everything in them; all where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub select: Option<Vec<String>>,
    /// Not these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub drop: Vec<String>,
    /// These under another name: a key of the metadata themselves, as `metadata.text`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
}

/// What is wrong with it: where below `fields`, and what.
pub type FieldsProblem = (Vec<String>, String);

impl Fields {
    /// The projection that it says.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn projection(&self) -> Result<Projection, Vec<FieldsProblem>> {
        let mut problems = Vec::new();
        let select = self.select.as_ref().map(|paths| list("select", paths, &mut problems));
        let drop = list("drop", &self.drop, &mut problems);
        let mut rename = Vec::new();
        for (path, name) in &self.rename {
            match (below_metadata(path), new_key(name)) {
                (Ok(path), Ok(key)) => rename.push((path, key)),
                (Err(why), _) | (_, Err(why)) => {
                    problems.push((vec!["rename".to_owned(), path.clone()], why));
                }
            }
        }
        let mut names: Vec<_> = rename.iter().map(|(_, key)| *key).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            problems.push((vec!["rename".to_owned()], format!("gives metadata.{} to several", twice[0])));
        }
        let count = select.as_ref().map_or(0, Vec::len) + drop.len() + rename.len();
        if count > PATHS_MAX {
            problems.push((Vec::new(), format!("names {count} keys; up to {PATHS_MAX} are possible")));
        }
        if *self == Self::default() {
            let why = "says nothing; leave it away, or say select, drop or rename";
            problems.push((Vec::new(), why.to_owned()));
        }
        if problems.is_empty() { Ok(Projection::new(select, drop, rename)) } else { Err(problems) }
    }
}

impl SinkKind {
    /// Why its events have no fields to choose from, where they have none.
    pub fn refuses_fields(&self) -> Option<&'static str> {
        match self {
            Self::Otlp(_) => Some(
                "cannot be used here: requests of OpenTelemetry are passed on in the bytes in which they came; leave it \
                 away, and take out what must not go there by a processor of the destination",
            ),
            Self::Clickhouse(sink) if sink.otel == ClickhouseOtel::Tables => Some(
                "cannot be used with otel: tables, which have all of an item; set otel: events, whose rows are chosen from, \
                 or leave it away",
            ),
            _ => None,
        }
    }
}

fn list<'p>(key: &str, paths: &'p [String], problems: &mut Vec<FieldsProblem>) -> Vec<&'p str> {
    let mut found = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        match below_metadata(path) {
            Ok(path) => found.push(path),
            Err(why) => problems.push((vec![key.to_owned(), index.to_string()], why)),
        }
    }
    found
}

/// The path below the metadata.
fn below_metadata(name: &str) -> Result<&str, String> {
    match Field::parse(name) {
        Ok(Field::Metadata(_)) => Ok(name.strip_prefix("metadata.").unwrap_or(name)),
        Ok(Field::Own(_)) => Err(format!(
            "{name} is in every event, and goes to every destination; only keys of metadata can be chosen"
        )),
        Err(why) => Err(format!("{name} {why}")),
    }
}

fn new_key(name: &str) -> Result<&str, String> {
    name.strip_prefix("metadata.").filter(|key| !key.is_empty() && !key.contains('.')).ok_or_else(|| {
        format!(
            "is renamed to {name:?}; a new name is a key of the metadata themselves, like `metadata.text`"
        )
    })
}
