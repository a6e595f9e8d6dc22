//! What is there: the datacenter, the keyspace, the tables; what is missing is made, and who writes may write.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use forebay_actors::{
    destination::{Cause, DeliveryError},
    event::Timestamp,
    examination::ClockReading,
};
use scylla::{
    client::session::Session,
    cluster::{ClusterState, metadata::Table as FoundTable},
    errors::{DbError, ExecutionError, RequestAttemptError},
    response::query_result::QueryRowsResult,
    statement::{Consistency, Statement},
};
use tokio::{sync::Mutex as AsyncMutex, time::Instant};

use super::{
    fault::Fault,
    table::{Purpose, Table, quoted, text},
};
use crate::config::CassandraSink;

/// Copies of each row where nobody says otherwise.
const REPLICATION_FACTOR: usize = 3;

/// The right to make a table; who makes one has every other right to it.
const MAKE: &[&str] = &["CREATE"];

/// Held, for the hosts and the keyspace, while a schema is changed: sinks that have one fallback between them may want its
/// table in the same moment, and a cluster that is told twice at once may make it under two ids.
static CHANGING: Mutex<BTreeMap<String, Arc<AsyncMutex<()>>>> = Mutex::new(BTreeMap::new());

/// A session, seen by what it is to write to.
#[derive(Clone, Copy)]
pub(super) struct Schema<'s> {
    pub(super) purpose: Purpose,
    pub(super) session: &'s Session,
    pub(super) options: &'s CassandraSink,
    pub(super) place: &'s str,
}

