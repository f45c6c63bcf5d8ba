//! How debuggers and profilers unwind the code: `.eh_frame`. The loader does
//! not read it; it follows frame pointers.
//!
//! The code generator keeps to itself what it says about a function, but writes it as an entry of such a section. It is read back from
//! there, since code may still move within its function, and functions share entries.

use cranelift_codegen::ir::Endianness;
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;
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
    pub(crate) fn of(
        isa: &dyn TargetIsa,
        info: Option<&UnwindInfo>,
    ) -> Result<Option<Self>, CompileError> {
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

/// Writes the section for the given pieces of code.
pub(crate) fn eh_frame(
    isa: &dyn TargetIsa,
    code: &[(TextRange, Unwind)],
) -> Result<EhFrame, CompileError> {
    let Some(mut cie) = isa.create_systemv_cie() else { return Ok(EhFrame::default()) };
    // Distances of four bytes, so that the section needs no change when it is moved with the code.
    cie.fde_address_encoding = DwEhPe(DW_EH_PE_pcrel.0 | DW_EH_PE_sdata4.0);
    let entries = code.iter().map(|(range, unwind)| {
        let address = Address::Symbol { symbol: 0, addend: i64::from(range.offset) };
        let mut entry = FrameDescriptionEntry::new(address, range.len);
        for (offset, rule) in &unwind.rules {
            entry.add_instruction(*offset, (*rule).into());
        }
        entry
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
