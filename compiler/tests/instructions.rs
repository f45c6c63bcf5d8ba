//! What instructions the code of functions is made of.

mod artifact;

use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::header::Section;
use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, Settings, TARGETS, compile};
use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, Register};
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _};

use artifact::{read, wasm, x86};

/// The instructions of the first function.
fn instructions(artifact: &[u8]) -> Vec<Instruction> {
    read(artifact, |_, read| {
        let function = &read.late(artifact).functions()[0];
        let text = &artifact[read.range(Section::Text)];
        let code = &text[function.text.get() as usize..][..function.length.get() as usize];
        Decoder::new(64, code, DecoderOptions::NONE).iter().collect()
    })
}

#[test]
fn accesses_scale_indices_that_cannot_wrap_around() {
    let scales = |index: &str| {
        let load = format!("(i32.load (i32.shl {index} (i32.const 2)))");
        let text = format!("(module (memory 1) (func (param i32) (result i32) {load}))");
        let artifact = compile(&wasm(&text), &x86()).unwrap();
        instructions(&artifact).iter().any(|instruction| instruction.memory_index_scale() == 4)
    };
    assert!(scales("(i32.and (local.get 0) (i32.const 255))"));
    assert!(!scales("(local.get 0)"));
}

/// How many bytes of code the first function of a module has.
fn length_of_code(text: &str, opt_level: OptLevel) -> u32 {
    let artifact = compile(&wasm(text), &Settings { opt_level, ..x86() }).unwrap();
    read(&artifact, |_, read| read.late(&artifact).functions()[0].length.get())
}

#[test]
fn code_for_size_is_smaller() {
    let operators = "(local.set 0 (i32.add (i32.load (local.get 0)) (call $f (local.get 0))))";
    let text = format!(
        "(module (memory 1) (func $f (export \"f\") (param i32) (result i32) {} (local.get 0)))",
        operators.repeat(20)
    );
    let length = |opt_level| length_of_code(&text, opt_level);
    assert!(length(OptLevel::SpeedAndSize) < length(OptLevel::Speed));
}

