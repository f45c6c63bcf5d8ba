//! What is in an artifact, read back with the reader that the loader uses.

mod artifact;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::{Host, check};
use cwasm_artifact::header::{Header, Section, padded_text, settings};
use cwasm_artifact::module::Module;
use cwasm_artifact::records::{NONE, segment_mode};
use cwasm_compiler::{
    CpuLevel, MemoryBounds, OptLevel, Progress, RelaxedSimd, Settings, TARGETS, compile,
    compile_with_progress,
};
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, SymbolKind};

use artifact::{read, wasm, x86};

const PROGRAM: &str = r#"(module $demo
    (import "host" "log" (func $log (param i32)))
    (type $binary (func (param i32 i32) (result i32)))
    (type $same (func (param i32 i32) (result i32)))
    (memory (export "memory") 2) (table (export "table") 4 4 funcref) (global $g (mut i64) (i64.const 7))
    (elem (i32.const 1) $add) (data (i32.const 16) "hello")
    (func $add (type $same) (i32.add (local.get 0) (local.get 1)))
    (func $hidden (param i32) (result i32) (i32.load (local.get 0)))
    (func (export "run") (param i32) (result i32)
        (call $log (local.get 0))
        (i32.div_u (call $hidden (local.get 0)) (local.get 0)))
    (func (export "floor") (param f64) (result f64) (f64.floor (local.get 0))))"#;

#[test]
fn output_is_the_same_for_every_number_of_threads() {
    let functions: String = (0..200)
        .map(|n| {
            let next = (n + 1) % 200;
            format!(
                r#"(func $f{n} (export "f{n}") (param i32 f64) (result i32)
                    (i32.add (i32.const {n}) (call $f{next} (local.get 0) (local.get 1))))"#
            )
        })
        .collect();
    let module = wasm(&format!("(module {functions})"));
    let with = |jobs| compile(&module, &Settings { jobs, ..Settings::default() }).unwrap();
    let first = with(1);
    for jobs in [0, 1, 2, 4] {
        assert!(with(jobs) == first, "-j {jobs}");
    }
}

#[test]
fn settings_that_change_code_change_the_artifact() {
    let module = wasm(PROGRAM);
    let default = compile(&module, &x86()).unwrap();
    for (settings, bits) in [
        (Settings { fuel: true, ..x86() }, settings::FUEL),
        (Settings { epoch: true, ..x86() }, settings::EPOCH),
        (Settings { memory_bounds: MemoryBounds::Explicit, ..x86() }, settings::EXPLICIT_CHECKS),
        (Settings { canonicalize_nans: true, ..x86() }, settings::CANONICAL_NANS),
        (
            Settings { relaxed_simd: RelaxedSimd::Deterministic, ..x86() },
            settings::DETERMINISTIC_RELAXED_SIMD,
        ),
        (Settings { opt_level: OptLevel::SpeedAndSize, ..x86() }, 0),
        (Settings { opt_level: OptLevel::None, ..x86() }, 0),
        (Settings { cpu: CpuLevel::X86_64V2, ..x86() }, 0),
    ] {
        let artifact = compile(&module, &settings).unwrap();
        assert_ne!(artifact, default, "{settings:?}");
        let checked = check(&artifact, None).unwrap();
        assert_eq!(checked.header().settings.get(), bits);
        assert_eq!(padded_text(&checked.header().opt_level), settings.opt_level.name());
    }
}

