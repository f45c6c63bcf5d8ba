//! What becomes of loops, and that they access the same addresses: functions are run before and after, with everything that they may
//! begin with.

use cranelift_codegen::ir::condcodes::{CondCode as _, IntCC};
use cranelift_codegen::ir::{AbiParam, BlockArg, MemFlagsData};
use cranelift_codegen::settings::{self, Flags};
use cranelift_codegen::verify_function;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use proptest::prelude::*;
use proptest::sample::select;

use super::*;

use Opcode::{Brif, Iadd, Ireduce, Load, Store, Uextend};

/// A function with that done to it.
fn widened(mut func: Function) -> Function {
    let cfg = ControlFlowGraph::with_function(&func);
    let domtree = DominatorTree::with_function(&func, &cfg);
    widen(&mut func, &cfg, &domtree);
    verify_function(&func, &Flags::new(settings::builder())).unwrap();
    func
}

/// A loop that carries `p`, and counts `i` up to zero. Its body accesses memory, and returns what `p` is next; the
/// memory's base and another number are parameters of the function.
struct Loop<'a> {
    starts: [Option<i64>; 2],
    body: &'a dyn Fn(&mut FunctionBuilder<'_>, [Value; 4]) -> Value,
}

impl Loop<'_> {
    /// What the loop's block does then, without constants, and the offsets of its loads.
    fn widened(&self) -> (Vec<Opcode>, Vec<i32>) {
        let mut func = Function::new();
        func.signature.params.extend([types::I64, types::I32].map(AbiParam::new));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, header, exit] = [0; 3].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let [base, number] = *builder.block_params(entry) else { panic!() };
        let [p, i] = [0; 2].map(|_| builder.append_block_param(header, types::I32));
        builder.switch_to_block(entry);
        let starts = self.starts.map(|start| match start {
            Some(start) => builder.ins().iconst(types::I32, start).into(),
            None => number.into(),
        });
        builder.ins().jump(header, &starts);
        builder.switch_to_block(header);
        let next = (self.body)(&mut builder, [base, number, p, i]);
        let four = builder.ins().iconst(types::I32, 4);
        let count = builder.ins().iadd(i, four);
        builder.ins().brif(count, header, &[next.into(), count.into()], exit, &[]);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        let func = widened(func);
        // What nobody uses is not generated.
        let mut used: Vec<Value> = Vec::new();
        let mut insts = Vec::new();
        let mut inst = func.layout.last_inst(header);
        while let Some(it) = inst {
            inst = func.layout.prev_inst(it);
            let results = func.dfg.inst_results(it);
            if results.is_empty() || results.iter().any(|result| used.contains(result)) {
                used.extend(func.dfg.inst_values(it));
                insts.insert(0, func.dfg.insts[it]);
            }
        }
        let loads = insts.iter().filter(|inst| inst.opcode() == Load);
        let offsets = loads.filter_map(|inst| inst.load_store_offset());
        let opcodes = insts.iter().map(|inst| inst.opcode()).filter(|it| *it != Opcode::Iconst);
        (opcodes.collect(), offsets.collect())
    }
}

/// Loads at an index and an offset, and stores that without an index.
fn load(builder: &mut FunctionBuilder<'_>, base: Value, index: Value, offset: i32) -> Value {
    let index = builder.ins().uextend(types::I64, index);
    let address = builder.ins().iadd(base, index);
    let loaded = builder.ins().load(types::I32, MemFlagsData::new(), address, offset);
    builder.ins().store(MemFlagsData::new(), loaded, base, 1);
    loaded
}

fn plus(builder: &mut FunctionBuilder<'_>, value: Value, constant: i64) -> Value {
    let constant = builder.ins().iconst(types::I32, constant);
    builder.ins().iadd(value, constant)
}

#[test]
fn a_pointer_is_made_longer_on_its_ways_into_the_loop() {
    let walk = |starts| {
        let body = |builder: &mut FunctionBuilder<'_>, [base, _, p, _]: [Value; 4]| {
            load(builder, base, p, 0);
            plus(builder, p, 8)
        };
        Loop { starts, body: &body }.widened()
    };
    let opcodes = vec![Ireduce, Iadd, Load, Store, Iadd, Iadd, Uextend, Brif];
    assert_eq!(walk([None, None]), (opcodes.clone(), vec![0]));
    assert_eq!(walk([Some(-8 & 0xffff_ffff), None]), (opcodes, vec![0]));
}

