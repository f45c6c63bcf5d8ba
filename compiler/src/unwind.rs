//! How debuggers and profilers unwind the code: `.eh_frame`. The loader does
//! not read it; it follows frame pointers.
//!
//! The code generator keeps to itself what it says about a function, but writes it as an entry of such a section. It is read back from
//! there, since code may still move within its function, and functions share entries.

use cranelift_codegen::CompiledCode;
use cranelift_codegen::ir::Endianness;
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::{UnwindInfo, UnwindInst};
use gimli::read::{self, UnwindSection as _};
use gimli::write::{
    Address, CallFrameInstruction, CommonInformationEntry, EndianVec, Expression,
    FrameDescriptionEntry, FrameTable, RelocateWriter, Relocation,
};
use gimli::{
    BaseAddresses, DW_EH_PE_pcrel, DW_EH_PE_sdata4, DW_OP_lit0, DwEhPe, EndianSlice, Register,
    RunTimeEndian,
};
use serde::{Deserialize, Serialize};

use crate::error::CompileError;
use crate::link::TextRange;

/// What changes about a caller's registers, and when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unwind {
    /// Each with where it holds from, as an offset in the code; ordered.
    pub(crate) rules: Vec<(u32, Rule)>,
}

/// A rule of how to find something of the caller. Registers are numbered as in DWARF; offsets are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rule {
    /// The frame's address is at an offset from what a register holds.
    Frame(u16, i32),
    /// The same with another register, at the same offset.
    FrameRegister(u16),
    /// The same at another offset.
    FrameOffset(i32),
    /// A register is saved at an offset from the frame's address.
    Saved(u16, i32),
    /// A register has the address at an offset from the frame's.
    Address(u16, i32),
    /// A register has a value below 32. (On AArch64, one says whether return addresses are signed.)
    Value(u16, u8),
}

impl From<Rule> for CallFrameInstruction {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Frame(register, offset) => Self::Cfa(Register(register), offset),
            Rule::FrameRegister(register) => Self::CfaRegister(Register(register)),
            Rule::FrameOffset(offset) => Self::CfaOffset(offset),
            Rule::Saved(register, offset) => Self::Offset(Register(register), offset),
            Rule::Address(register, offset) => Self::ValOffset(Register(register), offset),
            Rule::Value(register, value) => {
                let mut expression = Expression::new();
                expression.op_constu(value.into());
                Self::ValExpression(Register(register), expression)
            }
        }
    }
}

impl Unwind {
    /// What the code generator says about a function; `None` where the target has no such section.
    fn of(isa: &dyn TargetIsa, info: Option<&UnwindInfo>) -> Result<Option<Self>, CompileError> {
        let (Some(cie), Some(UnwindInfo::SystemV(info))) = (isa.create_systemv_cie(), info) else {
            return Ok(None);
        };
        let EhFrame { bytes, .. } = write(isa, cie, [info.to_fde(Address::Constant(0))])?;
        let rules = read_rules(&bytes, endianness(isa)).map_err(|error| {
            CompileError::Assembly { message: format!("cannot read unwind information: {error}") }
        })?;
        match rules {
            Some(rules) => Ok(Some(Self { rules })),
            None => Err(CompileError::Assembly {
                message: "the unwind information of a function has rules that are unknown".into(),
            }),
        }
    }
}

/// What was read for the last functions, since most of them begin like another.
#[derive(Debug, Default)]
pub(crate) struct Known(Vec<Beginning>);

#[derive(Debug)]
struct Beginning {
    /// What the code generator notes of it.
    notes: Vec<(u32, UnwindInst)>,
    unwind: Option<Unwind>,
}

impl Known {
    /// So many kinds of beginnings are remembered.
    const MOST: usize = 64;

    /// How to unwind a function that was compiled. Nothing but `code.buffer.unwind_info` decides.
    pub(crate) fn of(
        &mut self,
        isa: &dyn TargetIsa,
        code: &CompiledCode,
    ) -> Result<Option<Unwind>, CompileError> {
        let notes = code.buffer.unwind_info.as_slice();
        if let Some(known) = self.0.iter().find(|known| known.notes == notes) {
            return Ok(known.unwind.clone());
        }
        let info = code.create_unwind_info(isa).map_err(|error| CompileError::Assembly {
            message: format!("cannot tell how to unwind a function: {error}"),
        })?;
        let unwind = Unwind::of(isa, info.as_ref())?;
        if self.0.len() == Self::MOST {
            self.0.clear();
        }
        self.0.push(Beginning { notes: notes.to_vec(), unwind: unwind.clone() });
        Ok(unwind)
    }
}

