//! Memories whose pages become accessible when they are first touched after they have grown: programs and hosts see what they
//! would have seen otherwise, and nothing behind the end can be touched.

use std::ffi::c_void;
use std::fs;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Barrier, LazyLock};

use cwasm_loader::{Artifact, Caller, Engine, Error, Instance, Linker, Store, TrapKind};
use cwasm_tests::accesses::{self, Access, FUNCTIONS};
use cwasm_tests::fault::random::Random;
use cwasm_tests::fault::{child, process};
use cwasm_tests::pattern::{data, pattern};
use cwasm_tests::program_file::ProgramFile;
use cwasm_tests::{artifact, compile};
use cwasm_wasi::WasiCtx;

const PAGE: usize = 65536;

/// How many growths of a memory are done at once at first, and after late pages were touched for the first time.
const FIRST: usize = 3;
const PAUSE: usize = 15;

/// How many growths that are left late are worth a fault.
const WORTH: usize = 5;

/// Two memories, and everything that can be done to them. `memory` begins with one page, `b` with two.
const TEXT: &str = r#"(module
    (import "host" "f" (func $f))
    (memory $a (export "memory") 1 300) (memory $b (export "b") 2)
    (data $passive "PASSIVE")
    (func (export "growb") (param i32) (result i64) (i64.extend_i32_s (memory.grow $b (local.get 0))))
    (func (export "size") (param i32) (result i64) (i64.extend_i32_u (memory.size)))
    (func (export "host") (param i32) (result i64) (call $f) (i64.const 0))
    FUNCTIONS)"#;

static PROGRAM: LazyLock<Artifact> =
    LazyLock::new(|| artifact(&TEXT.replace("FUNCTIONS", FUNCTIONS)));

/// What its memories are exported as.
const MEMORIES: [&str; 2] = ["memory", "b"];

/// A store with an instance.
struct World {
    store: Store<'static, Vec<u8>>,
    instance: Instance<'static>,
    /// Where the memories begin.
    bases: [usize; 2],
}

type Host = fn(Caller<'_, '_, Vec<u8>>) -> Result<(), Error>;

impl World {
    fn new() -> Self {
        Self::with(|_| Ok(()))
    }

    /// One whose module imports a host function.
    fn with(host: Host) -> Self {
        let mut linker = Linker::new(&Engine::default());
        linker
            .func("host", "f", move |caller: Caller<'_, '_, Vec<u8>>| {
                host(caller).map_err(Into::<cwasm_loader::HostError>::into)
            })
            .unwrap();
        let mut store = Store::new(&Engine::default(), Vec::new());
        let instance = linker.instantiate(&mut store, &PROGRAM).unwrap();
        let base = |name| {
            let memory = instance.memory(&store, name).unwrap();
            memory.data(&store).unwrap().as_ptr().addr()
        };
        let bases = [base("memory"), base("b")];
        Self { store, instance, bases }
    }

    /// One whose memories have the last four pages late: the first has eight, the other nine.
    fn late() -> Self {
        Self::late_with(|_| Ok(()))
    }

    fn late_with(host: Host) -> Self {
        let mut world = Self::with(host);
        for name in ["grow", "growb"] {
            for _ in 0..FIRST {
                world.load(name, 1).unwrap();
            }
            world.load(name, 4).unwrap();
        }
        assert_eq!(world.sizes(), [8 * PAGE, 9 * PAGE]);
        assert_eq!(world.accessible(), [4 * PAGE, 5 * PAGE]);
        world
    }

    /// The same, but for that nothing is late.
    fn model() -> Self {
        let mut world = Self::late();
        world.bytes();
        assert_eq!(world.accessible(), world.sizes());
        world
    }

    fn load(&mut self, name: &str, at: u32) -> Result<i64, Error> {
        accesses::load(&mut self.store, self.instance, name, at)
    }

    fn store(&mut self, name: &str, at: u32, value: i64) -> Result<(), Error> {
        let func = self.instance.typed_func::<(u32, i64), ()>(&self.store, name)?;
        func.call(&mut self.store, (at, value))
    }

    fn bulk(&mut self, name: &str, arguments: (u32, u32, u32)) -> Result<(), Error> {
        let func = self.instance.typed_func::<(u32, u32, u32), ()>(&self.store, name)?;
        func.call(&mut self.store, arguments)
    }

