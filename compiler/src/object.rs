//! The artifact: an ELF object of which every section is known, sealed with
//! its digest, and read again before it is handed out.
//!
//! The order in the file is: the areas of the artifact format (header,
//! signatures, leaf table), the code on pages of its own, records and memory images, unwind
//! information, and what the object format adds. A loader that leaves parts for later reads what it needs first from one place:
//! the end of the code, where trampolines are, and the records behind it.

use std::collections::HashSet;

use cranelift_codegen::ir::Signature;
use cranelift_codegen::isa::CallConv;
use cranelift_module::{DataDescription, FuncId, Linkage, Module as _, ModuleError};
use cranelift_object::{ObjectBuilder, ObjectModule, ObjectProduct};
use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::builder::{Provenance, Tables, leaf_capacity, seal};
use cwasm_artifact::check::check;
use cwasm_artifact::cpu::CpuFeatures;
use cwasm_artifact::header::{
    HEADER_SECTION, HEADER_SIZE, LEAVES_SECTION, SIGNATURES_SECTION, SIGNATURES_SIZE, Section,
    SectionRange,
};
use cwasm_artifact::module::Module as ArtifactModule;
use object::read::elf::ElfFile64;
use object::write::{Relocation, SectionId};
use object::{
    Endianness, Object as _, ObjectSection as _, RelocationEncoding, RelocationFlags,
    RelocationKind, SectionKind, SymbolKind,
};

use crate::CompiledModule;
use crate::error::CompileError;
use crate::link::TextRange;
use crate::module::{DefinedFuncIndex, ExportItem};
use crate::settings::Settings;
use crate::unwind::EhFrame;

/// Symbols longer than this are cut; wasm allows names of any length.
const MAX_SYMBOL: usize = 512;

fn assembly(what: &str, error: impl std::fmt::Display) -> CompileError {
    CompileError::Assembly { message: format!("cannot {what}: {error}") }
}

impl From<ModuleError> for CompileError {
    fn from(error: ModuleError) -> Self {
        assembly("define a symbol", error)
    }
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
    let page = settings.page_size() as usize;
    let sections = tables.sections();
    let symbols = symbols(compiled);
    let capacity = leaf_capacity(estimate(compiled, &sections, &eh_frame, &symbols, page));

    let builder = ObjectBuilder::new(
        settings.container()?,
        "cwasm",
        cranelift_module::default_libcall_names(),
    )?;
    let mut object = ObjectModule::new(builder);
    for (name, size) in [
        (HEADER_SECTION, HEADER_SIZE),
        (SIGNATURES_SECTION, SIGNATURES_SIZE),
        (LEAVES_SECTION, capacity * 32),
    ] {
        front_area(&mut object, name, size)?;
    }
    let ids = define_code(&mut object, compiled, &symbols, page)?;

    let mut product = object.finish();
    correct_symbols(&mut product, &symbols, &ids);
    let object = &mut product.object;
    if !compiled.text.bytes.is_empty() {
        let text = object.section_id(object::write::StandardSection::Text);
        place_text(object, text, compiled, page)?;
    }
    for (section, bytes) in sections {
        if bytes.is_empty() {
            continue;
        }
        let images = section == Section::ImageBytes;
        let kind = if images { SectionKind::ReadOnlyData } else { SectionKind::Metadata };
        let id = object.add_section(Vec::new(), section.name().into(), kind);
        object.set_section_data(id, bytes, if images { page as u64 } else { 8 });
    }
    if !compiled.text.bytes.is_empty() {
        let text = object.section_id(object::write::StandardSection::Text);
        add_eh_frame(object, text, eh_frame)?;
    }
    let mut file = object.write().map_err(|error| assembly("write the object file", error))?;

    let ranges = section_ranges(&file, compiled.text.bytes.len())?;
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
    seal(&mut file, &provenance, &ranges, capacity)?;
    reread(&file)?;
    Ok(file)
}