/// Trap sites of a function that loads four bytes at a constant offset.
fn memory_checks(offset: u64, memory_bounds: MemoryBounds) -> usize {
    let module = wasm(&format!(
        "(module (memory 1)
            (func (export \"f\") (param i32) (result i32) (i32.load offset={offset} (local.get 0))))"
    ));
    let artifact = compile(&module, &Settings { memory_bounds, ..x86() }).unwrap();
    read(&artifact, |_, read| {
        let out_of_bounds = Trap::MemoryOutOfBounds.code();
        read.late(&artifact).sites().iter().filter(|site| site.trap == out_of_bounds).count()
    })
}

#[test]
fn what_the_guard_does_not_cover_is_compared() {
    use cwasm_artifact::abi::vmctx::GUARD_SIZE;
    // One site is the access, the other the comparison's.
    for offset in [0, 4096, GUARD_SIZE - 4] {
        assert_eq!(memory_checks(offset, MemoryBounds::Guarded), 1, "{offset:#x}");
        assert_eq!(memory_checks(offset, MemoryBounds::Explicit), 2, "{offset:#x}");
    }
    for offset in [GUARD_SIZE - 3, GUARD_SIZE, 1 << 31, u64::from(u32::MAX)] {
        assert_eq!(memory_checks(offset, MemoryBounds::Guarded), 2, "{offset:#x}");
        assert_eq!(memory_checks(offset, MemoryBounds::Explicit), 2, "{offset:#x}");
    }
}

/// How many calls a function with an operation on memory makes, on every kind of target.
fn calls_of(operation: &str) -> Vec<usize> {
    let module = wasm(&format!("(module (memory 1) (func (export \"f\") {operation}))"));
    let count = |target: &&str| {
        let settings = Settings { target: target.parse().unwrap(), ..Settings::default() };
        let artifact = compile(&module, &settings).unwrap();
        read(&artifact, |_, read| {
            let late = read.late(&artifact);
            let end = late.functions()[0].text.get() + late.functions()[0].length.get();
            late.sites().iter().filter(|site| site.trap == 0 && site.text <= end).count()
        })
    };
    TARGETS.iter().map(count).collect()
}

#[test]
fn small_constant_copies_and_fills_are_no_calls() {
    for length in [1, 3, 16, 17, 64] {
        for operation in ["copy (i32.const 8) (i32.const 99)", "fill (i32.const 8) (i32.const 99)"]
        {
            let calls = calls_of(&format!("(memory.{operation} (i32.const {length}))"));
            assert!(calls.iter().all(|calls| *calls == 0), "{operation} {length}: {calls:?}");
        }
    }
    let calls = calls_of("(memory.copy (i32.const 8) (i32.const 99) (i32.const 65))");
    assert!(calls.iter().all(|calls| *calls == 1), "{calls:?}");
}

/// The texts offsets of the calls of `$a` and `$b`, in a module where `hint` precedes
/// the branch in `body`.
fn calls(body: &str, hint: &str) -> Vec<u32> {
    let body = body.replace("HINT", hint);
    let module = wasm(&format!(
        r#"(module (import "" "a" (func $a)) (import "" "b" (func $b))
            (func (export "f") (param i32) {body}))"#
    ));
    let artifact = compile(&module, &x86()).unwrap();
    read(&artifact, |_, read| {
        let mut sites: Vec<_> = read
            .late(&artifact)
            .sites()
            .iter()
            .filter(|site| site.trap == 0 && site.wasm != 0)
            .map(|site| (site.wasm, site.text))
            .collect();
        sites.sort_unstable();
        sites.into_iter().map(|(_, text)| text).collect()
    })
}

#[test]
fn unlikely_code_is_behind_the_rest() {
    let taken = r#"(@metadata.code.branch_hint "\01")"#;
    let not_taken = r#"(@metadata.code.branch_hint "\00")"#;
    let arms = "local.get 0 HINT if call $a else call $b end";
    // Code that only an unlikely branch leads to, and what comes after it.
    let exit =
        "block $out block $slow local.get 0 HINT br_if $slow call $a br $out end call $b end";
    // Code that a likely branch goes around.
    let around = "block local.get 0 HINT br_if 0 call $a end call $b";
    for (body, hint, a_first) in [
        (arms, taken, true),
        (arms, not_taken, false),
        (exit, not_taken, true),
        (around, taken, false),
        (around, "", true),
    ] {
        let [a, b] = calls(body, hint)[..] else { panic!("two calls") };
        assert_eq!(a < b, a_first, "{body} {hint}");
    }
}

/// The machine code of a module with one function of the kind.
fn text(function: &str) -> Vec<u8> {
    let module = format!(
        "(module (memory 1) (global $g (mut i32) (i32.const 1)) (func $other (loop (br_if 0 (i32.const 0)) (global.set $g (i32.const 2)))) {function})"
    );
    let artifact = compile(&wasm(&module), &x86()).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*artifact).unwrap();
    file.section_by_name(".text").unwrap().data().unwrap().to_vec()
}

fn count(text: &[u8], bytes: &[u8]) -> usize {
    text.windows(bytes.len()).filter(|window| *window == bytes).count()
}

