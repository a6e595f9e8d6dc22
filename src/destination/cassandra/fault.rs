//! What the cluster's errors mean for a batch.
//!
//! | what it says | what it means here |
//! |---|---|
//! | too few replicas alive, a failed replica, a node that starts | the cluster failed: tried again |
//! | a write that was not confirmed in time, no answer | in time: tried again |
//! | overloaded, a rate, no place for a request | throttled: tried again |
//! | user, password, rights, syntax, configuration | refused: tried again, since an operator can mend it |
//! | invalid (a row or a key that is too large, and tables that changed) | the tables are looked at again: where rows no longer fit, refused; else these events are rejected |
//! | a guardrail, but for one about sizes | refused: tried again |
//! | no node, a broken connection | no connection: tried again with a session of its own |

use std::error::Error;

use forebay_actors::destination::{Cause, DeliveryError, Verdict};
use scylla::errors::{
    BadQuery, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError,
    MetadataError, NewSessionError, PrepareError, RequestAttemptError,
};

use super::super::chain;

/// A failure, and what it says of the session it came from.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) cause: Cause,
    pub(super) verdict: Verdict,
    pub(super) message: String,
    pub(super) remedy: Remedy,
}

/// What is to be done beside trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing.
    None,
    /// The session has no connection that works: the next attempt begins with a new one.
    Reconnect,
    /// Either the table is not what it was, or a row can never be written: the table tells.
    LookAgain,
}

const RETRY: Verdict = Verdict::Retry { after: None };

impl Fault {
    fn new(cause: Cause, remedy: Remedy, error: &dyn Error) -> Self {
        Self { cause, verdict: RETRY, message: one_line(&chain(error)), remedy }
    }

    fn lost(error: &dyn Error) -> Self {
        Self::new(Cause::Connect, Remedy::Reconnect, error)
    }

    /// Of a cluster's own word.
    fn said(error: &DbError, words: &str) -> Self {
        let (cause, remedy) = match error {
            DbError::Invalid if is_about_operation(words) => (Cause::Refused, Remedy::None),
            DbError::Invalid => (Cause::Rejected, Remedy::LookAgain),
            DbError::Unprepared { .. } => (Cause::Refused, Remedy::LookAgain),
            DbError::AuthenticationError
            | DbError::Unauthorized
            | DbError::SyntaxError
            | DbError::ConfigError
            | DbError::AlreadyExists { .. } => (Cause::Refused, Remedy::None),
            DbError::Overloaded | DbError::RateLimitReached { .. } => (Cause::Throttled, Remedy::None),
            DbError::WriteTimeout { .. } | DbError::ReadTimeout { .. } => (Cause::Timeout, Remedy::None),
            _ => (Cause::Server, Remedy::None),
        };
        let verdict = if cause == Cause::Rejected { Verdict::Reject } else { RETRY };
        // Where the cluster says something, the library's own words add nothing but for the counts of replicas.
        let message = match error {
            DbError::Unavailable { .. } | DbError::WriteTimeout { .. } | DbError::WriteFailure { .. } => {
                format!("{words} ({error})")
            }
            _ if words.is_empty() => error.to_string(),
            _ => words.to_owned(),
        };
        Self { cause, verdict, message: one_line(&message), remedy }
    }

    /// What failed although no event was in it: whatever it says is no fault of events.
    pub(super) fn without_events(self) -> Self {
        match self.verdict {
            Verdict::Reject => Self { cause: Cause::Refused, verdict: RETRY, ..self },
            Verdict::Retry { .. } => self,
        }
    }

