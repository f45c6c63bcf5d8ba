//! A second opinion on code that was shortened, which shares nothing with what shortened it.
//!
//! Two codes do the same if there is a map between their instructions such that each does what its image does, control goes from
//! one to the next as it does between their images, and what each refers to is the image of what
//! the other does. A load from the stack may be part of what uses it, and places on the stack may be others where nobody else knows of them. What may be gone, or be another, is what adds to a stack pointer that nobody looks at, what tests a number that the flags tell of
//! already, and what compares with the stack limit. Control decides what is compared: from the start of the function, of each block, and of each handler, along
//! every edge. Then the map decides about everything that is said of offsets in the code.

use std::collections::{BTreeMap, BTreeSet};

use cwasm_artifact::abi::vmctx;
use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess,
    OpKind, Register, RflagsBits,
};

use crate::codegen::Code;
use crate::unwind::Rule;

/// A function, and where its blocks begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Function<'a> {
    pub(crate) code: &'a Code,
    pub(crate) blocks: &'a [u32],
}

/// Compares a function with what became of it.
///
/// # Errors
/// Says in what they differ.
pub(crate) fn same(before: Function<'_>, after: Function<'_>) -> Result<(), String> {
    let mut comparison = Comparison::new(before, after);
    comparison.instructions()?;
    comparison.order()?;
    comparison.records()?;
    comparison.references()?;
    comparison.loads()?;
    comparison.tests()?;
    comparison.frames()
}

/// An address in an instruction, before and after.
#[derive(Clone, Copy, Debug)]
struct Address {
    /// Where the instruction is, before.
    at: u32,
    before: u32,
    after: u32,
    /// How many bytes are read there.
    size: u32,
    /// Whether nothing is, but the address is computed.
    computed: bool,
}

struct Comparison<'a> {
    before: Function<'a>,
    after: Function<'a>,
    /// Where instructions begin.
    starts: BTreeMap<u32, u32>,
    /// Where instructions began that are gone, and what is there now.
    gone: BTreeMap<u32, u32>,
    /// Where a comparison ended that is gone, and what is there now.
    gone_ends: BTreeMap<u32, u32>,
    /// Where they end, those before each by that.
    ends: BTreeMap<u32, u32>,
    /// Where calls end, and what leaves for another function.
    calls: BTreeSet<u32>,
    /// Pairs of places at which control can be.
    open: Vec<(u32, u32)>,
    /// What instructions have the distance to.
    addresses: Vec<Address>,
    /// The starts of tables of branches.
    tables: BTreeSet<u32>,
    /// How many relocations are in the instructions.
    relocations: usize,
    /// Where control goes from each instruction, before.
    edges: BTreeMap<u32, Vec<u32>>,
    /// What each instruction does to the stack pointer and the frame pointer, before.
    effects: BTreeMap<u32, Effect>,
    /// The loads that are part of another instruction, by where that is, before.
    loads: BTreeMap<u32, Instruction>,
    /// The tests of registers that are gone, by where they were.
    tests: BTreeMap<u32, Instruction>,
    /// What refers to places on the stack.
    places: Vec<Place>,
    /// Whether anything else could find one, before.
    finds_places: bool,
    /// The instructions that refer to the stack by the other pointer, each with the distance between the two that this takes.
    reframed: Vec<(u32, i64)>,
}

/// An instruction that refers to a place on the stack, by the stack pointer before.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Where the instruction is, before.
    at: u32,
    before: i64,
    /// By the frame pointer, if it is.
    after: i64,
    by_frame_pointer: bool,
    /// How many bytes.
    size: i64,
    loads: bool,
    stores: bool,
}

impl Place {
    /// What an instruction refers to by its operand in memory, and what that was before.
    fn new(at: u32, before: &Instruction, after: &Instruction) -> Self {
        let distance = |it: &Instruction| it.memory_displacement64().cast_signed();
        let mut factory = InstructionInfoFactory::new();
        let used = factory.info(after).used_memory().iter().map(|used| used.access());
        let used: Vec<OpAccess> = used.collect();
        let does = |ways: &[OpAccess]| used.iter().any(|access| ways.contains(access));
        Self {
            at,
            before: distance(before),
            after: distance(after),
            by_frame_pointer: after.memory_base() == Register::RBP,
            size: i64::try_from(after.memory_size().size()).unwrap_or(i64::MAX),
            loads: does(&[OpAccess::Read, OpAccess::ReadWrite]),
            stores: does(&[OpAccess::Write, OpAccess::ReadWrite]),
        }
    }
}

/// What an instruction does to the distance from the stack pointer up to the frame pointer.
#[derive(Clone, Copy, Debug)]
enum Effect {
    /// Makes it 0.
    Zero,
    /// Adds to it.
    Add(i64),
    /// Makes it unknown.
    Unknown,
}

fn equal<T: PartialEq + std::fmt::Debug>(what: &str, before: T, after: T) -> Result<(), String> {
    match before == after {
        true => Ok(()),
        false => Err(format!("{what}: {before:x?} became {after:x?}")),
    }
}

