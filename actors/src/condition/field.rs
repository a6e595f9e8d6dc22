//! The fields of an event by their names.

/// Fields that every event has.
const OWN: [&str; 5] = ["event_id", "timestamp", "service", "message", "ingested_at"];

/// What stands in the metadata of an item of OpenTelemetry beside its own fields: it may be named without `metadata.`.
const AROUND: [&str; 3] = ["attributes", "resource", "scope"];

/// A field of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Field {
    /// One that every event has.
    Own(Own),
    /// A value of its metadata, by its path.
    Metadata(Box<str>),
}

/// A field that every event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// Its id.
    EventId,
    /// When it happened.
    Timestamp,
    /// Who speaks.
    Service,
    /// What is said.
    Message,
    /// When it was accepted.
    IngestedAt,
}

/// Where a value is taken from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    Own(Own),
    /// By the number of its path.
    Metadata(usize),
}

impl Field {
    /// The field of this name: `message`, `metadata.level`, `resource.attributes.k8s.pod.name`.
    ///
    /// # Errors
    /// What would be right.
    pub fn parse(name: &str) -> Result<Self, String> {
        let own = match name {
            "event_id" => Some(Own::EventId),
            "timestamp" => Some(Own::Timestamp),
            "service" => Some(Own::Service),
            "message" => Some(Own::Message),
            "ingested_at" => Some(Own::IngestedAt),
            _ => None,
        };
        if let Some(own) = own {
            return Ok(Self::Own(own));
        }
        match name.split_once('.') {
            Some((_, "")) => Err("ends with a dot; a key belongs behind it".to_owned()),
            Some(("metadata", path)) => Ok(Self::Metadata(path.into())),
            Some((first, _)) if AROUND.contains(&first) => Ok(Self::Metadata(name.into())),
            Some((first, path)) if OWN.contains(&first) => {
                Err(format!("goes into {first}, which has no keys; did you mean `metadata.{path}`?"))
            }
            _ => Err(format!(
                "is not a field of an event; there are {}, and below metadata what the sender put there: did you mean \
                 `metadata.{name}`?",
                OWN.join(", ")
            )),
        }
    }

    /// Whether its values are moments.
    pub fn is_time(&self) -> bool {
        matches!(self, Self::Own(Own::Timestamp | Own::IngestedAt))
    }

    pub(super) fn placed(self, paths: &mut Vec<Box<str>>) -> Place {
        let path = match self {
            Self::Own(own) => return Place::Own(own),
            Self::Metadata(path) => path,
        };
        let known = paths.iter().position(|known| *known == path);
        Place::Metadata(known.unwrap_or_else(|| {
            paths.push(path);
            paths.len() - 1
        }))
    }
}
