//! Branches by a condition that was chosen, as branches by what it was chosen by.
//!
//! `if (select a 1 b)` is "unless `b`, or `a`". Binaryen makes thousands of these of a program that can be stopped and go on later
//! (*Asyncify*): each call is made if the program runs as usual, or if it is the one to go on in. As a value, that is two comparisons, a
//! choice, and a third comparison; as two branches, it is one comparison as a rule, of which a processor knows how it ends.
//!
//! A choice that is used for something else as well stays one. And so does a condition that is computed from others in any other way: who
//! wrote `a & b` may have wanted no branch.

use cranelift_codegen::cursor::{Cursor as _, FuncCursor};
use cranelift_codegen::entity::SecondaryMap;
use cranelift_codegen::ir::condcodes::{CondCode as _, IntCC};
use cranelift_codegen::ir::{
    Block, BlockCall, Function, Inst, InstBuilder as _, InstructionData, Opcode, Value,
};

use crate::branches::target;
use crate::constants::integer;
use crate::uses;

/// Branches by the parts of conditions. Returns whether there are more blocks than before: then what was known of the graph does not hold any
/// more.
pub(crate) fn split(func: &mut Function) -> bool {
    let mut asked = Vec::new();
    let mut has_choices = false;
    let mut next = func.layout.entry_block();
    while let Some(block) = next {
        next = func.layout.next_block(block);
        let Some(branch) = func.layout.last_inst(block) else { continue };
        asked.extend(peel(func, branch));
        has_choices |= Choice::of(func, branch).is_some();
    }
    if !has_choices {
        return false;
    }
    let mut uses = Uses::of(func);
    for value in asked {
        uses.leave_out(func, value);
    }
    let mut changed = false;
    let mut next = func.layout.entry_block();
    while let Some(block) = next {
        if let Some(branch) = func.layout.last_inst(block)
            && let Some(choice) = Choice::of(func, branch)
            && uses.are_only(&choice.values)
        {
            choice.replace(func, branch, block, &mut uses);
            changed = true;
        }
        // What is asked in a new block may be a choice, too.
        next = func.layout.next_block(block);
    }
    changed
}

/// Lets a branch ask for the flag itself, in place of the number made of it. Returns what it asked for before, if it does.
fn peel(func: &mut Function, branch: Inst) -> Option<Value> {
    let InstructionData::Brif { arg, blocks, .. } = func.dfg.insts[branch] else { return None };
    let asked = func.dfg.resolve_aliases(arg);
    let mut flag = asked;
    while let Some(inner) = extended(func, flag) {
        flag = inner;
    }
    // The opposite of a comparison is another one, and the optimiser knows only those of integers.
    if let Some(number) = negated(func, flag)
        && let Some(opposite) = extended(func, number)
        && let Some(inst) = func.dfg.value_def(opposite).inst()
        && let InstructionData::FloatCompare { cond, args: [a, b], .. } = func.dfg.insts[inst]
    {
        flag = FuncCursor::new(func).at_inst(branch).ins().fcmp(cond.complement(), a, b);
    }
    func.dfg.insts[branch] = InstructionData::Brif { opcode: Opcode::Brif, arg: flag, blocks };
    (flag != asked).then_some(asked)
}

/// What a value is made of by adding zeros.
fn extended(func: &Function, value: Value) -> Option<Value> {
    match func.dfg.insts[func.dfg.value_def(value).inst()?] {
        InstructionData::Unary { opcode: Opcode::Uextend, arg } => {
            Some(func.dfg.resolve_aliases(arg))
        }
        _ => None,
    }
}

/// What is zero if and only if a value is not.
fn negated(func: &Function, value: Value) -> Option<Value> {
    match func.dfg.insts[func.dfg.value_def(value).inst()?] {
        InstructionData::IntCompare { cond: IntCC::Equal, args: [value, zero], .. } => {
            (integer(&func.dfg, zero) == Some(0)).then(|| func.dfg.resolve_aliases(value))
        }
        _ => None,
    }
}

/// How often each value is used.
struct Uses(SecondaryMap<Value, u32>);

impl Uses {
    fn of(func: &Function) -> Self {
        Self(uses::count(func))
    }

    /// Whether each is used once.
    fn are_only(&self, values: &[Value]) -> bool {
        values.iter().all(|value| self.0[*value] == 1)
    }

    /// Counts one more.
    fn add(&mut self, func: &Function, value: Value) {
        self.0[func.dfg.resolve_aliases(value)] += 1;
    }