#[test]
fn the_records_describe_the_module() {
    let module = wasm(PROGRAM);
    let artifact = compile(&module, &x86()).unwrap();
    read(&artifact, |view, module| {
        assert_eq!(view.text(view.record().name), "demo");
        assert_eq!(module.counts().imported_functions, 1);
        let functions = module.late(&artifact).functions();
        let names: Vec<&str> = functions.iter().map(|f| view.text(f.name)).collect();
        assert_eq!(names, ["add", "hidden", "", ""]);
        // Only what can be reached other than by a call has a reference.
        let refs: Vec<_> = view.func_refs().iter().map(|it| it.function.get()).collect();
        assert_eq!(refs, [1, 3, 4]);
        assert_eq!(
            [0, 1, 2, 3, 4, 5].map(|it| view.func_ref(it)),
            [None, Some(0), None, Some(1), Some(2), None]
        );
        for (func_ref, defined) in view.func_refs().iter().zip([0, 2, 3]) {
            assert_eq!(func_ref.text, functions[defined].text);
        }
        // `add` is in a segment.
        let item = &view.items(view.elements()[0].items)[0];
        assert_eq!((item.first.get(), item.count.get()), (1, 0));
        let types = view.types();
        // Equal types share their trampolines.
        let trampolines = |ty: usize| (types[ty].entry.get(), types[ty].exit.get());
        assert_eq!(trampolines(0), trampolines(1));
        // No function of the type of `log` can be called by the host.
        assert_eq!(types[2].entry.get(), NONE);
        assert_ne!(types[0].entry.get(), NONE);
        // The data are in an image, and nowhere else.
        assert_eq!(view.bytes(Section::Data).len(), 0);
        assert_eq!(view.bytes(Section::ImageBytes), b"hello");
        assert_eq!(view.images().len(), 1);
        assert_eq!(view.images()[0].address.get(), 16);
    });
}

#[test]
fn references_that_are_not_those_of_their_functions_are_refused() {
    let artifact = compile(&wasm(PROGRAM), &x86()).unwrap();
    let refused = |section: Section, at: usize, value: u32| {
        let mut changed = artifact.clone();
        let start = read(&artifact, |_, module| module.range(section).start);
        changed[start + at..][..4].copy_from_slice(&value.to_le_bytes());
        reseal(&mut changed).unwrap();
        Module::new(&check(&changed, None).unwrap()).unwrap_err().to_string()
    };
    let second = read(&artifact, |view, _| view.func_refs()[1].text.get());
    // The first reference leads to the code of the second; they change places; one is of a function that does not exist.
    assert!(refused(Section::FuncRefs, 4, second).contains("is not that of its function"));
    assert!(refused(Section::FuncRefs, 0, 4).contains("not in the order"));
    assert!(refused(Section::FuncRefs, 24, 5).contains("does not exist"));
    assert!(refused(Section::FuncRefs, 8, 77).contains("type does not exist"));
    // The item is `add`, which has the first: another's, none, and one that does not exist.
    for number in [1, NONE, 3] {
        assert!(refused(Section::Items, 4, number).contains("without a reference"), "{number}");
    }
}

/// Functions in a table that is only called through need no references, and their types no trampolines, unless some function looks at what is there.
#[test]
fn references_that_nobody_can_see_are_left_out() {
    let compiled = |table: &str, rest: &str| {
        let text = format!(
            r#"(module (type $binary (func (param i32 i32) (result i32)))
                (table $t {table} 4 4 funcref) (elem $e (i32.const 1) $add $sub $add)
                (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
                (func $sub (type $binary) (i32.sub (local.get 0) (local.get 1)))
                (func (export "call") (param i32) (result i32)
                    (call_indirect (type $binary) (i32.const 30) (i32.const 12) (local.get 0)))
                (func (export "more") {rest}))"#
        );
        let artifact = compile(&wasm(&text), &x86()).unwrap();
        read(&artifact, |view, _| {
            let segment = view.elements()[0];
            let entry = view.types()[0].entry.get();
            let functions: Vec<_> = view.func_refs().iter().map(|it| it.function.get()).collect();
            (functions, segment.mode.get(), segment.items.count.get(), entry != NONE)
        })
    };
    let left_out = (vec![2, 3], segment_mode::DECLARED, 0, false);
    for rest in
        ["", "(drop (table.size $t)) (elem.drop $e)", "(drop (ref.is_null (ref.null func)))"]
    {
        assert_eq!(compiled("", rest), left_out, "{rest}");
    }
    let there = (vec![0, 1, 2, 3], segment_mode::ACTIVE, 3, true);
    for rest in [
        "(drop (table.get $t (i32.const 1)))",
        "(drop (ref.func $sub))",
        "(table.copy $other $t (i32.const 0) (i32.const 0) (i32.const 1))) (table $other 1 funcref) (func",
        "(table.init $other $e (i32.const 0) (i32.const 0) (i32.const 0))) (table $other 1 funcref) (func",
        // Written to: nothing is known of it.
        "(table.fill $t (i32.const 0) (ref.null func) (i32.const 1))",
    ] {
        assert_eq!(compiled("", rest), there, "{rest}");
    }
    assert_eq!(compiled("(export \"table\")", ""), there);
    // What an export needs is there, whatever becomes of the segment.
    let exported = compiled("", ") (export \"sub\" (func $sub)) (func");
    assert_eq!(exported, (vec![1, 2, 3], segment_mode::DECLARED, 0, true));
}

