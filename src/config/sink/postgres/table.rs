//! The name of a table, quoted as SQL wants it.

use std::fmt;

/// Bytes of a name that the server keeps; it cuts longer ones off without a word.
const NAME_BYTES_MAX: usize = 63;

/// The longest suffix of a name that is made of the table's: that of a month.
const SUFFIX_BYTES_MAX: usize = 8;

/// A table, alone or in a schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    schema: Option<String>,
    name: String,
}

impl Table {
    /// Reads `name` or `schema.name`.
    ///
    /// # Errors
    /// Why it is no name of a table.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        for part in schema.into_iter().chain([name]) {
            if part.is_empty() || part.contains(['.', '\0']) {
                return Err("is not a table's name; like `events` or `telemetry.events`");
            }
            if part.len() > NAME_BYTES_MAX - SUFFIX_BYTES_MAX {
                return Err("is too long; 55 bytes leave room for the names of its partitions");
            }
        }
        Ok(Self { schema: schema.map(str::to_owned), name: name.to_owned() })
    }

    /// A table beside it.
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self { schema: self.schema.clone(), name: format!("{}{suffix}", self.name) }
    }

    /// The schema, quoted.
    pub fn schema(&self) -> Option<String> {
        self.schema.as_deref().map(quoted)
    }
}

/// Quoted.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = self.schema() {
            write!(f, "{schema}.")?;
        }
        f.write_str(&quoted(&self.name))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No name breaks out of its quotes.
    #[test]
    fn names_are_quoted() {
        for (text, sql) in [
            ("events", "\"events\""),
            ("Logs.Events", "\"Logs\".\"Events\""),
            ("a\"; DROP TABLE x; --", "\"a\"\"; DROP TABLE x; --\""),
        ] {
            assert_eq!(Table::parse(text).unwrap().to_string(), sql);
        }
        let long = "x".repeat(56);
        for wrong in ["", ".", "a.", ".a", "a.b.c", "a\0b", &long] {
            Table::parse(wrong).unwrap_err();
        }
    }
}