/// What is done to code once it is generated depends on how the code generator writes it.
#[test]
fn code_of_the_code_generator_is_what_is_looked_for_in_it() {
    // cmp r10, rsp, in both encodings; cmp [r10], rsp
    let compared = [&[0x4c, 0x3b, 0xd4][..], &[0x49, 0x39, 0xe2]];
    let compared_there = [0x49, 0x39, 0x22];
    let calls = text("(func (export \"f\") (call $other) (call $other))");
    assert!(compared.iter().all(|bytes| count(&calls, bytes) == 0));
    assert!(count(&calls, &compared_there) > 0);
    // More values than there are registers, so that it needs a frame.
    let loads: String =
        (0..30).map(|at| format!("(i32.load offset={} (local.get 0))", 4 * at)).collect();
    let sum = "i32.rotl ".repeat(29);
    let calls_none = text(&format!("(func (export \"f\") (param i32) (result i32) {loads} {sum})"));
    // sub rsp: there are frames, of this function and of its trampoline, and nothing compares.
    assert!(count(&calls_none, &[0x48, 0x83, 0xec]) + count(&calls_none, &[0x48, 0x81, 0xec]) > 1);
    assert_eq!(count(&calls_none, &compared_there), 0);
    assert!(compared.iter().all(|bytes| count(&calls_none, bytes) == 0));
    // A global that is asked for between any two steps of a turn, which ends with a call: it is loaded once in each, whatever the steps are.
    let step = "(if (i32.eqz (global.get $g)) (then (i32.store (i32.const 0) (i32.const 1))))";
    let global = |steps: usize| {
        let turn = format!("{} (call $other)", step.repeat(steps));
        text(&format!("(func (export \"f\") (param i32) (loop {turn} (br_if 0 (local.get 0))))"))
    };
    let loads = |text: &[u8]| {
        // mov reg, [reg + displacement of the global], by the address that the other function stores to: mov dword [rdi + ...], 2
        let store = text.windows(2).position(|it| it == [0xc7, 0x47]).expect("it stores there");
        let at = text[store + 2];
        text.windows(3).filter(|it| it[0] == 0x8b && it[1] >> 6 == 1 && it[2] == at).count()
    };
    assert_eq!(loads(&global(2)), loads(&global(6)));
    assert!(loads(&global(1)) > 0);
}

/// Constants that are added to an address are part of the instruction, if something at the address was accessed before.
#[test]
fn what_is_near_an_access_needs_no_addition() {
    let of = |memory: &str, first: &str, second: &str| {
        let body = format!("(i32.add (i32.load {first}) (i32.load {second}))");
        let text =
            format!("(module {memory} (func (export \"f\") (param i32) (result i32) {body}))");
        let artifact = compile(&wasm(&text), &x86()).unwrap();
        let object = object::File::parse(&*artifact).unwrap();
        object.section_by_name(".text").unwrap().data().unwrap().to_vec()
    };
    let (here, there) = ("(local.get 0)", "(i32.add (local.get 0) (i32.const 4))");
    let by_offset = "offset=4 (local.get 0)";
    assert_eq!(of("(memory 1)", here, there), of("(memory 1)", here, by_offset));
    assert_eq!(of("(memory 1)", there, here), of("(memory 1)", by_offset, here));
    // It may wrap around where there is a last page.
    assert_ne!(of("(memory 65536)", here, there), of("(memory 65536)", here, by_offset));
}

/// What is loaded is used at once where nothing is in between, however late the result is needed.
#[test]
fn long_sums_keep_few_values_on_the_stack() {
    let mut body = String::new();
    for step in 0..200 {
        let load = format!("(i32.load offset={} (local.get 0))", 4 * step);
        body += &format!("(local.set 3 {load})");
        body += "(local.set 1 (i32.add (i32.mul (local.get 1) (i32.const 31)) (local.get 3)))";
        body += "(local.set 2 (i32.xor (i32.rotl (local.get 2) (i32.const 5)) (local.get 3)))";
    }
    let text = format!(
        "(module (memory 1) (func (export \"f\") (param i32 i32 i32) (result i32) (local i32) {body} (i32.add (local.get 1) (local.get 2))))"
    );
    // Five instructions for each step. To store what was loaded, and to load it twice, would be as much again.
    let bytes = length_of_code(&text, OptLevel::Speed);
    assert!(bytes < 200 * 28, "{bytes}");
}

/// The code of a function of a vector, for a level.
fn text_of_vectors(cpu: CpuLevel, body: &str) -> Vec<u8> {
    let text = format!("(module (func (export \"f\") (param v128) (result v128) {body}))");
    let artifact = compile(&wasm(&text), &Settings { cpu, ..x86() }).unwrap();
    let file = ElfFile64::<Endianness>::parse(&*artifact).unwrap();
    file.section_by_name(".text").unwrap().data().unwrap().to_vec()
}

