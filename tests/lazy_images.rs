//! Memories that begin without what they hold: programs and hosts see the same bytes as ever, what nobody touches is
//! not read, and what was changed meanwhile is an error to whoever needs it.

use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::Part;
use cwasm_artifact::header::{HEADER_OFFSET, Header, Section};
use cwasm_artifact::tree::MAX_CHUNK_SIZE;
use cwasm_compiler::{MemoryBounds, Settings};
use cwasm_loader::{
    Artifact, Engine, Error, Global, GlobalType, Instance, Linker, LoadError, Store, TrapKind, Val,
    ValType,
};
use cwasm_tests::accesses::{Access, FUNCTIONS};
use cwasm_tests::fault::random::Random;
use cwasm_tests::fault::{child, process};
use cwasm_tests::pattern::{data, pattern};
use cwasm_tests::program_file::{ProgramFile, chunk_size};
use cwasm_tests::{compile, compile_with};

const PAGE: usize = 65536;

/// The sizes of the two memories.
const SIZES: [usize; 2] = [100 * PAGE, 20 * PAGE];

/// The runs of both: where they begin, and how long they are.
const RUNS: [&[(usize, usize)]; 2] = [
    &[(5000, (3 << 20) + 123), (4 << 20, 70_001), (5 << 20, (1 << 20) + 4096)],
    &[(0, (1 << 20) - 900)],
];

/// Two memories with images of several MB, and everything that can be done to memories.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    let segments: String = (0..2)
        .flat_map(|memory| RUNS[memory].iter().map(move |(at, length)| data(memory, *at, *length)))
        .collect();
    format!(
        r#"(module
        (memory $a (export "a") 100 200) (memory $b (export "b") 20)
        {segments}
        (data $passive "PASSIVE")
        {FUNCTIONS}
        (func (export "sum") (param i32) (result i64) (local $sum i64)
            (loop $l
                (local.set $sum (i64.add (local.get $sum) (i64.load8_u (local.get 0))))
                (br_if $l (i32.lt_u (local.tee 0 (i32.add (local.get 0) (i32.const 4093))) (i32.const 6553600))))
            (local.get $sum))
        (func (export "nothing")))"#
    )
});

static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| compile(&TEXT));

/// What a memory begins with.
fn initial(memory: usize) -> Vec<u8> {
    let mut bytes = vec![0; SIZES[memory]];
    for (at, length) in RUNS[memory] {
        bytes[*at..at + length]
            .iter_mut()
            .zip(pattern(memory, *at..at + length))
            .for_each(|(byte, wanted)| *byte = wanted);
    }
    bytes
}

fn start<'code>(store: &mut Store<'code, ()>, artifact: &'code Artifact) -> Instance<'code> {
    Linker::new(&Engine::default()).instantiate(store, artifact).unwrap()
}

fn new_store<'code>() -> Store<'code, ()> {
    Store::new(&Engine::default(), ())
}

/// What an access results in, as text.
fn apply<'code>(
    store: &mut Store<'code, ()>,
    instance: Instance<'code>,
    access: &Access,
) -> String {
    access.apply(store, instance, ["a", "b"]).unwrap_or_else(|error| match error {
        Error::Trap(trap) => format!("{:?}", trap.kind()),
        Error::CodeLost(_) => "lost".to_owned(),
        other => other.to_string(),
    })
}

fn both(store: &Store<'_, ()>, instance: Instance<'_>) -> [Vec<u8>; 2] {
    ["a", "b"].map(|name| instance.memory(store, name).unwrap().data(store).unwrap().to_vec())
}