    fn memory(&self, number: usize) -> cwasm_loader::Memory<'static> {
        self.instance.memory(&self.store, MEMORIES[number]).unwrap()
    }

    fn sizes(&self) -> [usize; 2] {
        [0, 1].map(|number| {
            usize::try_from(self.memory(number).size_bytes(&self.store).unwrap()).unwrap()
        })
    }

    /// How many bytes of both memories can be accessed.
    fn accessible(&self) -> [usize; 2] {
        self.bases.map(process::accessible)
    }

    /// All bytes of both memories, which are accessible from then on.
    fn bytes(&mut self) -> [Vec<u8>; 2] {
        [0, 1].map(|number| self.memory(number).data(&self.store).unwrap().to_vec())
    }

    /// Whether the memory, which has at most grown since then by pages that were left late, is as large as all that can be accessed.
    fn nothing_is_late(&self) -> bool {
        self.accessible() == self.sizes()
    }
}

/// What an access results in, as text: for a trap with its frames.
fn apply(world: &mut World, access: &Access) -> String {
    let result = access.apply(&mut world.store, world.instance, MEMORIES);
    result.unwrap_or_else(|error| format!("{error:?}"))
}

/// Each kind of access, at the first late page, in the middle, at the end and behind it, and across both ends.
fn operations() -> Vec<Access> {
    let at = |page: u32| page * u32::try_from(PAGE).unwrap();
    let mut places = vec![0, at(4), at(6) + 123, at(8) + 4096, at(20), u32::MAX - 20, u32::MAX];
    for end in [4, 5, 8, 9] {
        places.extend([1, 2, 3, 4, 7, 8, 15, 16, 20, 21, 30].map(|back| at(end) - back));
        places.push(at(end));
    }
    let bulk = [(0, 5), (1, 9), (100, 70_000), (100, 500_000), (200_000, 1000)];
    places.into_iter().flat_map(|at| Access::all_at(at, &bulk)).collect()
}

#[test]
fn every_access_does_what_it_would_have_done() {
    let kinds = operations().len();
    let (mut done, mut trapped) = (0, 0);
    for op in operations() {
        // Each is the first to touch anything.
        let (mut world, mut model) = (World::late(), World::model());
        for _ in 0..2 {
            let found = apply(&mut world, &op);
            assert_eq!(found, apply(&mut model, &op), "{op:?}");
            if found.contains("Trap") { trapped += 1 } else { done += 1 }
        }
        assert!(world.bytes() == model.bytes(), "{op:?}");
        assert!(world.nothing_is_late());
    }
    assert!(done > kinds / 2 && trapped > kinds / 4, "{done} {trapped}");
}

#[test]
fn what_is_done_one_after_another_leaves_the_same_bytes() {
    let operations = operations();
    for seed in 0..40 {
        let (mut world, mut model) = (World::late(), World::model());
        let mut random = Random::new(seed);
        for step in 0..60 {
            let op = &operations[random.below(operations.len())];
            assert_eq!(apply(&mut world, op), apply(&mut model, op), "{seed} {step} {op:?}");
            if random.below(4) == 0 {
                let by = u32::try_from(random.below(3)).unwrap();
                for name in ["grow", "growb"] {
                    let grown = apply(&mut world, &Access::Load(name, by));
                    assert_eq!(grown, apply(&mut model, &Access::Load(name, by)));
                }
                // There, all is touched before it grows again.
                model.bytes();
            }
        }
        assert!(world.bytes() == model.bytes(), "{seed}");
    }
}

