//! What is in the code of a function: instructions, tables of branches, and constants.

use cwasm_artifact::cpu::CpuFeatures;
use iced_x86::{Code as Opcode, Decoder, DecoderOptions, FlowControl, Instruction, Register};

use super::Aim;
use super::forms::{self, Branch, Form};
use super::frame::{self, Frame};
use super::limit::{self, Comparison};
use super::operand::{Operands, User};
use super::places::Places;
use super::retest;
use crate::codegen::Code;
use crate::instructions;

/// A function that is understood: what each byte of it is, and what each offset in it refers to.
#[derive(Debug)]
pub(super) struct Listing {
    /// Ordered by offset.
    pub(super) spots: Vec<Spot>,
    /// Ordered by offset.
    pub(super) tables: Vec<Table>,
    /// Where the last instruction or table ends.
    pub(super) end: u32,
    /// Where the constants begin, up to the end of the function. Between `end` and here is only padding.
    pub(super) data: Option<u32>,
    /// Whether there is no code where the last block is said to begin.
    pub(super) last_is_empty: bool,
    /// The CPU features that the instructions need.
    pub(super) features: CpuFeatures,
}

/// An instruction whose bytes change when code moves, or that gets others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// Where it begins.
    pub(super) offset: u32,
    /// How many bytes it has.
    pub(super) length: u8,
    pub(super) change: Change,
}

/// What becomes of an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A branch, whose displacement is what changes.
    Branch(Branch),
    /// It has the distance to something in the function.
    Address {
        /// Where in the instruction that has its four bytes.
        field: u8,
        /// What that leads to.
        target: u32,
    },
    /// It gets these bytes, and refers to nothing in the code. They may be more than it had.
    Form(Form),
}

impl Spot {
    /// Where it ends.
    pub(super) fn end(&self) -> Option<u32> {
        self.offset.checked_add(self.length.into())
    }

    /// How many bytes it has less than before, or more, if that is below zero.
    pub(super) fn saves(&self) -> Option<i32> {
        let now = match &self.change {
            Change::Branch(branch) => branch.length(),
            Change::Address { .. } => return Some(0),
            Change::Form(form) => form.length(),
        };
        i32::from(self.length).checked_sub_unsigned(now)
    }
}

/// A table of branches: distances from its start, in four bytes each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Where the entry at an offset leads to.
pub(super) fn entry(code: &[u8], table: &Table, offset: u32) -> Option<u32> {
    let bytes = code.get(offset as usize..)?.first_chunk::<4>()?;
    let distance = i32::from_le_bytes(*bytes);
    table.start.checked_add_signed(distance)
}

impl Listing {
    /// `None` if there is anything in the function that is not understood.
    pub(super) fn of(code: &Code, blocks: &[u32], aim: Aim) -> Option<Self> {
        let read = |frame| {
            let mut reading = Reading::new(code, blocks, frame, aim)?;
            let rest = reading.instructions()?;
            Some((reading, rest))
        };
        let (mut reading, mut rest) = read(Frame::START)?;
        if !reading.frame.holds(reading.entries.first_from(1)) {
            (reading, rest) = read(Frame::UNKNOWN)?;
        }
        reading.rest(rest)
    }
}

/// A function while it is read.
struct Reading<'a> {
    code: &'a Code,
    /// How many bytes it has.
    length: u32,
    /// What is known of its frame, where it is read.
    frame: Frame,
    aim: Aim,
    /// What becomes of the comparison with the stack limit.
    comparison: Option<Comparison>,
    /// What it does with its frame.
    places: Places,
    /// What finds loads that can go.
    operands: Operands,
    /// The loads that are gone, each with what has its operand now.
    users: Vec<(u32, User)>,
    /// The tests that are gone.
    retests: Vec<u32>,
    /// Where instructions are known to begin: control gets there, or something is said of what is there.
    entries: Bits,
    /// Where the last block is said to begin, unless a trap or a handler is there.
    ///
    /// The code generator leaves out a jump at the end that nobody comes by any more, and still tells of its block. What is there then, if
    /// anything, are constants.
    last_block: Option<u32>,
    /// Where instructions were found to begin.
    starts: Bits,
    /// Where they were found to end.
    ends: Bits,
    /// What instructions have the distance to, in their order.
    addresses: Vec<u32>,
    found: Listing,
}