/// Each kind of access, at places of every kind: in an image, over the end of a chunk of the file, of a run and of the memory.
fn operations() -> Vec<Access> {
    let program = ProgramFile::of(&PROGRAM);
    let header = Header::of(&program.bytes).unwrap();
    let bytes = header.section(Section::ImageBytes).within(program.bytes.len()).unwrap();
    // The address in the first run of a border between chunks.
    let border =
        u32::try_from(5000 + bytes.start.next_multiple_of(MAX_CHUNK_SIZE) - bytes.start).unwrap();
    assert_eq!(border % 4096, 0);
    let mut places = vec![0, 4096, 4999, 5000, 1 << 20, (4 << 20) - 3, 4 << 20, (5 << 20) + 11];
    for back in [0, 1, 7, 8, 16] {
        places.extend([border - back, border + 65536 - back, 3_150_848 - back]);
    }
    places.extend([6_553_592, 6_553_600, u32::MAX - 20]);
    let bulk = [(0, 5), (1, 9), (100, 70_000), (70_000, 3 << 20)];
    places.into_iter().flat_map(|at| Access::all_at(at, &bulk)).collect()
}

#[test]
fn what_nobody_touches_is_not_read() {
    let file = ProgramFile::of(&PROGRAM);
    let chunks = file.chunks(Part::Image).len();
    assert!(chunks >= 80, "{chunks}");
    let artifact = file.lazy();
    assert_eq!(artifact.lazy_image_parts(), (0, chunks));
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    let nothing = instance.typed_func::<(), ()>(&store, "nothing").unwrap();
    nothing.call(&mut store, ()).unwrap();
    assert_eq!(artifact.lazy_image_parts(), (0, chunks));
    // Outside of the images, nothing is needed.
    apply(&mut store, instance, &Access::Store("store64", 6_553_592, 5));
    apply(&mut store, instance, &Access::Load("load8", 4095));
    assert_eq!(artifact.lazy_image_parts(), (0, chunks));
    for op in [
        Access::Load("load8", 1 << 20),
        Access::Store("store8", (1 << 20) + (1 << 18), 3),
        Access::Bulk("fill", 1 << 21, 7, 100),
        Access::HostRead(0, 5 << 20, 10),
    ] {
        let (before, _) = artifact.lazy_image_parts();
        apply(&mut store, instance, &op);
        let (after, _) = artifact.lazy_image_parts();
        assert!((before + 1..=before + file.image_piece()).contains(&after), "{op:?}: {after}");
        apply(&mut store, instance, &op);
        assert_eq!(artifact.lazy_image_parts(), (after, chunks), "{op:?}");
    }
    both(&store, instance);
    assert_eq!(artifact.lazy_image_parts(), (chunks, chunks));
    let eager = file.eager();
    assert_eq!(eager.lazy_image_parts(), (0, 0));
}

#[test]
fn memories_begin_with_what_they_hold() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    for _ in 0..3 {
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        assert!(both(&store, instance) == [0, 1].map(initial));
        let memory = instance.memory(&store, "a").unwrap();
        assert!(memory.data_mut(&mut store).unwrap()[..] == initial(0)[..]);
    }
    artifact.load_rest().unwrap();
}

#[test]
fn every_access_does_the_same_first_and_later() {
    let file = ProgramFile::of(&PROGRAM);
    let (eager, wanted) = (file.eager(), [0, 1].map(initial));
    for op in operations() {
        // Each is the first to touch anything.
        let lazy = file.lazy();
        let (mut store, mut other) = (new_store(), new_store());
        let (instance, model) = (start(&mut store, &lazy), start(&mut other, &eager));
        for _ in 0..2 {
            let found = apply(&mut store, instance, &op);
            assert_eq!(found, apply(&mut other, model, &op), "{op:?}");
        }
        let (loaded, all) = lazy.lazy_image_parts();
        let few = 8 * file.image_piece();
        assert!(loaded <= few && all > few, "{op:?}: {loaded}");
        if matches!(op, Access::Load(..) | Access::HostRead(..)) {
            assert!(both(&store, instance) == wanted, "{op:?}");
        }
    }
}