#[test]
fn a_pointer_of_which_more_would_have_to_be_known_stays() {
    let stays = |next: fn(&mut FunctionBuilder<'_>, [Value; 3]) -> Value| {
        let body = |builder: &mut FunctionBuilder<'_>, [base, number, p, _]: [Value; 4]| {
            let loaded = load(builder, base, p, 0);
            next(builder, [number, p, loaded])
        };
        let (opcodes, _) = Loop { starts: [None; 2], body: &body }.widened();
        opcodes[0] == Uextend
    };
    // What is loaded, or was passed to the function, is not known to be long in its register.
    assert!(stays(|_, [_, _, loaded]| loaded));
    assert!(stays(|_, [number, _, _]| number));
    assert!(!stays(|builder, [number, p, _]| builder.ins().isub(p, number)));
    assert!(!stays(|_, [_, p, _]| p));
    // There is much to do in a turn.
    assert!(!stays(|builder, [number, p, _]| {
        (0..10).fold(p, |p, _| builder.ins().iadd(p, number))
    }));
    assert!(stays(|builder, [number, p, _]| {
        (0..64).fold(p, |p, _| builder.ins().iadd(p, number))
    }));
    // Nothing is accessed by a pointer itself.
    let body = |builder: &mut FunctionBuilder<'_>, [base, number, p, _]: [Value; 4]| {
        let sum = builder.ins().iadd(p, number);
        load(builder, base, sum, 0);
        plus(builder, p, 8)
    };
    let (opcodes, _) = Loop { starts: [None; 2], body: &body }.widened();
    assert_eq!(opcodes[..2], [Iadd, Uextend], "{opcodes:?}");
}

#[test]
fn a_count_and_a_constant_are_an_operand() {
    let count = |start: i64, constant, offset| {
        let body = |builder: &mut FunctionBuilder<'_>, [base, _, p, i]: [Value; 4]| {
            let sum = plus(builder, i, constant);
            load(builder, base, sum, offset);
            p
        };
        let starts = [None, Some(start & 0xffff_ffff)];
        Loop { starts, body: &body }.widened()
    };
    let operand = vec![Iadd, Load, Store, Iadd, Brif];
    assert_eq!(count(-0x1000, 0xecf0, 16), (operand.clone(), vec![0xed00]));
    assert_eq!(count(-0x1000, 0x1000, 16), (operand, vec![0x1010]));
    let stays = vec![Iadd, Uextend, Iadd, Load, Store, Iadd, Brif];
    // The first sums are at the end of what 32 bits reach.
    assert_eq!(count(-0x1000, 0xffc, 16), (stays.clone(), vec![16]));
    // Zero is not arrived at.
    assert_eq!(count(-0x1001, 0xecf0, 16), (stays.clone(), vec![16]));
    // The constant is no offset.
    assert_eq!(count(-0x1000, 0x8000_1000, 16), (stays, vec![16]));
    // It is, but not with that of the access.
    let apart = vec![Iadd, Iadd, Load, Store, Iadd, Brif];
    assert_eq!(count(-0x1000, 0x7fff_fff0, 16), (apart, vec![16]));
}

#[test]
fn a_count_that_is_not_compared_is_known_as_well() {
    let body = |builder: &mut FunctionBuilder<'_>, [base, _, p, _]: [Value; 4]| {
        let sum = plus(builder, p, 0x500);
        load(builder, base, sum, 0);
        plus(builder, p, -2)
    };
    let offsets =
        |start| Loop { starts: [Some(start), Some(0xffff_ff00)], body: &body }.widened().1;
    // 64 turns.
    assert_eq!(offsets(0x100), [0x500]);
    assert_eq!(offsets(-0x480 & 0xffff_ffff), [0x500]);
    assert_eq!(offsets(-0x482 & 0xffff_ffff), [0x500]);
    assert_eq!(offsets(-0x483 & 0xffff_ffff), [0]);
}

#[test]
fn what_is_no_access_gets_the_same_number() {
    let body = |builder: &mut FunctionBuilder<'_>, [base, _, p, i]: [Value; 4]| {
        let sum = plus(builder, i, 0x2000);
        let index = builder.ins().uextend(types::I64, sum);
        builder.ins().store(MemFlagsData::new(), index, base, 8);
        p
    };
    let (opcodes, _) = Loop { starts: [None, Some(0xffff_f000)], body: &body }.widened();
    assert_eq!(opcodes, [Iadd, Store, Iadd, Brif]);
}