/// What is behind the last instruction.
struct Rest {
    start: u32,
    /// Whether a table begins there.
    table: bool,
}

impl<'a> Reading<'a> {
    fn new(code: &'a Code, blocks: &[u32], frame: Frame, aim: Aim) -> Option<Self> {
        let length = u32::try_from(code.bytes.len()).ok()?;
        let mut entries = Bits::new(length);
        entries.insert(0)?;
        let traps = code.sites.iter().filter(|site| site.trap.is_some()).map(|site| site.text);
        let handlers = code.handlers.iter().map(|handler| handler.handler);
        let (last, others) = match blocks.split_last() {
            Some((last, others)) if others.iter().all(|block| block < last) => {
                (Some(*last), others)
            }
            _ => (None, blocks),
        };
        for entry in others.iter().copied().chain(traps).chain(handlers) {
            entries.insert(entry)?;
        }
        let last_block = last.filter(|last| !entries.contains(*last));
        let last_is_empty = last_block.is_some_and(|last| last >= length);
        let last_block = last_block.filter(|_| !last_is_empty);
        if let Some(last) = last_block {
            entries.insert(last)?;
        }
        let calls = code.sites.iter().any(|site| site.trap.is_none());
        Some(Self {
            code,
            length,
            frame,
            aim,
            comparison: limit::comparison(&code.bytes, calls),
            places: Places::default(),
            operands: Operands::new(),
            users: Vec::new(),
            retests: Vec::new(),
            entries,
            last_block,
            starts: Bits::new(length),
            ends: Bits::new(length.checked_add(1)?),
            addresses: Vec::new(),
            found: Listing {
                // About as many as there are in most functions.
                spots: Vec::with_capacity(code.bytes.len() / 16),
                tables: Vec::new(),
                end: 0,
                data: None,
                last_is_empty,
                features: CpuFeatures::NONE,
            },
        })
    }