impl<'a> Comparison<'a> {
    fn new(before: Function<'a>, after: Function<'a>) -> Self {
        Self {
            before,
            after,
            starts: BTreeMap::new(),
            gone: BTreeMap::new(),
            gone_ends: BTreeMap::new(),
            ends: BTreeMap::new(),
            calls: BTreeSet::new(),
            open: vec![(0, 0)],
            addresses: Vec::new(),
            tables: BTreeSet::new(),
            relocations: 0,
            edges: BTreeMap::new(),
            effects: BTreeMap::new(),
            loads: BTreeMap::new(),
            tests: BTreeMap::new(),
            places: Vec::new(),
            finds_places: false,
            reframed: Vec::new(),
        }
    }

    /// Follows control through both.
    fn instructions(&mut self) -> Result<(), String> {
        let (before, after) = (self.before.code, self.after.code);
        equal("blocks", self.before.blocks.len(), self.after.blocks.len())?;
        self.open.extend(self.before.blocks.iter().copied().zip(self.after.blocks.iter().copied()));
        equal("handlers", before.handlers.len(), after.handlers.len())?;
        for (old, new) in before.handlers.iter().zip(&after.handlers) {
            self.open.push((old.handler, new.handler));
        }
        while let Some((old, new)) = self.open.pop() {
            if let Some(end) = self.useless(old, new) {
                self.gone.insert(old, new);
                self.effects.insert(old, Effect::Unknown);
                self.go(old, end, new);
                continue;
            }
            if let Some(end) = self.uncompared(old, new) {
                self.gone.insert(old, new);
                self.gone_ends.insert(end, new);
                self.effects.insert(old, Effect::Add(0));
                self.go(old, end, new);
                continue;
            }
            if let Some((old_end, new_end)) = self.compared_there(old, new) {
                let other = self.starts.insert(old, new);
                equal("a comparison", other.unwrap_or(new), new)?;
                self.ends.insert(old_end, new_end);
                self.effects.insert(old, Effect::Add(0));
                self.go(old, old_end, new_end);
                continue;
            }
            if let Some(test) = self.retested(old, new) {
                self.gone.insert(old, new);
                self.effects.insert(old, Effect::Add(0));
                self.tests.insert(old, test);
                self.go(old, end(&test), new);
                continue;
            }
            if let Some((load, user)) = self.load_of_another(old, new) {
                let other = self.gone.insert(old, new);
                equal("a load", other.unwrap_or(new), new)?;
                self.effects.insert(old, Effect::Add(0));
                self.loads.insert(user, load);
                self.go(old, end(&load), new);
                continue;
            }
            match self.starts.insert(old, new) {
                None => self.instruction(old, new)?,
                Some(other) => equal("an instruction", other, new)?,
            }
        }
        Ok(())
    }