#[test]
fn many_accesses_leave_the_same_bytes() {
    let file = ProgramFile::of(&PROGRAM);
    let eager = file.eager();
    let operations = operations();
    for seed in 0..12 {
        let lazy = file.lazy();
        let (mut store, mut other) = (new_store(), new_store());
        let (instance, model) = (start(&mut store, &lazy), start(&mut other, &eager));
        let mut random = Random::new(seed);
        for step in 0..40 {
            let op = &operations[random.below(operations.len())];
            assert_eq!(
                apply(&mut store, instance, op),
                apply(&mut other, model, op),
                "{seed} {step} {op:?}"
            );
            if step == 20 {
                let grown = apply(&mut store, instance, &Access::Load("grow", 3));
                assert_eq!(grown, apply(&mut other, model, &Access::Load("grow", 3)));
                assert_eq!(grown, "100");
            }
        }
        let sum = apply(&mut store, instance, &Access::Load("sum", 0));
        assert_eq!(sum, apply(&mut other, model, &Access::Load("sum", 0)));
        assert!(both(&store, instance) == both(&other, model), "{seed}");
    }
}

#[test]
fn out_of_bounds_is_still_out_of_bounds() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    for op in [
        Access::Load("load8", 6_553_600),
        Access::Load("load64", 6_553_599),
        Access::Load("loadb", 1_310_720),
        Access::Store("store8", u32::MAX, 1),
        Access::Bulk("fill", 5000, 1, 6_553_600),
        Access::Bulk("copy", 5000, 6_000_000, 1 << 20),
        Access::Bulk("from_b", 5000, 1_000_000, 1 << 20),
        Access::Bulk("init", 5000, 0, 8),
    ] {
        assert_eq!(apply(&mut store, instance, &op), "MemoryOutOfBounds", "{op:?}");
    }
    // What traps need may begin in the last chunk.
    assert!(artifact.lazy_image_parts().0 <= 1, "nothing was needed for that");
    assert!(both(&store, instance) == [0, 1].map(initial));
}

#[test]
fn the_rest_is_loaded_while_instances_wait_for_it() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    let mut store = new_store();
    let before = start(&mut store, &artifact);
    apply(&mut store, before, &Access::Store("store64", 1 << 20, -1));
    artifact.load_rest().unwrap();
    let (loaded, all) = artifact.lazy_image_parts();
    assert_eq!(loaded, all);
    // Nothing is needed of the file any more.
    file.cut(Part::Image);
    let after = start(&mut store, &artifact);
    assert!(both(&store, after) == [0, 1].map(initial));
    let [mut wanted, other] = [0, 1].map(initial);
    wanted[1 << 20..(1 << 20) + 8].fill(0xff);
    assert!(both(&store, before) == [wanted, other]);
}

