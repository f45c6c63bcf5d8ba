//! Branch tables that only choose among numbers, as tables of numbers.
//!
//! Where each target, but for very few, does nothing but to go on at one place with a number of its own, the table can have the numbers instead of the targets: a
//! load in place of a jump that a processor has to foresee, and of a block for each target. They lie behind the function's code, in as few
//! bytes as the largest of them needs.
//!
//! This is done before the function is optimised, so that what is done with the number is optimised with it.

use std::collections::BTreeSet;

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::EntitySet;
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::immediates::{Ieee32, Ieee64};
use cranelift_codegen::ir::{
    Block, BlockArg, BlockCall, Endianness, ExternalName, Function, GlobalValueData, Inst,
    InstBuilder as _, InstructionData, JumpTable, MemFlagsData, Type, Value, types,
};

use crate::branches::{Target, target};
use crate::constants::{integer, is_constant};
use crate::reference::Reference;

/// Fewer targets are told apart by comparisons: see [`crate::branches`].
const FEW: usize = 4;

/// Puts tables of numbers in the place of branch tables. Returns their bytes, one table behind the other. If there are any, what was known of the
/// graph does not hold any more.
pub(crate) fn choose(func: &mut Function) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut next = func.layout.entry_block();
    while let Some(block) = next {
        next = func.layout.next_block(block);
        let Some(inst) = func.layout.last_inst(block) else { continue };
        if let InstructionData::BranchTable { arg, table, .. } = func.dfg.insts[inst]
            && let Some(choice) = Choice::of(func, table)
        {
            choice.replace(func, inst, arg, table, &mut bytes);
        }
    }
    if !bytes.is_empty() {
        leave_out_unreachable(func);
    }
    bytes
}

/// Takes away the blocks that nothing leads to any more. The code generator does that as well, but looks, for each of them, at all blocks that
/// lead where that one does, which are all that the table led to.
fn leave_out_unreachable(func: &mut Function) {
    let mut reached = EntitySet::with_capacity(func.dfg.num_blocks());
    let mut open: Vec<Block> = func.layout.entry_block().into_iter().collect();
    while let Some(block) = open.pop() {
        if reached.insert(block)
            && let Some(last) = func.layout.last_inst(block)
        {
            let (tables, handlers) = (&func.dfg.jump_tables, &func.dfg.exception_tables);
            let calls = func.dfg.insts[last].branch_destination(tables, handlers);
            open.extend(calls.iter().map(|call| call.block(&func.dfg.value_lists)));
        }
    }
    let mut next = func.layout.entry_block();
    while let Some(block) = next {
        next = func.layout.next_block(block);
        if !reached.contains(block) {
            while let Some(inst) = func.layout.last_inst(block) {
                func.layout.remove_inst(inst);
            }
            func.layout.remove_block(block);
        }
    }
}

/// So many entries may lead elsewhere, each of which is a comparison.
const EXCEPTIONS: usize = 2;

/// What the entries of a table choose among.
struct Choice {
    /// Where all go on, but for the exceptions.
    join: Block,
    args: Vec<Argument>,
    /// The indices that lead elsewhere.
    exceptions: Vec<usize>,
}

/// What a place gets.
enum Argument {
    /// The same of all entries.
    Same(Value),
    /// The same number of all entries, perhaps from an instruction of each.
    Constant(Number),
    /// A number of each.
    Chosen(Vec<Number>),
}

/// A constant: its type, and its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    ty: Type,
    bits: u64,
}

impl Number {
    /// `None` if the value is no constant, or of a type that no table has.
    fn of(func: &Function, value: Value) -> Option<Self> {
        let value = func.dfg.resolve_aliases(value);
        let ty = func.dfg.value_type(value);
        let bits = match (ty, func.dfg.insts[func.dfg.value_def(value).inst()?]) {
            (types::I32 | types::I64, _) => integer(&func.dfg, value)?.cast_unsigned(),
            (_, InstructionData::UnaryIeee32 { imm, .. }) => imm.bits().into(),
            (_, InstructionData::UnaryIeee64 { imm, .. }) => imm.bits(),
            _ => return None,
        };
        Some(Self { ty, bits })
    }