/// The rules of the only function in a section; `None` if there are others than those of [`Rule`].
fn read_rules(section: &[u8], endianness: RunTimeEndian) -> read::Result<Option<Vec<(u32, Rule)>>> {
    let mut section = read::EhFrame::new(section, endianness);
    section.set_address_size(8);
    let bases = BaseAddresses::default();
    let mut entries = section.entries(&bases);
    let mut rules = Vec::new();
    while let Some(entry) = entries.next()? {
        let read::CieOrFde::Fde(partial) = entry else { continue };
        let fde = partial.parse(read::EhFrame::cie_from_offset)?;
        let mut instructions = fde.instructions(&section, &bases);
        let mut place = 0_u32;
        while let Some(instruction) = instructions.next()? {
            match step(&instruction, fde.cie(), &section) {
                Some(Step::Advance(delta)) => place = place.saturating_add(delta),
                Some(Step::Rule(rule)) => rules.push((place, rule)),
                Some(Step::Nothing) => {}
                None => return Ok(None),
            }
        }
    }
    Ok(Some(rules))
}

/// An instruction of a section.
enum Step {
    Advance(u32),
    Rule(Rule),
    Nothing,
}

fn step(
    instruction: &read::CallFrameInstruction<usize>,
    cie: &read::CommonInformationEntry<EndianSlice<'_, RunTimeEndian>>,
    section: &read::EhFrame<EndianSlice<'_, RunTimeEndian>>,
) -> Option<Step> {
    use read::CallFrameInstruction as Read;
    let unfactored =
        |factored: i64| i32::try_from(factored.checked_mul(cie.data_alignment_factor())?).ok();
    let rule = match *instruction {
        Read::AdvanceLoc { delta } => {
            let delta = u64::from(delta).checked_mul(cie.code_alignment_factor())?;
            return Some(Step::Advance(u32::try_from(delta).ok()?));
        }
        Read::Nop => return Some(Step::Nothing),
        Read::DefCfa { register, offset } => Rule::Frame(register.0, i32::try_from(offset).ok()?),
        Read::DefCfaRegister { register } => Rule::FrameRegister(register.0),
        Read::DefCfaOffset { offset } => Rule::FrameOffset(i32::try_from(offset).ok()?),
        Read::Offset { register, factored_offset } => {
            Rule::Saved(register.0, unfactored(i64::try_from(factored_offset).ok()?)?)
        }
        Read::OffsetExtendedSf { register, factored_offset } => {
            Rule::Saved(register.0, unfactored(factored_offset)?)
        }
        Read::ValOffset { register, factored_offset } => {
            Rule::Address(register.0, unfactored(i64::try_from(factored_offset).ok()?)?)
        }
        Read::ValOffsetSf { register, factored_offset } => {
            Rule::Address(register.0, unfactored(factored_offset)?)
        }
        Read::ValExpression { register, expression } => {
            // One operation that pushes a small number, and is one itself.
            let expression = expression.get(section).ok()?;
            let [operation @ 0x30..=0x4f] = expression.0.slice() else { return None };
            Rule::Value(register.0, operation - DW_OP_lit0.0)
        }
        _ => return None,
    };
    Some(Step::Rule(rule))
}

/// The section, and the places in it that need the distance to the text.
#[derive(Debug, Default)]
pub(crate) struct EhFrame {
    pub(crate) bytes: Vec<u8>,
    /// Offset in the section, and offset in the text of what it refers to.
    pub(crate) references: Vec<(u64, i64)>,
}

struct Writer {
    bytes: EndianVec<RunTimeEndian>,
    references: Vec<(u64, i64)>,
}

impl RelocateWriter for Writer {
    type Writer = EndianVec<RunTimeEndian>;

    fn writer(&self) -> &Self::Writer {
        &self.bytes
    }

    fn writer_mut(&mut self) -> &mut Self::Writer {
        &mut self.bytes
    }

    fn relocate(&mut self, relocation: Relocation) {
        self.references.push((relocation.offset as u64, relocation.addend));
    }
}

/// How many pieces of code share an entry. Whoever unwinds reads half of an entry, on average.
const GROUP: usize = 32;

