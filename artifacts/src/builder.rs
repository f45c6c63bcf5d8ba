//! Writing: from a module's description to section bytes, and from a
//! finished ELF file to a sealed artifact.
//!
//! A compiler fills a [`Tables`], puts the bytes of each section into an
//! object file behind the areas that [`crate::header`] places at its front, and
//! [`seal`]s the file, which fills these areas in.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};
use zerocopy::{FromBytes as _, IntoBytes};

use crate::abi::Fingerprint;
use crate::cpu::CpuFeatures;
use crate::digest::{self, Digest};
use crate::header::{
    FORMAT_VERSION, HEADER_OFFSET, HEADER_SIZE, Header, MAGIC, Prefix, Section, SectionRange,
    pad_text,
};
use crate::records::{
    ConstOpRecord, DataSegmentRecord, DefinedRecord, ElementRecord, ExportRecord, ExternRecord,
    FuncRefRecord, FunctionRecord, HandlerRecord, ImageRecord, ImportRecord, InlinedRecord,
    ItemRecord, ModuleRecord, NONE, Span, Text, TypeRecord, extern_flags, extern_kind, type_kind,
};
use crate::sites::{self, Site};
use crate::tree::Tree;
use crate::types::{
    CompositeType, FieldType, GlobalType, IndexType, Limits, MemoryType, SubType, TableType,
    TypeRef,
};

/// Something that exceeds what the format can express.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A section or pool has more entries than its index can count.
    #[error("the module has too many {what}: an artifact holds at most {limit}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many are possible.
        limit: u64,
    },
    /// A header field is too short for its text.
    #[error("the {field} `{text}` is too long for an artifact's header")]
    TextTooLong {
        /// The field.
        field: &'static str,
        /// Its text.
        text: String,
    },
    /// The object file does not have the shape that sealing needs.
    #[error("the object file cannot be sealed: {0}")]
    Shape(String),
}

/// The metadata of an artifact, record by record.
///
/// The vectors are the sections; push to them in index order. The methods
/// intern what goes into pools.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Singular facts.
    pub module: ModuleRecord,
    /// Declared types. See [`Tables::add_type`].
    pub types: Vec<TypeRecord>,
    /// Imports.
    pub imports: Vec<ImportRecord>,
    /// Defined functions.
    pub functions: Vec<FunctionRecord>,
    /// Those of them that something may refer to.
    pub func_refs: Vec<FuncRefRecord>,
    /// Defined tables.
    pub tables: Vec<DefinedRecord>,
    /// Defined memories.
    pub memories: Vec<DefinedRecord>,
    /// Defined globals.
    pub globals: Vec<DefinedRecord>,
    /// Defined tags.
    pub tags: Vec<DefinedRecord>,
    /// Exports, sorted by name by [`Tables::sections`].
    pub exports: Vec<ExportRecord>,
    /// Element segments.
    pub elements: Vec<ElementRecord>,
    /// Data segments.
    pub data_segments: Vec<DataSegmentRecord>,
    /// Linear-memory images.
    pub images: Vec<ImageRecord>,
    /// Handlers of exceptions; sorted by the text offset of the call.
    pub handlers: Vec<HandlerRecord>,
    /// Sites of copied functions; sorted by text offset.
    pub inlined: Vec<InlinedRecord>,
    sites: Vec<u8>,
    val_types: Vec<u8>,
    const_ops: Vec<ConstOpRecord>,
    items: Vec<ItemRecord>,
    data: Vec<u8>,
    image_bytes: Vec<u8>,
    /// Where in its memory the first image begins.
    first_image: Option<u64>,
    strings: Vec<u8>,
    /// Where each text of the string pool begins.
    texts: HashMap<Box<str>, u32>,
}

fn index(what: &'static str, value: usize) -> Result<u32, BuildError> {
    u32::try_from(value)
        .ok()
        .filter(|index| *index != u32::MAX)
        .ok_or(BuildError::TooMany { what, limit: u64::from(u32::MAX) - 1 })
}

impl Tables {
    /// Puts a text into the string pool, unless it is there. A zero follows it, so that the pool is a string table to
    /// whoever reads object files.
    pub fn add_text(&mut self, text: &str) -> Result<Text, BuildError> {
        let length = index("bytes of names", text.len())?;
        if self.strings.is_empty() {
            // Names that are empty are at the beginning of such a table.
            self.strings.push(0);
        }
        let offset = match self.texts.get(text) {
            _ if text.is_empty() => 0,
            Some(offset) => *offset,
            None => {
                let offset = index("bytes of names", self.strings.len())?;
                self.strings.extend_from_slice(text.as_bytes());
                self.strings.push(0);
                self.texts.insert(text.into(), offset);
                offset
            }
        };
        Ok(Text { offset: offset.into(), length: length.into() })
    }

