#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| imgforge::fuzz_targets::dockerfiles(input));