#[test]
fn the_first_touch_opens_what_there_is_and_nothing_more() {
    type Touch = fn(&mut World);
    // The last byte of the memory, and what does not reach to the late pages.
    let last = u32::try_from(8 * PAGE - 1).unwrap();
    assert_eq!(last, 524_287);
    let opening: [Touch; 11] = [
        |world| assert_eq!(world.load("load8", 524_287).unwrap(), 0),
        |world| assert_eq!(world.load("load64", 4 * 65536).unwrap(), 0),
        |world| assert_eq!(world.load("load64", 4 * 65536 - 1).unwrap(), 0),
        |world| world.store("store8", 524_287, 1).unwrap(),
        |world| world.store("storev", 4 * 65536 - 3, 1).unwrap(),
        |world| world.bulk("fill", (4 * 65536 - 1, 3, 2)).unwrap(),
        |world| world.bulk("copy", (0, 524_187, 100)).unwrap(),
        |world| world.bulk("init", (4 * 65536 - 6, 0, 7)).unwrap(),
        |world| world.memory(0).read(&world.store, 524_287, &mut [1]).unwrap(),
        |world| world.memory(0).write(&mut world.store, 524_287, &[1]).unwrap(),
        |world| assert_eq!(world.memory(0).data_mut(&mut world.store).unwrap().len(), 8 * PAGE),
    ];
    for (number, touch) in opening.into_iter().enumerate() {
        let mut world = World::late();
        touch(&mut world);
        assert_eq!(world.accessible(), [8 * PAGE, 5 * PAGE], "{number}");
    }
    let others: [Touch; 9] = [
        |world| assert_eq!(world.load("load64", 4 * 65536 - 8).unwrap(), 0),
        |world| world.store("store8", 4 * 65536 - 1, 1).unwrap(),
        |world| world.bulk("fill", (4 * 65536 - 100, 3, 100)).unwrap(),
        |world| {
            world.bulk("fill", (4 * 65536 - 100, 3, 524_288)).unwrap_err().trap().map(drop).unwrap()
        },
        |world| world.load("load8", 524_288).unwrap_err().trap().map(drop).unwrap(),
        |world| world.store("store64", u32::MAX, 1).unwrap_err().trap().map(drop).unwrap(),
        |world| assert_eq!(world.load("grow", 2).unwrap(), 8),
        |world| assert_eq!(world.load("notify", 524_284).unwrap(), 0),
        |world| assert_eq!(world.memory(0).size_pages(&world.store).unwrap(), 8),
    ];
    for (number, touch) in others.into_iter().enumerate() {
        let mut world = World::late();
        touch(&mut world);
        assert_eq!(world.accessible(), [4 * PAGE, 5 * PAGE], "{number}");
    }
}

#[test]
fn what_lies_behind_the_end_traps_as_ever() {
    for (name, at) in [
        ("load8", 8 * PAGE),
        ("deep", 8 * PAGE - 7),
        ("load64", 8 * PAGE - 1),
        ("vector", 8 * PAGE - 20),
        ("load32", 300 * PAGE),
    ] {
        let at = u32::try_from(at).unwrap();
        let (mut world, mut model) = (World::late(), World::model());
        let error = world.load(name, at).unwrap_err();
        let trap = error.trap().unwrap();
        assert_eq!(trap.kind(), TrapKind::MemoryOutOfBounds);
        let names: Vec<_> = trap.frames().iter().map(|frame| frame.func_index).collect();
        assert_eq!(names.len(), if name == "deep" { 2 } else { 1 }, "{name}");
        assert_eq!(Some(trap), model.load(name, at).unwrap_err().trap(), "{name} {at}");
        // And what it has can be used.
        assert_eq!(world.load("load64", u32::try_from(8 * PAGE - 8).unwrap()).unwrap(), 0);
    }
}

#[test]
fn few_growths_are_left_late_where_all_is_touched() {
    type Touch = fn(&mut World, u32);
    let touches: [Touch; 4] = [
        |world, end| world.store("store8", end - 1, 7).unwrap(),
        |world, end| assert_eq!(world.load("load64", end - 8).unwrap(), 0),
        |world, end| world.bulk("fill", (end - 9, 7, 9)).unwrap(),
        |world, end| world.memory(0).read(&world.store, (end - 9).into(), &mut [1]).unwrap(),
    ];
    for touch in touches {
        let mut world = World::new();
        let mut late = Vec::new();
        for number in 0..60_u32 {
            assert_eq!(world.load("grow", 1).unwrap(), i64::from(number) + 1);
            if !world.nothing_is_late() {
                late.push(number as usize);
            }
            touch(&mut world, (number + 2) * 65536);
            assert!(world.nothing_is_late());
        }
        assert_eq!(late, [FIRST, FIRST + PAUSE + 1, FIRST + 3 * (PAUSE + 1)]);
    }
}

