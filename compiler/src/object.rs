//! The artifact: an ELF object of which every section is known, sealed with
//! its digest, and read again before it is handed out.
//!
//! The front of the file is as the artifact format says (header, signatures, digests); `layout` has the rest. Symbols and sections have their
//! names where those of functions are for backtraces, so that these are there once.

use std::borrow::Cow;

use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::builder::{Provenance, Tables, seal};
use cwasm_artifact::check::{LATE, check, check_unhashed};
use cwasm_artifact::cpu::CpuFeatures;
use cwasm_artifact::header::{
    HEADER_OFFSET, HEADER_SECTION, HEADER_SIZE, SIGNATURES_OFFSET, SIGNATURES_SECTION,
    SIGNATURES_SIZE, Section, SectionRange, TREE_OFFSET, TREE_SECTION,
};
use cwasm_artifact::module::Module as ArtifactModule;
use cwasm_artifact::tree::Tree;
use object::elf as ids;

use crate::CompiledModule;
use crate::error::CompileError;
use crate::settings::Settings;
use crate::unwind::EhFrame;

use elf::{Machine, SectionHeader, Symbol};
use layout::{Layout, Part, Role};

mod elf;
mod layout;
mod symbols;

/// Tables of the object format, and unwind information, begin at multiples of this.
const ALIGNMENT: usize = 8;

/// How long an entry is of these tables.
const SECTION_HEADER: usize = 64;
const SYMBOL: usize = 24;
const RELOCATION: usize = 24;

fn assembly(what: &str, error: impl std::fmt::Display) -> CompileError {
    CompileError::Assembly { message: format!("cannot {what}: {error}") }
}

/// Everything that goes into an artifact.
pub(crate) struct Parts<'a> {
    pub(crate) wasm: &'a [u8],
    pub(crate) settings: &'a Settings,
    pub(crate) features: CpuFeatures,
    pub(crate) compiled: &'a CompiledModule<'a>,
    pub(crate) tables: Tables,
    pub(crate) eh_frame: EhFrame,
}

/// Writes and seals an artifact.
pub(crate) fn write(parts: Parts<'_>) -> Result<Vec<u8>, CompileError> {
    let Parts { wasm, settings, features, compiled, tables, eh_frame } = parts;
    let object = Object::of(settings, compiled, tables, eh_frame)?;
    let Written { mut file, sections, tree } = object.write(settings.page_size() as usize)?;
    let provenance = Provenance {
        abi: fingerprint(),
        compiler: env!("CARGO_PKG_VERSION"),
        target: &settings.target.to_string(),
        cpu_features: features,
        cpu_level: settings.cpu.name(),
        settings: settings.recorded().bits,
        opt_level: settings.opt_level.name(),
        source: wasm,
    };
    seal(&mut file, &provenance, &sections, tree)?;
    reread(&file)?;
    Ok(file)
}

/// A section behind the front area.
struct Piece<'a> {
    header: SectionHeader,
    role: Role,
    /// What the artifact's header calls it, if it does.
    known: Option<Section>,
    bytes: Cow<'a, [u8]>,
}

/// An object file, but for where everything is.
struct Object<'a> {
    machine: Machine,
    /// The names of the sections of the front area.
    front: [u32; 3],
    pieces: Vec<Piece<'a>>,
    /// The number of the section with all names.
    names: u16,
    /// Of what is between pieces on pages of code.
    filler: u8,
}

/// An object file.
struct Written {
    file: Vec<u8>,
    /// Where those are that the artifact's header lists.
    sections: Vec<(Section, SectionRange)>,
    /// How many leaves it has room for.
    tree: Tree,
}

/// The number of the section with the code, if there is one: it comes behind that of nothing, and those of the front area.
const CODE: u16 = 4;