impl Schema<'_> {
    /// Makes what is missing, where that is wanted.
    pub(super) async fn make(&self) -> Result<(), DeliveryError> {
        let datacenter = self.datacenter()?;
        let mut state = self.session.get_cluster_state();
        if state.get_keyspace(&self.options.keyspace).is_none() {
            let nodes = state.get_nodes_info().iter();
            let nodes = nodes.filter(|node| node.datacenter.as_deref() == Some(&datacenter)).count();
            let copies = self.options.replication_factor.unwrap_or(REPLICATION_FACTOR.min(nodes.max(1)));
            let (keyspace, datacenter) = (quoted(&self.options.keyspace), text(&datacenter));
            self.change(&format!(
                "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
                 {{'class': 'NetworkTopologyStrategy', {datacenter}: {copies}}}"
            ))
            .await?;
            state = self.session.get_cluster_state();
        }
        for &table in self.purpose.tables() {
            let found = found(&state, self.options, table);
            let change = match found {
                None => Some(table.definition(self.options)),
                Some(found) => table.addition(self.options, found),
            };
            if let Some(change) = change {
                self.change(&change).await?;
            }
        }
        Ok(())
    }

    /// Changes the schema, and waits until all nodes have it.
    async fn change(&self, sql: &str) -> Result<(), DeliveryError> {
        let changing = {
            let mut all = CHANGING.lock().unwrap_or_else(PoisonError::into_inner);
            all.entry(self.place.to_owned()).or_default().clone()
        };
        let _alone = changing.lock().await;
        self.session
            .query_unpaged(sql, ())
            .await
            .map_err(|error| Fault::of(&error).without_events().at(self.place))?;
        self.refresh().await
    }

    /// Asks what there is now.
    pub(super) async fn refresh(&self) -> Result<(), DeliveryError> {
        let refreshed = self.session.refresh_metadata().await;
        refreshed.map_err(|error| Fault::of_metadata(&error).at(self.place))
    }

    /// Looks whether rows can be written, or could after [`Schema::make`] where `is_made` is set.
    pub(super) fn check(&self, is_made: bool) -> Result<(), DeliveryError> {
        self.datacenter()?;
        let state = self.session.get_cluster_state();
        if !is_made && state.get_keyspace(&self.options.keyspace).is_none() {
            return Err(self.unfit("the keyspace is not there; manage_schema: true lets Forebay make it"));
        }
        for &table in self.purpose.tables() {
            let name = table.name(self.options);
            match found(&state, self.options, table) {
                None if is_made => {}
                None => {
                    let right = match self.purpose {
                        // It was made before anything was held: who looks for that must not make another one.
                        Purpose::Holding if self.options.manage_schema => {
                            "what was held in it is waited for; if it is lost, a table made anew lets its events become dead letters"
                        }
                        _ => "manage_schema: true lets Forebay make it",
                    };
                    return Err(self.unfit(&format!("the table {name} is not there; {right}")));
                }
                Some(found) => {
                    let wrong = table.misfits(found, is_made);
                    if !wrong.is_empty() {
                        return Err(self.unfit(&format!("the columns of {name} do not fit{wrong}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether there is none of the tables.
    pub(super) fn are_tables_missing(&self) -> bool {
        let state = self.session.get_cluster_state();
        self.purpose.tables().iter().all(|&table| found(&state, self.options, table).is_none())
    }

    /// Says where a table keeps rows for another time than the sink wants: the table's holds.
    pub(super) async fn compare_ttl(&self) -> Result<(), DeliveryError> {
        let sql = "SELECT table_name, default_time_to_live FROM system_schema.tables WHERE keyspace_name = ?";
        let rows = self.rows(self.session.query_unpaged(of_node(sql), (&self.options.keyspace,)).await)?;
        let rows =
            rows.rows::<(String, Option<i32>)>().map_err(|error| self.unreadable(&error.to_string()))?;
        for row in rows {
            let (name, found) = row.map_err(|error| self.unreadable(&error.to_string()))?;
            let Some(table) = Table::ROWS.into_iter().find(|table| table.name(self.options) == name) else {
                continue;
            };
            let found = i64::from(found.unwrap_or(0));
            let wanted = table.ttl(self.options).map_or(0, |ttl| ttl.as_secs() as i64);
            if found != wanted && self.options.manage_schema {
                let (keyspace, quoted) = (quoted(&self.options.keyspace), quoted(&name));
                let remedy = format!("ALTER TABLE {keyspace}.{quoted} WITH default_time_to_live = {wanted}");
                tracing::warn!(place = %self.place, table = %name, found, wanted, %remedy,
                    "a table keeps rows for other seconds than the sink says; the table's count");
            }
        }
        Ok(())
    }

    /// Looks whether this user may do what is to be done to every table that there is, and make those that there are not.
    pub(super) async fn check_rights(&self) -> Result<(), DeliveryError> {
        let Some(user) = &self.options.user else { return Ok(()) };
        let role = quoted(user);
        if self.is_superuser(&role).await? {
            return Ok(());
        }
        let state = self.session.get_cluster_state();
        let keyspace = quoted(&self.options.keyspace);
        let has_keyspace = state.get_keyspace(&self.options.keyspace).is_some();
        for &table in self.purpose.tables() {
            let name = table.name(self.options);
            let (rights, resource) = match found(&state, self.options, table) {
                Some(_) => (self.purpose.rights(), format!("TABLE {keyspace}.{}", quoted(name))),
                None if has_keyspace => (MAKE, format!("KEYSPACE {keyspace}")),
                None => (MAKE, "ALL KEYSPACES".to_owned()),
            };
            for right in rights {
                let listed =
                    self.session.query_unpaged(format!("LIST {right} ON {resource} OF {role}"), ()).await;
                if is_not_asked_for(&listed) {
                    return Ok(());
                }
                if !self.any(listed)? {
                    let remedy = format!("GRANT {right} ON {resource} TO {role} gives it");
                    return Err(
                        self.unfit(&format!("this user has no right to {right} on {resource}; {remedy}"))
                    );
                }
            }
        }
        Ok(())
    }

    async fn is_superuser(&self, role: &str) -> Result<bool, DeliveryError> {
        let listed = self.session.query_unpaged(format!("LIST ROLES OF {role}"), ()).await;
        if is_not_asked_for(&listed) {
            return Ok(true);
        }
        let rows = self.rows(listed)?;
        // The role's own, and those that were granted to it: name, whether it is a superuser, and more.
        let columns = rows.column_specs();
        let at = columns.iter().position(|column| column.name() == "super");
        let is_super = |row: scylla::value::Row| {
            let value = at.and_then(|at| row.columns.get(at)?.as_ref()?.as_boolean());
            value.unwrap_or(false)
        };
        let rows = rows.rows::<scylla::value::Row>().map_err(|error| self.unreadable(&error.to_string()))?;
        Ok(rows.flatten().any(is_super))
    }

    /// What the clock of a node says; none where it does not say.
    pub(super) async fn clock(&self) -> Option<ClockReading> {
        let asked = Instant::now();
        let sql = "SELECT toUnixTimestamp(now()) FROM system.local";
        let rows = self.rows(self.session.query_unpaged(of_node(sql), ()).await).ok()?;
        let answered = Instant::now();
        let (millis,) = rows.single_row::<(i64,)>().ok()?;
        let said = Timestamp::from_millis(millis).ok()?;
        Some(ClockReading { said, resolution: Duration::from_millis(1), asked, answered })
    }

    /// The datacenter that is written to.
    fn datacenter(&self) -> Result<String, DeliveryError> {
        let state = self.session.get_cluster_state();
        let there: BTreeSet<_> =
            state.get_nodes_info().iter().filter_map(|node| node.datacenter.clone()).collect();
        let names = there.iter().cloned().collect::<Vec<_>>().join(", ");
        match &self.options.datacenter {
            Some(wanted) if there.contains(wanted) => Ok(wanted.clone()),
            Some(wanted) => Err(self.unfit(&format!("there is no datacenter {wanted}; there is {names}"))),
            None if there.len() > 1 => {
                Err(self.unfit(&format!("datacenter is missing; it is one of {names}")))
            }
            None => Ok(names),
        }
    }

    fn rows(
        &self,
        answer: Result<scylla::response::query_result::QueryResult, ExecutionError>,
    ) -> Result<QueryRowsResult, DeliveryError> {
        let answer = answer.map_err(|error| Fault::of(&error).without_events().at(self.place))?;
        answer.into_rows_result().map_err(|error| self.unreadable(&error.to_string()))
    }

    /// Whether there is a row; a list of nothing has none, and is not even one of rows.
    fn any(
        &self,
        answer: Result<scylla::response::query_result::QueryResult, ExecutionError>,
    ) -> Result<bool, DeliveryError> {
        let answer = answer.map_err(|error| Fault::of(&error).without_events().at(self.place))?;
        Ok(answer.is_rows() && self.rows(Ok(answer))?.rows_num() > 0)
    }

    fn unreadable(&self, why: &str) -> DeliveryError {
        DeliveryError::transient(Cause::Server, format!("{}: an answer cannot be read: {why}", self.place))
    }

    fn unfit(&self, what: &str) -> DeliveryError {
        DeliveryError::transient(Cause::Refused, format!("{}: {what}", self.place))
    }
}

/// A question to tables that each node has of its own: there is one replica of them, however many the sink's rows are to have,
/// and a note of a row (`consistency: any`) cannot be read.
fn of_node(question: &str) -> Statement {
    let mut statement = Statement::new(question);
    statement.set_consistency(Consistency::One);
    statement
}

/// What the cluster has under a table's name.
fn found<'s>(state: &'s ClusterState, options: &CassandraSink, table: Table) -> Option<&'s FoundTable> {
    state.get_keyspace(&options.keyspace)?.tables.get(table.name(options))
}

/// Whether the cluster knows no rights, so that everybody has all of them.
fn is_not_asked_for<T>(listed: &Result<T, ExecutionError>) -> bool {
    matches!(
        listed,
        Err(ExecutionError::LastAttemptError(RequestAttemptError::DbError(DbError::Invalid, words)))
            if words.contains("is not supported by")
    )
}