#[test]
fn all_growths_are_left_late_where_nothing_is_touched() {
    let mut world = World::new();
    for number in 0..100 {
        assert_eq!(world.load("grow", 1).unwrap(), number + 1);
        // What is old may be used.
        world.store("store8", 100, 7).unwrap();
        world.bulk("copy", (200, 100, 1)).unwrap();
        let wanted = 1 + usize::try_from(number + 1).unwrap().min(FIRST);
        assert_eq!(world.accessible()[0], wanted * PAGE);
    }
    assert_eq!(world.load("load8", 101 * 65536 - 1).unwrap(), 0);
    assert!(world.nothing_is_late());
    // That was worth it.
    for number in 0..WORTH - 1 {
        assert_eq!(world.load("grow", 1).unwrap(), 101 + i64::try_from(number).unwrap());
        assert_eq!(world.accessible()[0], 101 * PAGE);
    }
    world.bulk("fill", (102 * 65536 - 1, 1, 1)).unwrap();
    // And that was not: those that come are accessible at once.
    for _ in 0..PAUSE {
        assert!(world.nothing_is_late());
        world.load("grow", 1).unwrap();
    }
    world.load("grow", 1).unwrap();
    assert!(!world.nothing_is_late());
}

#[test]
fn a_growth_of_the_host_is_like_one_of_the_program() {
    let mut world = World::new();
    let memory = world.memory(0);
    // No code has run: faults do not arrive on this thread, perhaps.
    assert_eq!(memory.grow(&mut world.store, 2).unwrap(), 1);
    assert_eq!(world.load("size", 0).unwrap(), 3);
    for number in 1..FIRST {
        assert_eq!(memory.grow(&mut world.store, 1).unwrap(), 2 + number as u64);
    }
    assert!(world.nothing_is_late());
    assert_eq!(memory.grow(&mut world.store, 7).unwrap(), 5);
    assert_eq!(world.accessible()[0], 5 * PAGE);
    assert_eq!(world.load("load64", 12 * 65536 - 8).unwrap(), 0);
    assert!(world.nothing_is_late());
}

#[test]
fn limits_are_those_of_the_length() {
    let mut world = World::late();
    world.store.limits_mut().memory_pages = 10;
    for (by, wanted) in [(3, -1), (1, 8), (2, -1), (1, 9), (1, -1), (0, 10), (-1, -1)] {
        assert_eq!(world.load("grow", i32::cast_unsigned(by)).unwrap(), wanted, "{by}");
    }
    world.store.limits_mut().memory_pages = 65536;
    // The type's.
    for (by, wanted) in [(291, -1), (290, 10), (1, -1), (65536, -1)] {
        assert_eq!(world.load("grow", by).unwrap(), wanted, "{by}");
    }
    assert_eq!(world.accessible()[0], 4 * PAGE);
    assert_eq!(world.load("load8", 300 * 65536 - 1).unwrap(), 0);
    assert_eq!(
        world.load("load8", 300 * 65536).unwrap_err().trap().unwrap().kind(),
        TrapKind::MemoryOutOfBounds
    );
    // Up to the last page of all addresses, which no memory grows to.
    assert_eq!(world.load("growb", 65536 - 9).unwrap(), -1);
    assert_eq!(world.load("growb", 65535 - 9).unwrap(), 9);
    assert_eq!(world.load("growb", 1).unwrap(), -1);
    assert_eq!(world.accessible()[1], 5 * PAGE);
    assert_eq!(world.load("loadb", u32::MAX - 65536 - 7).unwrap(), 0);
    assert!(world.load("loadb", u32::MAX - 65536 - 6).is_err());
    assert!(world.nothing_is_late());
}

