//! From the code of single functions to a text section, in which every
//! reference is resolved: loading it changes no byte.

use cranelift_codegen::binemit::Reloc;
use cwasm_artifact::cpu::CpuFeatures;
use target_lexicon::{Architecture, Triple};

use crate::codegen::{Code, Generated, Handler, Site};
use crate::error::CompileError;
use crate::module::{ConstantTable, Dispatch, FuncIndex, Module, TableIndex, TypeIndex};
use crate::reference::Reference;
use crate::trampoline::Direction;
use crate::unwind::Unwind;

/// Where a piece of code is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextRange {
    /// The offset of its first byte.
    pub offset: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// Trampolines of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trampolines {
    /// From the host into functions of the type; only if such a function escapes.
    pub entry: Option<TextRange>,
    /// To host functions of the type.
    pub exit: Option<TextRange>,
}

/// The linked code of a module.
#[derive(Debug)]
pub struct Text {
    /// The bytes, to be placed at the start of a page.
    pub bytes: Vec<u8>,
    /// The defined functions, in order.
    pub functions: Vec<TextRange>,
    /// Trampolines, by the first type that is equal to theirs; ordered.
    pub trampolines: Vec<(TypeIndex, Trampolines)>,
    /// The tables whose elements never change, of those that code refers to; ordered.
    pub tables: Vec<(TableIndex, TextRange)>,
    /// All sites, ordered by offset in the text.
    pub sites: Vec<Site>,
    /// The CPU features that the instructions need.
    pub features: CpuFeatures,
    /// All handlers of exceptions, ordered by the offset of their call.
    pub handlers: Vec<Handler>,
    /// The byte between functions. Running into it traps.
    pub filler: u8,
    /// How to unwind each piece of code, ordered by offset.
    pub(crate) unwind: Vec<(TextRange, Unwind)>,
}

/// About how much room there is before a function so that it begins where it should.
const GAP: usize = 32;

/// An element of a table that never changes, in the text.
pub(crate) mod constant_element {
    /// `i32`: the distance from the start of the table to the function.
    pub(crate) const DISTANCE: i32 = 0;
    /// `u32`: the first type of the module that is equal to the function's, or [`super::NO_TYPE`].
    pub(crate) const TYPE: i32 = 4;
    /// The size of an element.
    pub(crate) const SIZE: usize = 8;
}

/// The type of an element that is null. No module has so many types.
pub(crate) const NO_TYPE: u32 = u32::MAX;

/// Whether code for a target can refer to tables in the text.
pub(crate) fn reaches_tables(target: &Triple) -> bool {
    matches!(target.architecture, Architecture::X86_64 | Architecture::Aarch64(_))
}

/// The most text that a call can reach across.
fn text_limit(target: &Triple) -> usize {
    match target.architecture {
        Architecture::Aarch64(_) => (1 << 27) - 4,
        // The upper part of a distance is rounded, which costs half of a page at the end.
        Architecture::Riscv64(_) => (1 << 31) - 4096,
        _ => (1 << 31) - 1,
    }
}