    /// Makes it where the cursor is.
    fn make(self, pos: &mut FuncCursor<'_>) -> Value {
        match self.ty {
            types::F32 => {
                let [a, b, c, d, ..] = self.bits.to_le_bytes();
                pos.ins().f32const(Ieee32::with_bits(u32::from_le_bytes([a, b, c, d])))
            }
            types::F64 => pos.ins().f64const(Ieee64::with_bits(self.bits)),
            ty => pos.ins().iconst(ty, self.bits.cast_signed()),
        }
    }
}

/// Where an entry of a table leads to, past a block that only goes on from there, and with which arguments.
fn destination(func: &Function, entry: &BlockCall) -> Option<(Block, Vec<Value>)> {
    let pool = &func.dfg.value_lists;
    let values = |call: &BlockCall| -> Option<Vec<Value>> {
        call.args(pool).map(|arg| arg.as_value()).collect()
    };
    let block = entry.block(pool);
    if entry.args(pool).len() == 0
        && let Some(call) = goes_on(func, block)
    {
        return Some((call.block(pool), values(&call)?));
    }
    Some((block, values(entry)?))
}

/// Where a block goes on that makes constants, and nothing else.
fn goes_on(func: &Function, block: Block) -> Option<BlockCall> {
    let last = func.layout.last_inst(block)?;
    let InstructionData::Jump { destination, .. } = func.dfg.insts[last] else { return None };
    let mut others = func.layout.block_insts(block).filter(|inst| *inst != last);
    let makes_one = |inst: Inst| is_constant(func.dfg.insts[inst].opcode());
    // Parameters would be known in this block only.
    (others.all(makes_one) && func.dfg.block_params(block).is_empty()).then_some(destination)
}

impl Choice {
    /// `None` if a table of branches is better, or needed.
    fn of(func: &Function, table: JumpTable) -> Option<Self> {
        let entries = func.dfg.jump_tables[table].as_slice();
        let blocks: BTreeSet<Block> =
            entries.iter().map(|entry| entry.block(&func.dfg.value_lists)).collect();
        if blocks.len() <= FEW + EXCEPTIONS {
            return None;
        }
        let destinations = entries.iter().map(|entry| destination(func, entry));
        let destinations: Vec<_> = destinations.collect();
        // Where most go on, one of the first few does.
        let first = destinations.iter().take(EXCEPTIONS + 1).flatten();
        let leads_to = |block: Block, destination: &Option<(Block, Vec<Value>)>| {
            destination.as_ref().is_some_and(|(join, _)| *join == block)
        };
        let others_than = |join: Block| {
            let others = (0..).zip(&destinations).filter(move |(_, it)| !leads_to(join, it));
            others.map(|(index, _)| index).take(EXCEPTIONS + 1)
        };
        let join = first.map(|(join, _)| *join);
        let join = join.into_iter().find(|join| others_than(*join).count() <= EXCEPTIONS)?;
        let exceptions: Vec<usize> = others_than(join).collect();
        let mut args: Vec<Vec<Value>> = vec![Vec::new(); func.dfg.block_params(join).len()];
        for (_, values) in destinations.iter().flatten().filter(|(block, _)| *block == join) {
            for (all, value) in args.iter_mut().zip(values) {
                all.push(*value);
            }
        }
        let argument = |values: Vec<Value>| {
            if values.iter().all(|value| *value == values[0]) {
                // It is known before the table, as several of the targets know it.
                return Some(Argument::Same(values[0]));
            }
            let numbers = values.iter().map(|value| Number::of(func, *value));
            let numbers: Vec<Number> = numbers.collect::<Option<_>>()?;
            Some(match numbers.iter().all(|number| *number == numbers[0]) {
                true => Argument::Constant(numbers[0]),
                false => Argument::Chosen(numbers),
            })
        };
        let args = args.into_iter().map(argument).collect::<Option<Vec<_>>>()?;
        let chosen = args.iter().filter(|it| matches!(it, Argument::Chosen(_))).count();
        // Not so many loads that a jump is better.
        (1..=2).contains(&chosen).then_some(Self { join, args, exceptions })
    }