/// A host function is imported, or found in a table or elsewhere by code that knows nothing else of it.
#[test]
fn trampolines_to_the_host_are_there_for_what_wasm_may_call() {
    let exits = |table: &str, body: &str| {
        let module = wasm(&format!(
            "(module (import \"host\" \"log\" (func $log (param i32)))
                (type $binary (func (param i32 i32) (result i32)))
                (type $unary (func (param f32) (result f32)))
                (table {table} 2 2 funcref) (elem (i32.const 0) $add) (elem declare func $add)
                (func $add (type $binary) (i32.add (local.get 0) (local.get 1)))
                (func $half (type $unary) (f32.mul (local.get 0) (f32.const 0.5)))
                (func (export \"run\") (param i32 i32) (result i32) {body}))"
        ));
        let artifact = compile(&module, &x86()).unwrap();
        read(&artifact, |view, _| {
            view.types().iter().map(|ty| ty.exit.get() != NONE).collect::<Vec<_>>()
        })
    };
    // Of `$binary`, `$unary`, and the type of `log`, which comes behind those that have a name.
    let (imported, all) = ([false, false, true], [true, true, true]);
    let arguments = "(local.get 0) (local.get 1)";
    let indirect = format!("(call_indirect (type $binary) {arguments} (i32.const 0))");
    // The compiler knows what is in the table, unless others can reach it.
    assert_eq!(exits("", &format!("(call $add {arguments})")), imported);
    assert_eq!(exits("", &indirect), imported);
    assert_eq!(exits("(export \"table\")", &format!("(call $add {arguments})")), imported);
    assert_eq!(exits("(export \"table\")", &indirect), all);
    let tail = format!("(return_call_indirect (type $binary) {arguments} (i32.const 0))");
    assert_eq!(exits("(export \"table\")", &tail), all);
    let reference = format!("(call_ref $binary {arguments} (ref.func $add))");
    assert_eq!(exits("", &reference), all);
    let tail = format!("(return_call_ref $binary {arguments} (ref.func $add))");
    assert_eq!(exits("", &tail), all);
}

#[test]
fn sites_lead_from_code_to_the_operators() {
    let module = wasm(PROGRAM);
    let artifact = compile(&module, &x86()).unwrap();
    read(&artifact, |view, read| {
        let late = read.late(&artifact);
        let sites: Vec<_> = late.sites().iter().collect();
        assert!(sites.is_sorted_by_key(|site| site.text));
        let within = |name: &str| {
            let function = late.functions().iter().find(|f| view.text(f.name) == name).unwrap();
            let range = function.text.get()..function.text.get() + function.length.get();
            sites.iter().filter(move |site| range.contains(&site.text))
        };
        // The load of `hidden`: its only trap, at the opcode 0x28.
        let load: Vec<_> = within("hidden").collect();
        assert_eq!(load.len(), 1);
        assert_eq!(Trap::from_code(load[0].trap), Some(Trap::MemoryOutOfBounds));
        assert_eq!(module[load[0].wasm as usize], 0x28);
        // Calls are 0x10, the division 0x6e. That of `hidden` became a copy of its load.
        let run = &late.functions()[2];
        let range = run.text.get()..run.text.get() + run.length.get();
        let of_run: Vec<_> = sites.iter().filter(|site| range.contains(&site.text)).collect();
        let returns: Vec<_> = of_run.iter().filter(|site| site.trap == 0).collect();
        assert_eq!(returns.len(), 1);
        assert!(returns.iter().all(|site| module[site.wasm as usize] == 0x10));
        let copied = of_run
            .iter()
            .find(|site| Trap::from_code(site.trap) == Some(Trap::MemoryOutOfBounds))
            .unwrap();
        assert_eq!(copied.wasm, load[0].wasm);
        let inlined = late.inlined(**copied).unwrap();
        assert_eq!(late.function_name(inlined.function.get()), Some("hidden"));
        assert_eq!(module[inlined.call.get() as usize], 0x10);
        let division = of_run
            .iter()
            .find(|site| Trap::from_code(site.trap) == Some(Trap::IntegerDivisionByZero))
            .unwrap();
        assert_eq!(module[division.wasm as usize], 0x6e);
        assert!(of_run.iter().any(|site| Trap::from_code(site.trap) == Some(Trap::StackOverflow)));
    });
}

#[test]
fn functions_that_call_nothing_but_themselves_are_copied_to_at_most_four_of_their_calls() {
    let less = "(i32.sub (local.get 0) (i32.const 1))";
    let sum = |name: &str, calls: usize| {
        let call = format!("(call ${name} {less}) i32.add ");
        format!(
            "(func ${name} (export \"{name}\") (param i32) (result i32)
               (if (i32.eqz (local.get 0)) (then (return (i32.const 1))))
               (i32.const 0) {})",
            call.repeat(calls)
        )
    };
    let text = format!(
        r#"(module {} {} {}
            (func $loop (export "loop") (param i32) (result i32)
                (loop $more
                    (br_if $more (local.tee 0 (i32.div_u (local.get 0) (i32.const 3))))
                    (return (i32.div_u (i32.const 1) (local.get 0))))
                (call $loop (local.get 0)))
            (func (export "caller") (param i32) (result i32)
                (i32.add (call $one (local.get 0)) (call $loop (local.get 0)))))"#,
        sum("one", 1),
        sum("two", 2),
        sum("six", 6)
    );
    let artifact = compile(&wasm(&text), &x86()).unwrap();
    read(&artifact, |_, read| {
        let late = read.late(&artifact);
        // For how many of its calls a function has copies, and of what.
        let copies = |index: usize| {
            let function = &late.functions()[index];
            let range = function.text.get()..function.text.get() + function.length.get();
            let sites = late.sites().iter().filter(|site| range.contains(&(site.text - 1)));
            let copied = sites.filter_map(|site| late.inlined(site));
            let copied: BTreeSet<(u32, u32)> =
                copied.map(|record| (record.function.get(), record.call.get())).collect();
            assert!(copied.iter().all(|(copied, _)| *copied as usize == index), "{copied:?}");
            copied.len()
        };
        assert_eq!([0, 1, 2].map(copies), [1, 2, 4]);
        // Nobody gets copies of what loops, though nothing reaches its call of itself; nor others of what calls itself.
        assert_eq!([3, 4].map(copies), [0, 0]);
    });
}

