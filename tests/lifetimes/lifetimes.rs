//! Each program in `fail/` misuses the loader's interface in one way and must
//! not compile, with the message beside it. The program of the same name in
//! `pass/` differs by what corrects it; it compiles and runs.
//!
//! `TRYBUILD=overwrite` writes the messages again.

use std::collections::BTreeSet;
use std::fs;

#[test]
fn misuse_does_not_compile_and_its_correction_runs() {
    let names = |folder: &str| -> BTreeSet<String> {
        fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".rs"))
            .collect()
    };
    assert_eq!(names("fail"), names("pass"), "every program has a twin");
    assert!(names("fail").len() >= 15);
    let cases = trybuild::TestCases::new();
    cases.compile_fail("fail/*.rs");
    cases.pass("pass/*.rs");
}