/// Places all code and resolves the calls in it.
pub(crate) fn link(
    module: &Module<'_>,
    dispatch: &Dispatch,
    target: &Triple,
    generated: Generated,
) -> Result<Text, CompileError> {
    let Generated { functions, trampolines, .. } = generated;
    let mut linker = Linker {
        limit: text_limit(target),
        filler: if target.architecture == Architecture::X86_64 { 0xcc } else { 0 },
        bytes: Vec::new(),
        sites: Vec::new(),
        features: CpuFeatures::NONE,
        handlers: Vec::new(),
        unwind: Vec::new(),
    };
    let all = functions.iter().chain(trampolines.iter().map(|(_, _, code)| code));
    linker.bytes.reserve(all.map(|code| code.bytes.len() + GAP).sum());

    let mut ranges = Vec::with_capacity(functions.len());
    let mut references = Vec::with_capacity(functions.len());
    for mut code in functions {
        references.push(std::mem::take(&mut code.relocations));
        ranges.push(linker.place(code)?);
    }
    let place_of = |reference: Reference| match reference {
        Reference::Function(function) => {
            let number = module.defined_func(function)?.as_u32();
            ranges.get(number as usize).copied()
        }
        Reference::Table(_) | Reference::Own => None,
    };
    let mut referred: Vec<_> = references
        .iter()
        .flatten()
        .filter_map(|relocation| match relocation.target {
            Reference::Table(table) => Some(table),
            Reference::Function(_) | Reference::Own => None,
        })
        .collect();
    referred.sort_unstable();
    referred.dedup();
    let mut tables = Vec::with_capacity(referred.len());
    for table in referred {
        let missing =
            || assembly(format!("the elements of table {} are not known", table.as_u32()));
        let elements = dispatch.table(table).ok_or_else(missing)?;
        let place = |function| place_of(Reference::Function(function));
        tables.push((table, linker.place_table(module, elements, place)?));
    }
    let mut placed: Vec<(TypeIndex, Trampolines)> = Vec::new();
    for (ty, direction, code) in trampolines {
        let range = Some(linker.place(code)?);
        let position = match placed.binary_search_by_key(&ty, |(ty, _)| *ty) {
            Ok(position) => position,
            Err(position) => {
                placed.insert(position, (ty, Trampolines::default()));
                position
            }
        };
        match direction {
            Direction::Entry => placed[position].1.entry = range,
            Direction::Exit => placed[position].1.exit = range,
        }
    }
    for (caller, relocations) in ranges.iter().zip(references) {
        for relocation in relocations {
            let target = match relocation.target {
                Reference::Table(table) => tables
                    .binary_search_by_key(&table, |(table, _)| *table)
                    .ok()
                    .map(|position| tables[position].1),
                function @ Reference::Function(_) => place_of(function),
                Reference::Own => Some(*caller),
            };
            let Some(target) = target else {
                let what = relocation.target;
                return Err(assembly(format!("a reference to {what:?} was not resolved")));
            };
            let place = caller.offset + relocation.offset;
            let target = i64::from(target.offset) + relocation.addend;
            linker.patch(relocation.kind, place, target)?;
        }
    }
    Ok(Text {
        filler: linker.filler,
        bytes: linker.bytes,
        functions: ranges,
        trampolines: placed,
        tables,
        sites: linker.sites,
        features: linker.features,
        handlers: linker.handlers,
        unwind: linker.unwind,
    })
}

fn assembly(message: String) -> CompileError {
    CompileError::Assembly { message }
}

struct Linker {
    limit: usize,
    filler: u8,
    bytes: Vec<u8>,
    sites: Vec<Site>,
    features: CpuFeatures,
    handlers: Vec<Handler>,
    unwind: Vec<(TextRange, Unwind)>,
}

impl Linker {
    /// Appends a piece of code, and says where it is.
    fn place(&mut self, code: Code) -> Result<TextRange, CompileError> {
        let start = code.phases.place(self.bytes.len(), code.alignment as usize);
        let (offset, end) = self.room(start, code.bytes.len())?;
        self.bytes.resize(start, self.filler);
        self.bytes.extend_from_slice(&code.bytes);
        let range = TextRange { offset, len: end - offset };
        self.sites
            .extend(code.sites.iter().map(|site| Site { text: site.text + range.offset, ..*site }));
        self.features = self.features.union(code.features);
        self.handlers.extend(code.handlers.iter().map(|handler| Handler {
            call: handler.call + range.offset,
            handler: handler.handler + range.offset,
            ..*handler
        }));
        self.unwind.extend(code.unwind.map(|unwind| (range, unwind)));
        Ok(range)
    }

    /// Appends the elements of a table. `place` tells where a function is.
    fn place_table(
        &mut self,
        module: &Module<'_>,
        table: &ConstantTable,
        place: impl Fn(FuncIndex) -> Option<TextRange>,
    ) -> Result<TextRange, CompileError> {
        let start = self.bytes.len().next_multiple_of(constant_element::SIZE);
        // What is null leads to what is behind the table, which traps. That is also read where the index
        // is wrong and there is no first element.
        let length = table.elements.len() * constant_element::SIZE;
        let (start, end) = self.room(start, length + constant_element::SIZE)?;
        self.bytes.resize(start as usize, self.filler);
        for function in &table.elements {
            let (distance, ty) = match *function {
                None => (length as i64, NO_TYPE),
                Some(function) => {
                    let missing = || assembly(format!("function {function} has no place"));
                    let place = place(function).ok_or_else(missing)?;
                    let ty = module.canonical_types[module.functions[function].ty];
                    (i64::from(place.offset) - i64::from(start), ty.as_u32())
                }
            };
            let distance = i32::try_from(distance)
                .map_err(|_| assembly(format!("a function is {distance} bytes from a table")))?;
            self.bytes.extend_from_slice(&distance.to_le_bytes());
            self.bytes.extend_from_slice(&ty.to_le_bytes());
        }
        self.bytes.resize(end as usize, self.filler);
        Ok(TextRange { offset: start, len: end - start })
    }