#[test]
fn what_was_changed_is_an_error_and_never_a_byte() {
    for cut in [false, true] {
        let file = ProgramFile::of(&PROGRAM);
        let artifact = file.lazy();
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        let kept = apply(&mut store, instance, &Access::Load("load64", 1 << 20));
        // What tells traps apart is there, so that a trap would be one.
        assert_eq!(
            apply(&mut store, instance, &Access::Load("load8", u32::MAX)),
            "MemoryOutOfBounds"
        );
        if cut {
            file.cut(Part::Image)
        } else {
            file.damage(Part::Image)
        }
        for _ in 0..2 {
            for op in [
                Access::Load("load8", 1 << 21),
                Access::Load("vector", 1 << 21),
                Access::Load("loadb", 77),
                Access::Store("store8", 1 << 21, 1),
                Access::Store("storev", 5 << 20, 1),
                Access::Store("add", 1 << 21, 1),
                Access::Bulk("fill", 1 << 21, 7, 10),
                Access::Bulk("copy", 1 << 21, 0, 10),
                Access::Bulk("copy", 0, 1 << 21, 10),
                Access::Bulk("to_b", 0, 0, 10),
                Access::Bulk("from_b", 0, 0, 10),
                Access::Bulk("init", 1 << 21, 0, 7),
                Access::Load("sum", 0),
            ] {
                assert_eq!(apply(&mut store, instance, &op), "lost", "{op:?}");
            }
            assert_eq!(apply(&mut store, instance, &Access::Load("load64", 1 << 20)), kept);
            assert_eq!(apply(&mut store, instance, &Access::Load("load8", 4000)), "0");
            let memory = instance.memory(&store, "a").unwrap();
            assert!(matches!(memory.data(&store), Err(Error::CodeLost(_))));
            assert!(matches!(memory.data_mut(&mut store), Err(Error::CodeLost(_))));
            let read = memory.read(&store, 1 << 21, &mut [0; 3]);
            assert!(matches!(read, Err(Error::CodeLost(_))));
            let written = memory.write(&mut store, 1 << 21, &[0; 3]);
            assert!(matches!(written, Err(Error::CodeLost(_))));
            memory.read(&store, 1 << 20, &mut [0; 3]).unwrap();
            let outside = memory.read(&store, 1 << 40, &mut [0; 3]);
            assert!(matches!(outside, Err(Error::MemoryAccess { .. })));
        }
        // Where, and why.
        let load = instance.typed_func::<u32, i64>(&store, "load8").unwrap();
        match load.call(&mut store, 1 << 21) {
            Err(Error::CodeLost(lost)) => {
                let chunk = usize::try_from(lost.range().start).unwrap() / chunk_size(&file.bytes);
                assert!(file.chunks(Part::Image).contains(&chunk));
                assert_eq!(lost.frames().len(), 1);
                assert!(lost.to_string().contains("was changed"), "{lost}");
            }
            other => panic!("{other:?}"),
        }
        let mut second = new_store();
        let other = start(&mut second, &artifact);
        assert_eq!(apply(&mut second, other, &Access::Load("load64", 1 << 20)), kept);
        assert_eq!(apply(&mut second, other, &Access::Load("load8", 1 << 21)), "lost");
        assert!(matches!(artifact.load_rest(), Err(LoadError::Changed { .. })));
        // Whole again, it goes on, and nothing was written meanwhile.
        file.repair();
        assert!(both(&store, instance) == [0, 1].map(initial));
        assert!(both(&second, other) == [0, 1].map(initial));
    }
}

#[test]
fn a_file_that_was_deleted_or_replaced_is_there_still() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    fs::remove_file(file.path()).unwrap();
    fs::write(file.path(), b"another file").unwrap();
    assert!(both(&store, instance) == [0, 1].map(initial));
}

#[test]
fn another_instance_may_have_the_memory() {
    let (file, second) = (ProgramFile::of(&PROGRAM), ProgramFile::of(&PROGRAM));
    let (artifact, damaged) = (file.lazy(), second.lazy());
    let user = cwasm_tests::artifact(
        r#"(module (import "o" "a" (memory 100))
            (data (i32.const 2097152) "written")
            (func (export "load") (param i32) (result i64) (i64.load (local.get 0))))"#,
    );
    let mut store = new_store();
    let owner = start(&mut store, &artifact);
    let mut linker = Linker::new(&Engine::default());
    linker.instance(&store, "o", owner).unwrap();
    // Its segment is written when it is made.
    let instance = linker.instantiate(&mut store, &user).unwrap();
    assert_eq!(artifact.lazy_image_parts().0, file.image_piece());
    let mut wanted = initial(0);
    wanted[1 << 21..(1 << 21) + 7].copy_from_slice(b"written");
    let load = instance.typed_func::<u32, i64>(&store, "load").unwrap();
    for at in [1 << 20, (1 << 21) - 1, 1 << 21] {
        let place = usize::try_from(at).unwrap();
        let number = i64::from_le_bytes(wanted[place..place + 8].try_into().unwrap());
        assert_eq!(load.call(&mut store, at).unwrap(), number);
    }
    assert!(owner.memory(&store, "a").unwrap().data(&store).unwrap() == wanted);
    // And if it is lost, that is why there is no instance.
    let owner = start(&mut store, &damaged);
    let mut linker = Linker::new(&Engine::default());
    linker.instance(&store, "o", owner).unwrap();
    second.damage(Part::Image);
    let result = linker.instantiate(&mut store, &user);
    assert!(matches!(result, Err(Error::CodeLost(_))), "{result:?}");
    let load = Access::Load("load8", 1 << 21);
    assert_eq!(apply(&mut store, owner, &load), "lost");
}