    /// Leaves out what only computes a value that nobody uses, and what is only there for that.
    fn leave_out(&mut self, func: &mut Function, value: Value) {
        let computes = [Opcode::Select, Opcode::Uextend, Opcode::Icmp];
        let mut open = vec![value];
        while let Some(value) = open.pop() {
            let Some(inst) = func.dfg.value_def(value).inst() else { continue };
            // It may have been used twice by what is gone, and be gone itself.
            let is_there = func.layout.inst_block(inst).is_some();
            let opcode = func.dfg.insts[inst].opcode();
            if self.0[value] > 0 || !is_there || !computes.contains(&opcode) {
                continue;
            }
            let args = func.dfg.inst_args(inst).iter();
            let args: Vec<Value> = args.map(|arg| func.dfg.resolve_aliases(*arg)).collect();
            func.layout.remove_inst(inst);
            for arg in &args {
                self.0[*arg] = self.0[*arg].saturating_sub(1);
            }
            open.extend(args);
        }
    }
}

/// A branch by a choice between a number that is known and a value that is not.
struct Choice {
    /// What the branch asks for, what that is made of, and so on: the last is what was chosen.
    values: Vec<Value>,
    by: Value,
    /// Where the branch leads to if the number was chosen.
    known: BlockCall,
    /// Whether the number is chosen if what it is chosen by is not zero.
    known_if_set: bool,
    /// The other value, and where it leads to.
    other: Value,
    targets: [BlockCall; 2],
}

impl Choice {
    fn of(func: &Function, branch: Inst) -> Option<Self> {
        let InstructionData::Brif { arg, blocks: [mut yes, mut no], .. } = func.dfg.insts[branch]
        else {
            return None;
        };
        let mut value = func.dfg.resolve_aliases(arg);
        // Nothing, as a rule.
        let mut values = Vec::new();
        let [by, set, clear] = loop {
            match func.dfg.insts[func.dfg.value_def(value).inst()?] {
                InstructionData::Ternary { opcode: Opcode::Select, args } => break args,
                InstructionData::IntCompare { .. } => {
                    let inner = negated(func, value)?;
                    values.push(value);
                    (value, yes, no) = (inner, no, yes);
                }
                _ => {
                    let inner = extended(func, value)?;
                    values.push(value);
                    value = inner;
                }
            }
        };
        values.push(value);
        let (known_if_set, number, other) =
            match (integer(&func.dfg, set), integer(&func.dfg, clear)) {
                (Some(number), _) => (true, number, clear),
                (_, Some(number)) => (false, number, set),
                _ => return None,
            };
        let known = if number == 0 { no } else { yes };
        Some(Self { values, by, known, known_if_set, other, targets: [yes, no] })
    }