    /// What failed on its way to a table.
    pub(super) fn of(error: &ExecutionError) -> Self {
        match error {
            ExecutionError::LastAttemptError(attempt) => Self::of_attempt(attempt),
            ExecutionError::PrepareError(error) => Self::of_preparing(error),
            ExecutionError::ConnectionPoolError(pool) => Self::of_pool(pool, error),
            ExecutionError::EmptyPlan => Self::lost(error),
            ExecutionError::RequestTimeout(_) => Self::new(Cause::Timeout, Remedy::Reconnect, error),
            ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(..)) => {
                let verdict = Verdict::Reject;
                Self { verdict, ..Self::new(Cause::Rejected, Remedy::None, error) }
            }
            ExecutionError::MetadataError(error) => Self::of_metadata(error),
            _ => Self::new(Cause::Server, Remedy::None, error),
        }
    }

    pub(super) fn of_preparing(error: &PrepareError) -> Self {
        match error {
            PrepareError::AllAttemptsFailed { first_attempt } => {
                Self::of_attempt(first_attempt).without_events()
            }
            PrepareError::ConnectionPoolError(pool) => Self::of_pool(pool, error),
            _ => Self::new(Cause::Server, Remedy::None, error),
        }
    }

    pub(super) fn of_session(error: &NewSessionError) -> Self {
        match error {
            NewSessionError::MetadataError(error) => Self::of_metadata(error),
            _ => Self::lost(error),
        }
    }

    pub(super) fn of_metadata(error: &MetadataError) -> Self {
        match error {
            MetadataError::ConnectionPoolError(pool) => Self::of_pool(pool, error),
            _ => Self::lost(error),
        }
    }

    fn of_attempt(error: &RequestAttemptError) -> Self {
        match error {
            RequestAttemptError::DbError(error, words) => Self::said(error, words),
            RequestAttemptError::UnableToAllocStreamId => Self::new(Cause::Throttled, Remedy::None, error),
            RequestAttemptError::RepreparedIdChanged { .. }
            | RequestAttemptError::RepreparedIdMissingInBatch => {
                Self::new(Cause::Refused, Remedy::LookAgain, error)
            }
            RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
                let verdict = Verdict::Reject;
                Self { verdict, ..Self::new(Cause::Encode, Remedy::None, error) }
            }
            _ => Self::lost(error),
        }
    }

    /// Connections may have failed because the cluster does not let them in.
    fn of_pool(pool: &ConnectionPoolError, error: &dyn Error) -> Self {
        if let ConnectionPoolError::Broken { last_connection_error } = pool
            && let ConnectionError::ConnectionSetupRequestError(setup) = last_connection_error
        {
            match &setup.error {
                ConnectionSetupRequestErrorKind::DbError(error, words) => {
                    let said = Self::said(error, words).without_events();
                    return Self { remedy: Remedy::Reconnect, ..said };
                }
                ConnectionSetupRequestErrorKind::MissingAuthentication => {
                    let message = "the cluster asks for a user and a password; user and password say them";
                    let message = message.to_owned();
                    return Self {
                        cause: Cause::Refused,
                        verdict: RETRY,
                        message,
                        remedy: Remedy::Reconnect,
                    };
                }
                _ => {}
            }
        }
        Self::lost(error)
    }

    /// As the sink takes it.
    pub(super) fn at(self, place: &str) -> DeliveryError {
        let Self { cause, verdict, message, .. } = self;
        DeliveryError { cause, message: format!("{place}: {message}"), status: None, verdict }
    }
}

/// Whether what is invalid breaks a rule of the operator's (a guardrail) that no row could keep: a disk that is too full, a
/// consistency that is not allowed. Those for the size of a value are about the row.
fn is_about_operation(words: &str) -> bool {
    words.starts_with("Guardrail ") && !words.contains("_size violated")
}

/// Words of the cluster may have line breaks in them, and values of rows.
fn one_line(text: &str) -> String {
    const QUOTED_CHARS_MAX: usize = 600;
    let words = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    let line = words.collect::<Vec<_>>().join(" ");
    line.chars().take(QUOTED_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(error: DbError, words: &str) -> (Cause, Verdict, Remedy) {
        let error = RequestAttemptError::DbError(error, words.to_owned());
        let fault = Fault::of(&ExecutionError::LastAttemptError(error));
        (fault.cause, fault.verdict, fault.remedy)
    }

    /// The words are those of Cassandra 5.0.
    #[test]
    fn what_the_cluster_says_becomes_a_cause_and_a_verdict() {
        for words in [
            "CQL Message of size 1900065 bytes exceeds allowed maximum of 1536000 bytes",
            "Rejected an oversized mutation (2700053/1536000) for keyspace: k. Top keys are: u.x",
            "Guardrail column_value_size violated: Value of column 'v' has size 2MiB",
            "table t does not exist",
        ] {
            let expected = (Cause::Rejected, Verdict::Reject, Remedy::LookAgain);
            assert_eq!(said(DbError::Invalid, words), expected, "{words}");
        }
        for (error, words, cause) in [
            (DbError::Invalid, "Guardrail replica_disk_usage violated: disk usage exceeds", Cause::Refused),
            (DbError::Unauthorized, "User writer has no MODIFY permission on <table k.t>", Cause::Refused),
            (DbError::Overloaded, "", Cause::Throttled),
            (DbError::IsBootstrapping, "", Cause::Server),
            (DbError::ServerError, "java.lang.RuntimeException", Cause::Server),
        ] {
            assert_eq!(said(error, words), (cause, RETRY, Remedy::None), "{words}");
        }
        assert_eq!(Fault::of(&ExecutionError::EmptyPlan).remedy, Remedy::Reconnect);
        let long = Fault::of(&ExecutionError::BadQuery(BadQuery::ValuesTooLongForKey(70_000, 65_535)));
        assert_eq!((long.cause, long.verdict), (Cause::Rejected, Verdict::Reject));
    }
}