#[test]
fn a_count_below_zero_is_made_longer_for_others() {
    // What is passed to an inner loop as its pointer, which is the count of an outer one up to zero: that itself, or what computes it.
    let passed_on = |start, step| {
        let of = |of, added| Made { of, added, masked: false };
        let until_zero = |of_pointer| Question {
            of_pointer,
            order: IntCC::NotEqual,
            end: 0,
            second_goes_on: false,
        };
        let nest = Nest {
            starts: [start, 0],
            steps: [step, 1],
            pointer: of(1, 0),
            next_pointer: of(3, 12),
            outer: until_zero(false),
            inner: until_zero(true),
            accesses: vec![(0, of(1, 0x1000), 0), (1, of(3, 0), 0)],
        };
        let func = widened(nest.build());
        let mut blocks = func.layout.blocks().skip(1);
        let [outer, inner] = [0; 2].map(|_| blocks.next().unwrap());
        for block in [outer, inner] {
            let types: Vec<_> = func.dfg.block_param_types(block).collect();
            assert_eq!(types.last(), Some(&types::I64), "{func}");
        }
        let jump = func.layout.last_inst(outer).unwrap();
        let passed = func.dfg.inst_values(jump).last().unwrap();
        let is_count = passed == func.dfg.block_params(outer)[0];
        let computed = func.dfg.value_def(passed).inst();
        (is_count, computed.map(|inst| func.dfg.insts[inst].opcode()))
    };
    // The number is the index only if it is not below zero.
    assert_eq!(passed_on(400, -4), (true, None));
    assert_eq!(passed_on(-400, 4), (false, Some(Uextend)));
}

/// What a function of a few operations accesses when it runs, up to so many blocks: addresses, with offsets.
fn accessed(func: &Function, parameters: [u64; 2]) -> Vec<u64> {
    let dfg = &func.dfg;
    let mut values: FxHashMap<Value, u64> = FxHashMap::default();
    let mut addresses = Vec::new();
    let mut block = func.layout.entry_block().unwrap();
    let mut passed = parameters.to_vec();
    for _ in 0..600 {
        values.extend(dfg.block_params(block).iter().copied().zip(passed));
        let mut next = None;
        for inst in func.layout.block_insts(block) {
            let get = |value: Value| values[&dfg.resolve_aliases(value)];
            let bits = |value: Value| dfg.value_type(value).bits();
            let mut go = |edge: usize| {
                let targets =
                    dfg.insts[inst].branch_destination(&dfg.jump_tables, &dfg.exception_tables);
                let arguments = targets[edge].args(&dfg.value_lists);
                let arguments = arguments.map(|it| get(it.as_value().unwrap())).collect::<Vec<_>>();
                next = Some((targets[edge].block(&dfg.value_lists), arguments));
            };
            let mut access = |address: Value, offset: i32| {
                let address = get(address).wrapping_add_signed(offset.into());
                addresses.push(address);
                address
            };
            let result = match dfg.insts[inst] {
                InstructionData::UnaryImm { opcode: Opcode::Iconst, imm } => {
                    imm.bits().cast_unsigned()
                }
                InstructionData::Unary { opcode: Uextend | Ireduce, arg } => get(arg),
                InstructionData::Binary { opcode, args: [a, b] } => {
                    let (a, b) = (get(a), get(b));
                    match opcode {
                        Iadd => a.wrapping_add(b),
                        Opcode::Isub => a.wrapping_sub(b),
                        Opcode::Ishl => a << b,
                        Opcode::Band => a & b,
                        other => panic!("{other}"),
                    }
                }
                InstructionData::IntCompare { cond, args: [a, b], .. } => {
                    let unused = 64 - bits(a);
                    let signed = |value| get(value).cast_signed() << unused >> unused;
                    u64::from(match cond {
                        IntCC::Equal => get(a) == get(b),
                        IntCC::NotEqual => get(a) != get(b),
                        IntCC::UnsignedLessThan => get(a) < get(b),
                        IntCC::UnsignedLessThanOrEqual => get(a) <= get(b),
                        IntCC::UnsignedGreaterThan => get(a) > get(b),
                        IntCC::UnsignedGreaterThanOrEqual => get(a) >= get(b),
                        IntCC::SignedLessThan => signed(a) < signed(b),
                        IntCC::SignedLessThanOrEqual => signed(a) <= signed(b),
                        IntCC::SignedGreaterThan => signed(a) > signed(b),
                        IntCC::SignedGreaterThanOrEqual => signed(a) >= signed(b),
                    })
                }
                // Of what lies there, something is loaded.
                InstructionData::Load { arg, offset, .. } => access(arg, offset.into()) >> 3 & 0xff,
                InstructionData::Store { args: [_, address], offset, .. } => {
                    access(address, offset.into())
                }
                InstructionData::Jump { .. } => {
                    go(0);
                    0
                }
                InstructionData::Brif { arg, .. } => {
                    go(usize::from(get(arg) == 0));
                    0
                }
                InstructionData::MultiAry { opcode: Opcode::Return, .. } => return addresses,
                other => panic!("{other:?}"),
            };
            if let Some(value) = dfg.inst_results(inst).first() {
                values.insert(*value, result & u64::MAX >> (64 - bits(*value)));
            }
        }
        (block, passed) = next.unwrap();
    }
    addresses
}