#[test]
fn segments_behind_the_images_are_written_over_them() {
    let text = format!(
        r#"(module (import "host" "at" (global $at i32))
            (memory (export "a") 100) {} (data (global.get $at) "behind"))"#,
        data(0, 0, 3 << 20)
    );
    let file = ProgramFile::of(&compile(&text));
    let engine = Engine::default();
    let wanted = |at: usize| {
        let mut bytes: Vec<u8> = pattern(0, 0..3 << 20).collect();
        bytes[at..at + 6].copy_from_slice(b"behind");
        bytes
    };
    let artifact = file.lazy();
    for at in [1 << 20, 777_777, 0] {
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let ty = GlobalType { value: ValType::I32, mutable: false };
        let global = Global::new(&mut store, ty, Val::I32(at)).unwrap();
        linker.define(&store, "host", "at", global).unwrap();
        let instance = linker.instantiate(&mut store, &artifact).unwrap();
        let memory = instance.memory(&store, "a").unwrap();
        let found = &memory.data(&store).unwrap()[..3 << 20];
        assert!(found == wanted(usize::try_from(at).unwrap()), "{at}");
    }
}

#[test]
fn an_image_that_is_withdrawn_is_zero() {
    // An element segment fails, and its functions are in the table of another by then.
    let text = format!(
        r#"(module (import "o" "t" (table 2 funcref)) (memory 100) {}
            (func $load (result i32) (i32.load (i32.const 1048576)))
            (elem (i32.const 0) $load) (elem (i32.const 9) $load))"#,
        data(0, 0, 3 << 20)
    );
    let file = ProgramFile::of(&compile(&text));
    let owner = cwasm_tests::artifact(
        r#"(module (table (export "t") 2 funcref)
            (func (export "f") (result i32) (call_indirect (result i32) (i32.const 0))))"#,
    );
    for damaged in [false, true] {
        let artifact = file.lazy();
        if damaged {
            file.damage(Part::Image);
        }
        let mut store = new_store();
        let instance = start(&mut store, &owner);
        let mut linker = Linker::new(&Engine::default());
        linker.instance(&store, "o", instance).unwrap();
        let failed = linker.instantiate(&mut store, &artifact).unwrap_err();
        assert_eq!(failed.trap().unwrap().kind(), TrapKind::TableOutOfBounds);
        let load = instance.typed_func::<(), i32>(&store, "f").unwrap();
        assert_eq!(load.call(&mut store, ()).unwrap(), 0);
        assert_eq!(artifact.lazy_image_parts().0, 0);
    }
}

#[test]
fn memories_that_cannot_wait_have_all_of_it_at_once() {
    let wanted: Vec<u8> = pattern(0, 0..1 << 20).collect();
    for (memory, index) in [("i64 20", "i64"), ("20 30 shared", "i32")] {
        let segment = data(0, 0, 1 << 20).replace("i32.const", &format!("{index}.const"));
        let text = format!("(module (memory (export \"a\") {memory}) {segment})");
        let file = ProgramFile::of(&compile(&text));
        let artifact = file.lazy();
        let (before, all) = artifact.lazy_image_parts();
        assert!(before == 0 && all >= 16, "{memory}");
        for _ in 0..2 {
            let mut store = new_store();
            let instance = start(&mut store, &artifact);
            assert_eq!(artifact.lazy_image_parts(), (all, all), "{memory}");
            let mut found = vec![0; 1 << 20];
            let memory = instance.memory(&store, "a").unwrap();
            memory.read(&store, 0, &mut found).unwrap();
            assert!(found == wanted);
        }
        let artifact = file.lazy();
        file.damage(Part::Image);
        let failed = Linker::new(&Engine::default()).instantiate(&mut new_store(), &artifact);
        assert!(matches!(failed, Err(Error::CodeLost(_))), "{memory}: {failed:?}");
    }
    // Code that compares addresses itself.
    let explicit = Settings { memory_bounds: MemoryBounds::Explicit, ..Settings::default() };
    let file = ProgramFile::of(&compile_with(&TEXT, &explicit));
    let artifact = file.lazy();
    assert_eq!(artifact.lazy_image_parts(), (0, 0));
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    assert!(both(&store, instance) == [0, 1].map(initial));
}