/// Writes the section for the given pieces of code, which are ordered by offset.
///
/// An entry is for several pieces: it has what an entry of its own would have for each, and would otherwise be longer than
/// that, with its relocation. What is between two of them has the rules of the one before.
pub(crate) fn eh_frame(
    isa: &dyn TargetIsa,
    code: &[(TextRange, Unwind)],
) -> Result<EhFrame, CompileError> {
    grouped(isa, code, GROUP)
}

fn grouped(
    isa: &dyn TargetIsa,
    code: &[(TextRange, Unwind)],
    group: usize,
) -> Result<EhFrame, CompileError> {
    let Some(mut cie) = isa.create_systemv_cie() else { return Ok(EhFrame::default()) };
    // Distances of four bytes, so that the section needs no change when it is moved with the code.
    cie.fde_address_encoding = DwEhPe(DW_EH_PE_pcrel.0 | DW_EH_PE_sdata4.0);
    let entries = code.chunks(group.max(1)).filter_map(|group| {
        let ((first, _), (last, _)) = (group.first()?, group.last()?);
        let address = Address::Symbol { symbol: 0, addend: i64::from(first.offset) };
        let length = (last.offset + last.len).checked_sub(first.offset)?;
        let mut entry = FrameDescriptionEntry::new(address, length);
        for (number, (range, unwind)) in group.iter().enumerate() {
            let start = range.offset.checked_sub(first.offset)?;
            // Each begins with the rules of a function that was just called.
            if number > 0 {
                entry.add_instruction(start, CallFrameInstruction::RestoreState);
            }
            if number + 1 < group.len() {
                entry.add_instruction(start, CallFrameInstruction::RememberState);
            }
            for (offset, rule) in &unwind.rules {
                entry.add_instruction(start + *offset, (*rule).into());
            }
        }
        Some(entry)
    });
    write(isa, cie, entries)
}

/// Writes a section with these entries.
fn write(
    isa: &dyn TargetIsa,
    cie: CommonInformationEntry,
    entries: impl IntoIterator<Item = FrameDescriptionEntry>,
) -> Result<EhFrame, CompileError> {
    let mut table = FrameTable::default();
    let cie = table.add_cie(cie);
    for entry in entries {
        table.add_fde(cie, entry);
    }
    let mut section = gimli::write::EhFrame(Writer {
        bytes: EndianVec::new(endianness(isa)),
        references: Vec::new(),
    });
    table.write_eh_frame(&mut section).map_err(|error| CompileError::Assembly {
        message: format!("cannot write unwind information: {error}"),
    })?;
    let Writer { bytes, references } = section.0;
    Ok(EhFrame { bytes: bytes.into_vec(), references })
}