fn shuffled(pattern: &str, of: &str) -> String {
    format!("(i8x16.shuffle {pattern} {of} {of})")
}

#[test]
fn vectors_are_rotated_by_bytes_as_they_are_shuffled() {
    let rotated = |shape: &str, left: u32, right: u32| {
        format!(
            "(v128.or ({shape}.shr_u (local.get 0) (i32.const {right}))
                ({shape}.shl (local.get 0) (i32.const {left})))"
        )
    };
    let words = "2 3 0 1 6 7 4 5 10 11 8 9 14 15 12 13";
    let long_words = "4 5 6 7 0 1 2 3 12 13 14 15 8 9 10 11";
    let bytes = "3 0 1 2 7 4 5 6 11 8 9 10 15 12 13 14";
    for cpu in [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3] {
        let of = |body: &str| text_of_vectors(cpu, body);
        let shuffled = |pattern| of(&shuffled(pattern, "(local.get 0)"));
        assert_eq!(of(&rotated("i32x4", 16, 16)), shuffled(words), "{cpu}");
        assert_eq!(of(&rotated("i64x2", 32, 32)), shuffled(long_words), "{cpu}");
        let is_shuffled = of(&rotated("i32x4", 8, 24)) == shuffled(bytes);
        assert_eq!(is_shuffled, cpu != CpuLevel::Baseline, "{cpu}");
    }
}

#[test]
fn the_baseline_shuffles_in_memory_only_what_it_must() {
    let length = |pattern: &str| {
        let shuffle = format!("(i8x16.shuffle {pattern} (local.get 0) (local.get 1))");
        let text =
            format!("(module (func (export \"f\") (param v128 v128) (result v128) {shuffle}))");
        length_of_code(&text, OptLevel::Speed)
    };
    for pattern in [
        "0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30",
        "1 3 5 7 9 11 13 15 17 19 21 23 25 27 29 31",
        "0 1 4 5 8 9 12 13 16 17 20 21 24 25 28 29",
        "2 3 6 7 10 11 14 15 18 19 22 23 26 27 30 31",
        "2 3 0 1 6 7 4 5 10 11 8 9 14 15 12 13",
        "5 5 5 5 5 5 5 5 5 5 5 5 5 5 5 5",
        "18 19 18 19 18 19 18 19 18 19 18 19 18 19 18 19",
    ] {
        assert!(length(pattern) < 64, "{pattern}: {}", length(pattern));
    }
    assert!(length("3 0 1 2 7 4 5 6 11 8 9 10 15 12 13 14") > 64);
}

#[test]
fn products_of_neighbours_are_added_in_one_instruction() {
    let product = |half: &str| {
        format!(
            "(i16x8.mul (i16x8.extend_{half}_i8x16_s (local.get 0))
                (i16x8.extend_{half}_i8x16_u (local.get 0)))"
        )
    };
    let body = format!(
        "(local v128 v128) (local.set 1 {}) (local.set 2 {})
        (i16x8.add_sat_s
            (i8x16.shuffle 0 1 4 5 8 9 12 13 16 17 20 21 24 25 28 29 (local.get 1) (local.get 2))
            (i8x16.shuffle 2 3 6 7 10 11 14 15 18 19 22 23 26 27 30 31 (local.get 1) (local.get 2)))",
        product("low"),
        product("high")
    );
    // pmaddubsw, of any two of the first eight registers
    let found = |cpu| {
        let text = text_of_vectors(cpu, &body);
        text.windows(4).any(|it| it == [0x66, 0x0f, 0x38, 0x04])
    };
    assert!(!found(CpuLevel::Baseline) && found(CpuLevel::X86_64V2));
    // pmaddwd, packssdw
    let text = text_of_vectors(CpuLevel::Baseline, &body);
    let count = |opcode| text.windows(3).filter(|it| *it == [0x66, 0x0f, opcode]).count();
    assert_eq!((count(0xf5), count(0x6b)), (2, 1));
}

