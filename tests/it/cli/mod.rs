//! Every command beside `run`.

mod dead_letters;
mod replay;
mod shell;
mod validate;
