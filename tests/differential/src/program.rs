//! From a seed to a program that does not trap: bounded loops, branches, accesses inside of a
//! memory, direct and indirect calls, lanes of vectors.
//!
//! The general generator makes modules of every shape, whose functions seldom get far. Here,
//! all code runs, and what it computed is in its results, globals and memory. Floats are compared
//! and converted to integers, which no NaN's bits survive.

use cwasm_tests::fault::random::Random;
use wasm_encoder::{
    BlockType, CodeSection, ConstExpr, ElementSection, Elements, ExportKind, ExportSection,
    Function, FunctionSection, GlobalSection, GlobalType, Instruction as I, MemArg, MemArgTarget,
    MemorySection, MemoryType, Module, RefType, TableSection, TableType, TypeSection, ValType,
};

/// How many functions a program has. Each calls those before it.
const FUNCTIONS: u32 = 4;

/// How many elements its table has: those functions, one of another type, and null.
const ELEMENTS: u32 = FUNCTIONS + 2;

/// Locals of each type; the first `i32` and `i64` are the parameters.
const LOCALS: u32 = 4;

/// Statements in a function, at most.
const STATEMENTS: usize = 30;

/// Loops that may be around a statement.
const LOOPS: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    I32,
    I64,
    F64,
    V128,
}

/// The program of a seed.
#[must_use]
pub fn program(seed: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ 0x70_726f_6772_616d);
    let mut types = TypeSection::new();
    types.ty().function([ValType::I32, ValType::I64], [ValType::I64]);
    types.ty().function([], []);
    let (mut functions, mut code) = (FunctionSection::new(), CodeSection::new());
    let (mut exports, mut globals) = (ExportSection::new(), GlobalSection::new());
    for index in 0..FUNCTIONS {
        functions.function(0);
        code.function(&Writer::function(&mut random, index));
        exports.export(&format!("f{index}"), ExportKind::Func, index);
    }
    functions.function(1);
    let mut nothing = Function::new([]);
    nothing.instruction(&I::End);
    code.function(&nothing);
    for index in 0..2 {
        let ty = GlobalType { val_type: ValType::I64, mutable: true, shared: false };
        globals.global(ty, &ConstExpr::i64_const(7));
        exports.export(&format!("g{index}"), ExportKind::Global, index);
    }
    let mut memories = MemorySection::new();
    memories.memory(MemoryType {
        minimum: 2,
        maximum: Some(2),
        memory64: false,
        shared: false,
        page_size_log2: None,
    });
    exports.export("memory", ExportKind::Memory, 0);
    let mut tables = TableSection::new();
    tables.table(TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: ELEMENTS.into(),
        maximum: None,
        shared: false,
    });
    // Compilers know more of a table that nobody else can write to.
    if random.below(3) == 0 {
        exports.export("table", ExportKind::Table, 0);
    }
    let mut elements = ElementSection::new();
    let all: Vec<u32> = (0..=FUNCTIONS).collect();
    elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(all.into()));
    let mut module = Module::new();
    module.section(&types).section(&functions).section(&tables).section(&memories);
    module.section(&globals).section(&exports).section(&elements).section(&code);
    module.finish()
}

struct Writer<'r> {
    random: &'r mut Random,
    body: Vec<I<'static>>,
    /// The function's own number.
    index: u32,
    /// Loops around the current statement.
    loops: u32,
    /// Calls that it may still contain.
    calls: u32,
    /// Statements that it may still contain.
    statements: usize,
}