    /// Compares two instructions, and opens what control goes to from there.
    fn instruction(&mut self, old: u32, new: u32) -> Result<(), String> {
        let before = decode(self.before.code, old)?;
        let after = decode(self.after.code, new)?;
        let (old_end, new_end) = (end(&before), end(&after));
        self.ends.insert(old_end, new_end);
        self.finds_places |= finds_places(&before);
        let mut effect = effect(&before);
        if before.mnemonic() == Mnemonic::Call
            && let Ok(next) = decode(self.before.code, old_end)
            && next.mnemonic() == Mnemonic::Sub
            && next.op0_register() == Register::RSP
            && is_immediate(next.op1_kind())
        {
            // What is called takes its arguments from the stack, and what follows makes room for them again.
            effect = Effect::Add(next.immediate(1).cast_signed().saturating_neg());
        }
        self.effects.insert(old, effect);
        let difference = |what: &str| {
            format!("{what} at {old:#x} and {new:#x}: {:?}, {:?}", before.code(), after.code())
        };
        let relocated = |code: &Code, start: u32, end: u32| -> Vec<_> {
            let here = |offset: u32| start <= offset && offset < end;
            let here = code.relocations.iter().filter(|it| here(it.offset));
            here.map(|it| (it.offset - start, it.kind, it.target, it.addend)).collect()
        };
        let relocations = relocated(self.before.code, old, old_end);
        equal("relocations", &relocations, &relocated(self.after.code, new, new_end))?;
        self.relocations += relocations.len();
        // What the linker writes into has the same form.
        if !relocations.is_empty() && before.len() != after.len() {
            return Err(difference("another form"));
        }
        if before.mnemonic() != after.mnemonic()
            || before.op_count() != after.op_count()
            || before.has_lock_prefix() != after.has_lock_prefix()
            || before.has_rep_prefix() != after.has_rep_prefix()
            || before.has_repne_prefix() != after.has_repne_prefix()
        {
            return Err(difference("another instruction"));
        }
        let load = self.loads.get(&old).copied();
        if let Some(load) = load {
            self.is_loaded_for(&load, &before, &after)
                .ok_or_else(|| difference("another place"))?;
        }
        for operand in 0..before.op_count() {
            match (before.op_kind(operand), after.op_kind(operand)) {
                (OpKind::Register, OpKind::Memory) if load.is_some() => {}
                (OpKind::NearBranch64, OpKind::NearBranch64) => {
                    if relocations.is_empty() {
                        self.go(old, target(&before)?, target(&after)?);
                    }
                }
                (OpKind::Memory, OpKind::Memory) => {
                    let parts = |it: &Instruction| {
                        let base = (it.memory_base(), it.memory_index(), it.memory_index_scale());
                        (base, it.segment_prefix(), it.memory_size())
                    };
                    let distance = |it: &Instruction| it.memory_displacement64().cast_signed();
                    let reframed = before.memory_base() == Register::RSP
                        && after.memory_base() == Register::RBP;
                    let like_before = |it: &Instruction| {
                        let mut it = *it;
                        if reframed {
                            it.set_memory_base(Register::RSP);
                        }
                        parts(&it)
                    };
                    if parts(&before) != like_before(&after) {
                        return Err(difference("another operand"));
                    }
                    let is_place = before.memory_base() == Register::RSP
                        && before.memory_index() == Register::None;
                    if is_place && before.mnemonic() != Mnemonic::Lea {
                        self.places.push(Place::new(old, &before, &after));
                        continue;
                    }
                    if reframed {
                        self.reframed.push((old, distance(&before) - distance(&after)));
                        continue;
                    }
                    if !before.is_ip_rel_memory_operand() {
                        if before.memory_displacement64() != after.memory_displacement64() {
                            return Err(difference("another displacement"));
                        }
                    } else if relocations.is_empty() {
                        let place = |it: &Instruction| {
                            u32::try_from(it.ip_rel_memory_address())
                                .map_err(|_| difference("an address outside of the code"))
                        };
                        let address = Address {
                            at: old,
                            before: place(&before)?,
                            after: place(&after)?,
                            size: u32::try_from(before.memory_size().size()).unwrap_or(u32::MAX),
                            computed: before.mnemonic() == Mnemonic::Lea,
                        };
                        self.addresses.push(address);
                    }
                }
                (OpKind::Register, OpKind::Register) => {
                    if before.op_register(operand) != after.op_register(operand) {
                        return Err(difference("another register"));
                    }
                }
                (a, b) if is_immediate(a) && is_immediate(b) => {
                    if value(&before, operand) != value(&after, operand) {
                        return Err(difference("another value"));
                    }
                }
                _ => return Err(difference("another operand")),
            }
        }
        match before.flow_control() {
            FlowControl::Return | FlowControl::Exception => {}
            FlowControl::UnconditionalBranch => {
                if !relocations.is_empty() {
                    self.calls.insert(old_end);
                }
            }
            // A table, or another function.
            FlowControl::IndirectBranch => {
                self.tables.insert(old_end);
                self.calls.insert(old_end);
            }
            FlowControl::Call | FlowControl::IndirectCall => {
                self.calls.insert(old_end);
                self.go(old, old_end, new_end);
            }
            _ => self.go(old, old_end, new_end),
        }
        Ok(())
    }

    /// The test of a register that begins here, if it is gone.
    fn retested(&self, old: u32, new: u32) -> Option<Instruction> {
        let before = decode(self.before.code, old).ok()?;
        let operands = |it: &Instruction| (it.mnemonic(), it.op0_register(), it.op1_register());
        let is_there =
            decode(self.after.code, new).is_ok_and(|it| operands(&it) == operands(&before));
        let tests = before.mnemonic() == Mnemonic::Test
            && before.op_count() == 2
            && before.op0_kind() == OpKind::Register
            && before.op1_kind() == OpKind::Register
            && before.op0_register() == before.op1_register();
        (tests && !is_there).then_some(before)
    }

    /// Whether the flags tell what tests told that are gone: control comes to each from an instruction alone that computes the same register,
    /// and goes on to a branch that asks for the zero flag, behind which nobody reads flags before they are set.
    fn tests(&self) -> Result<(), String> {
        let code = self.before.code;
        let blocks = self.before.blocks.iter().copied();
        let handlers = code.handlers.iter().map(|handler| handler.handler);
        let entries: BTreeSet<u32> = blocks.chain(handlers).collect();
        let mut ways: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for (from, tos) in &self.edges {
            for to in tos.iter().filter(|to| self.tests.contains_key(to)) {
                ways.entry(*to).or_default().insert(*from);
            }
        }
        for (at, test) in &self.tests {
            let wrong = |what: &str| Err(format!("a test is gone at {at:#x} {what}"));
            let mut froms = ways.get(at).into_iter().flatten();
            let (Some(from), None) = (froms.next(), froms.next()) else {
                return wrong("that is come to from elsewhere");
            };
            let computes = decode(code, *from)?;
            if end(&computes) != *at || entries.contains(at) || !self.starts.contains_key(from) {
                return wrong("that does not follow");
            }
            let by_result =
                [Mnemonic::Add, Mnemonic::Sub, Mnemonic::And, Mnemonic::Or, Mnemonic::Xor];
            if !by_result.contains(&computes.mnemonic())
                || computes.op0_kind() != OpKind::Register
                || computes.op0_register() != test.op0_register()
            {
                return wrong("of another number");
            }
            let branch = decode(code, end(test))?;
            if !matches!(branch.mnemonic(), Mnemonic::Je | Mnemonic::Jne) {
                return wrong("for another use");
            }
            for mut next in [end(&branch), target(&branch)?] {
                loop {
                    let instruction = decode(code, next)?;
                    if instruction.rflags_read() != RflagsBits::NONE {
                        return wrong("whose flags are read again");
                    }
                    let is_set = instruction.rflags_modified() != RflagsBits::NONE;
                    if is_set || instruction.flow_control() != FlowControl::Next {
                        break;
                    }
                    next = end(&instruction);
                }
            }
        }
        Ok(())
    }

