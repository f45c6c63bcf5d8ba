//! Loops that store a byte to one address after the other do what a model in Rust does, store by store: they leave the same in memory and in locals, and
//! trap where that does. The compiler makes fills of most of their turns.

use std::fmt::Write as _;

use cwasm_artifact::check::check;
use cwasm_artifact::module::Module;
use cwasm_compiler::{CpuLevel, MemoryBounds, OptLevel, Settings};
use cwasm_loader::{Engine, Instance, Linker, Memory, Store, TrapKind, Val};
use cwasm_tests::{compile_with, load};
use proptest::prelude::*;

/// Every function has these locals, and returns them all.
const LOCALS: usize = 6;

/// Where to begin.
const PLACE: usize = 0;
const INDEX: usize = 1;
/// How far to go.
const END: usize = 2;
/// Where the frame is that has the cell.
const FRAME: usize = 3;
/// What to store.
const BYTE: usize = 4;
/// Nothing depends on this one.
const REST: usize = 5;

/// Where the cell is in the frame.
const CELL: u32 = 12;

/// A loop with more turns is not run: it has no end.
const MOST_TURNS: u32 = 70_000;

#[derive(Clone, Debug)]
enum Expr {
    Local(usize),
    Constant(u32),
    Add(Box<Self>, Box<Self>),
    Subtract(Box<Self>, Box<Self>),
    Tee(usize, Box<Self>),
    Load(Box<Self>, u32),
}

use Expr::{Constant, Local};

fn add(a: Expr, b: Expr) -> Expr {
    Expr::Add(a.into(), b.into())
}

#[derive(Clone, Debug)]
enum What {
    Narrow(Expr),
    Wide(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Set(usize, Expr),
    Store { index: Expr, offset: u32, size: u32, what: What },
}

/// What a loop does in a turn, and what must not be zero for another one.
#[derive(Clone, Debug)]
struct Turn {
    steps: Vec<Step>,
    asked: Asked,
}

#[derive(Clone, Debug)]
enum Asked {
    NotZero(Expr),
    Differ(Expr, Expr),
}

/// How a run ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Left([u32; LOCALS]),
    Trapped,
    Never,
}

/// Text, where indices of memory have 64 bits, or 32.
impl Expr {
    fn text(&self, wide: bool) -> String {
        match self {
            Local(local) => format!("(local.get {local})"),
            Constant(constant) => format!("(i32.const {})", constant.cast_signed()),
            Self::Add(a, b) => format!("(i32.add {} {})", a.text(wide), b.text(wide)),
            Self::Subtract(a, b) => format!("(i32.sub {} {})", a.text(wide), b.text(wide)),
            Self::Tee(local, value) => format!("(local.tee {local} {})", value.text(wide)),
            Self::Load(index, offset) => {
                format!("(i32.load offset={offset} {})", index_text(index, wide))
            }
        }
    }
}

fn index_text(index: &Expr, wide: bool) -> String {
    match wide {
        true => format!("(i64.extend_i32_u {})", index.text(wide)),
        false => index.text(wide),
    }
}

impl Turn {
    fn text(&self, wide: bool) -> String {
        let mut text = String::from("(loop $l");
        for step in &self.steps {
            match step {
                Step::Set(local, value) => {
                    write!(text, " (local.set {local} {})", value.text(wide)).unwrap();
                }
                Step::Store { index, offset, size, what } => {
                    let index = index_text(index, wide);
                    let (ty, what) = match what {
                        What::Narrow(value) => ("i32", value.text(wide)),
                        What::Wide(value) => {
                            ("i64", format!("(i64.const {})", value.cast_signed()))
                        }
                    };
                    let bits = match (ty, size) {
                        ("i32", 4) | ("i64", 8) => String::new(),
                        _ => (size * 8).to_string(),
                    };
                    write!(text, " ({ty}.store{bits} offset={offset} {index} {what})").unwrap();
                }
            }
        }
        let asked = match &self.asked {
            Asked::NotZero(value) => value.text(wide),
            Asked::Differ(a, b) => format!("(i32.ne {} {})", a.text(wide), b.text(wide)),
        };
        text + &format!(" (br_if $l {asked}))")
    }

