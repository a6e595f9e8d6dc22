//! What the actors stand on: time, mailboxes, metrics and supervision.
pub mod clock;