#[test]
fn host_functions_have_the_ranges_that_they_ask_for() {
    let hosts: [(bool, Host); 6] = [
        (false, |mut caller| {
            let (mut bytes, data) = caller.memory_bytes_and_data_mut().unwrap();
            assert_eq!(bytes.len(), 8 * PAGE);
            bytes.get_mut(4 * PAGE - 9..4 * PAGE)?.fill(1);
            assert!(bytes.get(8 * PAGE..8 * PAGE + 1).is_err());
            data.extend(bytes.get(4 * PAGE - 1..4 * PAGE)?);
            Ok(())
        }),
        (true, |mut caller| {
            let (bytes, data) = caller.memory_bytes_and_data_mut().unwrap();
            data.extend(bytes.get(4 * PAGE - 1..4 * PAGE + 1)?);
            Ok(())
        }),
        (true, |mut caller| {
            let (mut bytes, _) = caller.memory_bytes_and_data_mut().unwrap();
            bytes.get_mut(8 * PAGE - 1..8 * PAGE)?[0] = 9;
            Ok(())
        }),
        (true, |mut caller| {
            let (mut bytes, data) = caller.memory_bytes_and_data_mut().unwrap();
            let all = bytes.get_disjoint_mut(&[0..9, 6 * PAGE..7 * PAGE])?;
            all.iter().for_each(|part| data.extend(part.iter()));
            Ok(())
        }),
        (true, |mut caller| {
            let (bytes, _) = caller.memory_and_data_mut().unwrap();
            bytes[8 * PAGE - 1] = 4;
            Ok(())
        }),
        (true, |mut caller| {
            let memory = caller.memory().unwrap();
            memory.write(&mut caller, 8 * PAGE as u64 - 3, b"abc")
        }),
    ];
    for (number, (opens, host)) in hosts.into_iter().enumerate() {
        let mut world = World::late_with(host);
        world.load("host", 0).unwrap();
        let wanted = if opens { 8 } else { 4 };
        assert_eq!(world.accessible(), [wanted * PAGE, 5 * PAGE], "{number}");
        // Compiled code goes on in the same memory.
        world.load("load8", u32::try_from(8 * PAGE - 1).unwrap()).unwrap();
    }
}

#[test]
fn the_kernel_has_what_wasi_gives_it() {
    let code = artifact(
        r#"(module
        (import "wasi_snapshot_preview1" "path_open"
            (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (data (i32.const 100) "file")
        (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
        ;; Opens the file, and describes where its bytes go.
        (func $open_for (param $at i32)
            (i32.store (i32.const 0) (local.get $at))
            (i32.store (i32.const 4) (i32.const 70000))
            (if (call $open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 4) (i32.const 0)
                    (i64.const 66) (i64.const 0) (i32.const 0) (i32.const 12))
                (then unreachable)))
        (func (export "write") (param i32) (result i32)
            (call $open_for (local.get 0))
            (call $write (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
        (func (export "read") (param i32) (result i32)
            (call $open_for (local.get 0))
            (call $read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8))))"#,
    );
    for name in ["write", "read"] {
        // A file, so that it is the kernel that writes to the memory, and reads.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        let engine = Engine::default();
        let ctx = WasiCtx::builder().preopened_dir(directory.path(), "/").build().unwrap();
        let mut store = Store::new(&engine, ctx);
        let mut linker = Linker::new(&engine);
        cwasm_wasi::add_to_linker(&mut linker, |ctx| ctx).unwrap();
        let instance = linker.instantiate(&mut store, &code).unwrap();
        let memory = instance.memory(&store, "memory").unwrap();
        let base = memory.data(&store).unwrap().as_ptr().addr();
        let grow = instance.typed_func::<u32, i32>(&store, "grow").unwrap();
        for by in [1, 1, 1, 5] {
            assert_ne!(grow.call(&mut store, by).unwrap(), -1);
        }
        assert_eq!(process::accessible(base), 4 * PAGE);
        let run = instance.typed_func::<u32, i32>(&store, name).unwrap();
        let at = 4 * PAGE - 7;
        assert_eq!(run.call(&mut store, u32::try_from(at).unwrap()).unwrap(), 0);
        let mut count = [0; 4];
        memory.read(&store, 8, &mut count).unwrap();
        assert_eq!(u32::from_le_bytes(count), 70_000);
        if name == "read" {
            let bytes = &memory.data(&store).unwrap()[at..];
            assert!(bytes[..70_000].iter().all(|byte| *byte == b'x'));
            assert!(bytes[70_000..].iter().all(|byte| *byte == 0));
        } else {
            let written = fs::read(&path).unwrap();
            assert!(written[..70_000] == [0; 70_000] && written[70_000..] == [b'x'; 30_000]);
        }
    }
}

#[test]
fn memories_that_threads_share_copy_from_late_pages_and_to_them() {
    let code = artifact(
        r#"(module (memory $a (export "a") 1) (memory $s (export "s") 2 2 shared)
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "to") (param i32 i32 i32) (memory.copy $s $a (local.get 0) (local.get 1) (local.get 2)))
            (func (export "from") (param i32 i32 i32) (memory.copy $a $s (local.get 0) (local.get 1) (local.get 2))))"#,
    );
    for (name, arguments, wanted) in [
        ("to", (0, 8 * 65536 - 9, 9), 8),
        ("to", (5, 4 * 65536 - 1, 2), 8),
        ("from", (8 * 65536 - 9, 0, 9), 8),
        ("from", (4 * 65536 - 9, 0, 100_000), 8),
        ("from", (4 * 65536 - 9, 0, 9), 4),
        ("from", (8 * 65536 - 9, 0, 10), 4),
        ("to", (0, 8 * 65536, 1), 4),
    ] {
        let mut store = Store::new(&Engine::default(), ());
        let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
        let [own, shared] = ["a", "s"].map(|name| instance.memory(&store, name).unwrap());
        let base = own.data(&store).unwrap().as_ptr().addr();
        shared.write(&mut store, 0, &[7; 100_000]).unwrap();
        let grow = instance.typed_func::<u32, i32>(&store, "grow").unwrap();
        for by in [1, 1, 1, 4] {
            assert_ne!(grow.call(&mut store, by).unwrap(), -1);
        }
        let copy = instance.typed_func::<(u32, u32, u32), ()>(&store, name).unwrap();
        let result = copy.call(&mut store, arguments);
        assert_eq!(process::accessible(base), wanted * PAGE, "{name} {arguments:?}");
        let (to, from, length) = arguments;
        let is_inside = to.max(from) + length <= 8 * 65536;
        assert_eq!(result.is_ok(), is_inside, "{name} {arguments:?}");
        let sevens = own.data(&store).unwrap().iter().filter(|byte| **byte == 7).count();
        let copied = if is_inside && name == "from" { length } else { 0 };
        assert_eq!(sevens, copied as usize, "{name} {arguments:?}");
    }
}