#[test]
fn the_second_instance_has_a_small_image_loaded() {
    let file = ProgramFile::of(&compile(&format!(
        "(module (memory (export \"a\") 3) {} (func (export \"load8\") (param i32) (result i64) (i64.load8_u (local.get 0))))",
        data(0, 0, 126_000)
    )));
    let artifact = file.lazy();
    let (before, all) = artifact.lazy_image_parts();
    assert!(before == 0 && all > 0);
    for round in 0..3 {
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        assert_eq!(artifact.lazy_image_parts().0, if round == 0 { 0 } else { all }, "{round}");
        let found = &instance.memory(&store, "a").unwrap().data(&store).unwrap()[..126_000];
        if round > 0 {
            assert!(found.iter().copied().eq(pattern(0, 0..126_000)));
        }
        if round == 0 {
            assert_eq!(artifact.lazy_image_parts().0, all);
        }
    }
    // Unless that is not possible; then it is missed where it is needed.
    let artifact = file.lazy();
    file.damage(Part::Image);
    for _ in 0..2 {
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        assert_eq!(apply(&mut store, instance, &Access::Load("load8", 80_000)), "lost");
        assert_eq!(apply(&mut store, instance, &Access::Load("load8", 150_000)), "0");
    }
}

#[test]
fn address_space_that_is_used_again_begins_with_zeros() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    let plain = cwasm_tests::artifact(r#"(module (memory (export "m") 120))"#);
    for round in 0..30 {
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        match round % 4 {
            0 => {}
            1 => drop(apply(&mut store, instance, &Access::Store("store64", 1 << 20, -1))),
            2 => drop(both(&store, instance)),
            _ => drop(apply(&mut store, instance, &Access::HostWrite(0, 1 << 21, 100))),
        }
        drop(store);
        let mut store = new_store();
        for _ in 0..3 {
            let instance = start(&mut store, &plain);
            let memory = instance.memory(&store, "m").unwrap();
            assert!(memory.data(&store).unwrap().iter().all(|byte| *byte == 0), "{round}");
        }
    }
}

#[test]
fn many_threads_need_the_same_image_at_once() {
    let file = ProgramFile::of(&PROGRAM);
    let wanted = [0, 1].map(initial);
    for _ in 0..5 {
        let artifact = file.lazy();
        let ready = AtomicUsize::new(0);
        let meet = |goal: usize| {
            ready.fetch_add(1, Ordering::Relaxed);
            while ready.load(Ordering::Relaxed) < goal {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (artifact, wanted, meet) = (&artifact, &wanted, &meet);
                scope.spawn(move || {
                    let mut store = new_store();
                    let instance = start(&mut store, artifact);
                    meet(4);
                    let sum = apply(&mut store, instance, &Access::Load("sum", thread));
                    assert_eq!(sum, apply(&mut store, instance, &Access::Load("sum", thread)));
                    assert!(both(&store, instance) == *wanted);
                });
            }
        });
        // And one memory that several read, by the store that they share.
        let artifact = file.lazy();
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        ready.store(0, Ordering::Relaxed);
        let (store, memory) = (&store, instance.memory(&store, "a").unwrap());
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (wanted, meet) = (&wanted, &meet);
                scope.spawn(move || {
                    meet(4);
                    for at in (0..SIZES[0] - 100).step_by(50_000 + thread) {
                        let mut found = [0; 100];
                        memory.read(&store, at as u64, &mut found).unwrap();
                        assert!(found == wanted[0][at..at + 100]);
                    }
                });
            }
        });
    }
}

#[test]
fn images_make_few_mappings() {
    let file = ProgramFile::of(&PROGRAM);
    let artifact = file.lazy();
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    let before = process::mappings();
    artifact.load_rest().unwrap();
    both(&store, instance);
    let after = process::mappings();
    assert!(after < before + 30, "{before} {after}");
}