    /// Replaces a branch by a table.
    fn replace(
        self,
        func: &mut Function,
        branch: Inst,
        index: Value,
        table: JumpTable,
        bytes: &mut Vec<u8>,
    ) {
        let Some(block) = func.layout.inst_block(branch) else { return };
        let length = func.dfg.jump_tables[table].as_slice().len();
        let default = func.dfg.jump_tables[table].default_block();
        let default = target(func, &default);
        let entries = func.dfg.jump_tables[table].as_slice();
        let exceptions =
            self.exceptions.iter().map(|index| (*index, target(func, &entries[*index])));
        let exceptions: Vec<_> = exceptions.collect();
        let mut pos = FuncCursor::new(func).at_inst(branch);
        pos.use_srcloc(branch);
        pos.remove_inst();
        let length = i64::try_from(length).unwrap_or(i64::MAX);
        let outside = pos.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, index, length);
        let mut block = go_on_unless(&mut pos, block, outside, &default);
        for (exception, target) in &exceptions {
            let number = i64::try_from(*exception).unwrap_or(i64::MAX);
            let is_it = pos.ins().icmp_imm_u(IntCC::Equal, index, number);
            block = go_on_unless(&mut pos, block, is_it, target);
        }
        // Speculation past the comparison reads the first number.
        let ty = pos.func.dfg.value_type(index);
        let first = pos.ins().iconst(ty, 0);
        let index = pos.ins().select_spectre_guard(outside, first, index);
        let index = if ty == types::I64 { index } else { pos.ins().uextend(types::I64, index) };
        let args: Vec<BlockArg> = self
            .args
            .iter()
            .map(|argument| match argument {
                Argument::Same(value) => *value,
                Argument::Constant(number) => number.make(&mut pos),
                Argument::Chosen(numbers) => {
                    let mut numbers = numbers.clone();
                    for (exception, _) in &exceptions {
                        // Nobody loads it.
                        numbers.insert(*exception, numbers[0]);
                    }
                    Numbers::of(&numbers).load(&mut pos, index, bytes)
                }
            })
            .map(BlockArg::from)
            .collect();
        pos.ins().jump(self.join, &args);
    }
}

/// Branches to a target if a flag is set. Goes on in the next block, which is returned.
fn go_on_unless(
    pos: &mut FuncCursor<'_>,
    block: Block,
    flag: Value,
    (target, args): &Target,
) -> Block {
    let next = pos.func.dfg.make_block();
    pos.ins().brif(flag, *target, args, next, &[]);
    pos.func.layout.insert_block_after(next, block);
    pos.goto_bottom(next);
    next
}

/// The numbers of a table.
struct Numbers<'a> {
    numbers: &'a [Number],
    ty: Type,
    /// In how many bytes each is stored, as a power of two.
    size_log2: u32,
    /// Whether their highest bit is that of all bits above.
    signed: bool,
}

impl<'a> Numbers<'a> {
    fn of(numbers: &'a [Number]) -> Self {
        let ty = numbers.first().map_or(types::I64, |number| number.ty);
        let whole = ty.bytes().ilog2();
        let narrow =
            (0..whole).filter(|_| ty.is_int()).flat_map(|size| [(size, false), (size, true)]);
        let fits = |(size, signed): &(u32, bool)| {
            let above = 64 - (8 << size);
            numbers.iter().all(|number| {
                // As the upper bits are, of the type.
                let bits = number.bits << (64 - ty.bits());
                let bits = bits.cast_signed() >> (64 - ty.bits());
                match signed {
                    true => bits << above >> above == bits,
                    false => number.bits << above >> above == number.bits,
                }
            })
        };
        let (size_log2, signed) = narrow.clone().find(fits).unwrap_or((whole, false));
        Self { numbers, ty, size_log2, signed }
    }

