//! What the commands do with good input.

mod command;

use command::{Folder, repository};

#[test]
fn compile_prints_the_digest_and_gives_the_same_bytes_for_any_number_of_threads() {
    let folder = Folder::new();
    let wasm = std::fs::read(repository("examples/wordfreq/wordfreq.wasm")).unwrap();
    folder.write("in.wasm", wasm);
    let one = folder.compile("in.wasm -j 1 -o one.cwasm");
    for jobs in [2, 4, 7] {
        assert_eq!(folder.compile(&format!("in.wasm -j {jobs} -o many.cwasm")), one);
        assert!(folder.read("one.cwasm") == folder.read("many.cwasm"));
    }
    assert_ne!(folder.compile("in.wasm -O 0 -o many.cwasm"), one);
    folder.cwasm("verify one.cwasm").printed(&format!("ok {one}\n"));
    folder.cwasm(&format!("verify one.cwasm --digest {one}")).printed(&format!("ok {one}\n"));
}

#[test]
fn verify_against_compiles_again() {
    let folder = Folder::new();
    folder.write("a.wat", "(module (func (export \"f\") (result i32) (i32.const 1)))");
    folder.write("b.wat", "(module (func (export \"f\") (result i32) (i32.const 2)))");
    let digest = folder.compile("a.wat -O s --fuel --cpu x86-64-v2 -o a.cwasm");
    folder.cwasm("verify a.cwasm --against a.wat").printed(&format!("ok {digest}\n"));
    folder
        .cwasm("verify a.cwasm --against b.wat")
        .refused("a.cwasm was compiled from another module");
    // Somebody replaces the code, and seals the artifact again.
    let other = folder.compile("b.wat -O s --fuel --cpu x86-64-v2 -o b.cwasm");
    assert_ne!(digest, other);
    let mut file = folder.read("a.cwasm");
    let place = 4096 + 40;
    file[place] ^= 1;
    cwasm_artifact::builder::reseal(&mut file).unwrap();
    folder.write("a.cwasm", file);
    assert_eq!(folder.cwasm("verify a.cwasm").code, 0, "intact by its own digest");
    folder.cwasm("verify a.cwasm --against a.wat").refused("a.cwasm is not what a.wat compiles to");
}

#[test]
fn inspect_shows_what_is_in_an_artifact() {
    let folder = Folder::new();
    folder.write(
        "in.wat",
        r#"(module $m (import "env" "f" (func (param i32))) (memory (export "mem") 1 2) (func (export "g") (result i64) (i64.const 0)))"#,
    );
    let digest = folder.compile("in.wat --epoch");
    let text = folder.cwasm("inspect in.cwasm").stdout;
    for part in [
        &digest[..],
        "x86_64-unknown-linux-gnu",
        "\"g\" (func (result i64))",
        "\"mem\" (memory 1 2)",
        ".text",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&folder.cwasm("inspect --json in.cwasm").stdout).unwrap();
    assert_eq!(json["digest"], digest);
    assert_eq!(json["exports"][0]["name"], "g");
    assert_eq!(json["imports"][0]["module"], "env");
    assert!(json["sections"].as_array().unwrap().len() > 5);
}

#[test]
fn functions_are_invoked_with_typed_arguments() {
    let folder = Folder::new();
    let numbers = std::fs::read(repository("examples/numbers.wat")).unwrap();
    folder.write("numbers.wat", numbers);
    folder.cwasm("run numbers.wat --invoke gcd 1071 462").printed("21\n");
    folder.cwasm("run numbers.wat --invoke is_prime 2147483647").printed("1\n");
    folder.cwasm("run numbers.wat --invoke fibonacci 90").printed("2880067194370816120\n");
    folder
        .cwasm("run numbers.wat --invoke gcd 1")
        .refused("cannot run numbers.wat: `gcd` has the type");
    assert_eq!(folder.cwasm("run numbers.wat --invoke gcd 1 two").code, 1);
    folder
        .cwasm("run numbers.wat")
        .refused("cannot run numbers.wat: it has no function `_start`; call one of its functions");
}