#[test]
fn images_that_no_compiler_makes_are_the_same_too() {
    const PAGE: usize = 4096;
    let header = Header::of(&PROGRAM).unwrap();
    let place = |section| header.section(section).within(PROGRAM.len()).unwrap();
    let (records, available) = (place(Section::Images), place(Section::ImageBytes).len() / PAGE);
    assert_eq!(records.len(), 4 * 32);
    // As far into pages as the section.
    let phase = place(Section::ImageBytes).start % PAGE;
    assert_ne!(phase, 0);
    let mut waited = 0;
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let mut bytes = PROGRAM.clone();
        for record in bytes[records.clone()].chunks_exact_mut(32) {
            // Somewhere in a memory, from somewhere: often over another.
            let memory = random.below(2);
            let pages = SIZES[memory] / PAGE;
            let length = random.below(pages.min(available) / 4);
            let (at, from) = (random.below(pages - length - 1), random.below(available - length));
            let (at, from) = (at * PAGE + phase, from * PAGE);
            let length = length * PAGE - random.below(PAGE).min(length * PAGE);
            record[..4].copy_from_slice(&u32::try_from(memory).unwrap().to_le_bytes());
            for (field, value) in record[8..].chunks_exact_mut(8).zip([at, from, length]) {
                field.copy_from_slice(&(value as u64).to_le_bytes());
            }
        }
        reseal(&mut bytes).unwrap();
        let file = ProgramFile::of(&bytes);
        let (eager, lazy) = (file.eager(), file.lazy());
        let (mut store, mut other) = (new_store(), new_store());
        let (instance, model) = (start(&mut store, &lazy), start(&mut other, &eager));
        waited += usize::from(lazy.lazy_image_parts().0 == 0);
        for at in (0..u32::try_from(SIZES[1]).unwrap()).step_by(97_001) {
            for name in ["load64", "loadb"] {
                let op = Access::Load(name, at);
                assert_eq!(apply(&mut store, instance, &op), apply(&mut other, model, &op));
            }
        }
        assert!(both(&store, instance) == both(&other, model), "{seed}");
    }
    assert!((3..28).contains(&waited), "some can wait, and some cannot: {waited}");
}

#[test]
fn a_chunk_with_something_else_in_it_is_missed_like_any_other() {
    // With what traps need behind the images, where a compiler need not put it.
    let mut bytes = PROGRAM.clone();
    let sites = Header::of(&bytes).unwrap().section(Section::Sites).within(bytes.len()).unwrap();
    let moved = (bytes.len() as u64).to_le_bytes();
    bytes.extend_from_within(sites);
    let length = (bytes.len() as u64).to_le_bytes();
    bytes[HEADER_OFFSET + 240 + 16 * Section::Sites as usize..][..8].copy_from_slice(&moved);
    bytes[HEADER_OFFSET + 224..][..8].copy_from_slice(&length);
    reseal(&mut bytes).unwrap();
    let file = ProgramFile::of(&bytes);
    let header = Header::of(&file.bytes).unwrap();
    let place = |section| header.section(section).within(file.bytes.len()).unwrap();
    let (images, sites) = (place(Section::ImageBytes), place(Section::Sites));
    let last = (images.end - 1) / chunk_size(&file.bytes);
    assert_eq!(
        sites.start / chunk_size(&file.bytes),
        last,
        "what traps need begins in the last chunk"
    );
    assert_eq!(file.chunks(Part::Image).last(), Some(&last));
    let artifact = file.lazy();
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    let (_, all) = artifact.lazy_image_parts();
    instance.memory(&store, "a").unwrap().data(&store).unwrap();
    // The end of the images is the end of the second memory's.
    let last_piece = (images.end - 1) / MAX_CHUNK_SIZE;
    let before = RUNS[1][0].1 - (images.end - last_piece * MAX_CHUNK_SIZE);
    instance.memory(&store, "b").unwrap().read(&store, 0, &mut vec![0; before]).unwrap();
    let left = last + 1 - last_piece * file.image_piece();
    assert_eq!(artifact.lazy_image_parts(), (all - left, all));
    let second = start(&mut store, &artifact);
    assert!(both(&store, second) == [0, 1].map(initial));
    assert_eq!(artifact.lazy_image_parts(), (all, all));
    // Now they are mapped.
    let third = start(&mut store, &artifact);
    assert!(both(&store, third) == [0, 1].map(initial));
    // And a trap needs it as well.
    let artifact = file.lazy();
    let mut store = new_store();
    let instance = start(&mut store, &artifact);
    assert_eq!(apply(&mut store, instance, &Access::Load("load8", u32::MAX)), "MemoryOutOfBounds");
    assert_eq!(artifact.lazy_image_parts(), (1, all));
}