    fn run(&self, memory: &mut [u8], locals: [u32; LOCALS]) -> End {
        let mut model = Model { memory, locals };
        for _ in 0..MOST_TURNS {
            match model.turn(self) {
                None => return End::Trapped,
                Some(true) => {}
                Some(false) => return End::Left(model.locals),
            }
        }
        End::Never
    }
}

struct Model<'m> {
    memory: &'m mut [u8],
    locals: [u32; LOCALS],
}

impl Model<'_> {
    fn value(&mut self, expr: &Expr) -> Option<u32> {
        Some(match expr {
            Local(local) => self.locals[*local],
            Constant(constant) => *constant,
            Expr::Add(a, b) => self.value(a)?.wrapping_add(self.value(b)?),
            Expr::Subtract(a, b) => self.value(a)?.wrapping_sub(self.value(b)?),
            Expr::Tee(local, value) => {
                self.locals[*local] = self.value(value)?;
                self.locals[*local]
            }
            Expr::Load(index, offset) => {
                let index = self.value(index)?;
                u32::from_le_bytes((*self.bytes(index, *offset, 4)?).try_into().unwrap())
            }
        })
    }

    fn bytes(&mut self, index: u32, offset: u32, size: u32) -> Option<&mut [u8]> {
        let start = u64::from(index) + u64::from(offset);
        let range = usize::try_from(start).ok()?..usize::try_from(start + u64::from(size)).ok()?;
        self.memory.get_mut(range)
    }

    /// Whether another turn follows; `None` after a trap.
    fn turn(&mut self, turn: &Turn) -> Option<bool> {
        for step in &turn.steps {
            match step {
                Step::Set(local, value) => self.locals[*local] = self.value(value)?,
                Step::Store { index, offset, size, what } => {
                    let index = self.value(index)?;
                    let what = match what {
                        What::Narrow(value) => self.value(value)?.into(),
                        What::Wide(value) => *value,
                    };
                    let bytes = self.bytes(index, *offset, *size)?;
                    let size = bytes.len();
                    bytes.copy_from_slice(&what.to_le_bytes()[..size]);
                }
            }
        }
        Some(match &turn.asked {
            Asked::NotZero(value) => self.value(value)? != 0,
            Asked::Differ(a, b) => self.value(a)? != self.value(b)?,
        })
    }
}

/// How a loop comes to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pointer {
    /// A local moves on.
    Moving,
    /// A local, and an index.
    Indexed,
    /// What the cell holds, and an index.
    Loaded,
}

/// How a loop counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counter {
    /// The index, up to a number.
    Up,
    /// The same, with the index compared to the number.
    UpTo,
    /// Down to zero, by one in each turn.
    Down,
    /// The same by as many as there are bytes in a turn.
    DownByBytes,
}

/// What distinguishes loops that are fills.
#[derive(Clone, Copy, Debug)]
struct Shape {
    pointer: Pointer,
    counter: Counter,
    /// So many stores of so many bytes in a turn.
    stores: u32,
    size: u32,
    /// How far one store is behind the other is in the instruction, and not in its operand.
    by_offset: bool,
    /// What all instructions add.
    offset: u32,
    /// The last one comes first.
    backwards: bool,
    /// What they store; a local if there is none.
    byte: Option<u8>,
}

impl Shape {
    fn stride(self) -> u32 {
        self.stores * self.size
    }