#[test]
fn shuffles_of_shuffles_are_one() {
    let here = "(local.get 0)";
    let low = "2 3 0 1 6 7 4 5 8 9 10 11 12 13 14 15";
    let high = "0 1 2 3 4 5 6 7 10 11 8 9 14 15 12 13";
    let both = "2 3 0 1 6 7 4 5 10 11 8 9 14 15 12 13";
    let twice = |first: &str, second: &str| {
        format!(
            "(local v128) (local.set 1 {}) {}",
            shuffled(first, here),
            shuffled(second, "(local.get 1)")
        )
    };
    for cpu in [CpuLevel::Baseline, CpuLevel::X86_64V2] {
        let of = |body: &str| text_of_vectors(cpu, body);
        // The baseline has one instruction for each.
        assert_eq!(of(&twice(low, high)), of(&shuffled(both, here)), "{cpu}");
        // These are whole words.
        let turned =
            ["4 5 6 7 8 9 10 11 12 13 14 15 0 1 2 3", "8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7"];
        let wanted = "12 13 14 15 0 1 2 3 4 5 6 7 8 9 10 11";
        assert_eq!(of(&twice(turned[0], turned[1])), of(&shuffled(wanted, here)), "{cpu}");
    }
    // It would take three, and two patterns, to choose bytes of two operands.
    let of_both =
        |pattern: &str| format!("(i8x16.shuffle {pattern} (local.get 0) (v128.not (local.get 0)))");
    let of = |body: &str| text_of_vectors(CpuLevel::X86_64V2, body);
    let interleaved = of_both("0 16 1 17 2 18 3 19 4 20 5 21 6 22 7 23");
    let moved = of(&shuffled("8 9 10 11 12 13 14 15 0 1 2 3 4 5 6 7", &interleaved));
    let at_once = of(&of_both("4 20 5 21 6 22 7 23 0 16 1 17 2 18 3 19"));
    assert!(moved.len() < at_once.len(), "{} {}", moved.len(), at_once.len());
}

#[test]
fn what_a_loop_passes_on_is_not_computed_again() {
    // The optimiser compares what the last turn began with to 7. Then there are two counts at the end of a turn, and two instructions more.
    let text = r#"(module (memory 1) (func (export "f") (param i32 i32)
        (loop $l
          (i32.store8 (local.get 0) (local.get 0))
          (local.set 0 (i32.add (local.get 0) (i32.const 1)))
          (br_if $l (i32.ne (local.get 0) (i32.const 8))))))"#;
    let length = length_of_code(text, OptLevel::Speed);
    assert!(length < 32, "{length}");
}

#[test]
fn tables_that_lead_to_few_places_are_none() {
    let entries: String = (0..64).map(|index| if index % 3 == 0 { " 1" } else { " 0" }).collect();
    let text = format!(
        r#"(module (func (export "f") (param i32) (result i32)
            (block (block (block (br_table {entries} 2 (local.get 0))) (return (i32.const 7)))
            (return (i32.const 8))) (i32.const 9)))"#
    );
    // A table takes four bytes for each index.
    let length = length_of_code(&text, OptLevel::Speed);
    assert!(length < 128, "{length}");
}

/// Where a long function runs through once, its bytes count; in a loop, or if it is short, how fast the processor passes on
/// what is on the stack.
#[test]
fn what_is_long_and_no_loop_refers_to_the_stack_in_few_bytes() {
    let size = |steps: usize, around: &str| {
        let mut body = String::new();
        for step in 0..steps {
            let (to, from, other) = (1 + step % 40, 1 + (step * 7 + 3) % 40, (step * 11) % 41);
            body += &format!(
                "(local.set {to} (i64.add (i64.rotl (local.get {from}) (i64.const {step})) (local.get {other})))"
            );
        }
        let sum: String = (2..41).map(|local| format!("(local.get {local}) (i64.xor)")).collect();
        let locals = "i64 ".repeat(40);
        let text = format!(
            r#"(module (func (export "f") (param i64) (result i64) (local {locals})
                ({around} $l {body} (br_if $l (i64.eqz (local.get 1)))) (local.get 1) {sum}))"#
        );
        let of = |opt_level| length_of_code(&text, opt_level);
        (of(OptLevel::Speed), of(OptLevel::SpeedAndSize))
    };
    let (fast, small) = size(2000, "block");
    assert_eq!(fast, small);
    for (steps, around) in [(2000, "loop"), (200, "block")] {
        let (fast, small) = size(steps, around);
        assert!(fast > small, "{steps} {around} {fast} {small}");
    }
}

