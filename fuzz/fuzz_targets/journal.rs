#![no_main]

use std::panic;

libfuzzer_sys::fuzz_target!(
    init: {
        // libFuzzer's hook ends the process at every panic. sled answers some damage with one, which the journal catches
        // and reports as damage; only what nobody catches is a finding, and libfuzzer-sys ends the process at that, too.
        let _libfuzzers = panic::take_hook();
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !info.location().is_some_and(|at| at.file().contains("sled-")) {
                print(info);
            }
        }));
    },
    |data: &[u8]| forebay_fuzz::journal(data)
);