/// An upper bound for the length of the file without its leaf table.
fn estimate(
    compiled: &CompiledModule<'_>,
    sections: &[(Section, Vec<u8>)],
    eh_frame: &EhFrame,
    symbols: &[Symbol],
    page: usize,
) -> usize {
    // Symbols and relocations have 24 bytes in ELF64, section headers 64.
    let count = symbols.len() + sections.len() + 16;
    let names: usize = symbols.iter().map(|symbol| symbol.name.len() + 1).sum();
    let records: usize = sections.iter().map(|(_, bytes)| bytes.len() + 64 + 32).sum();
    compiled.text.bytes.len()
        + records
        + eh_frame.bytes.len()
        + eh_frame.references.len() * 24
        + count * 24
        + names
        + 4 * page
        + 4096
}

/// A piece of code and its name.
struct Symbol {
    name: String,
    range: TextRange,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Code,
    /// The elements of a table.
    Table,
}

/// Names every piece of code, in the order of the text: as the name section
/// does, or by an export, or by its number. Names that occur twice get their number too.
fn symbols(compiled: &CompiledModule<'_>) -> Vec<Symbol> {
    let CompiledModule { module, text, .. } = compiled;
    let mut exported = vec![None; module.functions.len()];
    for export in &module.exports {
        if let ExportItem::Func(index) = export.item {
            exported[index.as_u32() as usize].get_or_insert(export.name);
        }
    }
    let mut taken = HashSet::new();
    let mut unique = |mut name: String, number: u32| {
        while !taken.insert(name.clone()) {
            name = format!("{name}[{number}]");
        }
        name
    };
    let mut symbols = Vec::with_capacity(text.functions.len());
    for (number, range) in (0..).map(DefinedFuncIndex::from_u32).zip(&text.functions) {
        let index = module.func_index(number);
        let number = index.as_u32();
        let wanted = module.names.function(index).or(exported[number as usize]);
        let name = wanted
            .filter(|name| !name.is_empty())
            .map_or_else(|| format!("func[{number}]"), printable);
        symbols.push(Symbol { name: unique(name, number), range: *range, kind: Kind::Code });
    }
    for (ty, trampolines) in &text.trampolines {
        let number = ty.as_u32();
        for (kind, range) in [("entry", trampolines.entry), ("exit", trampolines.exit)] {
            if let Some(range) = range {
                let name = unique(format!("trampoline.{kind}[{number}]"), number);
                symbols.push(Symbol { name, range, kind: Kind::Code });
            }
        }
    }
    for (table, range) in &text.tables {
        let number = table.as_u32();
        let name = unique(format!("table[{number}]"), number);
        symbols.push(Symbol { name, range: *range, kind: Kind::Table });
    }
    symbols.sort_by_key(|symbol| symbol.range.offset);
    symbols
}