    /// Adds them to the bytes behind the function, and loads the one at an index.
    fn load(&self, pos: &mut FuncCursor<'_>, index: Value, bytes: &mut Vec<u8>) -> Value {
        let Self { ty, size_log2, signed, .. } = *self;
        let size = 1 << size_log2;
        bytes.resize(bytes.len().next_multiple_of(size), 0);
        // A function is far smaller than this.
        let offset = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        for number in self.numbers {
            bytes.extend_from_slice(&number.bits.to_le_bytes()[..size]);
        }
        let name = pos.func.declare_imported_user_function(Reference::Own.name());
        let symbol = pos.func.create_global_value(GlobalValueData::Symbol {
            name: ExternalName::user(name),
            offset: offset.into(),
            colocated: true,
            tls: false,
        });
        let base = pos.ins().symbol_value(types::I64, symbol);
        let distance = pos.ins().ishl_imm_u(index, i64::from(size_log2));
        let place = pos.ins().iadd(base, distance);
        // A function may begin at any multiple of four bytes.
        let flags = MemFlagsData::new()
            .with_notrap()
            .with_endianness(Endianness::Little)
            .with_readonly()
            .with_can_move();
        match (ty, size, signed) {
            (types::I32 | types::I64, 1, false) => pos.ins().uload8(ty, flags, place, 0),
            (types::I32 | types::I64, 1, true) => pos.ins().sload8(ty, flags, place, 0),
            (types::I32 | types::I64, 2, false) => pos.ins().uload16(ty, flags, place, 0),
            (types::I32 | types::I64, 2, true) => pos.ins().sload16(ty, flags, place, 0),
            (types::I64, 4, false) => pos.ins().uload32(flags, place, 0),
            (types::I64, 4, true) => pos.ins().sload32(flags, place, 0),
            _ => pos.ins().load(ty, flags, place, 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use cranelift_codegen::flowgraph::ControlFlowGraph;
    use cranelift_codegen::ir::{AbiParam, JumpTableData, Opcode};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

    use super::*;

    /// What a target gives to the join.
    #[derive(Clone, Copy)]
    enum Given {
        Number(i64),
        Parameter,
    }
    use Given::{Number as N, Parameter as P};

    /// A function with a table of targets, each of which goes on at one place with what is given to it, or elsewhere. What lies behind it now, and whether
    /// the branch is gone.
    fn chosen(targets: &[Option<&[Given]>], ty: Type) -> (Vec<u8>, bool) {
        let mut func = Function::new();
        func.signature.params.extend([types::I32, ty].map(AbiParam::new));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let entry = builder.create_block();
        builder.append_block_params_for_function_params(entry);
        let (join, elsewhere) = (builder.create_block(), builder.create_block());
        let count = targets.iter().flatten().map(|given| given.len()).max().unwrap_or(0);
        for _ in 0..count {
            builder.append_block_param(join, ty);
        }
        builder.switch_to_block(entry);
        let &[index, parameter] = builder.block_params(entry) else { panic!() };
        let blocks: Vec<Block> = targets.iter().map(|_| builder.create_block()).collect();
        let no_args: &[BlockArg] = &[];
        let mut call = |block: &Block| builder.func.dfg.block_call(*block, no_args);
        let calls: Vec<_> = blocks.iter().map(&mut call).collect();
        let default = call(&elsewhere);
        let table = builder.create_jump_table(JumpTableData::new(default, &calls));
        builder.ins().br_table(index, table);
        for (block, given) in blocks.into_iter().zip(targets) {
            builder.switch_to_block(block);
            let Some(given) = given else {
                builder.ins().jump(elsewhere, no_args);
                continue;
            };
            let values = given.iter().map(|given| match given {
                P => parameter,
                N(number) => builder.ins().iconst(ty, *number),
            });
            let values: Vec<BlockArg> = values.map(BlockArg::from).collect();
            builder.ins().jump(join, &values);
        }
        for block in [join, elsewhere] {
            builder.switch_to_block(block);
            builder.ins().return_(&[]);
        }
        builder.seal_all_blocks();
        builder.finalize(cranelift_codegen::isa::TargetFrontendConfig {
            default_call_conv: cranelift_codegen::isa::CallConv::Tail,
            pointer_width: target_lexicon::PointerWidth::U64,
            page_size_align_log2: 12,
        });
        let bytes = choose(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        let last = func.layout.last_inst(entry).unwrap();
        let is_gone = func.dfg.insts[last].opcode() != Opcode::BrTable;
        assert_eq!(is_gone, !bytes.is_empty());
        // Nothing is left that nothing leads to.
        let graph = ControlFlowGraph::with_function(&func);
        let is_reached = |block| block == entry || graph.pred_iter(block).next().is_some();
        assert!(func.layout.blocks().all(is_reached));
        (bytes, is_gone)
    }

    #[test]
    fn numbers_are_in_as_few_bytes_as_they_need() {
        let bytes = |numbers: [i64; 7], ty| {
            let targets = numbers.map(|number| [N(number)]);
            chosen(&targets.each_ref().map(|it| Some(&it[..])), ty).0
        };
        assert_eq!(bytes([3, 255, 0, 1, 2, 4, 5], types::I32), [3, 255, 0, 1, 2, 4, 5]);
        assert_eq!(bytes([3, -128, 0, 1, 2, 4, 5], types::I32), [3, 128, 0, 1, 2, 4, 5]);
        for (number, ty, size) in [
            (256, types::I32, 2),
            (-129, types::I32, 2),
            (65536, types::I32, 4),
            (i64::from(u32::MAX), types::I32, 1),
            (i64::from(u32::MAX), types::I64, 4),
            (-32768, types::I64, 2),
            (-32769, types::I64, 4),
            (1 << 32, types::I64, 8),
            (i64::MIN, types::I64, 8),
        ] {
            let found = bytes([0, 1, 2, number, 4, 5, 6], ty);
            assert_eq!(found.len(), 7 * size, "{number}");
            assert_eq!(found[3 * size..4 * size], number.to_le_bytes()[..size], "{number}");
        }
    }

    #[test]
    fn a_few_may_lead_elsewhere() {
        let numbers: Vec<[Given; 1]> = (0..9).map(|number| [N(number)]).collect();
        for (elsewhere, expected) in [
            (&[][..], Some(vec![0, 1, 2, 3, 4, 5, 6, 7, 8])),
            (&[3], Some(vec![0, 1, 2, 0, 4, 5, 6, 7, 8])),
            (&[0, 1], Some(vec![2, 2, 2, 3, 4, 5, 6, 7, 8])),
            (&[0, 1, 8], None),
        ] {
            let target =
                |number: usize| (!elsewhere.contains(&number)).then_some(&numbers[number][..]);
            let targets: Vec<_> = (0..9).map(target).collect();
            let (bytes, is_gone) = chosen(&targets, types::I32);
            assert_eq!(is_gone.then_some(bytes), expected, "{elsewhere:?}");
        }
    }

    #[test]
    fn other_tables_stay() {
        let table = |count: i64, given: &dyn Fn(i64) -> Vec<Given>| {
            let all: Vec<_> = (0..count).map(given).collect();
            let targets: Vec<_> = all.iter().map(|given| Some(&given[..])).collect();
            chosen(&targets, types::I64)
        };
        assert!(table(7, &|number| vec![N(number)]).1);
        // Few targets.
        assert!(!table(6, &|number| vec![N(number)]).1);
        // With something else, the same for all.
        assert!(table(7, &|number| vec![P, N(number), N(9)]).1);
        assert!(table(7, &|number| vec![N(number), P, N(-number)]).1);
        // Something else for one, and nothing to choose.
        assert!(!table(7, &|number| vec![if number == 3 { P } else { N(number) }]).1);
        assert!(!table(7, &|_| vec![P]).1);
        assert!(!table(7, &|_| vec![N(1)]).1);
        // Too much to choose.
        assert!(!table(7, &|number| vec![N(number), N(-number), N(number * 2)]).1);
        assert!(!table(7, &|_| vec![]).1);
    }
}