    fn turn(self) -> Turn {
        let base = || match self.pointer {
            Pointer::Moving => Local(PLACE),
            Pointer::Indexed => add(Local(PLACE), Local(INDEX)),
            Pointer::Loaded => add(Expr::Load(Local(FRAME).into(), CELL), Local(INDEX)),
        };
        let store = |number: u32| {
            let behind = number * self.size;
            let (index, offset) = match self.by_offset {
                true => (base(), self.offset + behind),
                false => (add(base(), Constant(behind)), self.offset),
            };
            let what = match self.byte {
                None => What::Narrow(Local(BYTE)),
                Some(byte) if self.size == 8 => What::Wide(u64::from(byte) * (u64::MAX / 255)),
                Some(byte) => What::Narrow(Constant(u32::from(byte) * (u32::MAX / 255))),
            };
            Step::Store { index, offset, size: self.size, what }
        };
        let mut steps: Vec<Step> = (0..self.stores).map(store).collect();
        if self.backwards {
            steps.reverse();
        }
        let stride = Constant(self.stride());
        if self.pointer == Pointer::Moving {
            // What was the place is of no use to the next turn.
            steps.push(Step::Set(REST, Local(PLACE)));
            steps.push(Step::Set(PLACE, add(Local(PLACE), stride.clone())));
        }
        let counts_up = matches!(self.counter, Counter::Up | Counter::UpTo);
        if self.pointer != Pointer::Moving && !counts_up {
            steps.push(Step::Set(INDEX, add(Local(INDEX), stride.clone())));
        }
        let down = |by| Expr::Tee(END, Expr::Subtract(Local(END).into(), Box::new(by)).into());
        let up = |by| Expr::Tee(INDEX, add(Local(INDEX), by).into());
        let asked = match self.counter {
            Counter::Up => Asked::Differ(Local(END), up(stride)),
            Counter::UpTo => Asked::Differ(up(stride), Local(END)),
            Counter::Down => Asked::NotZero(down(Constant(1))),
            Counter::DownByBytes => Asked::NotZero(down(stride)),
        };
        Turn { steps, asked }
    }

    /// The locals for a loop of so many turns that begins at a place with an index.
    fn locals(self, place: u32, index: u32, turns: u32, frame: u32, byte: u32) -> [u32; LOCALS] {
        let bytes = turns.wrapping_mul(self.stride());
        let end = match self.counter {
            Counter::Up | Counter::UpTo => index.wrapping_add(bytes),
            Counter::Down => turns,
            Counter::DownByBytes => bytes,
        };
        let place = match self.pointer {
            Pointer::Moving => place,
            Pointer::Indexed | Pointer::Loaded => place.wrapping_sub(index),
        };
        [place, index, end, frame, byte, 0x5eed]
    }
}

/// The shapes that are tried, all of which are fills.
fn shapes() -> Vec<Shape> {
    use Counter::{Down, DownByBytes, Up, UpTo};
    use Pointer::{Indexed, Loaded, Moving};
    let shape = |pointer, counter, stores, size| Shape {
        pointer,
        counter,
        stores,
        size,
        by_offset: false,
        offset: 0,
        backwards: false,
        byte: Some(0),
    };
    vec![
        // As in `sodium_memzero`.
        shape(Loaded, Up, 4, 1),
        shape(Loaded, Down, 1, 1),
        Shape { byte: None, by_offset: true, ..shape(Loaded, DownByBytes, 8, 1) },
        Shape { byte: None, ..shape(Moving, Down, 1, 1) },
        Shape { by_offset: true, offset: 9, backwards: true, ..shape(Moving, UpTo, 8, 1) },
        Shape { byte: Some(0xa5), ..shape(Moving, DownByBytes, 1, 8) },
        Shape { byte: Some(0x7f), backwards: true, ..shape(Indexed, UpTo, 2, 4) },
        Shape { offset: 300, ..shape(Indexed, Down, 3, 1) },
        Shape { byte: Some(0xff), by_offset: true, ..shape(Indexed, DownByBytes, 2, 2) },
    ]
}