fn endianness(isa: &dyn TargetIsa) -> RunTimeEndian {
    match isa.endianness() {
        Endianness::Little => RunTimeEndian::Little,
        Endianness::Big => RunTimeEndian::Big,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effort::Effort;
    use crate::settings::{Settings, TARGETS};
    use crate::{Silent, compile_module};
    use gimli::read::{CfaRule, RegisterRule, UnwindContext};

    /// Where the section is, if the text is at 0.
    const SECTION: u64 = 0x1000_0000;

    /// As a linker would write it.
    fn relocated(section: EhFrame, endianness: RunTimeEndian) -> Vec<u8> {
        let EhFrame { mut bytes, references } = section;
        for (offset, addend) in references {
            let place = i64::try_from(SECTION + offset).unwrap();
            let value = i32::try_from(addend - place).unwrap();
            let value = match endianness {
                RunTimeEndian::Little => value.to_le_bytes(),
                RunTimeEndian::Big => value.to_be_bytes(),
            };
            let start = usize::try_from(offset).unwrap();
            bytes[start..start + 4].copy_from_slice(&value);
        }
        bytes
    }

    type Row = (CfaRule<usize>, Vec<(Register, String)>);

    /// What a section says about an address.
    fn row(section: &[u8], endianness: RunTimeEndian, address: u32) -> Option<Row> {
        let mut section = read::EhFrame::new(section, endianness);
        section.set_address_size(8);
        let bases = BaseAddresses::default().set_eh_frame(SECTION).set_text(0);
        let mut context = UnwindContext::new();
        let address = address.into();
        let row = section
            .unwind_info_for_address(&bases, &mut context, address, read::EhFrame::cie_from_offset)
            .ok()?;
        let rule = |rule: &RegisterRule<usize>| match rule {
            RegisterRule::ValExpression(expression) => {
                format!("{:?}", expression.get(&section).unwrap().0.slice())
            }
            other => format!("{other:?}"),
        };
        let mut registers: Vec<_> = row.registers().map(|(it, its)| (*it, rule(its))).collect();
        registers.sort_by_key(|(register, _)| register.0);
        Some((row.cfa().clone(), registers))
    }

    /// A module with `count` functions of several shapes, a table of branches, and calls of the host and from it.
    fn module(count: usize) -> Vec<u8> {
        let functions: String = (0..count)
            .map(|number| {
                let length = "(local.set 0 (i32.mul (local.get 0) (i32.load (local.get 0))))"
                    .repeat(number * 7 % 40);
                format!(
                    "(func $f{number} (export \"f{number}\") (param i32) (result i32) {length}
                        (block (block (block (br_table 0 1 2 0 1 2 0 (local.get 0)))
                            (call $host)) (drop (call $f{number} (i32.const 1))))
                        (call $f{} (local.get 0)))",
                    number / 2
                )
            })
            .collect();
        wat::parse_str(format!(r#"(module (import "" "" (func $host)) (memory 1) {functions})"#))
            .unwrap()
    }

    #[test]
    fn functions_that_share_an_entry_are_unwound_like_with_one_each() {
        for count in [0, 1, 2, 31, 100] {
            let wasm = module(count);
            for target in TARGETS {
                let settings = Settings { target: target.parse().unwrap(), ..Settings::default() };
                let isa = settings.isa(Effort::FULL).unwrap();
                let compiled = compile_module(&wasm, &settings, &*isa, &Silent, None).unwrap();
                let code = &compiled.text.unwind;
                if target.contains("windows") {
                    assert!(code.is_empty());
                    continue;
                }
                assert!(code.len() > count, "{target}");
                assert!(code.is_sorted_by_key(|(range, _)| range.offset), "{target}");
                let endianness = endianness(&*isa);
                let section = |group| relocated(grouped(&*isa, code, group).unwrap(), endianness);
                let (one_each, shared) = (section(1), section(GROUP));
                for (range, unwind) in code {
                    let last = unwind.rules.last().map_or(0, |(offset, _)| *offset);
                    assert!(last > 0 && last <= range.len, "{target}");
                    let prologue = (0..(last + 8).min(range.len)).chain([range.len - 1]);
                    for address in prologue.map(|offset| range.offset + offset) {
                        let wanted = row(&one_each, endianness, address);
                        assert!(wanted.is_some(), "{target} {address:#x}");
                        assert_eq!(
                            row(&shared, endianness, address),
                            wanted,
                            "{target} {address:#x}"
                        );
                    }
                }
                let (last, _) = code.last().unwrap();
                assert_eq!(row(&shared, endianness, last.offset + last.len), None);
                // Each entry has a relocation, too.
                let entries = grouped(&*isa, code, GROUP).unwrap().references.len();
                assert_eq!(entries, code.len().div_ceil(GROUP));
                if count > GROUP {
                    assert!(shared.len() * 3 < one_each.len() * 2, "{target}");
                }
            }
        }
    }

    #[test]
    fn rules_come_back_from_the_section_that_they_were_written_to() {
        let rules = vec![
            (4, Rule::Frame(7, 16)),
            (4, Rule::FrameOffset(4096)),
            (8, Rule::FrameRegister(6)),
            (300, Rule::Saved(6, -16)),
            (300, Rule::Saved(70, 24)),
            (70_000, Rule::Address(15, -160)),
            (70_000, Rule::Address(15, 160)),
            (70_004, Rule::Value(34, 0)),
            (70_004, Rule::Value(34, 31)),
        ];
        for target in TARGETS.into_iter().filter(|target| !target.contains("windows")) {
            let settings = Settings { target: target.parse().unwrap(), ..Settings::default() };
            let isa = settings.isa(Effort::FULL).unwrap();
            let mut entry = FrameDescriptionEntry::new(Address::Constant(0), 80_000);
            for (offset, rule) in &rules {
                entry.add_instruction(*offset, (*rule).into());
            }
            let section = write(&*isa, isa.create_systemv_cie().unwrap(), [entry]).unwrap();
            let read = read_rules(&section.bytes, endianness(&*isa)).unwrap();
            assert_eq!(read.as_ref(), Some(&rules), "{target}");
        }
    }
}
