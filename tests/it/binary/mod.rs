//! The process: crashes, real input, its start, its end, its reload.

mod crash;
mod damage;
mod disk;
mod full_devices;
mod kills;
mod lifecycle;
mod memory;
mod read_only;
mod real_data;
mod reload;
mod retention;
mod under_load;