    fn replace(self, func: &mut Function, branch: Inst, block: Block, uses: &mut Uses) {
        let Self { values, by, known, known_if_set, other, targets } = self;
        let known = target(func, &known);
        let [yes, no] = targets.each_ref().map(|call| target(func, call));
        let mut pos = FuncCursor::new(func).at_inst(branch);
        pos.use_srcloc(branch);
        pos.remove_inst();
        let rest = (pos.func.dfg.make_block(), Vec::new());
        let (set, clear) = if known_if_set { (&known, &rest) } else { (&rest, &known) };
        pos.ins().brif(by, set.0, &set.1, clear.0, &clear.1);
        pos.func.layout.insert_block_after(rest.0, block);
        pos.goto_bottom(rest.0);
        let branch = pos.ins().brif(other, yes.0, &yes.1, no.0, &no.1);
        uses.add(func, by);
        uses.add(func, other);
        // The branch was the only one that asked for it.
        uses.0[values[0]] = 0;
        uses.leave_out(func, values[0]);
        if let Some(asked) = peel(func, branch)
            && let InstructionData::Brif { arg, .. } = func.dfg.insts[branch]
        {
            uses.add(func, arg);
            uses.0[asked] -= 1;
            uses.leave_out(func, asked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use cranelift_codegen::cursor::CursorPosition;
    use cranelift_codegen::ir::condcodes::FloatCC;
    use cranelift_codegen::ir::{AbiParam, BlockArg, types};
    use cranelift_codegen::settings::{self, Flags};
    use cranelift_codegen::verify_function;
    use proptest::prelude::*;

    use super::*;

    /// A condition of three parameters.
    #[derive(Clone, Debug, PartialEq)]
    enum Condition {
        Parameter(usize),
        Number(i64),
        /// Whether two parameters are equal, as a number.
        Equal(usize, usize),
        /// The same for whether one, as a float, is less than another. A negative one is no number.
        Less(usize, usize),
        /// Whether it is this number, as a number.
        Is(i64, Box<Condition>),
        Select(Box<[Condition; 3]>),
    }
    use Condition::{Equal, Is, Less, Number, Parameter, Select};

    fn conditions() -> impl Strategy<Value = Condition> {
        let leaf = prop_oneof![
            (0_usize..3).prop_map(Parameter),
            (0_i64..3).prop_map(Number),
            (0_usize..3, 0_usize..3).prop_map(|(a, b)| Equal(a, b)),
            (0_usize..3, 0_usize..3).prop_map(|(a, b)| Less(a, b)),
        ];
        leaf.prop_recursive(4, 24, 3, |inner| {
            prop_oneof![
                (0_i64..3, inner.clone()).prop_map(|(number, it)| Is(number, Box::new(it))),
                [inner.clone(), inner.clone(), inner].prop_map(|all| Select(Box::new(all))),
            ]
        })
    }

    fn float(parameter: i64) -> f64 {
        match parameter {
            0.. => parameter as f64,
            _ => f64::NAN,
        }
    }

    impl Condition {
        fn value(&self, parameters: [i64; 3]) -> i64 {
            match self {
                Parameter(number) => parameters[*number],
                Number(number) => *number,
                Equal(a, b) => i64::from(parameters[*a] == parameters[*b]),
                Less(a, b) => i64::from(float(parameters[*a]) < float(parameters[*b])),
                Is(number, inner) => i64::from(inner.value(parameters) == *number),
                Select(all) => {
                    let [by, set, clear] = &**all;
                    let chosen = if by.value(parameters) == 0 { clear } else { set };
                    chosen.value(parameters)
                }
            }
        }

        fn build(&self, pos: &mut FuncCursor<'_>, parameters: [Value; 3]) -> Value {
            match self {
                Parameter(number) => parameters[*number],
                Number(number) => pos.ins().iconst(types::I32, *number),
                Equal(a, b) => {
                    let flag = pos.ins().icmp(IntCC::Equal, parameters[*a], parameters[*b]);
                    pos.ins().uextend(types::I32, flag)
                }
                Less(a, b) => {
                    let [a, b] =
                        [a, b].map(|it| pos.ins().fcvt_from_sint(types::F64, parameters[*it]));
                    let flag = pos.ins().fcmp(FloatCC::LessThan, a, b);
                    pos.ins().uextend(types::I32, flag)
                }
                Is(number, inner) => {
                    let inner = inner.build(pos, parameters);
                    let number = pos.ins().iconst(types::I32, *number);
                    let flag = pos.ins().icmp(IntCC::Equal, inner, number);
                    pos.ins().uextend(types::I32, flag)
                }
                Select(all) => {
                    let [by, set, clear] = &**all;
                    let first = by.build(pos, parameters);
                    let [set, clear] = [set, clear].map(|other| match other == by {
                        true => first,
                        false => other.build(pos, parameters),
                    });
                    pos.ins().select(first, set, clear)
                }
            }
        }
    }

    /// A function that returns 1 or 2 with the first parameter, by a condition; and the value of the condition, if that is `kept`. And whether it has other
    /// branches now.
    fn branching(condition: &Condition, kept: bool) -> (Function, bool) {
        let mut func = Function::new();
        func.signature.params.extend([AbiParam::new(types::I32); 3]);
        func.signature.returns.extend([AbiParam::new(types::I32); 3]);
        let blocks = [(); 3].map(|()| func.dfg.make_block());
        for block in blocks {
            func.layout.append_block(block);
        }
        let parameters = [(); 3].map(|()| func.dfg.append_block_param(blocks[0], types::I32));
        let mut pos = FuncCursor::new(&mut func).at_position(CursorPosition::After(blocks[0]));
        let value = condition.build(&mut pos, parameters);
        let arguments = [BlockArg::from(parameters[0])];
        pos.ins().brif(value, blocks[1], &arguments, blocks[2], &arguments);
        for (number, block) in [(1, blocks[1]), (2, blocks[2])] {
            let first = pos.func.dfg.append_block_param(block, types::I32);
            pos.set_position(CursorPosition::After(block));
            let number = pos.ins().iconst(types::I32, number);
            pos.ins().return_(&[number, first, if kept { value } else { first }]);
        }
        let changed = split(&mut func);
        verify_function(&func, &Flags::new(settings::builder())).unwrap();
        (func, changed)
    }

    /// What a function computes.
    fn computed(func: &Function, parameters: [i64; 3], value: Value) -> i64 {
        let of = |value| computed(func, parameters, value);
        let Some(inst) = func.dfg.value_def(value).inst() else {
            let entry = func.layout.entry_block().unwrap();
            let all = func.dfg.block_params(entry);
            // The parameter of another block is always the first.
            return parameters[all.iter().position(|it| *it == value).unwrap_or(0)];
        };
        match func.dfg.insts[inst] {
            InstructionData::UnaryImm { imm, .. } => imm.bits(),
            InstructionData::Unary { opcode: Opcode::Uextend, arg } => of(arg),
            InstructionData::IntCompare { cond: IntCC::Equal, args: [a, b], .. } => {
                i64::from(of(a) == of(b))
            }
            InstructionData::FloatCompare { cond, args: [a, b], .. } => {
                let order = float(of(a)).partial_cmp(&float(of(b)));
                i64::from(match cond {
                    FloatCC::LessThan => order == Some(Ordering::Less),
                    FloatCC::UnorderedOrGreaterThanOrEqual => order != Some(Ordering::Less),
                    _ => panic!("{cond}"),
                })
            }
            InstructionData::Unary { opcode: Opcode::FcvtFromSint, arg } => of(arg),
            InstructionData::Ternary { opcode: Opcode::Select, args: [by, set, clear] } => {
                of(if of(by) == 0 { clear } else { set })
            }
            _ => panic!("{}", func.dfg.display_inst(inst)),
        }
    }

    fn run(func: &Function, parameters: [i64; 3]) -> Vec<i64> {
        let mut block = func.layout.entry_block().unwrap();
        loop {
            let last = func.layout.last_inst(block).unwrap();
            match func.dfg.insts[last] {
                InstructionData::Brif { arg, blocks, .. } => {
                    let call = blocks[usize::from(computed(func, parameters, arg) == 0)];
                    block = call.block(&func.dfg.value_lists);
                }
                _ => {
                    let values = func.dfg.inst_args(last).iter();
                    return values.map(|value| computed(func, parameters, *value)).collect();
                }
            }
        }
    }

    fn check(condition: &Condition, kept: bool) -> bool {
        let (func, changed) = branching(condition, kept);
        for number in 0..64 {
            let parameters = [number % 4 - 1, number / 4 % 4 - 1, number / 16 - 1];
            let value = condition.value(parameters);
            let first = parameters[0];
            let expected =
                [if value == 0 { 2 } else { 1 }, first, if kept { value } else { first }];
            assert_eq!(run(&func, parameters), expected, "{condition:?} {parameters:?}");
        }
        changed
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn branches_lead_where_they_led(condition in conditions(), kept: bool) {
            check(&condition, kept);
        }
    }

    fn not(condition: Condition) -> Condition {
        Is(0, Box::new(condition))
    }

    fn select(by: Condition, set: Condition, clear: Condition) -> Condition {
        Select(Box::new([by, set, clear]))
    }

    #[test]
    fn choices_that_are_known_in_part_become_branches() {
        for number in [0, 1, 2] {
            for other in [Parameter(1), Equal(1, 2)] {
                let choice = select(Parameter(0), other.clone(), Number(number));
                assert!(check(&choice, false));
                assert!(check(&select(Parameter(0), Number(number), other), false));
                let opposite = not(not(choice.clone()));
                assert_eq!(branching(&opposite, false).0.layout.blocks().count(), 4);
                check(&opposite, false);
                // It has to be made all the same.
                assert!(!check(&choice, true));
            }
        }
        let inner = select(Parameter(1), Parameter(2), Number(0));
        let (func, _) = branching(&select(Parameter(0), inner, Number(1)), false);
        assert_eq!(func.layout.blocks().count(), 5);
        // Nothing is known of these.
        assert!(!check(&select(Parameter(0), Parameter(1), Parameter(2)), false));
        assert!(!check(&Parameter(0), false));
    }

    #[test]
    fn flags_are_asked_for_themselves() {
        let asked = |condition: &Condition| {
            assert!(!check(condition, false));
            let (func, _) = branching(condition, false);
            let entry = func.layout.entry_block().unwrap();
            let branch = func.layout.last_inst(entry).unwrap();
            let InstructionData::Brif { arg, .. } = func.dfg.insts[branch] else { panic!() };
            let inst = func.dfg.value_def(arg).inst();
            inst.map(|inst| func.dfg.insts[inst].opcode())
        };
        assert_eq!(asked(&Equal(0, 1)), Some(Opcode::Icmp));
        assert_eq!(asked(&Less(0, 1)), Some(Opcode::Fcmp));
        assert_eq!(asked(&not(Less(0, 1))), Some(Opcode::Fcmp));
        assert_eq!(asked(&Parameter(0)), None);
    }
}
