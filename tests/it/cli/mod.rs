//! Every command beside `run`.

mod dead_letters;
mod replay;
mod send;
mod shell;
mod validate;
