//! The process: crashes, real input, its start, its end, its reload.

mod crash;
mod disk;
mod kills;
mod lifecycle;
mod real_data;
mod reload;