#[test]
fn threads_may_read_late_pages_at_once() {
    for round in 0..100 {
        let mut world = World::late();
        world.store("store8", 4 * 65536 - 1, 77).unwrap();
        let (store, memory, barrier) = (&world.store, world.memory(0), &Barrier::new(8));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                scope.spawn(move || {
                    barrier.wait();
                    if (round + thread) % 2 == 0 {
                        let bytes = memory.data(store).unwrap();
                        assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), 1);
                    } else {
                        let mut bytes = [1; 9];
                        memory.read(store, 4 * PAGE as u64 - 1, &mut bytes).unwrap();
                        assert_eq!(bytes, [77, 0, 0, 0, 0, 0, 0, 0, 0]);
                        memory.read(store, 8 * PAGE as u64 - 9, &mut bytes).unwrap();
                        assert_eq!(bytes, [0; 9]);
                    }
                });
            }
        });
        assert_eq!(world.accessible(), [8 * PAGE, 5 * PAGE]);
        world.store("store8", 8 * 65536 - 1, 77).unwrap();
    }
}

#[test]
fn images_that_are_late_and_pages_that_are_late_do_not_meet() {
    let file = ProgramFile::of(&compile(&format!(
        r#"(module (memory (export "memory") 50) {}
            (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
            (func (export "copy") (param i32 i32 i32) (memory.copy (local.get 0) (local.get 1) (local.get 2)))
            (func (export "load8") (param i32) (result i32) (i32.load8_u (local.get 0))))"#,
        data(0, 5000, 3 << 20)
    )));
    let initial: Vec<u8> = pattern(0, 5000..5000 + (3 << 20)).collect();
    for order in 0..4 {
        let code = file.lazy();
        let mut store = Store::new(&Engine::default(), ());
        let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
        let grow = instance.typed_func::<u32, i32>(&store, "grow").unwrap();
        let load = instance.typed_func::<u32, i32>(&store, "load8").unwrap();
        let copy = instance.typed_func::<(u32, u32, u32), ()>(&store, "copy").unwrap();
        for (by, wanted) in [(1, 50), (1, 51), (1, 52), (7, 53)] {
            assert_eq!(grow.call(&mut store, by).unwrap(), wanted);
        }
        let (image, late, end) = (1 << 20, 55 * 65536, 60 * 65536);
        let wanted = i32::from(initial[image as usize - 5000]);
        let loaded = code.lazy_image_parts().0;
        match order {
            0 => {
                assert_eq!(load.call(&mut store, late).unwrap(), 0);
                assert_eq!(code.lazy_image_parts().0, loaded);
                assert_eq!(load.call(&mut store, image).unwrap(), wanted);
            }
            1 => {
                assert_eq!(load.call(&mut store, image).unwrap(), wanted);
                assert_eq!(load.call(&mut store, late).unwrap(), 0);
            }
            2 => copy.call(&mut store, (late, image, 100)).unwrap(),
            _ => copy.call(&mut store, (end - 100, image, 100)).unwrap(),
        }
        assert!(load.call(&mut store, end).unwrap_err().trap().is_some());
        let memory = instance.memory(&store, "memory").unwrap();
        let bytes = memory.data(&store).unwrap();
        assert_eq!(bytes.len(), end as usize);
        assert!(bytes[5000..5000 + (3 << 20)] == initial);
        let copied = bytes[53 * PAGE..].iter().filter(|byte| **byte != 0).count();
        assert_eq!(copied, if order < 2 { 0 } else { 100 });
    }
}

