//! From a seed to a module, and to the calls that are made into it.

use arbitrary::Unstructured;
use cwasm_tests::fault::random::Random;
use wasm_encoder::{Encode as _, RawSection};
use wasm_smith::{Config, Module};
use wasmparser::Operator;

use crate::outcome::{Type, Value};
use crate::program::program;

/// How much a call may do, by the generator's count, before it traps.
pub const FUEL: i32 = 30_000;

/// The same where there is a collection before each object, which looks through the stack.
const FUEL_WITH_OBJECTS: i32 = 500;

/// The name of the global that counts it, if the module has one.
pub const FUEL_GLOBAL: &str = "fuel left";

/// How often each function is called.
pub const ROUNDS: u64 = 3;

/// A module and a source of arguments.
#[derive(Clone, Debug)]
pub struct Case {
    /// The seed.
    pub seed: u64,
    /// The module.
    pub wasm: Vec<u8>,
    /// Whether nothing that the module does depends on the bits of a NaN that an engine chose.
    pub canonical_nans: bool,
    /// Whether it may make objects, which the other engine does not have.
    pub makes_objects: bool,
    /// How many instructions it has.
    pub instructions: usize,
}

impl Case {
    /// The case of a seed.
    ///
    /// # Panics
    /// If the generator breaks its promises.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let canonicalizes = seed % 4 != 3;
        let size = 2048 << random.below(5);
        let bytes = random.bytes(size);
        let mut input = Unstructured::new(&bytes);
        let config = config(canonicalizes, seed.is_multiple_of(2));
        let mut module = Module::new(config, &mut input).expect("any bytes make a module");
        let fuel =
            module.ensure_termination(FUEL.cast_unsigned()).expect("all functions are valid");
        let wasm = export_global(&module.to_bytes(), FUEL_GLOBAL, fuel);
        let instructions = count(&wasm);
        // The generator forgets relaxed operators.
        let canonical_nans = canonicalizes && !operators(&wasm).any(|it| makes_relaxed_floats(&it));
        Self { seed, wasm, canonical_nans, makes_objects: false, instructions }
    }

    /// A module of a seed that may make objects.
    ///
    /// # Panics
    /// If the generator breaks its promises.
    #[must_use]
    pub fn objects(seed: u64) -> Self {
        let mut random = Random::new(!seed);
        let size = 2048 << random.below(4);
        let bytes = random.bytes(size);
        let config = Config {
            gc_enabled: true,
            tail_call_enabled: true,
            min_types: 8,
            min_globals: 2,
            ..config(true, seed % 8 >= 4)
        };
        let mut module =
            Module::new(config, &mut Unstructured::new(&bytes)).expect("any bytes make a module");
        let fuel = module
            .ensure_termination(FUEL_WITH_OBJECTS.cast_unsigned())
            .expect("all functions are valid");
        let wasm = export_global(&module.to_bytes(), FUEL_GLOBAL, fuel);
        let instructions = count(&wasm);
        Self { seed, wasm, canonical_nans: false, makes_objects: true, instructions }
    }

    /// The program of a seed, which does not trap.
    #[must_use]
    pub fn program(seed: u64) -> Self {
        let wasm = program(seed);
        let instructions = count(&wasm);
        Self { seed, wasm, canonical_nans: true, makes_objects: false, instructions }
    }

    /// How much a call may do.
    #[must_use]
    pub fn fuel(&self) -> i32 {
        if self.makes_objects { FUEL_WITH_OBJECTS } else { FUEL }
    }

    /// Arguments for a call of the function with this name in this round.
    #[must_use]
    pub fn arguments(&self, name: &str, round: u64, types: &[Type]) -> Vec<Value> {
        let start = self.seed ^ round << 56;
        let mark = name.bytes().fold(start, |mark, byte| mark.rotate_left(7) ^ u64::from(byte));
        let mut random = Random::new(mark);
        types.iter().map(|ty| argument(&mut random, *ty)).collect()
    }
}