#[test]
fn only_features_that_code_uses_are_recorded() {
    let features = |text: &str, cpu| {
        let artifact = compile(&wasm(text), &Settings { cpu, ..x86() }).unwrap();
        check(&artifact, None).unwrap().header().cpu_features.get()
    };
    let plain = "(module (func (export \"f\") (param i32) (result i32) (local.get 0)))";
    assert_eq!(features(PROGRAM, CpuLevel::Baseline), 0);
    assert_eq!(features(plain, CpuLevel::X86_64V3), 0);
    let v2 = features(PROGRAM, CpuLevel::X86_64V2);
    assert_eq!(v2, cwasm_artifact::cpu::CpuFeatures::SSE41.bits());
    // And so it loads on a host that has nothing more.
    let artifact = compile(&wasm(PROGRAM), &Settings { cpu: CpuLevel::X86_64V2, ..x86() }).unwrap();
    let mut host = Host::this();
    host.target = "x86_64-unknown-linux-gnu".to_owned();
    host.cpu_features = cwasm_artifact::cpu::CpuFeatures::SSE41;
    check(&artifact, Some(&host)).unwrap();
}

#[test]
fn code_has_pages_of_its_own() {
    for target in TARGETS {
        let settings = Settings { target: target.parse().unwrap(), ..Settings::default() };
        let artifact = compile(&wasm(PROGRAM), &settings).unwrap();
        assert_eq!(padded_text(&Header::of(&artifact).unwrap().prefix.target), target);
        let page = settings.page_size() as usize;
        read(&artifact, |view, module| {
            let text = module.range(Section::Text);
            assert_eq!(text.start % page, 0);
            let end = text.end.next_multiple_of(page);
            assert!(end <= artifact.len(), "the last page of the code is not whole");
            for section in Section::ALL.into_iter().filter(|s| *s != Section::Text) {
                let range = module.range(section);
                assert!(range.is_empty() || range.start >= end || range.end <= text.start);
            }
            let image = view.images()[0].address.get();
            let place = module.range(Section::ImageBytes).start as u64;
            assert_eq!(place % page as u64, image % page as u64);
        });
    }
}