    /// Adds a declared type, whose recursion group begins with the type `group`, with the text offsets of its trampolines.
    pub fn add_type(
        &mut self,
        ty: &SubType,
        group: u32,
        entry: Option<u32>,
        exit: Option<u32>,
    ) -> Result<(), BuildError> {
        let start = index("value types", self.val_types.len() / 4)?;
        let mut add = |code: u32| self.val_types.extend_from_slice(&code.to_le_bytes());
        let mut add_field = |field: &FieldType| {
            add(field.storage.code());
            add(field.mutable.into());
        };
        let (kind, params) = match &ty.composite {
            CompositeType::Struct(ty) => {
                ty.fields.iter().for_each(add_field);
                (type_kind::STRUCT, 0)
            }
            CompositeType::Array(element) => {
                add_field(element);
                (type_kind::ARRAY, 0)
            }
            CompositeType::Func(ty) => {
                ty.values().for_each(|ty| add(ty.code()));
                (type_kind::FUNC, ty.params.len())
            }
        };
        let count = index("value types", self.val_types.len() / 4 - start as usize)?;
        self.types.push(TypeRecord {
            types: Span { start: start.into(), count: count.into() },
            params: index("parameters", params)?.into(),
            entry: entry.unwrap_or(NONE).into(),
            exit: exit.unwrap_or(NONE).into(),
            kind: kind.into(),
            open: u32::from(!ty.is_final).into(),
            supertype: ty.supertype.map_or(NONE, TypeRef::number).into(),
            group: group.into(),
        });
        Ok(())
    }

    /// Adds a constant expression.
    pub fn add_const(
        &mut self,
        ops: impl IntoIterator<Item = ConstOpRecord>,
    ) -> Result<Span, BuildError> {
        let start = index("constant operations", self.const_ops.len())?;
        self.const_ops.extend(ops);
        let count = index("constant operations", self.const_ops.len() - start as usize)?;
        Ok(Span { start: start.into(), count: count.into() })
    }

    /// Adds the items of an element segment.
    pub fn add_items(
        &mut self,
        items: impl IntoIterator<Item = ItemRecord>,
    ) -> Result<Span, BuildError> {
        let start = self.items.len();
        self.items.extend(items);
        let count = index("element segment items", self.items.len() - start)?;
        Ok(Span { start: index("element segment items", start)?.into(), count: count.into() })
    }

    /// Adds the bytes of a data segment; returns their offset.
    pub fn add_data(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.data.len() as u64;
        self.data.extend_from_slice(bytes);
        offset
    }

    /// Adds the bytes that a memory begins with at `address`; returns their offset. They lie as far into a page of the file as
    /// into one of the memory, if the section does, see [`Tables::image_phase`].
    pub fn add_image_bytes(&mut self, address: u64, bytes: &[u8], page: u32) -> u64 {
        let page = u64::from(page);
        let first = *self.first_image.get_or_insert(address) % page;
        let end = first + self.image_bytes.len() as u64;
        let start = end + (address % page + page - end % page) % page - first;
        self.image_bytes.resize(usize::try_from(start).unwrap_or(usize::MAX), 0);
        self.image_bytes.extend_from_slice(bytes);
        start
    }

    /// How far into a page of the file the bytes of images must begin.
    #[must_use]
    pub fn image_phase(&self, page: u32) -> u32 {
        let phase = self.first_image.unwrap_or(0) % u64::from(page);
        u32::try_from(phase).unwrap_or_default()
    }

    /// Sets the traps and return addresses, sorted by text offset.
    pub fn set_sites(&mut self, sites: &[Site]) -> Result<(), BuildError> {
        self.sites = sites::encode(sites)
            .ok_or_else(|| BuildError::Shape("the sites are out of order or too many".into()))?;
        Ok(())
    }