#[test]
fn address_space_is_used_again_with_exactly_what_is_wanted() {
    child::run("address_space_is_used_again_with_exactly_what_is_wanted", || {
        let code = artifact(
            r#"(module (memory (export "memory") 6)
                (func (export "load8") (param i32) (result i32) (i32.load8_u (local.get 0))))"#,
        );
        let mut before: Option<[usize; 2]> = None;
        let mut again = 0;
        for round in 0..12 {
            let mut world = World::late();
            again += usize::from(before.is_some_and(|before| before.contains(&world.bases[0])));
            before = Some(world.bases);
            match round % 4 {
                0 => {}
                1 => world.store("store8", 8 * 65536 - 1, 7).unwrap(),
                2 => world.memory(0).data_mut(&mut world.store).unwrap().fill(9),
                _ => {
                    world.store("store8", 8 * 65536 - 1, 7).unwrap();
                    for _ in 0..PAUSE + 9 {
                        world.load("grow", 1).unwrap();
                    }
                    assert!(!world.nothing_is_late());
                }
            }
            drop(world);
            let mut store = Store::new(&Engine::default(), ());
            let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
            let memory = instance.memory(&store, "memory").unwrap();
            let bytes = memory.data(&store).unwrap();
            assert!(bytes.len() == 6 * PAGE && bytes.iter().all(|byte| *byte == 0), "{round}");
            let base = bytes.as_ptr().addr();
            again += usize::from(before.is_some_and(|before| before.contains(&base)));
            assert_eq!(process::accessible(base), 6 * PAGE, "{round}");
            let load = instance.typed_func::<u32, i32>(&store, "load8").unwrap();
            assert_eq!(load.call(&mut store, 6 * 65536 - 1).unwrap(), 0);
            let error = load.call(&mut store, 6 * 65536).unwrap_err();
            assert_eq!(error.trap().unwrap().kind(), TrapKind::MemoryOutOfBounds);
        }
        assert!(again >= 20, "{again}");
    })
    .well();
}

/// How many bytes of data this process has, in the kernel's count.
fn data_size() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmData:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Limits how many bytes of data this process may have, or gives the limit up.
fn limit_data(to: Option<u64>) {
    let limits =
        libc::rlimit { rlim_cur: to.unwrap_or(libc::RLIM_INFINITY), rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is valid during the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &limits) }, 0);
}

#[test]
fn where_the_system_may_refuse_memory_growing_says_so() {
    child::run("where_the_system_may_refuse_memory_growing_says_so", || {
        let mut world = World::new();
        world.load("size", 0).unwrap();
        limit_data(Some(data_size() + 100 * PAGE as u64));
        let mut pages = 1;
        while world.load("grow", 1).unwrap() != -1 {
            pages += 1;
            assert_eq!(world.accessible()[0], pages as usize * PAGE);
            assert!(pages < 200);
        }
        assert!(pages > 50, "{pages}");
        for page in 0..pages {
            world.store("store8", page * 65536 + 65535, 1).unwrap();
        }
        assert!(world.load("load8", pages * 65536).unwrap_err().trap().is_some());
        // Nor is anything left late where the limit is gone: it is asked for once.
        limit_data(None);
        for _ in 0..20 {
            assert_ne!(world.load("grow", 1).unwrap(), -1);
            assert!(world.nothing_is_late());
        }
    })
    .well();
}