    /// The offsets in the text of `length` bytes from `start` on, if there is room.
    fn room(&self, start: usize, length: usize) -> Result<(u32, u32), CompileError> {
        let end = start.saturating_add(length);
        if end > self.limit {
            return Err(CompileError::limit(
                "bytes of machine code",
                self.limit as u64,
                end as u64,
            ));
        }
        let narrow = |number: usize| {
            // The limit is below 2^31.
            u32::try_from(number).map_err(|_| assembly(format!("{number} is beyond the text")))
        };
        Ok((narrow(start)?, narrow(end)?))
    }

    /// Writes the place of what is referred to, an offset in the text, into the instruction that refers to it.
    fn patch(&mut self, kind: Reloc, place: u32, target: i64) -> Result<(), CompileError> {
        let distance = target - i64::from(place);
        let outside = || assembly(format!("a reference at {place:#x} is outside the text"));
        let (field, behind) = self
            .bytes
            .get_mut(place as usize..)
            .and_then(|field| field.split_first_chunk_mut::<4>())
            .ok_or_else(outside)?;
        let unreachable =
            || assembly(format!("a reference at {place:#x} cannot reach across {distance} bytes"));
        match kind {
            Reloc::X86CallPCRel4 => {
                *field = i32::try_from(distance).map_err(|_| unreachable())?.to_le_bytes();
            }
            Reloc::Arm64Call if distance % 4 == 0 && (-(1 << 27)..1 << 27).contains(&distance) => {
                // The low 26 bits of the instruction count words.
                let words = i32::try_from(distance / 4).map_err(|_| unreachable())?.cast_unsigned();
                let opcode = u32::from_le_bytes(*field) & 0xfc00_0000;
                *field = (opcode | words & 0x03ff_ffff).to_le_bytes();
            }
            Reloc::Arm64Call => return Err(unreachable()),
            Reloc::Aarch64AdrPrelPgHi21 => {
                // Counts pages of 4 KiB, at the first of which the text begins.
                let pages = (target >> 12) - (i64::from(place) >> 12);
                let pages = i32::try_from(pages).map_err(|_| unreachable())?.cast_unsigned();
                let opcode = u32::from_le_bytes(*field) & 0x9f00_001f;
                *field = (opcode | (pages & 3) << 29 | (pages >> 2 & 0x7_ffff) << 5).to_le_bytes();
            }
            Reloc::Aarch64AddAbsLo12Nc => {
                let low = u32::try_from(target & 0xfff).map_err(|_| unreachable())?;
                let opcode = u32::from_le_bytes(*field) & 0xffc0_03ff;
                *field = (opcode | low << 10).to_le_bytes();
            }
            Reloc::RiscvCallPlt => {
                // `auipc` adds the upper 20 bits of the distance, and `jalr` the lower 12, which are signed.
                let next = behind.first_chunk_mut::<4>().ok_or_else(outside)?;
                let distance = i32::try_from(distance).map_err(|_| unreachable())?;
                let upper = distance.checked_add(0x800).ok_or_else(unreachable)?.cast_unsigned();
                let opcode = u32::from_le_bytes(*field) & 0xfff;
                *field = (opcode | upper & 0xffff_f000).to_le_bytes();
                let opcode = u32::from_le_bytes(*next) & 0x000f_ffff;
                *next = (opcode | distance.cast_unsigned() << 20).to_le_bytes();
            }
            Reloc::S390xPLTRel32Dbl if distance % 2 == 0 => {
                // Counted in halfwords.
                *field = i32::try_from(distance / 2).map_err(|_| unreachable())?.to_be_bytes();
            }
            other => {
                return Err(assembly(format!("cannot resolve a relocation of kind {other}")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Phases;
    use crate::translate::FuncRefUse;

    fn linker(bytes: &[u8]) -> Linker {
        Linker {
            limit: 64,
            filler: 0xcc,
            bytes: bytes.to_vec(),
            sites: Vec::new(),
            features: CpuFeatures::NONE,
            handlers: Vec::new(),
            unwind: Vec::new(),
        }
    }

    fn code(len: usize, alignment: u32) -> Code {
        Code {
            bytes: vec![0x90; len],
            alignment,
            phases: Phases::HALVES,
            relocations: Vec::new(),
            sites: vec![Site { text: 1, wasm: 7, trap: None, inlined: None }],
            features: CpuFeatures::NONE,
            handlers: Vec::new(),
            unwind: None,
            func_refs: FuncRefUse::default(),
        }
    }

    #[test]
    fn functions_are_aligned_and_the_gaps_trap() {
        let mut linker = linker(&[]);
        assert_eq!(linker.place(code(3, 1)).unwrap(), TextRange { offset: 0, len: 3 });
        assert_eq!(linker.place(code(5, 32)).unwrap(), TextRange { offset: 32, len: 5 });
        assert!(linker.bytes[3..32].iter().all(|byte| *byte == 0xcc));
        assert_eq!(linker.sites[1].text, 33);
        assert!(matches!(
            linker.place(code(17, 1)),
            Err(CompileError::Limit { limit: 64, found: 81, .. })
        ));
    }

    #[test]
    fn displacements_are_written_in_the_form_of_the_instruction() {
        let mut linker = linker(&[0xe8, 0, 0, 0, 0, 0, 0, 0]);
        linker.patch(Reloc::X86CallPCRel4, 1, -4).unwrap();
        assert_eq!(linker.bytes[..5], [0xe8, 0xfb, 0xff, 0xff, 0xff]);
        linker.bytes[..4].copy_from_slice(&0x9400_0000_u32.to_le_bytes());
        linker.patch(Reloc::Arm64Call, 0, -8).unwrap();
        assert_eq!(linker.bytes[..4], 0x97ff_fffe_u32.to_le_bytes());
        assert!(linker.patch(Reloc::Arm64Call, 0, 1 << 27).is_err());
        assert!(linker.patch(Reloc::X86CallPCRel4, 1, (1 << 31) + 1).is_err());
        assert!(linker.patch(Reloc::Abs8, 0, 0).is_err());
        // auipc ra, 0; jalr ra, 0(ra), to what is 0x1800 ahead: the lower part is negative.
        linker.bytes[..4].copy_from_slice(&0x0000_0097_u32.to_le_bytes());
        linker.bytes[4..].copy_from_slice(&0x0000_80e7_u32.to_le_bytes());
        linker.patch(Reloc::RiscvCallPlt, 0, 0x1800).unwrap();
        assert_eq!(linker.bytes[..4], 0x0000_2097_u32.to_le_bytes());
        assert_eq!(linker.bytes[4..], 0x8000_80e7_u32.to_le_bytes());
        linker.patch(Reloc::S390xPLTRel32Dbl, 2, -4).unwrap();
        assert_eq!(linker.bytes[2..6], [0xff, 0xff, 0xff, 0xfd]);
        // adrp x1, 0; add x1, x1, #0, at 0x0 and 0x4, for something at 0x5678.
        linker.bytes[..4].copy_from_slice(&0x9000_0001_u32.to_le_bytes());
        linker.bytes[4..].copy_from_slice(&0x9100_0021_u32.to_le_bytes());
        linker.patch(Reloc::Aarch64AdrPrelPgHi21, 0, 0x5678).unwrap();
        linker.patch(Reloc::Aarch64AddAbsLo12Nc, 4, 0x5678).unwrap();
        assert_eq!(linker.bytes[..4], 0xb000_0021_u32.to_le_bytes());
        assert_eq!(linker.bytes[4..], 0x9119_e021_u32.to_le_bytes());
        assert!(linker.patch(Reloc::RiscvCallPlt, 4, 0).is_err());
        assert!(linker.patch(Reloc::X86CallPCRel4, 6, 0).is_err());
    }
}
