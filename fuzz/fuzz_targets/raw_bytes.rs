//! Any bytes may be given to the loader.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let _ = cwasm_tests::fault::mutants::raw_bytes(bytes);
});