/// Loops that look like fills, and are not, or not always.
fn others() -> Vec<Turn> {
    let store = |index: Expr, offset: u32, size: u32| Step::Store {
        index,
        offset,
        size,
        what: What::Narrow(Constant(0)),
    };
    let step = |by: u32| Step::Set(PLACE, add(Local(PLACE), Constant(by)));
    let cell = |offset: u32| Expr::Load(Local(FRAME).into(), offset);
    let counted = |steps: Vec<Step>| Turn {
        steps,
        asked: Asked::NotZero(Expr::Tee(END, add(Local(END), Constant(u32::MAX)).into())),
    };
    vec![
        // Of the lower address, the operand is the larger one.
        counted(vec![
            store(add(Local(PLACE), Constant(16)), 0, 1),
            store(Local(PLACE), 17, 1),
            step(2),
        ]),
        // They leave out a byte, or store one twice.
        counted(vec![store(Local(PLACE), 0, 1), store(Local(PLACE), 2, 1), step(2)]),
        counted(vec![store(Local(PLACE), 0, 4), step(3)]),
        counted(vec![store(Local(PLACE), 0, 1), step(2)]),
        counted(vec![store(Local(PLACE), 0, 1), step(u32::MAX)]),
        // Locals that change in the middle.
        counted(vec![store(Local(PLACE), 0, 1), step(1), store(Local(PLACE), 0, 1), step(1)]),
        // The byte is another one in each turn.
        counted(vec![
            Step::Store { index: Local(PLACE), offset: 0, size: 1, what: What::Narrow(Local(END)) },
            step(1),
        ]),
        // It is stored before the cell is loaded.
        counted(vec![
            store(add(Local(PLACE), Constant(0)), 0, 1),
            Step::Set(REST, cell(CELL)),
            step(1),
        ]),
        // What is asked for depends on the cell.
        Turn {
            steps: vec![Step::Set(REST, cell(CELL)), store(Local(PLACE), 0, 1), step(1)],
            asked: Asked::NotZero(add(
                cell(CELL),
                Expr::Tee(END, add(Local(END), Constant(u32::MAX)).into()),
            )),
        },
        // There are two cells, or it is another one in each turn.
        counted(vec![
            store(add(cell(CELL), Local(INDEX)), 0, 1),
            store(add(cell(CELL + 4), Local(INDEX)), 1, 1),
            Step::Set(INDEX, add(Local(INDEX), Constant(2))),
        ]),
        counted(vec![
            store(add(cell(CELL), Local(INDEX)), 0, 1),
            Step::Set(INDEX, add(Local(INDEX), Constant(1))),
            Step::Set(FRAME, add(Local(FRAME), Constant(1))),
        ]),
        // There are two bytes.
        counted(vec![
            store(Local(PLACE), 0, 1),
            Step::Store {
                index: Local(PLACE),
                offset: 1,
                size: 1,
                what: What::Narrow(Constant(1)),
            },
            step(2),
        ]),
        // It counts down by three.
        Turn {
            steps: vec![store(Local(PLACE), 0, 1), step(1)],
            asked: Asked::NotZero(Expr::Tee(
                END,
                add(Local(END), Constant(3_u32.wrapping_neg())).into(),
            )),
        },
        // The count passes by zero.
        Turn {
            steps: vec![store(Local(PLACE), 0, 1), step(1)],
            asked: Asked::NotZero(Expr::Tee(
                END,
                add(Local(END), Constant(4_u32.wrapping_neg())).into(),
            )),
        },
    ]
}

/// A kind of memory, in the words of the text format.
#[derive(Clone, Copy)]
struct Kind {
    index: &'static str,
    limits: &'static str,
    /// How many pages it grows by.
    grow: i32,
    size: usize,
}

const PLAIN: Kind = Kind { index: "", limits: "1 3", grow: 0, size: 65536 };

const KINDS: [Kind; 6] = [
    Kind { index: "", limits: "1 1", grow: 0, size: 65536 },
    Kind { index: "", limits: "1", grow: 1, size: 131_072 },
    Kind { index: "", limits: "3000 9000 (pagesize 1)", grow: 0, size: 3000 },
    Kind { index: "", limits: "0 9000 (pagesize 1)", grow: 4999, size: 4999 },
    Kind { index: "", limits: "1 1 shared", grow: 0, size: 65536 },
    Kind { index: "i64", limits: "1 2", grow: 0, size: 65536 },
];