#[test]
fn object_files_say_what_the_header_says() {
    for target in TARGETS {
        let settings = Settings { target: target.parse().unwrap(), ..Settings::default() };
        for text in [PROGRAM, "(module)", "(module (memory 1) (data (i32.const 9) \"x\"))"] {
            let artifact = compile(&wasm(text), &settings).unwrap();
            let elf = ElfFile64::<Endianness>::parse(&*artifact).unwrap();
            read(&artifact, |_, module| {
                for section in Section::ALL {
                    let range = module.range(section);
                    let found = elf.section_by_name(section.name());
                    let found = found.and_then(|found| found.file_range());
                    let wanted =
                        (!range.is_empty()).then(|| (range.start as u64, range.len() as u64));
                    assert_eq!(found, wanted, "{target} {}", section.name());
                }
                let symbols: Vec<_> = elf
                    .symbols()
                    .filter(|symbol| symbol.kind() == SymbolKind::Text)
                    .map(|symbol| (symbol.address(), symbol.size(), symbol.name().unwrap()))
                    .collect();
                assert!(symbols.is_sorted());
                for function in module.late(&artifact).functions() {
                    let place = (function.text.get().into(), function.length.get().into());
                    assert!(symbols.iter().any(|it| (it.0, it.1) == place), "{target}");
                }
                if text == PROGRAM {
                    let names: Vec<_> = symbols.iter().map(|symbol| symbol.2).collect();
                    assert_eq!(names[..4], ["add", "hidden", "run", "floor"]);
                    assert!(names.contains(&"trampoline.entry[0]"));
                }
                let relocated = elf
                    .sections()
                    .find(|section| section.name() == Ok(".eh_frame"))
                    .map_or(0, |section| section.relocations().count());
                let has_unwind = text == PROGRAM && !target.contains("windows");
                assert_eq!(relocated, usize::from(has_unwind), "{target}");
            });
        }
    }
}

#[test]
fn images_that_lie_in_other_pages_than_in_the_memory_are_refused() {
    let artifact = compile(&wasm(PROGRAM), &x86()).unwrap();
    let records = read(&artifact, |_, module| module.range(Section::Images));
    let refusal = |field: usize, value: u64| {
        let mut bytes = artifact.clone();
        bytes[records.start + field..][..8].copy_from_slice(&value.to_le_bytes());
        reseal(&mut bytes).unwrap();
        let checked = check(&bytes, None).unwrap();
        Module::new(&checked).err().map(|report| report.to_string())
    };
    // Five bytes at 16 of a memory of 131072, at 0 of the section.
    for address in [16, 16 + 4096, 131_072 - 4096 + 16] {
        assert_eq!(refusal(8, address), None);
    }
    for address in [0, 15, 17, 4096] {
        assert!(refusal(8, address).unwrap().contains("in pages of the file"), "{address}");
    }
    for address in [131_072 + 16, u64::MAX - 3, u64::MAX] {
        assert!(refusal(8, address).unwrap().contains("outside of its memory"), "{address}");
    }
    for offset in [1, u64::MAX] {
        assert!(refusal(16, offset).unwrap().contains("outside of the image bytes"), "{offset}");
    }
}

#[test]
fn names_are_in_the_file_once() {
    let text = r#"(module $unmistakable
        (import "somewhere else" "one thing" (func)) (import "somewhere else" "another" (func))
        (func $both_named (export "both_named") (export "again")) (func $same) (func (export "same")))"#;
    let artifact = compile(&wasm(text), &x86()).unwrap();
    let count =
        |name: &str| artifact.windows(name.len()).filter(|it| *it == name.as_bytes()).count();
    for name in ["unmistakable", "somewhere else", "both_named", "again", "same"] {
        assert_eq!(count(name), 1, "{name}");
    }
}

