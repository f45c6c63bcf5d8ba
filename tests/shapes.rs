//! Modules that are large in one direction, to see how a compilation grows with it.

use std::fmt;

use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, DataSection, ElementSection, Elements, EntityType,
    ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    MemArg, MemArgTarget, MemorySection, MemoryType, Module, RefType, TableSection, TableType,
    TypeSection, ValType,
};

/// A direction in which a module can be large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Functions that each call the one before.
    Functions,
    /// One function of this many instructions in a row.
    Instructions,
    /// One function of loads and stores.
    Accesses,
    /// One function that calls this many others.
    Callees,
    /// One function with this many locals, each set and read.
    Locals,
    /// The same with a loop around a branch for every hundred locals.
    LocalsInLoops,
    /// One `br_table` with this many entries.
    BrTable,
    /// One `br_table` with this many targets, each of which sets another number and goes on at the same place.
    Numbers,
    /// Blocks, loops and conditionals in each other.
    Nesting,
    /// One expression of this depth.
    Expression,
    /// Conditionals after each other.
    Branches,
    /// Active data segments next to each other.
    DataSegments,
    /// Active data segments far from each other.
    ScatteredSegments,
    /// Element segments.
    ElementSegments,
    /// Globals, each computed from an import and the one before.
    Globals,
    /// Globals that one function reads and writes in loops, each in several, where ways meet.
    GlobalsInLoops,
    /// Calls of one function by itself, each in a loop.
    Recursion,
    /// Steps in a row that each mix three of sixteen words, so that costs grow by a factor.
    Hashing,
    /// Function types.
    Types,
    /// Imports and exports.
    Names,
}