/// The instructions of a turn of the only loop of a function, in text, which has two parameters and three locals that begin with zero.
fn turn(before: &str, body: &str) -> Vec<Mnemonic> {
    let locals = "(param i32 i32) (result i32) (local i32 i32 i32)";
    let text = format!(
        "(module (memory 1) (func (export \"f\") {locals} {before} (loop $l {body}) (local.get 4)))"
    );
    let all = instructions(&compile(&wasm(&text), &x86()).unwrap());
    let back = all.iter().position(|it| {
        it.flow_control() == FlowControl::ConditionalBranch && it.near_branch_target() < it.ip()
    });
    let last = back.expect("it is a loop");
    let first = all.iter().position(|it| it.ip() == all[last].near_branch_target()).unwrap();
    all[first..=last].iter().map(Instruction::mnemonic).collect()
}

#[test]
fn counts_between_constants_are_operands_and_nothing_is_tested_twice() {
    use Mnemonic::{Add, Jne, Mov};
    let turn = turn(
        "(local.set 2 (i32.const -4096))",
        "(i32.store (i32.add (local.get 2) (i32.const 8192)) (i32.load (i32.add (local.get 2) (i32.const 4096))))
         (br_if $l (local.tee 2 (i32.add (local.get 2) (i32.const 4))))",
    );
    assert_eq!(turn, [Mov, Mov, Add, Jne]);
}

#[test]
fn pointers_and_bytes_of_constants_need_no_register() {
    use Mnemonic::{Add, Jne, Mov};
    let turn = turn(
        "",
        "(i32.store8 (local.get 0) (i32.const 7)) (local.set 0 (i32.add (local.get 0) (i32.const 3)))
         (br_if $l (local.tee 1 (i32.add (local.get 1) (i32.const -1))))",
    );
    assert_eq!(turn, [Mov, Add, Add, Jne]);
}

#[test]
fn bounds_are_computed_before_small_loops() {
    let turn = turn(
        "",
        "(i32.store offset=4 (local.get 2) (local.get 2))
         (br_if $l (i32.ne (local.tee 2 (i32.add (local.get 2) (i32.const 4))) (i32.and (local.get 0) (i32.const -4))))",
    );
    assert!(!turn.contains(&Mnemonic::And), "{turn:?}");
}

#[test]
fn what_the_last_turn_passed_on_is_waited_for_once() {
    let load = |offset| format!("(i32.load offset={offset} (local.get 0))");
    let [a, b, c] = [0, 4, 8].map(load);
    let body = format!(
        "(local.set 4 (i32.add (i32.add (i32.add (local.get 4) {a}) {b}) {c}))
         (local.set 0 (i32.add (local.get 0) (i32.const 12)))
         (br_if $l (local.tee 1 (i32.add (local.get 1) (i32.const -1))))"
    );
    let text = format!(
        "(module (memory 1) (func (export \"f\") (param i32 i32) (result i32) (local i32 i32 i32) (loop $l {body}) (local.get 4)))"
    );
    let all = instructions(&compile(&wasm(&text), &x86()).unwrap());
    // Of the additions, one is to the register that is returned, and that register is in no other.
    let result = all
        .iter()
        .rev()
        .find(|it| it.mnemonic() == Mnemonic::Mov && it.op0_register() == Register::RAX);
    let sum = result.map_or(Register::EAX, |it| it.op1_register().full_register32());
    let adds = all.iter().filter(|it| it.mnemonic() == Mnemonic::Add && it.op0_register() == sum);
    assert_eq!(adds.count(), 1);
}
