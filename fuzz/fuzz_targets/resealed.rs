//! Metadata that somebody changed and sealed again may be given to the loader.
#![no_main]

libfuzzer_sys::fuzz_target!(|script: &[u8]| {
    let _ = cwasm_tests::fault::mutants::resealed(script);
});
