//! What the actors stand on: time, mailboxes, metrics and supervision.

pub mod backoff;
pub mod clock;
pub mod fault;
pub mod mailbox;
pub mod metrics;
pub mod supervisor;