fn module(turns: &[Turn], kind: Kind) -> String {
    let wide = kind.index == "i64";
    let ty = if wide { "i64" } else { "i32" };
    let mut text = format!(
        "(module (memory (export \"m\") {} {})
           (func (export \"grow\") (param {ty}) (result {ty}) (memory.grow (local.get 0)))",
        kind.index, kind.limits
    );
    let (types, locals) = (
        "i32 ".repeat(LOCALS),
        (0..LOCALS).fold(String::new(), |text, local| text + &format!(" (local.get {local})")),
    );
    for (number, turn) in turns.iter().enumerate() {
        let turn = turn.text(wide);
        write!(
            text,
            "\n(func (export \"{number}\") (param {types}) (result {types}) {turn} {locals})"
        )
        .unwrap();
    }
    text + ")"
}

/// How many calls the functions of a compiled module make, other than the one that grows the memory.
fn calls(artifact: &[u8]) -> usize {
    let module = Module::new(&check(artifact, None).unwrap()).unwrap();
    let sites = module.late(artifact).sites();
    // Trampolines come from nowhere in the wasm.
    sites.iter().filter(|site| site.trap == 0 && site.wasm != 0).count() - 1
}

struct Subject<'s, 'code> {
    store: &'s mut Store<'code, ()>,
    instance: &'s Instance<'code>,
    memory: Memory<'code>,
    case: String,
    /// What is in memory when a loop begins.
    before: Vec<u8>,
}

/// Runs tests of a module of loops, compiled with settings, in a new instance.
fn with_subject(
    turns: &[Turn],
    kind: Kind,
    settings: &Settings,
    test: impl FnOnce(&mut Subject<'_, '_>),
) {
    let code = load(&compile_with(&module(turns, kind), settings));
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    if settings.fuel {
        store.set_fuel(1 << 40);
    }
    if settings.epoch {
        store.set_epoch_deadline(1);
    }
    let instance = Linker::new(&engine).instantiate(&mut store, &code).unwrap();
    let by = match kind.index {
        "i64" => Val::I64(kind.grow.into()),
        _ => Val::I32(kind.grow),
    };
    instance.func(&store, "grow").unwrap().call(&mut store, &[by]).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let before = (1..=250).cycle().take(kind.size).collect();
    let case = format!("{} {} {settings:?}", kind.index, kind.limits);
    test(&mut Subject { store: &mut store, instance: &instance, memory, case, before });
}

impl Subject<'_, '_> {
    /// Runs a loop and its model. The cell holds this, if it is inside the memory.
    fn check(&mut self, number: usize, turn: &Turn, locals: [u32; LOCALS], cell: u32) {
        let case = format!("{} {turn:?} {locals:x?} {cell:x}", self.case);
        let mut model = self.before.clone();
        let start = u64::from(locals[FRAME]) + u64::from(CELL);
        let start = usize::try_from(start).unwrap();
        if let Some(bytes) = model.get_mut(start..start + 4) {
            bytes.copy_from_slice(&cell.to_le_bytes());
        }
        self.memory.write(self.store, 0, &model).unwrap();
        let end = turn.run(&mut model, locals);
        if end == End::Never {
            return;
        }
        let func = self.instance.func(self.store, &number.to_string()).unwrap();
        let arguments = locals.map(|local| Val::I32(local.cast_signed()));
        let found = match func.call(self.store, &arguments) {
            Ok(results) => {
                let results = results.iter().map(|result| match result {
                    Val::I32(value) => value.cast_unsigned(),
                    other => panic!("{other:?}"),
                });
                End::Left(results.collect::<Vec<_>>().try_into().unwrap())
            }
            Err(error) => {
                assert_eq!(error.trap().expect(&case).kind(), TrapKind::MemoryOutOfBounds);
                End::Trapped
            }
        };
        assert_eq!(found, end, "{case}");
        let mut bytes = vec![0; model.len()];
        self.memory.read(self.store, 0, &mut bytes).unwrap();
        let differs = bytes.iter().zip(&model).position(|(found, wanted)| found != wanted);
        assert_eq!(differs, None, "{case}");
    }

    /// Everything that a loop of this shape may meet.
    fn check_shape(&mut self, number: usize, shape: Shape) {
        let (turn, stride) = (shape.turn(), shape.stride());
        let size = u32::try_from(self.before.len()).unwrap();
        let index = stride * 5;
        let far = size - 64;
        let mut check = |[place, index, turns, frame]: [u32; 4], byte: u32| {
            let locals = shape.locals(place, index, turns, frame, byte);
            self.check(number, &turn, locals, locals[PLACE]);
        };
        // Of all lengths, also those that are nothing for a fill, and of any byte.
        for turns in (1..=70 / stride + 4).chain([100, 257]) {
            check([16, index, turns, far], 0x77);
            check([17, 0, turns, far], 0x4_ff00);
        }
        for turns in [40, 150] {
            let bytes = turns * stride;
            // Up to the end of the memory, and beyond; at the beginning, and before.
            for beyond in 0..=stride + 1 {
                check([size - bytes + beyond, index, turns, 0], 0x31);
                check([0_u32.wrapping_sub(beyond), index, turns, far], 0x32);
            }
            for place in [size - 1, size, size + 1, 1 << 31, u32::MAX - bytes, u32::MAX] {
                check([place, index, turns, 100], 0x33);
                // The index is large where the place is not.
                check([place, place.wrapping_add(40), turns, 100], 0x34);
            }
        }
        // With the cell at every place around the beginning and the end of what is stored, and outside of the memory. It leads elsewhere
        // when its first byte has changed.
        let (start, end) = (400, 400 + 40 * stride);
        let near = [start, start + 20 * stride, end - stride, end];
        for cell in near.into_iter().flat_map(|place| place - 9..place + 9) {
            check([start, index, 40, cell - CELL], 0x35);
            check([start, index, 40, cell - CELL], 0);
        }
        for frame in [size - CELL - 4, size - CELL - 3, size, 0x7fff_fff0, u32::MAX - 3] {
            check([start, index, 40, frame], 0x36);
        }
        // Turns without an end, or with so many that numbers of them do not fit.
        let [place, index, _, frame, ..] = shape.locals(64, index, 0, far, 0);
        for end in
            [0, 3, index, index + stride * 60 + 1, (u32::MAX / stride).wrapping_add(50), u32::MAX]
        {
            self.check(number, &turn, [place, index, end, frame, 0x38, 1], place);
        }
    }
}

fn check_shapes(kind: Kind, settings: &Settings) {
    let shapes = shapes();
    let turns: Vec<Turn> = shapes.iter().map(|shape| shape.turn()).collect();
    with_subject(&turns, kind, settings, |subject| {
        for (number, shape) in shapes.iter().enumerate() {
            subject.check_shape(number, *shape);
        }
    });
}

#[test]
fn loops_that_fill_do_what_they_say_however_they_are_compiled() {
    for opt_level in [OptLevel::None, OptLevel::Less, OptLevel::Speed, OptLevel::SpeedAndSize] {
        for memory_bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
            let settings = Settings { opt_level, memory_bounds, ..Settings::default() };
            check_shapes(PLAIN, &settings);
        }
    }
    if cfg!(target_arch = "x86_64") {
        for cpu in [CpuLevel::X86_64V2, CpuLevel::X86_64V3] {
            check_shapes(PLAIN, &Settings { cpu, ..Settings::default() });
        }
    }
    check_shapes(PLAIN, &Settings { fuel: true, epoch: true, ..Settings::default() });
}

#[test]
fn loops_that_fill_do_what_they_say_in_every_memory() {
    for kind in KINDS {
        for memory_bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
            check_shapes(kind, &Settings { memory_bounds, ..Settings::default() });
        }
    }
}