impl Writer<'_> {
    fn function(random: &mut Random, index: u32) -> Function {
        let mut writer =
            Writer { random, body: Vec::new(), index, loops: 0, calls: 3, statements: STATEMENTS };
        writer.block();
        writer.expression(Type::I64, 3);
        let mut function = Function::new(locals());
        for instruction in writer.body.iter().chain([&I::End]) {
            function.instruction(instruction);
        }
        function
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random.below(bound)
    }

    /// Zero or one.
    fn either(&mut self) -> u32 {
        u32::from(self.below(2) == 0)
    }

    fn emit(&mut self, instructions: impl IntoIterator<Item = I<'static>>) {
        self.body.extend(instructions);
    }

    /// One of these.
    fn one(&mut self, choices: &[I<'static>]) {
        let choice = self.below(choices.len());
        self.body.push(choices[choice].clone());
    }

    fn local(&mut self, ty: Type) -> u32 {
        local(ty, self.below(LOCALS as usize))
    }

    /// Some statements.
    fn block(&mut self) {
        for _ in 0..2 + self.below(6) {
            if self.statements == 0 {
                return;
            }
            self.statements -= 1;
            self.statement();
        }
    }

    fn statement(&mut self) {
        match self.below(12) {
            0..=3 => {
                let ty = [Type::I32, Type::I64, Type::F64, Type::V128][self.below(4)];
                self.expression(ty, 3);
                let local = self.local(ty);
                self.emit([I::LocalSet(local)]);
            }
            4 | 5 => self.store(),
            6 => {
                let global = u32::from(self.below(2) == 0);
                self.expression(Type::I64, 3);
                self.emit([I::GlobalGet(global), I::I64Xor, I::GlobalSet(global)]);
            }
            7 => {
                self.expression(Type::I32, 2);
                self.emit([I::If(BlockType::Empty)]);
                self.block();
                self.emit([I::Else]);
                self.block();
                self.emit([I::End]);
            }
            8 | 9 if self.loops < LOOPS => self.bounded_loop(),
            10 => {
                // Two ways out, and a third.
                self.emit([I::Block(BlockType::Empty), I::Block(BlockType::Empty)]);
                self.expression(Type::I32, 2);
                if self.below(2) == 0 {
                    self.emit([I::BrIf(1)]);
                    self.block();
                } else {
                    let ways: Vec<u32> = (0..self.below(9)).map(|_| self.either()).collect();
                    let default = self.either();
                    self.emit([I::I32Const(7), I::I32And, I::BrTable(ways.into(), default)]);
                }
                self.emit([I::End]);
                self.block();
                self.emit([I::End]);
            }
            _ if self.index > 0 && self.calls > 0 && self.loops < LOOPS => self.call(),
            _ => self.store(),
        }
    }

    fn bounded_loop(&mut self) {
        let counter = local_counter(self.loops);
        let turns = 1 + i32::try_from(self.below(5)).unwrap_or_default();
        self.emit([I::I32Const(turns), I::LocalSet(counter), I::Loop(BlockType::Empty)]);
        self.loops += 1;
        self.block();
        self.loops -= 1;
        self.emit([I::LocalGet(counter), I::I32Const(1), I::I32Sub, I::LocalTee(counter)]);
        self.emit([I::BrIf(0), I::End]);
    }

    fn call(&mut self) {
        self.calls -= 1;
        self.expression(Type::I32, 2);
        self.expression(Type::I64, 2);
        if self.below(2) == 0 {
            let callee = self.below(self.index as usize);
            self.emit([I::Call(u32::try_from(callee).unwrap_or_default())]);
        } else {
            if self.below(40) == 0 {
                // Another type, null, or nothing.
                let beyond = FUNCTIONS + u32::try_from(self.below(3)).unwrap_or_default();
                self.emit([I::I32Const(beyond.cast_signed())]);
            } else if self.below(4) == 0 {
                let callee = u32::try_from(self.below(self.index as usize)).unwrap_or_default();
                self.emit([I::I32Const(callee.cast_signed())]);
            } else {
                self.expression(Type::I32, 1);
                self.emit([I::I32Const(self.index.cast_signed()), I::I32RemU]);
            }
            self.emit([I::CallIndirect { type_index: 0, table_index: 0 }]);
        }
        let local = self.local(Type::I64);
        self.emit([I::LocalSet(local)]);
    }

    /// An address in the first page, and an access up to a page behind it.
    fn address(&mut self) -> MemArg {
        self.expression(Type::I32, 1);
        self.emit([I::I32Const(0xffff), I::I32And]);
        let offset = [0, 1, 8, 4096, 65_520][self.below(5)];
        MemArg { offset, align: 0, target: MemArgTarget::Memory(0), ordering: None }
    }

    fn store(&mut self) {
        let place = self.address();
        match self.below(3) {
            0 => {
                self.expression(Type::I32, 2);
                self.one(&[I::I32Store(place), I::I32Store8(place), I::I32Store16(place)]);
            }
            1 => {
                self.expression(Type::I64, 2);
                self.one(&[I::I64Store(place), I::I64Store32(place), I::I64Store8(place)]);
            }
            _ => {
                self.expression(Type::V128, 2);
                self.emit([I::V128Store(place)]);
            }
        }
    }

    fn expression(&mut self, ty: Type, depth: u32) {
        if depth == 0 || self.below(6) == 0 {
            let local = self.local(ty);
            return self.emit([I::LocalGet(local)]);
        }
        match ty {
            Type::I32 => self.i32(depth - 1),
            Type::I64 => self.i64(depth - 1),
            Type::F64 => self.f64(depth - 1),
            Type::V128 => self.v128(depth - 1),
        }
    }

    fn operands(&mut self, ty: Type, count: usize, depth: u32) {
        for _ in 0..count {
            self.expression(ty, depth);
        }
    }

    #[rustfmt::skip]
    fn i32(&mut self, depth: u32) {
        match self.below(11) {
            0 => { let n = EDGES[self.below(EDGES.len())]; self.emit([I::I32Const(n)]); }
            1..=3 => {
                self.operands(Type::I32, 2, depth);
                self.one(&[I::I32Add, I::I32Sub, I::I32Mul, I::I32And, I::I32Or, I::I32Xor, I::I32Shl,
                    I::I32ShrS, I::I32ShrU, I::I32Rotl, I::I32Rotr, I::I32Eq, I::I32LtS, I::I32LtU, I::I32GeU]);
            }
            4 => {
                self.expression(Type::I32, depth);
                let n = [3, 7, -5, 16, i32::MIN][self.below(5)];
                self.emit([I::I32Const(n)]);
                self.one(&[I::I32DivS, I::I32DivU, I::I32RemS, I::I32RemU]);
            }
            5 => {
                self.expression(Type::I32, depth);
                self.one(&[I::I32Clz, I::I32Ctz, I::I32Popcnt, I::I32Eqz, I::I32Extend8S, I::I32Extend16S]);
            }
            6 => {
                self.operands(Type::I64, 2, depth);
                self.one(&[I::I64Eq, I::I64LtS, I::I64LtU, I::I64GtS, I::I64Ne]);
            }
            7 => {
                let place = self.address();
                self.one(&[I::I32Load(place), I::I32Load8S(place), I::I32Load8U(place), I::I32Load16S(place)]);
            }
            8 => {
                self.operands(Type::F64, 2, depth);
                self.one(&[I::F64Lt, I::F64Ge, I::F64Eq, I::F64Ne]);
            }
            9 => {
                self.expression(Type::V128, depth);
                let lane = [0, 1, 3][self.below(3)];
                self.one(&[I::I32x4ExtractLane(lane), I::I8x16ExtractLaneS(lane), I::I16x8ExtractLaneU(lane),
                    I::I8x16Bitmask, I::V128AnyTrue, I::I16x8AllTrue]);
            }
            _ => {
                self.operands(Type::I32, 3, depth);
                self.emit([I::Select]);
            }
        }
    }

    #[rustfmt::skip]
    fn i64(&mut self, depth: u32) {
        match self.below(9) {
            0..=3 => {
                self.operands(Type::I64, 2, depth);
                self.one(&[I::I64Add, I::I64Sub, I::I64Mul, I::I64And, I::I64Or, I::I64Xor, I::I64Shl,
                    I::I64ShrS, I::I64ShrU, I::I64Rotl, I::I64Rotr]);
            }
            4 => {
                self.expression(Type::I64, depth);
                let n = [3, 10, -7, 64, i64::MIN][self.below(5)];
                self.emit([I::I64Const(n)]);
                self.one(&[I::I64DivS, I::I64DivU, I::I64RemS, I::I64RemU]);
            }
            5 => {
                self.expression(Type::I32, depth);
                self.one(&[I::I64ExtendI32S, I::I64ExtendI32U]);
            }
            6 => {
                self.expression(Type::F64, depth);
                self.one(&[I::I64TruncSatF64S, I::I64TruncSatF64U]);
            }
            7 => {
                let place = self.address();
                self.one(&[I::I64Load(place), I::I64Load8S(place), I::I64Load32U(place), I::I64Load16U(place)]);
            }
            _ => {
                self.operands(Type::I64, 2, depth);
                self.expression(Type::I32, depth);
                self.emit([I::Select]);
            }
        }
    }

    #[rustfmt::skip]
    fn f64(&mut self, depth: u32) {
        match self.below(4) {
            0 => {
                self.expression(Type::I64, depth);
                self.one(&[I::F64ConvertI64S, I::F64ConvertI64U]);
            }
            1 => {
                let place = self.address();
                self.emit([I::F64Load(place)]);
            }
            2 => {
                self.expression(Type::F64, depth);
                self.one(&[I::F64Abs, I::F64Neg, I::F64Sqrt, I::F64Floor, I::F64Nearest]);
            }
            _ => {
                self.operands(Type::F64, 2, depth);
                self.one(&[I::F64Add, I::F64Sub, I::F64Mul, I::F64Div, I::F64Min, I::F64Max]);
            }
        }
    }

    #[rustfmt::skip]
    fn v128(&mut self, depth: u32) {
        match self.below(8) {
            0 => {
                self.expression(Type::I32, depth);
                self.one(&[I::I8x16Splat, I::I16x8Splat, I::I32x4Splat]);
            }
            1 => {
                let place = self.address();
                self.one(&[I::V128Load(place), I::V128Load32Splat(place), I::V128Load8x8S(place), I::V128Load64Zero(place)]);
            }
            2 => {
                self.operands(Type::V128, 2, depth);
                let lanes = std::array::from_fn(|_| u8::try_from(self.below(32)).unwrap_or_default());
                self.emit([I::I8x16Shuffle(lanes)]);
            }
            3 => {
                self.expression(Type::V128, depth);
                self.expression(Type::I32, depth);
                self.one(&[I::I8x16Shl, I::I16x8ShrS, I::I32x4ShrU, I::I64x2Shl, I::I64x2ShrS, I::I32x4ReplaceLane(2)]);
            }
            4 => {
                self.operands(Type::V128, 3, depth);
                self.emit([I::V128Bitselect]);
            }
            5 => {
                self.expression(Type::V128, depth);
                self.one(&[I::I8x16Popcnt, I::I16x8Abs, I::I32x4Neg, I::V128Not, I::I16x8ExtendHighI8x16S,
                    I::I64x2ExtendLowI32x4U, I::I32x4ExtAddPairwiseI16x8S]);
            }
            _ => {
                self.operands(Type::V128, 2, depth);
                self.one(&[I::I8x16Add, I::I8x16SubSatS, I::I16x8Mul, I::I32x4Mul, I::I64x2Mul, I::I8x16Swizzle,
                    I::I16x8AddSatU, I::I32x4MinS, I::I8x16AvgrU, I::I16x8NarrowI32x4S, I::I32x4DotI16x8S,
                    I::I32x4LtU, I::I64x2Eq, I::I8x16GtS, I::V128Xor, I::V128AndNot, I::I16x8Q15MulrSatS]);
            }
        }
    }
}

const EDGES: [i32; 9] = [0, 1, -1, 2, 31, 255, 0xffff, i32::MAX, i32::MIN];

/// The local with this number among those of a type.
fn local(ty: Type, number: usize) -> u32 {
    let number = u32::try_from(number).unwrap_or_default();
    let own = LOCALS;
    match (ty, number) {
        (Type::I32, 0) => 0,
        (Type::I64, 0) => 1,
        (Type::I32, _) => 1 + number,
        (Type::I64, _) => own + number,
        (Type::F64, _) => 2 * own + number,
        (Type::V128, _) => 3 * own + number,
    }
}

/// What counts the turns of a loop of this depth.
fn local_counter(loops: u32) -> u32 {
    4 * LOCALS + loops
}

fn locals() -> [(u32, ValType); 5] {
    let own = LOCALS;
    [
        (own - 1, ValType::I32),
        (own - 1, ValType::I64),
        (own, ValType::F64),
        (own, ValType::V128),
        (LOOPS, ValType::I32),
    ]
}