impl<'a> Object<'a> {
    fn of(
        settings: &Settings,
        compiled: &'a CompiledModule<'_>,
        mut tables: Tables,
        eh_frame: EhFrame,
    ) -> Result<Self, CompileError> {
        let machine = Machine::of(&settings.target)?;
        let text = &compiled.text;
        let symbols = symbols::symbols(compiled, &mut tables, CODE)?;
        let mut name = |name: &str| tables.add_text(name).map(|text| text.offset.get());
        let front = [name(HEADER_SECTION)?, name(SIGNATURES_SECTION)?, name(TREE_SECTION)?];
        let code_name = name(Section::Text.name())?;
        // Without it, linkers make the stack executable.
        let stack_name = name(".note.GNU-stack")?;
        let [unwind_name, relocations_name, symbols_name] =
            [name(".eh_frame")?, name(".rela.eh_frame")?, name(".symtab")?];
        // The names of the others, before their bytes are taken.
        let others: Vec<_> = Section::ALL.into_iter().filter(|it| *it != Section::Text).collect();
        let others_names =
            others.iter().map(|it| name(it.name())).collect::<Result<Vec<_>, _>>()?;

        let mut pieces = Vec::new();
        let data = SectionHeader { kind: ids::SHT_PROGBITS, alignment: 1, ..Default::default() };
        if !text.bytes.is_empty() {
            let header = SectionHeader {
                name: code_name,
                flags: ids::SHF_ALLOC | ids::SHF_EXECINSTR,
                alignment: settings.page_size() as usize,
                ..data
            };
            let known = Some(Section::Text);
            let bytes = Cow::Borrowed(&text.bytes[..]);
            pieces.push(Piece { header, role: Role::Code, known, bytes });
        }
        let header = SectionHeader { name: stack_name, ..data };
        pieces.push(Piece { header, role: Role::Tools, known: None, bytes: Cow::default() });
        let phase = tables.image_phase(settings.page_size());
        let mut names = 0;
        for (section, bytes) in tables.sections() {
            if bytes.is_empty() {
                continue;
            }
            let name = others.iter().position(|it| *it == section).map(|it| others_names[it]);
            let mut header = SectionHeader { name: name.unwrap_or_default(), ..data };
            let role = match section {
                Section::ImageBytes => Role::Images { phase: phase as usize },
                // Only function names can wait. Those of imports and exports come before them.
                Section::Strings => Role::Now,
                late if LATE.contains(&late) => Role::Late,
                _ => Role::Now,
            };
            if section == Section::Strings {
                header.kind = ids::SHT_STRTAB;
                names = number(pieces.len())?;
            }
            pieces.push(Piece { header, role, known: Some(section), bytes: bytes.into() });
        }
        if !text.bytes.is_empty() {
            let table = |name, kind, entry, bytes: Vec<u8>| {
                let header = SectionHeader { name, kind, entry, alignment: ALIGNMENT, ..data };
                Piece { header, role: Role::Tools, known: None, bytes: bytes.into() }
            };
            let unwind = number(pieces.len())?;
            if !eh_frame.bytes.is_empty() {
                let mut piece = table(unwind_name, ids::SHT_PROGBITS, 0, eh_frame.bytes);
                piece.header.flags = ids::SHF_ALLOC;
                pieces.push(piece);
                // The symbol of the code comes behind that of nothing.
                let mut bytes = Vec::with_capacity(eh_frame.references.len() * RELOCATION);
                for (offset, addend) in eh_frame.references {
                    machine.relocation(&mut bytes, offset, 1, addend);
                }
                let mut piece = table(relocations_name, ids::SHT_RELA, RELOCATION, bytes);
                piece.header.flags = ids::SHF_INFO_LINK;
                (piece.header.link, piece.header.info) = (unwind + 2, unwind.into());
                pieces.push(piece);
            }
            let code = Symbol { kind: ids::STT_SECTION, section: CODE, ..Symbol::default() };
            let mut bytes = Vec::with_capacity((symbols.len() + 2) * SYMBOL);
            for symbol in [Symbol::default(), code].iter().chain(&symbols) {
                machine.symbol(&mut bytes, symbol);
            }
            let mut piece = table(symbols_name, ids::SHT_SYMTAB, SYMBOL, bytes);
            piece.header.link = names;
            // No symbol is for other files.
            let count = piece.bytes.len() / SYMBOL;
            piece.header.info =
                u32::try_from(count).map_err(|error| assembly("count symbols", error))?;
            pieces.push(piece);
        }
        Ok(Self { machine, front, pieces, names, filler: text.filler })
    }