/// What is tested here is of use only if these are fills.
#[test]
fn they_are_fills_where_nobody_can_tell() {
    let turns: Vec<Turn> = shapes().iter().map(|shape| shape.turn()).collect();
    let calls = |kind, settings: &Settings| calls(&compile_with(&module(&turns, kind), settings));
    let default = Settings::default();
    for kind in [PLAIN, KINDS[0], KINDS[1], KINDS[2], KINDS[3]] {
        for memory_bounds in [MemoryBounds::Guarded, MemoryBounds::Explicit] {
            let settings = Settings { memory_bounds, ..default.clone() };
            assert_eq!(calls(kind, &settings), turns.len(), "{}", kind.limits);
        }
    }
    assert_eq!(calls(KINDS[4], &default), 0);
    assert_eq!(calls(KINDS[5], &default), 0);
    assert_eq!(calls(PLAIN, &Settings { fuel: true, ..default.clone() }), 0);
    // One where a function begins, and one in each turn.
    let epoch = Settings { epoch: true, ..default };
    assert_eq!(calls(PLAIN, &epoch), 2 * turns.len() + 1);
}

#[test]
fn loops_that_look_like_fills_do_what_they_say() {
    let others = others();
    with_subject(&others, PLAIN, &Settings::default(), |subject| {
        for (number, turn) in others.iter().enumerate() {
            for turns in [1, 2, 31, 40, 200, 1002] {
                for place in [0, 40, 3000, 65536 - turns, u32::MAX, u32::MAX - 15, u32::MAX - 16] {
                    for frame in [place.wrapping_add(33), 0, 60000] {
                        let locals = [place, 0, turns, frame, 0x41, 0];
                        for held in [place, 100, 1 << 30] {
                            subject.check(number, turn, locals, held);
                        }
                    }
                }
            }
        }
    });
}