    /// The load that begins here, if it is gone, and where the instruction is that it is part of: one of the next two.
    fn load_of_another(&self, old: u32, new: u32) -> Option<(Instruction, u32)> {
        let load = decode(self.before.code, old).ok()?;
        let is_load = load.mnemonic() == Mnemonic::Mov
            && load.op0_kind() == OpKind::Register
            && load.op1_kind() == OpKind::Memory
            && matches!(load.memory_base(), Register::RSP | Register::RBP);
        let after = decode(self.after.code, new).ok()?;
        let is_there = (load.code(), load.op0_register()) == (after.code(), after.op0_register());
        if !is_load || is_there {
            return None;
        }
        let uses = |it: &Instruction| uses(it, load.op0_register(), |_| true);
        let next = decode(self.before.code, end(&load)).ok()?;
        if uses(&next) {
            return Some((load, end(&load)));
        }
        let writes = |access| !matches!(access, OpAccess::Read | OpAccess::NoMemAccess);
        let mut factory = InstructionInfoFactory::new();
        let is_between = next.flow_control() == FlowControl::Next
            && !factory.info(&next).used_memory().iter().any(|used| writes(used.access()))
            && ![Register::RSP, Register::RBP].iter().any(|it| self::uses(&next, *it, writes));
        let second = decode(self.before.code, end(&next)).ok().filter(|_| is_between)?;
        uses(&second).then(|| (load, end(&next)))
    }

    /// Compares an instruction that has the place on the stack that was loaded with what had the register, which nobody reads any more.
    fn is_loaded_for(
        &mut self,
        load: &Instruction,
        before: &Instruction,
        after: &Instruction,
    ) -> Option<()> {
        let register = load.op0_register().full_register();
        let operands = 0..before.op_count().min(after.op_count());
        let mut places = operands.filter(|operand| {
            after.op_kind(*operand) == OpKind::Memory
                && before.op_kind(*operand) == OpKind::Register
                && before.op_register(*operand).full_register() == register
        });
        let (operand, None) = (places.next()?, places.next()) else { return None };
        let size = before.op_register(operand).size();
        let is_place = after.memory_index() == Register::None
            && load.memory_index() == Register::None
            && after.segment_prefix() == load.segment_prefix()
            && after.memory_size().size() == size
            && load.memory_size().size() >= size;
        let place = Place::new(u32::try_from(before.ip()).ok()?, load, after);
        match (load.memory_base(), after.memory_base()) {
            _ if !is_place => return None,
            (Register::RSP, Register::RSP | Register::RBP) => self.places.push(place),
            (a, b) => (a == b && place.before == place.after).then_some(())?,
        }
        // From here on, in what is left.
        let is_read = |it: &Instruction| uses(it, register, |access| access != OpAccess::Write);
        let is_written = |it: &Instruction| uses(it, register, |access| access == OpAccess::Write);
        let mut instruction = *after;
        while !is_read(&instruction) && instruction.flow_control() == FlowControl::Next {
            if is_written(&instruction) {
                return Some(());
            }
            instruction = decode(self.after.code, end(&instruction)).ok()?;
        }
        None
    }

    /// Whether control comes to what loads are part of from there only.
    fn loads(&self) -> Result<(), String> {
        let blocks = self.before.blocks.iter().copied();
        let handlers = self.before.code.handlers.iter().map(|handler| handler.handler);
        let entries: BTreeSet<u32> = blocks.chain(handlers).collect();
        let edges = self.edges.iter().flat_map(|(from, to)| to.iter().map(move |to| (*to, *from)));
        let edges: BTreeSet<(u32, u32)> = edges.collect();
        for (user, load) in &self.loads {
            let start = u32::try_from(load.ip()).unwrap_or(u32::MAX);
            let mut edges = edges.range((start + 1, 0)..=(*user, u32::MAX));
            if entries.range(start + 1..=*user).next().is_some()
                || edges.any(|(_, from)| !(start..*user).contains(from))
            {
                return Err(format!("control comes between {start:#x} and {user:#x}"));
            }
        }
        Ok(())
    }