impl Shape {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Functions,
        Self::Instructions,
        Self::Accesses,
        Self::Callees,
        Self::Locals,
        Self::LocalsInLoops,
        Self::BrTable,
        Self::Numbers,
        Self::Nesting,
        Self::Expression,
        Self::Branches,
        Self::DataSegments,
        Self::ScatteredSegments,
        Self::ElementSegments,
        Self::Globals,
        Self::GlobalsInLoops,
        Self::Recursion,
        Self::Hashing,
        Self::Types,
        Self::Names,
    ];

    /// The shape with this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.to_string() == name)
    }

    /// A size that a compiler must be able to take, or to refuse.
    #[must_use]
    pub fn large(self) -> u32 {
        match self {
            Self::Instructions | Self::Accesses => 1_000_000,
            // With the parameter, as many as the specification's implementations allow.
            Self::Locals | Self::LocalsInLoops => 49_999,
            Self::Nesting | Self::Expression => 10_000,
            // Not all of them fit into one table.
            Self::Numbers => 50_000,
            _ => 100_000,
        }
    }

    /// A module of this shape and size.
    #[must_use]
    pub fn module(self, size: u32) -> Vec<u8> {
        let mut parts = Parts::default();
        match self {
            Self::Functions => functions(&mut parts, size),
            Self::Instructions => parts.body(|body| straight(body, size)),
            Self::Accesses => parts.body(|body| accesses(body, size)),
            Self::Callees => callees(&mut parts, size),
            Self::Locals => parts.function(size, |body| locals(body, size, u32::MAX)),
            Self::LocalsInLoops => parts.function(size, |body| locals(body, size, 100)),
            Self::BrTable => parts.body(|body| br_table(body, size)),
            Self::Numbers => parts.body(|body| numbers(body, size)),
            Self::Nesting => parts.body(|body| nesting(body, size)),
            Self::Expression => parts.body(|body| expression(body, size)),
            Self::Branches => {
                parts.body(|body| branches(body, size));
                parts.exports.export("f", ExportKind::Func, 0);
            }
            Self::DataSegments => data(&mut parts, size, 4),
            Self::ScatteredSegments => data(&mut parts, size, 20_000),
            Self::ElementSegments => elements(&mut parts, size),
            Self::Globals => globals(&mut parts, size),
            Self::GlobalsInLoops => globals_in_loops(&mut parts, size),
            Self::Recursion => parts.body(|body| recursion(body, size)),
            Self::Hashing => parts.function(15, |body| hashing(body, size)),
            Self::Types => types(&mut parts, size),
            Self::Names => names(&mut parts, size),
        }
        parts.finish()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The sections of a module. Type 0 is that of all functions: `(i32) -> i32`.
#[derive(Default)]
struct Parts {
    types: TypeSection,
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: ElementSection,
    code: CodeSection,
    data: DataSection,
}

impl Parts {
    /// Adds a function with `locals` locals besides its parameter.
    fn function(&mut self, locals: u32, build: impl FnOnce(&mut Function)) {
        let mut function = Function::new([(locals, ValType::I32)]);
        build(&mut function);
        function.instructions().end();
        self.functions.function(0);
        self.code.function(&function);
    }

    fn body(&mut self, build: impl FnOnce(&mut Function)) {
        self.function(0, build);
    }

    fn finish(mut self) -> Vec<u8> {
        let mut types = TypeSection::new();
        types.ty().function([ValType::I32], [ValType::I32]);
        self.memories.memory(MemoryType {
            minimum: 65536,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        let mut module = Module::new();
        module.section(if self.types.is_empty() { &types } else { &self.types });
        module.section(&self.imports).section(&self.functions).section(&self.tables);
        module.section(&self.memories).section(&self.globals).section(&self.exports);
        module.section(&self.elements).section(&self.code).section(&self.data);
        module.finish()
    }
}

fn functions(parts: &mut Parts, size: u32) {
    for index in 0..size {
        parts.body(|body| {
            let mut body = body.instructions();
            body.local_get(0).i32_const(index.cast_signed()).i32_add();
            if index > 0 {
                body.call(index - 1);
            }
        });
    }
}

fn straight(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for index in 0..size / 4 {
        body.local_get(0).i32_const((index % 60).cast_signed()).i32_xor().local_set(0);
    }
    body.local_get(0);
}

fn accesses(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for index in 0..size / 4 {
        let memarg = MemArg {
            offset: (index % 100 * 4).into(),
            align: 2,
            target: MemArgTarget::Memory(0),
            ordering: None,
        };
        body.local_get(0).local_get(0).i32_load(memarg);
        body.i32_store(MemArg { offset: 4096, ..memarg });
    }
    body.local_get(0);
}

fn callees(parts: &mut Parts, size: u32) {
    for _ in 0..size {
        parts.body(|body| {
            body.instructions().local_get(0);
        });
    }
    parts.body(|body| {
        let mut body = body.instructions();
        body.local_get(0);
        for index in 0..size {
            body.call(index);
        }
    });
}

/// Sets each local to its predecessor plus one, with a loop around every `group`.
fn locals(body: &mut Function, size: u32, group: u32) {
    let mut body = body.instructions();
    for index in 1..=size {
        if index % group == 1 && group < size {
            body.loop_(BlockType::Empty);
        }
        body.local_get(index - 1).i32_const(1).i32_add().local_set(index);
        if index % group == 0 {
            body.local_get(index - 1).i32_const(3).i32_eq().br_if(0).end();
        }
    }
    if group < size && !size.is_multiple_of(group) {
        body.end();
    }
    body.i32_const(0);
    for index in 0..=size {
        body.local_get(index).i32_add();
    }
}

fn br_table(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for _ in 0..10 {
        body.block(BlockType::Empty);
    }
    body.local_get(0).br_table((0..size).map(|index| index % 10), 0);
    for level in 0..10 {
        body.end().i32_const(level).local_set(0);
    }
    body.local_get(0);
}

fn numbers(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for _ in 0..=size {
        body.block(BlockType::Empty);
    }
    body.local_get(0).br_table(0..size, size);
    for target in 0..size {
        let number = target.wrapping_mul(0x9e37_79b1).cast_signed();
        body.end().i32_const(number).local_set(0).br(size - 1 - target);
    }
    body.end().local_get(0);
}

fn nesting(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for level in 0..size {
        match level % 3 {
            0 => body.block(BlockType::Empty),
            1 => body.loop_(BlockType::Empty),
            _ => body.local_get(0).if_(BlockType::Empty),
        };
    }
    for level in 0..size {
        body.local_get(0).i32_const(level.cast_signed()).i32_add().local_set(0);
        body.local_get(0).br_if(level % 7 % (size - level));
        body.end();
    }
    body.local_get(0);
}

fn expression(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for index in 0..size {
        body.local_get(0).i32_const((index % 50).cast_signed()).i32_rotl();
    }
    for _ in 1..size {
        body.i32_xor();
    }
}

fn branches(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for index in 0..size {
        body.local_get(0).i32_const(index.cast_signed()).i32_lt_u().if_(BlockType::Empty);
        body.local_get(0).i32_const(1).i32_add().local_set(0).end();
    }
    body.local_get(0);
}

fn data(parts: &mut Parts, size: u32, distance: u32) {
    for index in 0..size {
        let offset = ConstExpr::i32_const((index * distance).cast_signed());
        parts.data.active(0, &offset, *b"data");
    }
}

fn elements(parts: &mut Parts, size: u32) {
    parts.body(|body| {
        body.instructions().local_get(0);
    });
    parts.tables.table(TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: size.into(),
        maximum: None,
        shared: false,
    });
    for index in 0..size {
        let offset = ConstExpr::i32_const(index.cast_signed());
        parts.elements.active(None, &offset, Elements::Functions([0].as_slice().into()));
    }
}

fn globals(parts: &mut Parts, size: u32) {
    let ty = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
    parts.imports.import("host", "g", EntityType::Global(ty));
    for index in 0..size {
        let init = ConstExpr::extended([
            wasm_encoder::Instruction::GlobalGet(0),
            wasm_encoder::Instruction::GlobalGet(index),
            wasm_encoder::Instruction::I32Add,
        ]);
        parts.globals.global(ty, &init);
    }
    parts.body(|body| {
        let mut body = body.instructions();
        body.local_get(0);
        for index in 0..=size {
            body.global_get(index).i32_add();
        }
    });
}

fn globals_in_loops(parts: &mut Parts, size: u32) {
    let ty = GlobalType { val_type: ValType::I32, mutable: true, shared: false };
    for _ in 0..size {
        parts.globals.global(ty, &ConstExpr::i32_const(1));
    }
    parts.body(|body| {
        let mut body = body.instructions();
        for index in 0..size {
            body.loop_(BlockType::Empty);
            for global in [index, index / 2, index % 100] {
                body.global_get(global).if_(BlockType::Empty);
                body.global_get(global).i32_const(1).i32_sub().global_set(global).end();
            }
            body.global_get(index).br_if(0).end();
        }
        body.local_get(0);
    });
}

fn recursion(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for _ in 0..size {
        body.loop_(BlockType::Empty);
        body.local_get(0).call(0).local_tee(0).br_if(0).end();
    }
    body.local_get(0);
}

fn hashing(body: &mut Function, size: u32) {
    let mut body = body.instructions();
    for word in 1..16 {
        let offset = MemArg {
            offset: u64::from(word),
            align: 0,
            target: MemArgTarget::Memory(0),
            ordering: None,
        };
        body.local_get(0).i32_load(offset).local_set(word);
    }
    for step in 0..size {
        let [word, other, third] = [0, 5, 9].map(|distance| (step + distance) % 16);
        body.local_get(word).local_get(other).i32_add();
        body.local_get(third).i32_const(-1).i32_xor().local_get(word).i32_and();
        body.i32_xor().i32_const(7).i32_rotl().local_set(word);
    }
    body.local_get(0);
}

fn types(parts: &mut Parts, size: u32) {
    parts.types.ty().function([ValType::I32], [ValType::I32]);
    for index in 1..size {
        let params: Vec<ValType> = (0..17)
            .map(|bit| if index >> bit & 1 == 0 { ValType::I32 } else { ValType::I64 })
            .collect();
        parts.types.ty().function(params, []);
    }
}

fn names(parts: &mut Parts, size: u32) {
    for index in 0..size {
        parts.imports.import("host", &format!("import {index}"), EntityType::Function(0));
        parts.exports.export(&format!("export {index}"), ExportKind::Func, index);
    }
}