/// A name that can stand in a symbol table.
fn printable(name: &str) -> String {
    let mut end = name.len().min(MAX_SYMBOL);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Adds an area at the front of the file, to be filled when it is sealed.
fn front_area(object: &mut ObjectModule, name: &str, size: usize) -> Result<(), CompileError> {
    // Without a name, which a function of the module might have too.
    let id = object.declare_anonymous_data(false, false)?;
    let mut data = DataDescription::new();
    data.define(vec![0; size].into_boxed_slice());
    data.set_custom_section(name);
    Ok(object.define_data(id, &data)?)
}

/// Defines a symbol for each piece of code, whose bytes go on until the next begins, and the first of which
/// begins with the text. Returns what they are called by, in the same order.
fn define_code(
    object: &mut ObjectModule,
    compiled: &CompiledModule<'_>,
    symbols: &[Symbol],
    page: usize,
) -> Result<Vec<FuncId>, CompileError> {
    // Nobody calls through these declarations, so that any signature will do.
    let signature = Signature::new(CallConv::SystemV);
    let text = &compiled.text.bytes;
    let mut ids = Vec::with_capacity(symbols.len());
    let mut start = 0;
    let ends = symbols.iter().skip(1).map(|next| next.range.offset as usize).chain([text.len()]);
    for (Symbol { name, .. }, end) in symbols.iter().zip(ends) {
        let id = object.declare_function(name, Linkage::Local, &signature)?;
        let bytes = text
            .get(start..end)
            .ok_or_else(|| assembly("define a function", format!("{name} is not in the text")))?;
        let alignment = if start == 0 { page } else { 1 };
        object.define_function_bytes(id, alignment as u64, bytes, &[])?;
        start = end;
        ids.push(id);
    }
    Ok(ids)
}

/// Makes symbols say where what they name really begins, how long it is, and what it is.
fn correct_symbols(product: &mut ObjectProduct, symbols: &[Symbol], ids: &[FuncId]) {
    for (Symbol { range, kind, .. }, id) in symbols.iter().zip(ids) {
        let symbol = product.function_symbol(*id);
        let symbol = product.object.symbol_mut(symbol);
        (symbol.value, symbol.size) = (range.offset.into(), range.len.into());
        if *kind == Kind::Table {
            symbol.kind = SymbolKind::Data;
        }
    }
}

/// Puts the linked text, whose gaps trap, in the place of the functions, and
/// fills its last page, so that nothing else can be in the pages of the code.
fn place_text(
    object: &mut object::write::Object<'_>,
    section: SectionId,
    compiled: &CompiledModule<'_>,
    page: usize,
) -> Result<(), CompileError> {
    let text = &compiled.text;
    let placed = object.section_mut(section).data_mut();
    if placed.len() != text.bytes.len() {
        return Err(assembly(
            "place the code",
            format!("it has {} bytes instead of {}", placed.len(), text.bytes.len()),
        ));
    }
    placed.copy_from_slice(&text.bytes);
    let rest = text.bytes.len().next_multiple_of(page) - text.bytes.len();
    object.append_section_data(section, &vec![text.filler; rest], 1);
    Ok(())
}

fn add_eh_frame(
    object: &mut object::write::Object<'_>,
    text: SectionId,
    eh_frame: EhFrame,
) -> Result<(), CompileError> {
    if eh_frame.bytes.is_empty() {
        return Ok(());
    }
    let section = object.add_section(Vec::new(), b".eh_frame".to_vec(), SectionKind::ReadOnlyData);
    object.set_section_data(section, eh_frame.bytes, 8);
    let symbol = object.section_symbol(text);
    for (offset, addend) in eh_frame.references {
        let flags = RelocationFlags::Generic {
            kind: RelocationKind::Relative,
            encoding: RelocationEncoding::Generic,
            size: 32,
        };
        object
            .add_relocation(section, Relocation { offset, symbol, addend, flags })
            .map_err(|error| assembly("relocate unwind information", error))?;
    }
    Ok(())
}

/// Where the sections came to be in the file. The text counts without the
/// filler behind it.
fn section_ranges(
    file: &[u8],
    text_len: usize,
) -> Result<Vec<(Section, SectionRange)>, CompileError> {
    let elf = ElfFile64::<Endianness>::parse(file)
        .map_err(|error| assembly("read the object file again", error))?;
    let mut ranges = Vec::new();
    for section in elf.sections() {
        let known = section.name().ok().and_then(Section::by_name);
        if let (Some(known), Some((offset, length))) = (known, section.file_range()) {
            let length = if known == Section::Text { text_len as u64 } else { length };
            ranges.push((known, SectionRange::new(offset, length)));
        }
    }
    Ok(ranges)
}

/// Reads a finished artifact as a loader would. This shares no code with what
/// wrote the records, and so finds what one side of the two got wrong.
fn reread(file: &[u8]) -> Result<(), CompileError> {
    let checked = check(file, None).map_err(|report| assembly("verify the artifact", report))?;
    ArtifactModule::new(&checked).map_err(|report| assembly("verify the artifact", report))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_for_a_symbol_table() {
        assert_eq!(printable("a\0b\nc"), "a?b?c");
        let long = "\u{e4}".repeat(1000);
        assert!(printable(&long).len() <= MAX_SYMBOL);
    }
}