#[test]
fn little_of_a_file_is_between_its_parts() {
    // The code begins with a page, and so does the image, but for the zeros before it. Of twelve files, in a fixed order, each
    // would lose about 6 KiB.
    let between: Vec<u64> = (40..52)
        .map(|count| {
            let body = "(i32.store (i32.load (local.get 0)) (local.get 0))".repeat(count);
            let functions = format!("(func (param i32) {body})").repeat(4 * count);
            let data = "x".repeat(count * 50);
            let text =
                format!("(module (memory 1) (data (i32.const 1024) \"{data}\") {functions})");
            let artifact = compile(&wasm(&text), &x86()).unwrap();
            let elf = ElfFile64::<Endianness>::parse(&*artifact).unwrap();
            let parts = elf.sections().filter_map(|section| section.file_range());
            let sections: u64 = parts.map(|(_, length)| length).sum();
            let headers = 64 + 64 * (elf.sections().count() as u64 + 1);
            artifact.len() as u64 - sections - headers
        })
        .collect();
    let sum: u64 = between.iter().sum();
    assert!(sum < 12 * 1500, "{between:?}");
}

#[test]
fn modules_without_code_or_names_are_artifacts_too() {
    for text in [
        "(module)",
        "(module (memory 1))",
        "(module (type (func (param i32 i64 f32 f64 funcref externref))))",
        r#"(module (import "a" "" (func)) (export "x" (func 0)) (export "" (func 0)))"#,
        r#"(module (func) (func (export "a\00b")) (func $dup (export "func[0]")))"#,
    ] {
        compile(&wasm(text), &Settings::default()).unwrap();
    }
}

#[test]
fn deep_nesting_and_long_signatures_compile() {
    let depth = 20_000;
    let nested = format!(
        "(module (func (param i32) {} {}))",
        "block local.get 0 if loop ".repeat(depth / 3),
        "end end end ".repeat(depth / 3)
    );
    compile(&wasm(&nested), &Settings::default()).unwrap();
    let sum = format!(
        "(module (func (result i32) {} {}))",
        "i32.const 1 ".repeat(depth),
        "i32.add ".repeat(depth - 1)
    );
    compile(&wasm(&sum), &Settings::default()).unwrap();
    let many = "i64 ".repeat(1000);
    let wide = format!(
        r#"(module (import "a" "b" (func $f (param {many}) (result {many})))
            (func (export "g") (param {many}) (result {many}) {} call $f)
            (func (export "h") (param {many}) (result {many}) {} call 1))"#,
        (0..1000).map(|n| format!("local.get {n} ")).collect::<String>(),
        (0..1000).map(|n| format!("local.get {n} ")).collect::<String>(),
    );
    compile(&wasm(&wide), &Settings::default()).unwrap();
}

#[test]
fn progress_adds_up() {
    #[derive(Default)]
    struct Sum {
        total: AtomicU64,
        done: AtomicU64,
    }
    impl Progress for Sum {
        fn start(&self, total: u64) {
            self.total.store(total, Ordering::Relaxed);
        }
        fn advance(&self, bytes: u64) {
            self.done.fetch_add(bytes, Ordering::Relaxed);
        }
    }
    let sum = Sum::default();
    compile_with_progress(&wasm(PROGRAM), &Settings::default(), &sum).unwrap();
    let total = sum.total.into_inner();
    assert!(total > 0 && total == sum.done.into_inner());
}

#[test]
fn broken_branch_hints_refuse_no_module() {
    let plain = wasm("(module (func (param i32) (if (local.get 0) (then))))");
    let section = |data: &[u8]| {
        let name = b"metadata.code.branch_hint";
        let length = u8::try_from(name.len() + 1 + data.len()).unwrap();
        let mut section = vec![0, length, u8::try_from(name.len()).unwrap()];
        section.extend(name);
        section.extend(data);
        // Behind the header, so before everything else.
        [&plain[..8], &section, &plain[8..]].concat()
    };
    for data in [
        &b""[..],
        b"\xff\xff\xff\xff\xff",
        b"\x01",
        b"\x01\x00\x01\x03\x01\x07",
        b"\x01\x63\x01\x03\x01\x01",
        b"\x02\x00\x01\x03\x01\x01\x00\x00",
    ] {
        compile(&section(data), &x86()).unwrap();
    }
}