    /// Where an instruction ends that is gone, and did nothing that mattered: it added to the stack pointer just before the frame
    /// was given up.
    fn useless(&self, old: u32, new: u32) -> Option<u32> {
        let adds = |it: &Instruction| {
            it.mnemonic() == Mnemonic::Add
                && it.op0_register() == Register::RSP
                && is_immediate(it.op1_kind())
        };
        let before = decode(self.before.code, old).ok()?;
        if !adds(&before) || decode(self.after.code, new).is_ok_and(|after| adds(&after)) {
            return None;
        }
        let next = decode(self.before.code, end(&before)).ok()?;
        let pop = decode(self.before.code, end(&next)).ok()?;
        let leave = decode(self.before.code, end(&pop)).ok()?;
        let gives_up = next.mnemonic() == Mnemonic::Mov
            && (next.op0_register(), next.op1_register()) == (Register::RSP, Register::RBP)
            && pop.mnemonic() == Mnemonic::Pop
            && pop.op0_register() == Register::RBP
            && leave.flow_control() == FlowControl::Return;
        gives_up.then(|| end(&before))
    }

    /// Where the comparison with the stack limit ends, with its branch, if it begins with the third instruction of the function, is gone, and
    /// did nothing that mattered: the function calls none, and has a small frame.
    fn uncompared(&self, old: u32, new: u32) -> Option<u32> {
        let before = self.before.code;
        if (old, new) != (self.after_two()?, self.after_two()?)
            || before.sites.iter().any(|site| site.trap.is_none())
            || decode(before, old).ok()?.code() == decode(self.after.code, new).ok()?.code()
        {
            return None;
        }
        let load = decode(before, old).ok()?;
        let loads = load.mnemonic() == Mnemonic::Mov
            && load.op0_register() == Register::R10
            && load.memory_displacement64() == u64::from(vmctx::STORE_CONTEXT);
        if !loads {
            return None;
        }
        let branch = decode(before, self.comparison_end(end(&load))?).ok()?;
        (branch.mnemonic() == Mnemonic::Ja).then(|| end(&branch))
    }

    /// Where the comparison with the stack limit ends, before and after, if it begins here, and compares where the limit
    /// lies now, without the size of a small frame.
    fn compared_there(&self, old: u32, new: u32) -> Option<(u32, u32)> {
        let start = end(&decode(self.before.code, self.after_two()?).ok()?);
        let after = decode(self.after.code, new).ok()?;
        let compares = after.mnemonic() == Mnemonic::Cmp
            && after.op0_kind() == OpKind::Memory
            && after.memory_base() == Register::R10
            && after.memory_index() == Register::None
            && after.memory_displacement64() == u64::from(vmctx::store_context::STACK_LIMIT)
            && after.op1_register() == Register::RSP;
        if (old, new) != (start, start) || !compares {
            return None;
        }
        let old_end = self.comparison_end(old)?;
        let branches =
            |code, place| decode(code, place).is_ok_and(|branch| branch.mnemonic() == Mnemonic::Ja);
        let branch = branches(self.before.code, old_end) && branches(self.after.code, end(&after));
        branch.then(|| (old_end, end(&after)))
    }

    /// Where the function's frame pointer is set: behind its first two instructions.
    fn after_two(&self) -> Option<u32> {
        let push = decode(self.before.code, 0).ok()?;
        let set = decode(self.before.code, end(&push)).ok()?;
        let sets = push.mnemonic() == Mnemonic::Push
            && push.op0_register() == Register::RBP
            && set.mnemonic() == Mnemonic::Mov
            && (set.op0_register(), set.op1_register()) == (Register::RBP, Register::RSP);
        sets.then(|| end(&set))
    }

    /// Where the comparison ends that begins here, before: the limit is loaded from where `r10` points to, the size of a
    /// small frame is added, and the sum is compared with the stack pointer.
    fn comparison_end(&self, start: u32) -> Option<u32> {
        let before = self.before.code;
        let load = decode(before, start).ok()?;
        let loads = load.mnemonic() == Mnemonic::Mov
            && load.op0_register() == Register::R10
            && load.op1_kind() == OpKind::Memory
            && load.memory_base() == Register::R10
            && load.memory_index() == Register::None
            && load.memory_displacement64() == u64::from(vmctx::store_context::STACK_LIMIT);
        let mut next = decode(before, end(&load)).ok().filter(|_| loads)?;
        if next.mnemonic() == Mnemonic::Add {
            let small = next.op0_register() == Register::R10
                && is_immediate(next.op1_kind())
                && value(&next, 1) <= u64::from(vmctx::store_context::BELOW_LIMIT / 2);
            next = decode(before, end(&next)).ok().filter(|_| small)?;
        }
        let compares = next.mnemonic() == Mnemonic::Cmp
            && (next.op0_register(), next.op1_register()) == (Register::R10, Register::RSP);
        compares.then(|| end(&next))
    }

    /// Notes that control goes from an instruction to another.
    fn go(&mut self, from: u32, old: u32, new: u32) {
        self.edges.entry(from).or_default().push(old);
        self.open.push((old, new));
    }