/// The bounds of what is generated. What only one engine has is left out. Modules
/// without traps get farther.
fn config(canonicalize_nans: bool, disallow_traps: bool) -> Config {
    Config {
        canonicalize_nans,
        disallow_traps,
        export_everything: true,
        max_imports: 0,
        max_memories: 2,
        max_tables: 3,
        max_memory32_bytes: 1 << 20,
        max_memory64_bytes: 1 << 20,
        memory_max_size_required: true,
        max_table_elements: 200,
        table_max_size_required: true,
        max_funcs: 12,
        min_funcs: 4,
        max_instructions: 300,
        custom_page_sizes_enabled: true,
        gc_enabled: false,
        exceptions_enabled: false,
        threads_enabled: false,
        compact_imports_enabled: false,
        tail_call_enabled: false,
        ..Config::default()
    }
}

/// The module with one more export, if it has any.
fn export_global(wasm: &[u8], name: &str, index: u32) -> Vec<u8> {
    let place = |place: u64| usize::try_from(place).expect("the module is in memory");
    let mut module = wasm_encoder::Module::new();
    for payload in wasmparser::Parser::new(0).parse_all(wasm) {
        let payload = payload.expect("the generator writes modules");
        let Some((id, range)) = payload.as_section() else { continue };
        let mut data = wasm[place(range.start)..place(range.end)].to_vec();
        if let wasmparser::Payload::ExportSection(exports) = &payload {
            let others = data.split_off(place(exports.original_position() - range.start));
            data.clear();
            (exports.count() + 1).encode(&mut data);
            name.encode(&mut data);
            data.push(wasm_encoder::ExportKind::Global as u8);
            index.encode(&mut data);
            data.extend(others);
        }
        module.section(&RawSection { id, data: &data });
    }
    module.finish()
}

fn count(wasm: &[u8]) -> usize {
    operators(wasm).count()
}

/// All operators of all functions.
fn operators(wasm: &[u8]) -> impl Iterator<Item = Operator<'_>> {
    let bodies = wasmparser::Parser::new(0).parse_all(wasm).filter_map(|payload| match payload {
        Ok(wasmparser::Payload::CodeSectionEntry(body)) => body.get_operators_reader().ok(),
        _ => None,
    });
    bodies.flat_map(|body| body.into_iter().filter_map(Result::ok))
}

/// Relaxed arithmetic on floats, which may make a NaN that is not canonical.
fn makes_relaxed_floats(operator: &Operator<'_>) -> bool {
    matches!(
        operator,
        Operator::F32x4RelaxedMadd
            | Operator::F32x4RelaxedNmadd
            | Operator::F32x4RelaxedMin
            | Operator::F32x4RelaxedMax
            | Operator::F64x2RelaxedMadd
            | Operator::F64x2RelaxedNmadd
            | Operator::F64x2RelaxedMin
            | Operator::F64x2RelaxedMax
    )
}

/// Half of all numbers are at some edge.
fn argument(random: &mut Random, ty: Type) -> Value {
    const EDGES: [u64; 12] = [
        0,
        1,
        u64::MAX,
        0x7fff_ffff,
        0x8000_0000,
        0xffff_ffff,
        0x7fff_ffff_ffff_ffff,
        0x8000_0000_0000_0000,
        0x3f80_0000,
        0x3ff0_0000_0000_0000,
        0x7f80_0000,
        0x7ff0_0000_0000_0000,
    ];
    let mut bits = || match random.below(2) {
        0 => EDGES[random.below(EDGES.len())],
        _ => random.number(),
    };
    let narrow = |bits: u64| u32::try_from(bits & 0xffff_ffff).unwrap_or_default();
    match ty {
        Type::I32 => Value::I32(narrow(bits())),
        Type::I64 => Value::I64(bits()),
        // Arguments are no NaNs but the canonical one: only arithmetic is to be compared.
        Type::F32 => Value::F32(f32::from_bits(narrow(bits())).to_bits()).canonical(),
        Type::F64 => Value::F64(bits()).canonical(),
        Type::V128 => Value::V128(u128::from(bits()) << 64 | u128::from(bits())),
        Type::FuncRef => Value::FuncRef(false),
        Type::ExternRef => Value::ExternRef(false),
    }
}