    /// Every section but the text, with its bytes, in the order in which they
    /// belong into the file. Exports are sorted by name.
    #[must_use]
    pub fn sections(mut self) -> Vec<(Section, Vec<u8>)> {
        let strings = &self.strings;
        self.exports.sort_by_key(|export| {
            let start = export.name.offset.get() as usize;
            &strings[start..start + export.name.length.get() as usize]
        });
        vec![
            // What is needed to instantiate comes first, behind the trampolines at the end of the text; with it, of the strings, the names of
            // imports and exports.
            (Section::Module, self.module.as_bytes().to_vec()),
            (Section::Types, self.types.as_bytes().to_vec()),
            (Section::ValTypes, self.val_types),
            (Section::Imports, self.imports.as_bytes().to_vec()),
            (Section::FuncRefs, self.func_refs.as_bytes().to_vec()),
            (Section::Tables, self.tables.as_bytes().to_vec()),
            (Section::Memories, self.memories.as_bytes().to_vec()),
            (Section::Globals, self.globals.as_bytes().to_vec()),
            (Section::Tags, self.tags.as_bytes().to_vec()),
            (Section::Exports, self.exports.as_bytes().to_vec()),
            (Section::ConstOps, self.const_ops.as_bytes().to_vec()),
            (Section::Elements, self.elements.as_bytes().to_vec()),
            (Section::Items, self.items.as_bytes().to_vec()),
            (Section::DataSegments, self.data_segments.as_bytes().to_vec()),
            (Section::Images, self.images.as_bytes().to_vec()),
            (Section::Data, self.data),
            (Section::Strings, self.strings),
            (Section::ImageBytes, self.image_bytes),
            // The rest can be loaded when it is needed.
            (Section::Functions, self.functions.as_bytes().to_vec()),
            (Section::Handlers, self.handlers.as_bytes().to_vec()),
            (Section::Sites, self.sites),
            (Section::Inlined, self.inlined.as_bytes().to_vec()),
        ]
    }
}

impl ExternRecord {
    /// The record of a function with this type index.
    #[must_use]
    pub fn func(ty: u32) -> Self {
        Self { kind: extern_kind::FUNC.into(), ty: ty.into(), ..Self::default() }
    }

    /// The record of a tag with this type index.
    #[must_use]
    pub fn tag(ty: u32) -> Self {
        Self { kind: extern_kind::TAG.into(), ty: ty.into(), ..Self::default() }
    }

    /// The record of a table.
    #[must_use]
    pub fn table(ty: &TableType) -> Self {
        let limits = Self::limits(extern_kind::TABLE, ty.limits, ty.index);
        Self { ty: ty.element.code().into(), ..limits }
    }

    /// The record of a memory.
    #[must_use]
    pub fn memory(ty: &MemoryType) -> Self {
        let limits = Self::limits(extern_kind::MEMORY, ty.limits, ty.index);
        let shared = if ty.shared { extern_flags::SHARED } else { 0 };
        let page = u32::from(ty.page_size_log2);
        Self { ty: page.into(), flags: limits.flags | shared, ..limits }
    }

    /// The record of a global.
    #[must_use]
    pub fn global(ty: &GlobalType) -> Self {
        Self {
            kind: extern_kind::GLOBAL.into(),
            ty: ty.value.code().into(),
            flags: if ty.mutable { extern_flags::MUTABLE } else { 0 }.into(),
            ..Self::default()
        }
    }

    fn limits(kind: u32, limits: Limits, index: IndexType) -> Self {
        let has_max = if limits.max.is_some() { extern_flags::HAS_MAX } else { 0 };
        let index = if index == IndexType::I64 { extern_flags::INDEX_64 } else { 0 };
        Self {
            kind: kind.into(),
            flags: (has_max | index).into(),
            min: limits.min.into(),
            max: limits.max.unwrap_or(0).into(),
            ..Self::default()
        }
    }
}

/// What the header says about how an artifact was made.
#[derive(Clone, Debug)]
pub struct Provenance<'a> {
    /// The ABI that the code was compiled for.
    pub abi: Fingerprint,
    /// Version of the compiler.
    pub compiler: &'a str,
    /// Target triple.
    pub target: &'a str,
    /// CPU features that the code needs.
    pub cpu_features: CpuFeatures,
    /// Name of the CPU level that was asked for.
    pub cpu_level: &'a str,
    /// Bits of [`crate::header::settings`].
    pub settings: u64,
    /// Optimisation level: `0`, `1`, `2` or `s`.
    pub opt_level: &'a str,
    /// The wasm module.
    pub source: &'a [u8],
}