    /// Whether the instructions have the same order, and none is in another.
    fn order(&self) -> Result<(), String> {
        for map in [&self.starts, &self.ends] {
            let mut last = None;
            for (old, new) in map {
                if last.is_some_and(|last| last >= new) {
                    return Err(format!(
                        "{old:#x} became {new:#x}, which is before its predecessor"
                    ));
                }
                last = Some(new);
            }
        }
        // Each ends before the next begins.
        let mut starts = self.starts.values().copied().skip(1);
        for (start, end) in
            self.starts.values().zip(self.starts.keys().map(|start| self.end_of(*start)))
        {
            let next = starts.next();
            if end.is_none() || next.is_some_and(|next| next <= *start || end > Some(next)) {
                return Err(format!("the instruction at {start:#x} goes on in the next"));
            }
        }
        Ok(())
    }

    /// Where the instruction ends now that began at an offset.
    fn end_of(&self, start: u32) -> Option<u32> {
        self.ends.range(start + 1..).next().map(|(_, end)| *end)
    }

    /// Where an instruction is now.
    fn moved(&self, what: &str, before: u32, after: u32) -> Result<(), String> {
        let now = self.starts.get(&before).or_else(|| self.gone.get(&before));
        equal(what, now.copied(), Some(after))
    }

    /// Compares what is said about offsets in the code.
    fn records(&self) -> Result<(), String> {
        let (before, after) = (self.before.code, self.after.code);
        equal("the alignment", before.alignment, after.alignment)?;
        for relocations in [before.relocations.len(), after.relocations.len()] {
            equal("relocations in instructions", self.relocations, relocations)?;
        }
        equal("sites", before.sites.len(), after.sites.len())?;
        for (old, new) in before.sites.iter().zip(&after.sites) {
            let rest = |site: &crate::codegen::Site| (site.wasm, site.trap, site.inlined);
            equal("a site", rest(old), rest(new))?;
            match old.trap {
                // Traps that control does not lead to are compared where they are.
                Some(_) if !self.starts.contains_key(&old.text) => {
                    let (old, new) = (decode(before, old.text)?, decode(after, new.text)?);
                    equal("a trap", old.code(), new.code())?;
                }
                Some(_) => self.moved("a trap", old.text, new.text)?,
                None => {
                    equal("a call", true, self.calls.contains(&old.text))?;
                    equal("a return address", self.ends.get(&old.text), Some(&new.text))?;
                }
            }
        }
        for (old, new) in before.handlers.iter().zip(&after.handlers) {
            equal("a handler", (old.tag, old.frame, old.vmctx), (new.tag, new.frame, new.vmctx))?;
            self.moved("a handler", old.handler, new.handler)?;
            equal("a call with a handler", true, self.calls.contains(&old.call))?;
            equal("a call with a handler", self.ends.get(&old.call), Some(&new.call))?;
        }
        let rules =
            |code: &Code| code.unwind.as_ref().map(|it| it.rules.clone()).unwrap_or_default();
        let (old, new) = (rules(before), rules(after));
        equal("rules", old.len(), new.len())?;
        for ((old, rule), (new, now)) in old.into_iter().zip(new) {
            equal("a rule", rule, now)?;
            let now = self.ends.get(&old).or_else(|| self.gone_ends.get(&old));
            equal("the place of a rule", now, Some(&new))?;
        }
        for (old, new) in self.before.blocks.iter().zip(self.after.blocks) {
            self.moved("a block", *old, *new)?;
        }
        Ok(())
    }