/// What a value is made of: one of those that there are, or a constant.
#[derive(Clone, Copy, Debug)]
struct Made {
    of: usize,
    added: i64,
    masked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Question {
    /// Of the pointer, and not of the count.
    of_pointer: bool,
    order: IntCC,
    end: i64,
    second_goes_on: bool,
}

/// A loop in a loop. The outer one counts, and so does the inner one, which carries a pointer besides.
#[derive(Clone, Debug)]
struct Nest {
    starts: [i64; 2],
    steps: [i64; 2],
    pointer: Made,
    next_pointer: Made,
    outer: Question,
    inner: Question,
    /// In the outer loop, the inner one, and behind that: an index and an offset.
    accesses: Vec<(usize, Made, i32)>,
}

impl Nest {
    fn build(&self) -> Function {
        let mut func = Function::new();
        func.signature.params.extend([types::I64, types::I32].map(AbiParam::new));
        let mut memory = FunctionBuilderContext::new();
        let mut builder = FunctionBuilder::new(&mut func, &mut memory);
        let [entry, outer, inner, latch, exit] = [0; 5].map(|_| builder.create_block());
        builder.append_block_params_for_function_params(entry);
        let [base, number] = *builder.block_params(entry) else { panic!() };
        let [i, k, p] =
            [outer, inner, inner].map(|block| builder.append_block_param(block, types::I32));
        let constant = |builder: &mut FunctionBuilder<'_>, value: i64| {
            builder.ins().iconst(types::I32, value & 0xffff_ffff)
        };
        let make = |builder: &mut FunctionBuilder<'_>, values: &[Value], made: Made| {
            let added = constant(builder, made.added);
            let Some(of) = values.get(made.of) else { return added };
            let of = match made.masked {
                true => {
                    let masked = builder.ins().band_imm_u(*of, 0xff);
                    builder.ins().ishl_imm_u(masked, 2)
                }
                false => *of,
            };
            if made.added == 0 { of } else { builder.ins().iadd(of, added) }
        };
        let access = |builder: &mut FunctionBuilder<'_>, place: usize, values: &[Value]| {
            let here = self.accesses.iter().filter(|(at, ..)| *at == place);
            for (number, (_, index, offset)) in here.enumerate() {
                let index = make(builder, values, *index);
                let index = builder.ins().uextend(types::I64, index);
                let address = builder.ins().iadd(base, index);
                if number % 2 == 0 {
                    builder.ins().load(types::I32, MemFlagsData::new(), address, *offset);
                } else {
                    builder.ins().store(MemFlagsData::new(), base, address, *offset);
                }
            }
        };
        let ask = |builder: &mut FunctionBuilder<'_>,
                   question: Question,
                   [count, pointer]: [Value; 2],
                   back: (Block, &[Value]),
                   out: Block| {
            let asked = if question.of_pointer { pointer } else { count };
            let order = match question.second_goes_on {
                true => question.order.complement(),
                false => question.order,
            };
            let asked = if question.end == 0 && order == IntCC::NotEqual {
                asked
            } else {
                let end = constant(builder, question.end);
                builder.ins().icmp(order, asked, end)
            };
            let arguments: Vec<BlockArg> = back.1.iter().map(|it| (*it).into()).collect();
            match question.second_goes_on {
                true => builder.ins().brif(asked, out, &[], back.0, &arguments),
                false => builder.ins().brif(asked, back.0, &arguments, out, &[]),
            };
        };
        builder.switch_to_block(entry);
        let start = constant(&mut builder, self.starts[0]);
        builder.ins().jump(outer, &[start.into()]);
        builder.switch_to_block(outer);
        access(&mut builder, 0, &[number, i]);
        let start = constant(&mut builder, self.starts[1]);
        let pointer = make(&mut builder, &[number, i], self.pointer);
        builder.ins().jump(inner, &[start.into(), pointer.into()]);
        builder.switch_to_block(inner);
        access(&mut builder, 1, &[number, i, k, p]);
        let step = constant(&mut builder, self.steps[1]);
        let next = builder.ins().iadd(k, step);
        let mut next_pointer = make(&mut builder, &[number, i, k, p], self.next_pointer);
        if self.next_pointer.of < 3 {
            next_pointer = builder.ins().iadd(p, next_pointer);
        }
        access(&mut builder, 2, &[number, i, next, next_pointer]);
        ask(&mut builder, self.inner, [next, next_pointer], (inner, &[next, next_pointer]), latch);
        builder.switch_to_block(latch);
        let step = constant(&mut builder, self.steps[0]);
        let next = builder.ins().iadd(i, step);
        ask(&mut builder, self.outer, [next, next], (outer, &[next]), exit);
        builder.switch_to_block(exit);
        builder.ins().return_(&[]);
        builder.seal_all_blocks();
        func
    }
}