    /// Puts everything in its place. The front area has zeros but for the header of the object format.
    fn write(self, page: usize) -> Result<Written, CompileError> {
        let count = self.pieces.len() + self.front.len() + 1;
        // Behind all others, since it has their places.
        let table =
            Part { role: Role::Tools, length: count * SECTION_HEADER, alignment: ALIGNMENT };
        let parts: Vec<Part> = self
            .pieces
            .iter()
            .map(|piece| Part {
                role: piece.role,
                length: piece.bytes.len(),
                alignment: piece.header.alignment,
            })
            .chain([table])
            .collect();
        let most: usize = parts.iter().map(|part| part.length + ALIGNMENT).sum();
        let tree = Tree::for_at_most(most + 4 * page, page);
        let Layout { offsets, length } =
            layout::arrange(&parts, tree.body_offset(), page, tree.chunk_size());

        let mut headers = vec![SectionHeader::default()];
        let front = [
            (HEADER_OFFSET, HEADER_SIZE),
            (SIGNATURES_OFFSET, SIGNATURES_SIZE),
            (TREE_OFFSET, tree.body_offset() - TREE_OFFSET),
        ];
        headers.extend(self.front.iter().zip(front).map(|(name, (offset, length))| {
            let (name, kind, flags) = (*name, ids::SHT_PROGBITS, ids::SHF_ALLOC);
            SectionHeader { name, kind, flags, offset, length, alignment: 1, ..Default::default() }
        }));
        let mut file = vec![0; length];
        let mut known = Vec::new();
        for (piece, offset) in self.pieces.iter().zip(&offsets) {
            let (offset, length) = (*offset, piece.bytes.len());
            if piece.role == Role::Code {
                // What no other part takes of its pages.
                let pages = offset..(offset + length).next_multiple_of(page);
                file[pages].fill(self.filler);
            }
            headers.push(SectionHeader { offset, length, ..piece.header });
            known.extend(
                piece
                    .known
                    .map(|section| (section, SectionRange::new(offset as u64, length as u64))),
            );
        }
        for (piece, offset) in self.pieces.iter().zip(&offsets) {
            file[*offset..][..piece.bytes.len()].copy_from_slice(&piece.bytes);
        }
        let table = offsets.last().copied().unwrap_or_default();
        let sections = number(self.pieces.len())?;
        file[..HEADER_OFFSET]
            .copy_from_slice(&self.machine.file_header(table, sections, self.names));
        let mut bytes = Vec::with_capacity(count * SECTION_HEADER);
        headers.iter().for_each(|header| self.machine.section_header(&mut bytes, header));
        file[table..][..bytes.len()].copy_from_slice(&bytes);
        Ok(Written { file, sections: known, tree })
    }
}

/// The number of the section behind so many pieces.
fn number(pieces: usize) -> Result<u16, CompileError> {
    u16::try_from(pieces)
        .ok()
        .and_then(|pieces| pieces.checked_add(CODE))
        .ok_or_else(|| assembly("number sections", format!("there are {pieces}")))
}

/// Reads a finished artifact as a loader would. This shares no code with what
/// wrote the records, and so finds what one side of the two got wrong. The digest, which both compute
/// with the same code, is only computed again in builds with debug assertions.
fn reread(file: &[u8]) -> Result<(), CompileError> {
    let check = if cfg!(debug_assertions) { check } else { check_unhashed };
    let checked = check(file, None).map_err(|report| assembly("verify the artifact", report))?;
    ArtifactModule::new(&checked).map_err(|report| assembly("verify the artifact", report))?;
    Ok(())
}