    /// Compares what is not instructions.
    fn references(&mut self) -> Result<(), String> {
        let last = self.starts.keys().last().and_then(|start| self.ends.range(start + 1..).next());
        let (old_end, new_end) = last.ok_or("there are no instructions")?;
        let constants = self.addresses.iter().filter(|address| {
            !self.starts.contains_key(&address.before) && !self.is_table(address)
        });
        let old_data = constants.clone().map(|it| it.before).min().unwrap_or(u32::MAX);
        let new_data = constants.clone().map(|it| it.after).min().unwrap_or(u32::MAX);
        for address in self.addresses.clone() {
            let Address { at, before, after, size, .. } = address;
            if self.starts.contains_key(&before) {
                self.moved("the address of an instruction", before, after)?;
                // Control gets there with the stack as it was here.
                self.edges.entry(at).or_default().push(before);
            } else if self.is_table(&address) {
                let targets = self.table(before, after, old_data, new_data)?;
                self.edges.entry(at).or_default().extend(targets);
            } else {
                if before < *old_end || after < *new_end {
                    return Err(format!("{before:#x} and {after:#x} are among instructions"));
                }
                let bytes = |code: &'a Code, at: u32| {
                    let end = at.checked_add(size)?;
                    code.bytes.get(at as usize..end as usize)
                };
                let (old, new) = (bytes(self.before.code, before), bytes(self.after.code, after));
                if old.is_none() {
                    return Err(format!("a constant at {before:#x} is outside of the code"));
                }
                equal("a constant", old, new)?;
                let alignment = self.before.code.alignment.max(1);
                equal("a constant's place", before % alignment, after % alignment)?;
            }
        }
        Ok(())
    }

    fn is_table(&self, address: &Address) -> bool {
        address.computed && self.tables.contains(&address.before)
    }

    /// Compares two tables of branches, which go on until code or the first constant begins. Returns where they lead to, before.
    fn table(&self, old: u32, new: u32, old_data: u32, new_data: u32) -> Result<Vec<u32>, String> {
        let entries = |code: &'a Code, start: u32, next: Option<u32>, data: u32| {
            let end = next.unwrap_or(u32::MAX).min(data);
            let end = (end as usize).min(code.bytes.len());
            let bytes = code.bytes.get(start as usize..end).unwrap_or(&[]);
            let (entries, rest) = bytes.as_chunks::<4>();
            (entries, rest.len())
        };
        let next = self.starts.range(old..).next().into_iter().chain(self.gone.range(old..).next());
        let next = next.min();
        let (before, _) = entries(self.before.code, old, next.map(|(it, _)| *it), old_data);
        let (after, _) = entries(self.after.code, new, next.map(|(_, it)| *it), new_data);
        let leads_to =
            |start: u32, entry: &[u8; 4]| start.checked_add_signed(i32::from_le_bytes(*entry));
        let mut targets = Vec::new();
        for entry in before {
            let now = |it: &u32| self.starts.get(it).or_else(|| self.gone.get(it)).copied();
            let Some(before) = leads_to(old, entry).filter(|it| now(it).is_some()) else {
                break;
            };
            let after = after.get(targets.len()).and_then(|entry| leads_to(new, entry));
            equal("a branch of a table", now(&before), after)?;
            targets.push(before);
        }
        // Behind the last table may be what aligns constants.
        let padding = before.get(targets.len()..).unwrap_or(&[]);
        if targets.is_empty() || !padding.iter().flatten().all(|byte| *byte == 0) {
            return Err(format!("the table at {old:#x} leads elsewhere"));
        }
        if next.is_some() && !padding.is_empty() {
            return Err(format!("the table at {old:#x} has entries that are none"));
        }
        Ok(targets)
    }

    /// Whether the stack pointer is as far below the frame pointer as the instructions take it to be that refer to the stack by
    /// the other one: on every way that control can get there.
    fn frames(&self) -> Result<(), String> {
        // `None` where ways disagree, or one of them leaves it open.
        let mut known: BTreeMap<u32, Option<i64>> = BTreeMap::new();
        let handlers = self.before.code.handlers.iter();
        let handlers = handlers.map(|handler| (handler.handler, Some(i64::from(handler.frame))));
        let mut open: Vec<(u32, Option<i64>)> = handlers.chain([(0, None)]).collect();
        while let Some((place, distance)) = open.pop() {
            let distance = match known.get(&place) {
                Some(old) if *old == distance || old.is_none() => continue,
                Some(_) => None,
                None => distance,
            };
            known.insert(place, distance);
            let after = match self.effects.get(&place) {
                Some(Effect::Zero) => Some(0),
                Some(Effect::Add(more)) => {
                    distance.and_then(|distance| distance.checked_add(*more))
                }
                Some(Effect::Unknown) | None => None,
            };
            let next = self.edges.get(&place).into_iter().flatten();
            open.extend(next.map(|next| (*next, after)));
        }
        for (place, distance) in &self.reframed {
            let known = known.get(place).copied().flatten();
            equal("the stack pointer below the frame pointer", known, Some(*distance))?;
        }
        self.exchanges(|place| known.get(&place).copied().flatten())
    }

    /// Whether each byte on the stack has become another, or none, for all that refer to it; and if another, whether nobody else
    /// knows of it. `distance` tells how far the stack pointer is below the frame pointer.
    fn exchanges(&self, distance: impl Fn(u32) -> Option<i64>) -> Result<(), String> {
        let mut to: BTreeMap<i64, i64> = BTreeMap::new();
        let mut from: BTreeMap<i64, i64> = BTreeMap::new();
        let (mut loaded, mut stored) = (BTreeSet::new(), BTreeSet::new());
        let mut frame = None;
        for place in &self.places {
            let Place { at, before, after, size, .. } = *place;
            let known = distance(at);
            let after = match place.by_frame_pointer {
                true => after + known.ok_or("a place by the frame pointer that nobody knows")?,
                false => after,
            };
            if before != after {
                let known = known.ok_or("another place in a frame that nobody knows")?;
                equal("the size of a frame", *frame.get_or_insert(known), known)?;
            }
            for byte in 0..size {
                let (before, after) = (before + byte, after + byte);
                equal("a place", *to.entry(before).or_insert(after), after)?;
                equal("what had a place", *from.entry(after).or_insert(before), before)?;
                // Of eight bytes that are stored, less may be loaded.
                loaded.extend(place.loads.then_some(before.div_euclid(8)));
                stored.extend(place.stores.then_some(before.div_euclid(8)));
            }
        }
        let Some(frame) = frame else { return Ok(()) };
        if self.finds_places || !self.before.code.handlers.is_empty() {
            return Err("places are others that somebody else may know of".to_owned());
        }
        let unwind = self.before.code.unwind.as_ref().ok_or("nobody knows what is saved")?;
        let saved = unwind.rules.iter().filter_map(|(_, rule)| match rule {
            Rule::Saved(_, offset) => Some(frame + 16 + i64::from(*offset)),
            _ => None,
        });
        let saved: BTreeSet<i64> = saved.flat_map(|place| place..place + 8).collect();
        let moved = || to.iter().filter(|(before, after)| before != after);
        let left: BTreeSet<i64> = moved().map(|(before, _)| before.div_euclid(8)).collect();
        for (before, after) in moved() {
            let place = before.div_euclid(8);
            let is_own =
                !saved.contains(before) && loaded.contains(&place) && stored.contains(&place);
            let is_exchanged = left.contains(&after.div_euclid(8));
            if !is_own || !is_exchanged || !(0..frame).contains(after) {
                return Err(format!("the place {before:#x} became {after:#x}"));
            }
        }
        Ok(())
    }
}