/// A memory that has all addresses is the only one in which to wrap around is no trap.
#[test]
fn what_wraps_around_in_the_largest_memory_goes_on_at_its_beginning() {
    let shape = Shape { byte: Some(0x55), ..shapes()[3] };
    let text = module(&[shape.turn()], Kind { limits: "65536", ..PLAIN });
    let code = load(&compile_with(&text, &Settings::default()));
    let mut store = Store::new(&Engine::default(), ());
    let instance = Linker::new(&Engine::default()).instantiate(&mut store, &code).unwrap();
    let memory = instance.memory(&store, "m").unwrap();
    let func = instance.func(&store, "0").unwrap();
    for (before, behind) in [(100, 0), (100, 1), (100, 50), (1, 99), (0, 100)] {
        let start = 0_u32.wrapping_sub(before);
        let locals = shape.locals(start, 0, before + behind, 0, 0);
        let results = func.call(&mut store, &locals.map(|it| Val::I32(it.cast_signed()))).unwrap();
        assert!(matches!(results[PLACE], Val::I32(place) if place.cast_unsigned() == behind));
        let mut found = [[0; 128]; 2];
        let last = (1 << 32) - 128;
        memory.read(&store, 0, &mut found[0]).unwrap();
        memory.read(&store, last, &mut found[1]).unwrap();
        let [first, end] = found.map(|bytes| bytes.map(|byte| byte == 0x55));
        assert_eq!(first, std::array::from_fn(|place| place < behind as usize));
        assert_eq!(end, std::array::from_fn(|place| place >= 128 - before as usize));
        memory.write(&mut store, 0, &[0; 128]).unwrap();
        memory.write(&mut store, last, &[0; 128]).unwrap();
    }
}

fn exprs() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        4 => (0..LOCALS).prop_map(Local),
        1 => (-4..=8_i32).prop_map(|constant| Constant(constant.cast_unsigned())),
        1 => Just(Expr::Load(Local(FRAME).into(), CELL)),
    ];
    (leaf, -2..=8_i32, 0..3).prop_map(|(leaf, by, how)| match how {
        0 => leaf,
        1 => add(leaf, Constant(by.cast_unsigned())),
        _ => add(leaf, Local(INDEX)),
    })
}

/// A loop that is a fill, with something changed.
fn changed() -> impl Strategy<Value = Turn> {
    let size = prop_oneof![Just(1), Just(2), Just(4)];
    let store = (exprs(), 0..9_u32, size, any::<bool>()).prop_map(|(index, offset, size, byte)| {
        let what = if byte { Local(BYTE) } else { Constant(0) };
        Step::Store { index, offset, size, what: What::Narrow(what) }
    });
    let set = (0..LOCALS, exprs()).prop_map(|(local, value)| Step::Set(local, value));
    let step = prop_oneof![store, set];
    let change = prop::option::weighted(0.8, (any::<prop::sample::Index>(), any::<bool>(), step));
    (prop::sample::select(shapes()), prop::collection::vec(change, 1..3)).prop_map(
        |(shape, changes)| {
            let mut turn = shape.turn();
            for (place, instead, step) in changes.into_iter().flatten() {
                let place = place.index(turn.steps.len());
                match instead {
                    true => turn.steps[place] = step,
                    false => turn.steps.insert(place, step),
                }
            }
            turn
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_changed_they_do_what_they_say(turn in changed(), step in 0..9_u32) {
        let turns = [turn];
        with_subject(&turns, PLAIN, &Settings::default(), |subject| {
            for (place, end) in [(64, 200), (64, 64), (65536 - 90, 96), (u32::MAX - 8, 120)] {
                for frame in [40, 90, 3000] {
                    let locals = [place, step, end, frame, 0x41, 7];
                    subject.check(0, &turns[0], locals, place);
                }
            }
        });
    }
}