#[test]
fn a_program_gets_arguments_environment_input_and_directories() {
    let folder = Folder::new();
    let wordfreq = std::fs::read(repository("examples/wordfreq/wordfreq.wasm")).unwrap();
    folder.write("wordfreq.wasm", wordfreq);
    std::fs::create_dir(folder.path("texts")).unwrap();
    folder.write("texts/a.txt", "The cat. The dog!");
    let ended = folder.cwasm_with(&["run", "wordfreq.wasm", "--", "-n", "1"], "b a b");
    ended.printed("      2 b\n");
    let ended = folder.cwasm("run --dir texts::/data wordfreq.wasm -- -n 1 /data/a.txt");
    ended.printed("      2 the\n");
    let ended = folder.cwasm("run --dir texts::/data wordfreq.wasm -- /data/../wordfreq.wasm");
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "outside of the directory");
    assert!(ended.stderr.starts_with("wordfreq: /data/../wordfreq.wasm: "), "{ended:?}");
    folder.write(
        "env.wat",
        r#"(module
            (import "wasi_snapshot_preview1" "environ_get" (func $get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\40\00\00\00\07\00\00\00")
            (func (export "_start")
                (drop (call $get (i32.const 32) (i32.const 64)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    );
    folder.cwasm("run --env KEY=VAL env.wat").printed("KEY=VAL");
}

#[test]
fn the_exit_code_is_the_programs_and_a_trap_is_134() {
    let folder = Folder::new();
    folder.write(
        "exit.wat",
        r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1) (func (export "_start") (call $exit (i32.const 42))))"#,
    );
    assert_eq!(folder.cwasm("run exit.wat").code, 42);
    folder.write(
        "trap.wat",
        r#"(module $m (func $inner unreachable) (func $outer (export "_start") (call $inner)))"#,
    );
    let ended = folder.cwasm("run trap.wat");
    assert_eq!(ended.code, 134, "{ended:?}");
    assert!(ended.stderr.contains("wasm trap: unreachable"), "{ended:?}");
    assert!(ended.stderr.contains("m!inner") && ended.stderr.contains("m!outer"), "{ended:?}");
}

#[test]
fn modules_are_preloaded_by_name() {
    let folder = Folder::new();
    folder.write("lib.wat", r#"(module (func (export "twice") (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2))))"#);
    folder.write(
        "app.wat",
        r#"(module (import "lib" "twice" (func $twice (param i32) (result i32)))
            (func (export "four") (param i32) (result i32) (call $twice (call $twice (local.get 0)))))"#,
    );
    folder.cwasm("run --preload lib=lib.wat app.wat --invoke four 3").printed("12\n");
}

#[test]
fn fuel_and_time_stop_an_endless_loop() {
    let folder = Folder::new();
    folder.write("spin.wat", r#"(module (func $spin (export "_start") (loop (br 0))))"#);
    let ended = folder.cwasm("run --fuel 100000 spin.wat");
    assert!(ended.code == 134 && ended.stderr.contains("all fuel consumed"), "{ended:?}");
    let ended = folder.cwasm("run --timeout 50ms spin.wat");
    assert!(ended.code == 134 && ended.stderr.contains("interrupted"), "{ended:?}");
    // An artifact must have been compiled for it.
    folder.compile("spin.wat");
    let ended = folder.cwasm("run --trust-file --timeout 50ms spin.cwasm");
    ended.refused("");
    assert!(ended.stderr.contains("--epoch"), "{ended:?}");
    folder.compile("spin.wat --epoch");
    assert_eq!(folder.cwasm("run --trust-file --timeout 50ms spin.cwasm").code, 134);
}

#[test]
fn scripts_run_and_are_counted() {
    let folder = Folder::new();
    let script = r#"(module (func (export "f") (result i32) (i32.const 1)))
(assert_return (invoke "f") (i32.const 1))
"#;
    folder.write("good.wast", script);
    folder.write("bad.wast", script.replace("(i32.const 1))\n", "(i32.const 2))\n"));
    folder.cwasm("wast good.wast good.wast").printed("2 passed, 0 failed\n");
    let ended = folder.cwasm("wast good.wast bad.wast");
    assert_eq!((ended.code, ended.stdout.as_str()), (1, "1 passed, 1 failed\n"));
    assert!(ended.stderr.starts_with("bad.wast:2: "), "{ended:?}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let folder = Folder::new();
    for command in ["compile", "run", "inspect", "verify", "keygen", "sign", "wast"] {
        let help = folder.cwasm(&format!("{command} --help")).stdout;
        assert!(help.contains("Examples:\n") && help.contains("Exit codes:"), "{help}");
        assert!(help.lines().count() <= 50, "{command} --help fits one screen");
    }
}

#[test]
fn vectors_are_given_and_printed_as_one_number() {
    let folder = Folder::new();
    folder.write(
        "in.wat",
        r#"(module (func (export "f") (param v128) (result v128)
            (i8x16.add (local.get 0) (i8x16.splat (i32.const 1)))))"#,
    );
    folder
        .cwasm("run in.wat --invoke f 0x0f0e0d0c0b0a09080706050403020100")
        .printed("0x100f0e0d0c0b0a090807060504030201\n");
    folder.cwasm("run in.wat --invoke f 1.5").refused("");
}

#[test]
fn settings_for_the_same_results_everywhere_are_recorded_and_compiled_again() {
    let folder = Folder::new();
    folder.write(
        "in.wat",
        r#"(module (func (export "f") (param v128 f64) (result v128 f64)
            (f64x2.relaxed_madd (local.get 0) (local.get 0) (local.get 0))
            (f64.add (local.get 1) (local.get 1))))"#,
    );
    let options = "--cpu x86-64-v3 --relaxed-simd deterministic --canonicalize-nans";
    let digest = folder.compile(&format!("in.wat {options} -o same.cwasm"));
    assert_ne!(digest, folder.compile("in.wat --cpu x86-64-v3 -o native.cwasm"));
    let json = |file: &str| -> serde_json::Value {
        let ended = folder.cwasm(&format!("inspect --json {file}"));
        serde_json::from_str(&ended.stdout).unwrap()
    };
    let settings = json("same.cwasm")["settings"].clone();
    assert_eq!(settings["canonical_nans"], true);
    assert_eq!(settings["relaxed_simd"], "deterministic");
    let native = json("native.cwasm")["settings"].clone();
    assert_eq!(native["canonical_nans"], false);
    assert_eq!(native["relaxed_simd"], "native");
    let text = folder.cwasm("inspect same.cwasm").stdout;
    assert!(text.contains("canonical NaNs") && text.contains("relaxed SIMD: deterministic"));
    // Whoever checks an artifact need not know how it was compiled.
    folder.cwasm("verify same.cwasm --against in.wat").printed(&format!("ok {digest}\n"));
}