/// A mapping that its neighbours cannot be joined with.
enum Taken {
    Writable(#[expect(dead_code, reason = "it is kept")] memmap2::MmapMut),
    ReadOnly(#[expect(dead_code, reason = "it is kept")] memmap2::Mmap),
}

#[test]
fn without_mappings_it_is_an_error_and_never_a_wrong_byte() {
    child::run("without_mappings_it_is_an_error_and_never_a_wrong_byte", || {
        let file = ProgramFile::of(&PROGRAM);
        let artifact = file.lazy();
        let mut store = new_store();
        let instance = start(&mut store, &artifact);
        let wanted = [0, 1].map(initial);
        let sum = {
            let eager = file.eager();
            let mut store = new_store();
            let instance = start(&mut store, &eager);
            apply(&mut store, instance, &Access::Load("sum", 0))
        };
        let mut taken = Vec::with_capacity(1 << 17);
        let take = || {
            let map = memmap2::MmapMut::map_anon(4096)?;
            Ok::<_, std::io::Error>([
                Taken::Writable(memmap2::MmapMut::map_anon(4096)?),
                Taken::ReadOnly(map.make_read_only()?),
            ])
        };
        while let Ok(two) = take() {
            taken.extend(two);
        }
        let mut lost = 0;
        for place in 0..40_u32 {
            let at = 100_000 + place * 70_000;
            let start = at as usize;
            let number = u64::from_le_bytes(wanted[0][start..start + 8].try_into().unwrap());
            let found = match place % 2 {
                0 => apply(&mut store, instance, &Access::Load("load64", at)),
                _ => {
                    let mut bytes = [0; 8];
                    let memory = instance.memory(&store, "a").unwrap();
                    match memory.read(&store, at.into(), &mut bytes) {
                        Ok(()) => i64::from_le_bytes(bytes).to_string(),
                        Err(Error::CodeLost(_)) => "lost".to_owned(),
                        Err(other) => panic!("{other}"),
                    }
                }
            };
            lost += usize::from(found == "lost");
            assert!(found == "lost" || found == number.cast_signed().to_string(), "{found}");
            // A mapping more each time.
            taken.pop();
        }
        assert!((3..37).contains(&lost), "{lost}");
        while let Ok(two) = take() {
            taken.extend(two);
        }
        let (mut refused, mut made) = (0, 0);
        for _ in 0..60 {
            let mut store = new_store();
            match Linker::new(&Engine::default()).instantiate(&mut store, &artifact) {
                Ok(instance) => {
                    made += 1;
                    for (number, name) in ["a", "b"].into_iter().enumerate() {
                        let mut found = [0; 100];
                        let memory = instance.memory(&store, name).unwrap();
                        match memory.read(&store, 1 << 19, &mut found) {
                            Ok(()) => assert!(found == wanted[number][1 << 19..(1 << 19) + 100]),
                            Err(Error::CodeLost(_)) => {}
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
                Err(Error::MemoryReservation { .. } | Error::CodeLost(_)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
            drop(store);
            taken.pop();
        }
        assert!(refused > 0 && made > 0, "{refused} {made}");
        drop(taken);
        assert_eq!(apply(&mut store, instance, &Access::Load("sum", 0)), sum);
        assert!(both(&store, instance) == wanted);
    })
    .well();
}