/// Whether an instruction accesses a register, or a part of it, in a certain way. To write to less than half of it is no way to write to it.
fn uses(instruction: &Instruction, register: Register, way: impl Fn(OpAccess) -> bool) -> bool {
    let mut factory = InstructionInfoFactory::new();
    let used = factory.info(instruction).used_registers();
    let mut used =
        used.iter().filter(|it| it.register().full_register() == register.full_register());
    used.any(|used| match used.access() {
        OpAccess::Write if used.register().size() < 4 => way(OpAccess::ReadWrite),
        access => way(access),
    })
}

/// Whether an instruction copies the stack pointer or the frame pointer, or refers to memory below the frame pointer by it, or
/// to any by a sum with one of them.
fn finds_places(instruction: &Instruction) -> bool {
    let is_pointer =
        |register: Register| matches!(register.full_register(), Register::RSP | Register::RBP);
    let memory = [instruction.memory_base(), instruction.memory_index()];
    if memory.into_iter().any(is_pointer) {
        let is_simple = match memory {
            [Register::RSP, Register::None] => true,
            [Register::RBP, Register::None] => {
                instruction.memory_displacement64().cast_signed() >= 0
            }
            _ => false,
        };
        if !is_simple || instruction.mnemonic() == Mnemonic::Lea {
            return true;
        }
    }
    let is_named = |operand| {
        instruction.op_kind(operand) == OpKind::Register
            && is_pointer(instruction.op_register(operand))
    };
    match instruction.mnemonic() {
        // They change one, and what they do is known otherwise.
        Mnemonic::Cmp | Mnemonic::Pop => false,
        Mnemonic::Push => !is_named(0),
        _ if instruction.op_count() > 0 && is_named(0) => false,
        _ => (1..instruction.op_count()).any(is_named),
    }
}

fn effect(instruction: &Instruction) -> Effect {
    let adds = |sign: i64| {
        let amount = instruction.immediate(1).cast_signed();
        amount.checked_mul(sign).map_or(Effect::Unknown, Effect::Add)
    };
    let immediate = instruction.op_count() == 2 && is_immediate(instruction.op1_kind());
    match (instruction.mnemonic(), instruction.op0_register()) {
        (Mnemonic::Mov, Register::RBP) if instruction.op1_register() == Register::RSP => {
            Effect::Zero
        }
        (Mnemonic::Sub, Register::RSP) if immediate => adds(1),
        (Mnemonic::Add, Register::RSP) if immediate => adds(-1),
        // They come back with both as they were.
        (Mnemonic::Call, _) => Effect::Add(0),
        _ => {
            let mut factory = InstructionInfoFactory::new();
            let changed = factory.info(instruction).used_registers().iter().any(|used| {
                matches!(used.register().full_register(), Register::RSP | Register::RBP)
                    && !matches!(used.access(), OpAccess::Read | OpAccess::CondRead)
            });
            if changed { Effect::Unknown } else { Effect::Add(0) }
        }
    }
}

fn decode(code: &Code, offset: u32) -> Result<Instruction, String> {
    let bytes = code.bytes.get(offset as usize..).unwrap_or(&[]);
    let mut decoder = Decoder::with_ip(64, bytes, offset.into(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    match instruction.is_invalid() {
        true => Err(format!("there is no instruction at {offset:#x}")),
        false => Ok(instruction),
    }
}

fn end(instruction: &Instruction) -> u32 {
    // Code has less than 2 GiB.
    u32::try_from(instruction.next_ip()).unwrap_or(u32::MAX)
}

fn target(branch: &Instruction) -> Result<u32, String> {
    let target = branch.near_branch_target();
    u32::try_from(target).map_err(|_| format!("a branch to {target:#x}"))
}

fn is_immediate(kind: OpKind) -> bool {
    matches!(
        kind,
        OpKind::Immediate8
            | OpKind::Immediate16
            | OpKind::Immediate32
            | OpKind::Immediate64
            | OpKind::Immediate8to16
            | OpKind::Immediate8to32
            | OpKind::Immediate8to64
            | OpKind::Immediate32to64
    )
}

/// The value in an instruction, as its operation sees it.
fn value(instruction: &Instruction, operand: u32) -> u64 {
    match instruction.op_kind(operand) {
        OpKind::Immediate8to32 => u64::from(instruction.immediate8to32().cast_unsigned()),
        OpKind::Immediate8to16 => u64::from(instruction.immediate8to16().cast_unsigned()),
        _ => instruction.immediate(operand),
    }
}
