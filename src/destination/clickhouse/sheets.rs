//! A batch as the rows of the tables that it goes to.

use forebay_actors::{
    destination::DeliveryError,
    event::DecodeError,
    record::{Batch, Part},
};

use super::{
    super::unreadable,
    otel::{self, Columns, OtelTable, Sheet},
    rows,
    table::Abilities,
};

/// A table that a sink writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Events,
    Otel(OtelTable),
}

/// What is known of the server and its tables.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) can: Abilities,
    /// The columns of all tables, as the server listed them.
    pub(super) columns: String,
    pub(super) events: Fit<Vec<rows::Column>>,
    /// Those of [`OtelTable::ALL`]; none where OpenTelemetry goes to the table of events.
    pub(super) otel: Vec<Fit<Columns>>,
}

/// Whether rows can be written to a table.
#[derive(Debug)]
pub(super) enum Fit<C> {
    /// By this statement, with these columns.
    Fits {
        insert: String,
        columns: C,
    },
    Missing,
    /// What of it does not fit.
    Unfit(String),
}

/// Rows by table.
#[derive(Debug, Default)]
pub(super) struct Sheets {
    pub(super) full: Vec<(Table, Vec<u8>)>,
    /// A table that rows were for, and that cannot be written.
    pub(super) lacking: Option<Table>,
}

/// Puts the items of a batch into the rows of their tables.
///
/// # Errors
/// Where a record is damaged.
pub(super) fn sheets(batch: &Batch, known: &Known) -> Result<Sheets, DeliveryError> {
    if known.otel.is_empty() {
        let mut sheets = Sheets::default();
        match &known.events {
            Fit::Fits { columns, .. } => sheets.full.push((Table::Events, rows::rows(batch, columns)?)),
            _ => sheets.lacking = Some(Table::Events),
        }
        return Ok(sheets);
    }
    let mut sheets = Sheets::default();
    let (mut events, mut id) = (Vec::new(), Vec::new());
    let mut items: Vec<_> =
        known.otel.iter().zip(OtelTable::ALL).map(|(fit, table)| fit.sheet(table)).collect();
    let (mut count, mut versions) = (0, [0; 5]);
    // The reader counts events; the items of a request are taken here.
    let (bytes_max, mut is_too_large) = (batch.expanded_bytes_max(), false);
    let mut parts = batch.events();
    while let Some(part) = parts.next_part() {
        match part.map_err(|error| unreadable(batch, &error.to_string()))? {
            Part::Event(event) => {
                count += 1;
                match &known.events {
                    Fit::Fits { columns, .. } => rows::push(&event, columns, &mut id, &mut events),
                    _ => sheets.lacking = Some(Table::Events),
                }
            }
            Part::Otlp { signal, request, .. } => {
                otel::walk(&request, signal, &mut versions, |table, around| {
                    count += 1;
                    let index = OtelTable::ALL.iter().position(|of| Some(*of) == table);
                    match index.map(|index| &mut items[index]) {
                        Some(Some(_)) if is_too_large => {}
                        Some(Some(sheet)) => {
                            sheet.push(around);
                            is_too_large = sheet.rows.len() > bytes_max;
                        }
                        // Of a kind of metric that is none: there is nothing to say of it.
                        None => {}
                        Some(None) => sheets.lacking = table.map(Table::Otel),
                    }
                });
            }
        }
    }
    if is_too_large {
        return Err(unreadable(batch, &DecodeError::Expanded.to_string()));
    }
    // A record that holds fewer events than it says must not pass as delivered.
    if count != batch.count() {
        return Err(unreadable(batch, &format!("only {count} are there")));
    }
    if !events.is_empty() {
        sheets.full.push((Table::Events, events));
    }
    for (sheet, table) in items.into_iter().zip(OtelTable::ALL) {
        sheets
            .full
            .extend(sheet.filter(|sheet| sheet.count > 0).map(|sheet| (Table::Otel(table), sheet.rows)));
    }
    Ok(sheets)
}

// === impl Known ===

impl Known {
    /// The statement that the table's rows follow.
    pub(super) fn insert(&self, table: Table) -> &str {
        let otel = |table| OtelTable::ALL.iter().position(|of| *of == table).map(|index| &self.otel[index]);
        match (table, &self.events) {
            (Table::Events, Fit::Fits { insert, .. }) => insert,
            (Table::Otel(table), _) => match otel(table) {
                Some(Fit::Fits { insert, .. }) => insert,
                _ => "",
            },
            _ => "",
        }
    }

    /// What keeps rows out of the table; `None` where nothing does or it is not there.
    pub(super) fn unfit(&self, table: Table) -> Option<&str> {
        let otel = |table| OtelTable::ALL.iter().zip(&self.otel).find(|(of, _)| **of == table);
        match table {
            Table::Events => self.events.unfit(),
            Table::Otel(table) => otel(table).and_then(|(_, fit)| fit.unfit()),
        }
    }
}

// === impl Fit ===

impl<C> Fit<C> {
    fn unfit(&self) -> Option<&str> {
        match self {
            Self::Unfit(why) => Some(why),
            _ => None,
        }
    }

    pub(super) const fn is_missing(&self) -> bool {
        matches!(self, Self::Missing)
    }
}

impl Fit<Columns> {
    fn sheet(&self, table: OtelTable) -> Option<Sheet<'_>> {
        match self {
            Self::Fits { columns, .. } => Some(Sheet::new(table, columns)),
            _ => None,
        }
    }
}