#[test]
fn pages_that_the_system_refuses_all_the_same_are_an_error() {
    child::run("pages_that_the_system_refuses_all_the_same_are_an_error", || {
        let mut world = World::late_with(|caller| {
            let memory = caller.memory().unwrap();
            memory.read(&caller, 250 * PAGE as u64, &mut [0])
        });
        assert_eq!(world.load("grow", 292).unwrap(), 8);
        limit_data(Some(data_size() + 20 * PAGE as u64));
        let late = 200 * 65536;
        type Touch = fn(&mut World, u32) -> Result<(), Error>;
        let touches: [(usize, Touch); 12] = [
            (1, |world, at| world.load("load8", at).map(drop)),
            (2, |world, at| world.load("deep", at).map(drop)),
            (1, |world, at| world.store("store64", at, 1)),
            (1, |world, at| world.bulk("fill", (at, 1, 100))),
            (1, |world, at| world.bulk("copy", (at, 0, 100))),
            (1, |world, at| world.bulk("to_b", (0, at, 100))),
            (1, |world, at| world.bulk("init", (at, 0, 7))),
            (0, |world, at| world.memory(0).read(&world.store, at.into(), &mut [0])),
            (0, |world, at| world.memory(0).write(&mut world.store, at.into(), b"x")),
            (0, |world, _| world.memory(0).data(&world.store).map(drop)),
            (0, |world, _| world.memory(0).data_mut(&mut world.store).map(drop)),
            (0, |world, _| world.load("host", 0).map(drop)),
        ];
        for (number, (frames, touch)) in touches.into_iter().enumerate() {
            for _ in 0..2 {
                match touch(&mut world, late) {
                    Err(Error::NoRoom(error)) => {
                        assert_eq!(error.frames().len(), frames, "{number}");
                        assert_eq!(error.range(), 4 * PAGE as u64..300 * PAGE as u64);
                        let text = error.to_string();
                        assert!(text.contains("the system has no room"), "{text}");
                        let cause = std::error::Error::source(&error).unwrap().to_string();
                        assert!(cause.contains("Cannot allocate memory"), "{cause}");
                    }
                    other => panic!("{number}: {other:?}"),
                }
            }
        }
        // What it had is there, and what lies behind the end is not.
        world.store("store64", 4 * 65536 - 8, 3).unwrap();
        world.bulk("copy", (9, 100, 100)).unwrap();
        assert!(world.load("load8", 300 * 65536).unwrap_err().trap().is_some());
        assert_eq!(world.accessible()[0], 4 * PAGE);
        limit_data(None);
        world.store("store64", late, 3).unwrap();
        world.bulk("fill", (late, 4, 100_000)).unwrap();
        assert_eq!(world.accessible()[0], 300 * PAGE);
    })
    .well();
}

/// Says that it was called, which nobody expects, and ends.
extern "C" fn surprised(_: libc::c_int) {
    // SAFETY: a signal handler may end the process.
    unsafe { libc::_exit(9) };
}

#[test]
fn nothing_is_left_late_where_faults_do_not_arrive() {
    child::run("nothing_is_left_late_where_faults_do_not_arrive", || {
        let grow_and_touch = |world: &mut World| {
            let mut late = 0;
            for _ in 0..50 {
                let old = u32::try_from(world.load("grow", 1).unwrap()).unwrap();
                late += usize::from(!world.nothing_is_late());
                world.store("store8", old * 65536, 7).unwrap();
            }
            late
        };
        let mut world = World::new();
        assert_eq!(grow_and_touch(&mut world), 2);
        // The application takes faults for itself.
        let mut ours = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: the structures are plain data for which zero is valid, and live during the calls.
        unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = surprised as *const c_void as usize;
            assert_eq!(libc::sigaction(libc::SIGSEGV, &action, ours.as_mut_ptr()), 0);
        }
        assert_eq!(grow_and_touch(&mut world), 0);
        assert_eq!(grow_and_touch(&mut World::new()), 0);
        // SAFETY: this is what the kernel gave.
        unsafe { libc::sigaction(libc::SIGSEGV, ours.as_ptr(), ptr::null_mut()) };
        assert_ne!(grow_and_touch(&mut world), 0);
        // It blocks them.
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the set is valid, and initialised by the first call.
        unsafe {
            libc::sigfillset(set.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), ptr::null_mut());
        }
        assert_eq!(grow_and_touch(&mut world), 0);
        assert_eq!(grow_and_touch(&mut World::new()), 0);
    })
    .well();
}