/// Fills in the header, the branches and the leaves of a finished object file.
///
/// `sections` says where each section is in the file; sections that are not
/// named are empty. The file has zeros from its header to the end of what `tree` has room for.
pub fn seal(
    file: &mut [u8],
    provenance: &Provenance<'_>,
    sections: &[(Section, SectionRange)],
    tree: Tree,
) -> Result<Digest, BuildError> {
    fn field<const N: usize>(field: &'static str, text: &str) -> Result<[u8; N], BuildError> {
        pad_text(text).ok_or_else(|| BuildError::TextTooLong { field, text: text.to_owned() })
    }
    let leaf_count = tree.chunk_count(file.len());
    if leaf_count > tree.leaf_capacity() {
        return Err(BuildError::Shape(format!(
            "it has {} bytes, and there is room for the leaves of {}",
            file.len(),
            tree.leaf_capacity() * tree.chunk_size()
        )));
    }
    let body = tree.body_offset();
    if file.len() < body {
        return Err(BuildError::Shape("it ends before its body".to_owned()));
    }
    if file[HEADER_OFFSET..body].iter().any(|byte| *byte != 0) {
        return Err(BuildError::Shape("its front is not empty".to_owned()));
    }
    let mut directory = [SectionRange::default(); 24];
    for (section, range) in sections {
        if range.within(file.len()).is_none_or(|range| range.start < body && !range.is_empty()) {
            return Err(BuildError::Shape(format!("{} lies outside of it", section.name())));
        }
        directory[*section as usize] = *range;
    }
    let header = Header {
        prefix: Prefix {
            magic: MAGIC,
            format_version: FORMAT_VERSION.into(),
            header_size: index("header bytes", HEADER_SIZE)?.into(),
            abi: provenance.abi.0,
            compiler: field("compiler version", provenance.compiler)?,
            target: field("target", provenance.target)?,
        },
        cpu_features: provenance.cpu_features.bits().into(),
        cpu_level: field("CPU level", provenance.cpu_level)?,
        settings: provenance.settings.into(),
        opt_level: field("optimisation level", provenance.opt_level)?,
        source_length: (provenance.source.len() as u64).into(),
        source_sha256: Sha256::digest(provenance.source).into(),
        file_length: (file.len() as u64).into(),
        leaf_count: index("leaves", leaf_count)?.into(),
        leaf_capacity: index("leaves", tree.leaf_capacity())?.into(),
        sections: directory,
        chunk_size: index("bytes of a chunk", tree.chunk_size())?.into(),
        reserved: [0; 108],
        root: [0; 32],
    };
    file[HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE].copy_from_slice(header.as_bytes());
    reseal(file)
}

/// Computes the leaves, the branches and the root of a file again, for its header as it
/// stands, and writes them into it. For tools that change artifacts, and for tests of
/// what lies behind the digest.
pub fn reseal(file: &mut [u8]) -> Result<Digest, BuildError> {
    let shape = || BuildError::Shape("its header is damaged".to_owned());
    let tree = Header::of(file).and_then(Header::tree).ok_or_else(shape)?;
    let leaf_count = tree.chunk_count(file.len());
    if tree.body_offset() > file.len() || leaf_count > tree.leaf_capacity() {
        return Err(shape());
    }
    for number in 0..leaf_count {
        let leaf = digest::leaf(&file[tree.chunk(number, file.len())]);
        file[tree.leaf(number)].copy_from_slice(&leaf);
    }
    for number in 0..tree.branch_count() {
        let branch = digest::branch(&file[tree.leaves_of(number)]);
        file[tree.branch(number)].copy_from_slice(&branch);
    }
    let root = digest::root(file, &file[tree.branches()]);
    let header = &mut file[HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE];
    Header::mut_from_bytes(header).map_err(|_| shape())?.root = root.0;
    Ok(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_lie_as_far_into_pages_as_in_their_memories() {
        let mut tables = Tables::default();
        let mut phases = Vec::new();
        for (address, length, wanted) in
            [(9216, 10, 0), (1034, 5000, 10), (20, 7, 7188), (4096, 1, 11264), (0, 4096, 15360)]
        {
            let offset = tables.add_image_bytes(address, &vec![1; length], 4096);
            assert_eq!(offset, wanted);
            phases.push((offset + 4096 - address % 4096) % 4096);
        }
        // Whatever phase the section has, it is that of the first address, so that these are zero.
        let phase = tables.image_phase(4096);
        assert_eq!(phase, 1024);
        let phase = u64::from(phase);
        assert!(phases.iter().all(|it| (it + phase) % 4096 == 0), "{phases:?}");
        assert_eq!(tables.image_bytes.len(), 15360 + 4096);
    }

    #[test]
    fn equal_texts_are_there_once_and_end_with_a_zero() {
        let mut tables = Tables::default();
        let texts = ["one", "", "two", "one"].map(|text| tables.add_text(text).unwrap());
        assert_eq!(texts.map(|text| text.offset.get()), [1, 0, 5, 1]);
        assert_eq!(texts.map(|text| text.length.get()), [3, 0, 3, 3]);
        assert_eq!(tables.strings, b"\0one\0two\0");
    }

    #[test]
    fn exports_are_sorted_by_name() {
        let mut tables = Tables::default();
        for name in ["b", "a", "c"] {
            let name = tables.add_text(name).unwrap();
            tables.exports.push(ExportRecord { name, ..ExportRecord::default() });
        }
        let sections = tables.sections();
        let (_, bytes) = sections.iter().find(|(section, _)| *section == Section::Exports).unwrap();
        let exports = <[ExportRecord]>::ref_from_bytes(bytes).unwrap();
        assert_eq!(exports.iter().map(|e| e.name.offset.get()).collect::<Vec<_>>(), [3, 1, 5]);
    }
}
