//! `.eh_frame`: how debuggers and profilers unwind the code. The loader does
//! not read it; it follows frame pointers.

use cranelift_codegen::ir::Endianness;
use cranelift_codegen::isa::TargetIsa;
use cranelift_codegen::isa::unwind::UnwindInfo;
use gimli::write::{Address, EndianVec, FrameTable, RelocateWriter, Relocation};
use gimli::{DW_EH_PE_pcrel, DW_EH_PE_sdata4, DwEhPe, RunTimeEndian};

use crate::error::CompileError;
use crate::link::TextRange;

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
    code: &[(TextRange, UnwindInfo)],
) -> Result<EhFrame, CompileError> {
    let Some(mut cie) = isa.create_systemv_cie() else { return Ok(EhFrame::default()) };
    if code.is_empty() {
        return Ok(EhFrame::default());
    }
    // Distances of four bytes, so that the section needs no change when it is moved with the code.
    cie.fde_address_encoding = DwEhPe(DW_EH_PE_pcrel.0 | DW_EH_PE_sdata4.0);
    let mut table = FrameTable::default();
    let cie = table.add_cie(cie);
    for (range, unwind) in code {
        if let UnwindInfo::SystemV(unwind) = unwind {
            let address = Address::Symbol { symbol: 0, addend: i64::from(range.offset) };
            table.add_fde(cie, unwind.to_fde(address));
        }
    }
    let endianness = match isa.endianness() {
        Endianness::Little => RunTimeEndian::Little,
        Endianness::Big => RunTimeEndian::Big,
    };
    let mut section =
        gimli::write::EhFrame(Writer { bytes: EndianVec::new(endianness), references: Vec::new() });
    table.write_eh_frame(&mut section).map_err(|error| CompileError::Assembly {
        message: format!("cannot write unwind information: {error}"),
    })?;
    let Writer { bytes, references } = section.0;
    Ok(EhFrame { bytes: bytes.into_vec(), references })
}