    /// Reads all instructions, and the tables between them.
    fn instructions(&mut self) -> Option<Rest> {
        let code = self.code;
        let mut relocations = code.relocations.iter().map(|it| it.offset).peekable();
        let mut decoder = Decoder::new(64, &code.bytes, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        // The last address that was computed, and how many instructions ago.
        let mut computed: Option<(u32, u32)> = None;
        // What the flags tell of: a register, and where the instruction ends that computed it.
        let mut result: Option<(u32, Register)> = None;
        loop {
            let offset = u32::try_from(decoder.position()).ok()?;
            if let Some(Comparison { end, form, .. }) =
                self.comparison.filter(|comparison| comparison.start == offset)
            {
                // Nothing refers to what is in it, or the start of something would be missing.
                self.starts.insert(offset)?;
                self.ends.insert(end)?;
                let length = u8::try_from(end - offset).ok()?;
                self.found.spots.push(Spot { offset, length, change: Change::Form(form) });
                decoder.set_position(end as usize).ok()?;
                decoder.set_ip(end.into());
                continue;
            }
            decoder.decode_out(&mut instruction);
            if instruction.is_invalid() {
                return None;
            }
            let end = u32::try_from(decoder.position()).ok()?;
            let bytes = code.bytes.get(offset as usize..end as usize)?;
            self.starts.insert(offset)?;
            self.ends.insert(end)?;
            for feature in instruction.cpuid_features() {
                self.found.features = self.found.features.union(instructions::known(*feature));
            }
            computed = computed.map(|(target, ago)| (target, ago + 1));
            // Of the bytes of an instruction, the linker writes at most four.
            let relocated = match relocations.next_if(|relocation| *relocation < end) {
                Some(relocation) if relocation <= offset || relocation.checked_add(4)? > end => {
                    return None;
                }
                Some(relocation) => Some(relocation - offset),
                None => None,
            };
            let mut change = None;
            let (mut ends, mut table) = (false, false);
            match instruction.flow_control() {
                FlowControl::Next => {}
                FlowControl::IndirectCall => self.may_call()?,
                FlowControl::Return | FlowControl::Exception => ends = true,
                FlowControl::Call => {
                    self.may_call()?;
                    relocated.filter(|field| bytes.first() == Some(&0xe8) && *field == 1)?;
                }
                FlowControl::UnconditionalBranch if relocated.is_some() => {
                    // The call of another function, in place of this one.
                    relocated.filter(|field| bytes.first() == Some(&0xe9) && *field == 1)?;
                    ends = true;
                }
                flow @ (FlowControl::UnconditionalBranch | FlowControl::ConditionalBranch) => {
                    if relocated.is_some() {
                        return None;
                    }
                    let target = u32::try_from(instruction.near_branch_target()).ok()?;
                    self.entries.insert(target)?;
                    // It gets short again if that is possible in the end.
                    change =
                        Some(Change::Branch(Branch { short: false, ..Branch::of(bytes, target)? }));
                    ends = flow == FlowControl::UnconditionalBranch;
                }
                FlowControl::IndirectBranch => {
                    // The address of a table, the distance from there, their sum, the branch.
                    table = computed == Some((end, 3));
                    ends = true;
                }
                _ => return None,
            }
            if instruction.is_ip_rel_memory_operand() {
                let offsets = decoder.get_constant_offsets(&instruction);
                let field = u8::try_from(offsets.displacement_offset()).ok()?;
                if offsets.displacement_size() != 4 || change.is_some() {
                    return None;
                }
                if let Some(relocated) = relocated {
                    if relocated != u32::from(field) {
                        return None;
                    }
                } else {
                    let target = u32::try_from(instruction.ip_rel_memory_address()).ok()?;
                    self.addresses.push(target);
                    if instruction.code() == Opcode::Lea_r64_m {
                        computed = Some((target, 0));
                    }
                    change = Some(Change::Address { field, target });
                }
            } else if relocated.is_none() && change.is_none() {
                change = match self.is_known(&instruction, result) {
                    true => {
                        self.retests.push(offset);
                        Some(Change::Form(Form::NOTHING))
                    }
                    false => self.form(&instruction, bytes, &decoder).map(Change::Form),
                };
            }
            result = retest::result(&instruction).map(|register| (end, register));
            if relocated.is_some()
                || matches!(change, Some(Change::Branch(_) | Change::Address { .. }))
            {
                self.places.note_fixed(&instruction);
            }
            let frame = self.frame.after(&instruction, end);
            let following = code.bytes.get(end as usize..).unwrap_or(&[]);
            if relocated.is_none() && frame::closes_anyway(self.frame, frame, following) {
                change = Some(Change::Form(Form::NOTHING));
            }
            self.frame = frame;
            if let Some(change) = change {
                let length = u8::try_from(bytes.len()).ok()?;
                self.found.spots.push(Spot { offset, length, change });
            }
            let over = ends && !table && self.is_over(end);
            if end == self.length || over || (ends && !self.entries.contains(end)) {
                if !ends {
                    return None;
                }
                match self.entries.first_from(end).filter(|next| !table || !self.is_over(*next)) {
                    Some(next) => {
                        // Only tables are between instructions.
                        if !table {
                            return None;
                        }
                        self.found.tables.push(Table { start: end, end: next });
                        decoder.set_position(next as usize).ok()?;
                        decoder.set_ip(next.into());
                    }
                    None => {
                        // Where the linker writes is read.
                        return relocations.next().is_none().then_some(Rest { start: end, table });
                    }
                }
            }
        }
    }

    /// Whether all that follows from an offset on are constants, though the last block is said to begin there. Then it is no entry any more.
    fn is_over(&mut self, offset: u32) -> bool {
        let Some(last) = self.last_block.filter(|last| *last >= offset) else { return false };
        let behind = self.addresses.iter().copied().filter(|address| *address >= offset);
        let data = behind.min().unwrap_or(self.length);
        // No code is made of zeros, and none begins where constants do.
        let padding = self.code.bytes.get(offset as usize..data as usize);
        let is_padding = padding.is_some_and(|padding| padding.iter().all(|byte| *byte == 0));
        if is_padding {
            self.entries.remove(last);
            self.found.last_is_empty = true;
        }
        is_padding
    }

    /// What an instruction becomes that refers to nothing in the code, if it does not stay as it is.
    fn form(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        decoder: &Decoder<'_>,
    ) -> Option<Form> {
        match self.fused(instruction) {
            Some(Form::NOTHING) => Some(Form::NOTHING),
            Some(form) => {
                let mut decoder = Decoder::new(64, form.bytes(), DecoderOptions::NONE);
                let instruction = decoder.decode();
                self.smaller(&instruction, form.bytes(), &decoder).or(Some(form))
            }
            None => self.smaller(instruction, bytes, decoder),
        }
    }

    /// The shorter form of an instruction, or any, if it refers to a place on the stack of which is not known yet how to refer to it best.
    fn smaller(
        &mut self,
        instruction: &Instruction,
        bytes: &[u8],
        decoder: &Decoder<'_>,
    ) -> Option<Form> {
        let size = self.frame.size();
        let is_place = self.places.note(instruction, size);
        let size = size.filter(|_| self.aim == Aim::Size && !is_place);
        let smaller = forms::smaller(instruction, bytes, size, |instruction| {
            decoder.get_constant_offsets(instruction)
        });
        if !is_place {
            return smaller;
        }
        let form = smaller.or_else(|| Form::new(&[bytes]))?;
        self.places.add(instruction, self.found.spots.len());
        Some(form)
    }

    /// What an instruction becomes if it is a load that goes, or what gets the operand of one.
    fn fused(&mut self, instruction: &Instruction) -> Option<Form> {
        if self.aim != Aim::Size {
            return None;
        }
        let offset = u32::try_from(instruction.ip()).ok()?;
        // Of two loads, one after the other, the first has its user first.
        let mut last = self.users.iter().rev().take(2);
        if let Some((_, user)) = last.find(|(_, user)| user.offset == offset) {
            return Some(user.form);
        }
        let entries = &self.entries;
        let is_entry = |offset| entries.contains(offset);
        let user = self.operands.user_of(instruction, &self.code.bytes, is_entry)?;
        self.users.push((offset, user));
        Some(Form::NOTHING)
    }

    /// Whether an instruction tests what the flags tell already, for a branch that asks for nothing else, and nothing looks at them
    /// afterwards.
    fn is_known(&self, instruction: &Instruction, result: Option<(u32, Register)>) -> bool {
        let Some((end, register)) = result else { return false };
        let offset = u32::try_from(instruction.ip()).unwrap_or(u32::MAX);
        let next = u32::try_from(instruction.next_ip()).unwrap_or(u32::MAX);
        let comes_from_there = end == offset && !self.entries.contains(offset);
        let is_user = |(_, user): &(u32, User)| user.offset == offset;
        comes_from_there
            && retest::tested(instruction) == Some(register)
            && !self.users.iter().rev().take(2).any(is_user)
            && retest::branch(&self.code.bytes, next).is_some_and(|(behind, is_jump)| {
                // Flags are not kept from one block to the next.
                is_jump || self.entries.contains(behind)
            })
    }

    /// `None` if the function was taken for one that calls none.
    fn may_call(&self) -> Option<()> {
        (!self.comparison.is_some_and(|comparison| comparison.form == Form::NOTHING)).then_some(())
    }

    /// Reads what is behind the last instruction, and looks whether everything refers to something.
    fn rest(mut self, rest: Rest) -> Option<Listing> {
        let Rest { start, table } = rest;
        let code = &self.code.bytes;
        self.found.end = start;
        // Constants begin with the first that an instruction has the distance to.
        let constant = |address: &u32| *address >= start && !(table && *address == start);
        self.found.data = self.addresses.iter().copied().filter(constant).min();
        let end = self.found.data.unwrap_or(self.length);
        if table {
            let mut table = Table { start, end: start };
            while table.end.checked_add(4)? <= end
                && self.starts.contains(entry(code, &table, table.end)?)
            {
                table.end += 4;
            }
            self.found.end = table.end;
            self.found.tables.push(table);
        }
        // What aligns the constants.
        let padding = code.get(self.found.end as usize..end as usize)?;
        let aligned =
            self.found.data.is_some() && (padding.len() as u64) < u64::from(self.code.alignment);
        if !(padding.is_empty() || aligned && padding.iter().all(|byte| *byte == 0)) {
            return None;
        }
        if !self.is_consistent() {
            return None;
        }
        let places = std::mem::take(&mut self.places);
        // If they stay, so does everything.
        let _ = places.arrange(self.code, self.frame.size(), self.aim, &mut self.found.spots);
        Some(self.found)
    }

    /// Whether everything that refers to an offset in the code refers to the start of something.
    fn is_consistent(&self) -> bool {
        let Self { code, starts, ends, found, .. } = self;
        let returns = code.sites.iter().filter(|site| site.trap.is_none()).map(|site| site.text);
        let calls = code.handlers.iter().map(|handler| handler.call);
        let rules = code.unwind.iter().flat_map(|unwind| &unwind.rules).map(|(offset, _)| *offset);
        let table = |start| found.tables.binary_search_by_key(&start, |table| table.start).is_ok();
        let constant =
            |address| found.data.is_some_and(|start| start <= address && address < self.length);
        let entries = found.tables.iter().all(|table| {
            table.end > table.start
                && (table.end - table.start).is_multiple_of(4)
                && (table.start..table.end).step_by(4).all(|offset| {
                    entry(&code.bytes, table, offset).is_some_and(|it| starts.contains(it))
                })
        });
        // What was found to lead somewhere later.
        let alone = self.users.iter().all(|(load, user)| {
            self.entries.first_from(load + 1).is_none_or(|entry| entry > user.offset)
        });
        let follow = self.retests.iter().all(|test| !self.entries.contains(*test));
        alone
            && follow
            && self.entries.are_in(starts)
            && returns.chain(calls).chain(rules).all(|offset| ends.contains(offset))
            && self.addresses.iter().all(|it| starts.contains(*it) || table(*it) || constant(*it))
            && entries
    }
}

/// A set of offsets in the code.
struct Bits {
    words: Vec<u64>,
    length: u32,
}

impl Bits {
    /// The empty set of offsets below `length`.
    fn new(length: u32) -> Self {
        Self { words: vec![0; length.div_ceil(64) as usize], length }
    }

    /// `None` if the offset is outside of the code.
    fn insert(&mut self, offset: u32) -> Option<()> {
        if offset >= self.length {
            return None;
        }
        *self.words.get_mut(offset as usize / 64)? |= 1 << (offset % 64);
        Some(())
    }

    fn remove(&mut self, offset: u32) {
        if let Some(word) = self.words.get_mut(offset as usize / 64) {
            *word &= !(1 << (offset % 64));
        }
    }

    fn contains(&self, offset: u32) -> bool {
        self.words.get(offset as usize / 64).is_some_and(|word| word >> (offset % 64) & 1 == 1)
    }

    /// The first that is not below an offset.
    fn first_from(&self, offset: u32) -> Option<u32> {
        let (index, shift) = (offset / 64, offset % 64);
        let first = self.words.get(index as usize)? >> shift << shift;
        let rest = self.words.get(index as usize + 1..).unwrap_or(&[]);
        (index..)
            .zip([first].iter().chain(rest))
            .find(|(_, word)| **word != 0)
            .map(|(index, word)| index * 64 + word.trailing_zeros())
    }

    fn are_in(&self, others: &Self) -> bool {
        self.words.iter().zip(&others.words).all(|(word, other)| word & !other == 0)
    }
}