fn near() -> impl Strategy<Value = i64> {
    let near = select(vec![0, 0x1000, 1 << 31, -1 << 31, -0x1000]);
    (near, -20_i64..20).prop_map(|(near, distance)| near + distance)
}

prop_compose! {
    fn made(values: usize)(
        of in 0..=values,
        added in prop_oneof![Just(0), near(), select(vec![4, -4])],
        masked in prop::bool::weighted(0.2),
    ) -> Made {
        Made { of, added, masked }
    }
}

prop_compose! {
    fn question()(
        of_pointer in prop::bool::weighted(0.3),
        order in select(vec![
            IntCC::NotEqual, IntCC::NotEqual, IntCC::UnsignedLessThan, IntCC::UnsignedLessThanOrEqual,
            IntCC::UnsignedGreaterThan, IntCC::SignedLessThan, IntCC::SignedGreaterThan,
        ]),
        end in prop_oneof![Just(0), near()],
        second_goes_on in any::<bool>(),
    ) -> Question {
        Question { of_pointer, order, end, second_goes_on }
    }
}

prop_compose! {
    fn nests()(
        starts in [near(), near()],
        steps in [select(vec![4, 1, -4, 8]), select(vec![4, 1, -4, 8])],
        turns in [prop::option::weighted(0.7, 1_i64..12), prop::option::weighted(0.7, 1_i64..12)],
        // The outer count itself, mostly.
        pointer in prop_oneof![made(2), Just(Made { of: 1, added: 0, masked: false })],
        next_pointer in made(4),
        mut outer in question(),
        mut inner in question(),
        accesses in prop::collection::vec(
            (
                0_usize..3,
                prop_oneof![
                    made(4),
                    Just(Made { of: 1, added: 0x1000, masked: false }),
                    Just(Made { of: 3, added: 0, masked: false }),
                ],
                select(vec![0, 8, 0x7fff_ff00]),
            ),
            1..6,
        ),
    ) -> Nest {
        // In whole steps, mostly.
        for (number, question) in [&mut outer, &mut inner].into_iter().enumerate() {
            if let Some(turns) = turns[number] {
                question.end = (starts[number] + turns * steps[number]) << 32 >> 32;
            }
        }
        Nest { starts, steps, pointer, next_pointer, outer, inner, accesses }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_same_addresses_are_accessed(nest in nests(), number in near()) {
        let before = nest.build();
        let after = widened(before.clone());
        let parameters = [0x7000_0000_0000, number.cast_unsigned() & 0xffff_ffff];
        prop_assert_eq!(accessed(&before, parameters), accessed(&after, parameters), "{} {}", before, after);
    }
}
