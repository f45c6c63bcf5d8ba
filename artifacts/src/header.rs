//! The fixed header and the areas at the front of an artifact.
//!
//! `FORMAT.md`, "The front of the file", is the specification of what is
//! declared here.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::tree::{LEAVES_PER_BRANCH, MAX_CHUNK_SIZE, MIN_CHUNK_SIZE, Tree};

/// Size of an ELF64 file header; the artifact header follows it.
pub const ELF_HEADER_SIZE: usize = 64;
/// File offset of the header.
pub const HEADER_OFFSET: usize = ELF_HEADER_SIZE;
/// Size of the header in bytes.
pub const HEADER_SIZE: usize = size_of::<Header>();
/// File offset of the signature area.
pub const SIGNATURES_OFFSET: usize = HEADER_OFFSET + HEADER_SIZE;
/// Size of the signature area in bytes. All zero in an unsigned artifact; see [`crate::signature`].
pub const SIGNATURES_SIZE: usize = 512;
/// Size of the part of the file that every file has, and file offset of the digests behind it: see [`Tree`].
pub const TREE_OFFSET: usize = SIGNATURES_OFFSET + SIGNATURES_SIZE;

/// The first eight bytes of the header.
pub const MAGIC: [u8; 8] = *b"\x7fCWASM\r\n";
/// The version of the file format that this crate writes and reads.
pub const FORMAT_VERSION: u32 = 2;

/// The settings that an artifact was built with and that its loader must
/// know. Bits of [`Header::settings`].
pub mod settings {
    /// Code counts fuel.
    pub const FUEL: u64 = 1 << 0;
    /// Code checks the epoch.
    pub const EPOCH: u64 = 1 << 1;
    /// Memory accesses are checked in code; memories need no guard.
    pub const EXPLICIT_CHECKS: u64 = 1 << 2;
    /// Computed floats that are not numbers all have the same bits.
    pub const CANONICAL_NANS: u64 = 1 << 3;
    /// Relaxed vector operators compute the same for every CPU.
    pub const DETERMINISTIC_RELAXED_SIMD: u64 = 1 << 4;
    /// All bits that have a meaning.
    pub const KNOWN: u64 =
        FUEL | EPOCH | EXPLICIT_CHECKS | CANONICAL_NANS | DETERMINISTIC_RELAXED_SIMD;
}

/// A part of the file that the header points to.
///
/// The numbers are the positions in [`Header::sections`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(usize)]
pub enum Section {
    /// Machine code.
    Text = 0,
    /// Singular facts about the module.
    Module = 1,
    /// Function types and their trampolines.
    Types = 2,
    /// Value types that function types refer to.
    ValTypes = 3,
    /// Imports.
    Imports = 4,
    /// Defined functions.
    Functions = 5,
    /// Defined tables.
    Tables = 6,
    /// Defined memories.
    Memories = 7,
    /// Defined globals.
    Globals = 8,
    /// Exports.
    Exports = 9,
    /// Operations of constant expressions.
    ConstOps = 10,
    /// Element segments.
    Elements = 11,
    /// Items of element segments.
    Items = 12,
    /// Data segments.
    DataSegments = 13,
    /// Bytes of data segments.
    Data = 14,
    /// Linear-memory images.
    Images = 15,
    /// Bytes of linear-memory images.
    ImageBytes = 16,
    /// Traps and return addresses.
    Sites = 17,
    /// Text that other sections refer to.
    Strings = 18,
    /// Defined tags.
    Tags = 19,
    /// Handlers of exceptions.
    Handlers = 20,
    /// Sites in functions that were copied into their callers.
    Inlined = 21,
    /// Defined functions that something may refer to.
    FuncRefs = 22,
}

impl Section {
    /// Every section, in the order of the header's directory.
    pub const ALL: [Self; 23] = [
        Self::Text,
        Self::Module,
        Self::Types,
        Self::ValTypes,
        Self::Imports,
        Self::Functions,
        Self::Tables,
        Self::Memories,
        Self::Globals,
        Self::Exports,
        Self::ConstOps,
        Self::Elements,
        Self::Items,
        Self::DataSegments,
        Self::Data,
        Self::Images,
        Self::ImageBytes,
        Self::Sites,
        Self::Strings,
        Self::Tags,
        Self::Handlers,
        Self::Inlined,
        Self::FuncRefs,
    ];

    /// The name of the ELF section.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => ".text",
            Self::Module => ".cwasm.module",
            Self::Types => ".cwasm.types",
            Self::ValTypes => ".cwasm.valtypes",
            Self::Imports => ".cwasm.imports",
            Self::Functions => ".cwasm.functions",
            Self::Tables => ".cwasm.tables",
            Self::Memories => ".cwasm.memories",
            Self::Globals => ".cwasm.globals",
            Self::Exports => ".cwasm.exports",
            Self::ConstOps => ".cwasm.constops",
            Self::Elements => ".cwasm.elements",
            Self::Items => ".cwasm.items",
            Self::DataSegments => ".cwasm.datasegs",
            Self::Data => ".cwasm.data",
            Self::Images => ".cwasm.images",
            Self::ImageBytes => ".cwasm.imagebytes",
            Self::Sites => ".cwasm.sites",
            Self::Strings => ".cwasm.strings",
            Self::Tags => ".cwasm.tags",
            Self::Handlers => ".cwasm.handlers",
            Self::Inlined => ".cwasm.inlined",
            Self::FuncRefs => ".cwasm.funcrefs",
        }
    }

    /// The section with this ELF name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|section| section.name() == name)
    }
}

/// The ELF name of the section that holds the header.
pub const HEADER_SECTION: &str = ".cwasm.header";
/// The ELF name of the section that holds the signature area.
pub const SIGNATURES_SECTION: &str = ".cwasm.signatures";
/// The ELF name of the section that holds the digests below the root.
pub const TREE_SECTION: &str = ".cwasm.tree";

/// Where a section is in the file.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct SectionRange {
    /// File offset in bytes.
    pub offset: U64,
    /// Length in bytes.
    pub length: U64,
}

impl SectionRange {
    /// The range from an offset and a length in bytes.
    #[must_use]
    pub fn new(offset: u64, length: u64) -> Self {
        Self { offset: offset.into(), length: length.into() }
    }

    /// The range as file offsets, if it lies in a file of `file_length` bytes.
    #[must_use]
    pub fn within(&self, file_length: usize) -> Option<core::ops::Range<usize>> {
        let start = usize::try_from(self.offset.get()).ok()?;
        let end = start.checked_add(usize::try_from(self.length.get()).ok()?)?;
        (end <= file_length).then_some(start..end)
    }
}

/// The part of the header that no format version ever moves or redefines, so
/// that every loader can say by whom and for what a file was made.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Prefix {
    /// [`MAGIC`].
    pub magic: [u8; 8],
    /// [`FORMAT_VERSION`].
    pub format_version: U32,
    /// Size of the header in bytes.
    pub header_size: U32,
    /// The ABI fingerprint that the code was compiled for.
    pub abi: [u8; 32],
    /// Version of the compiler, ASCII, padded with zeros.
    pub compiler: [u8; 32],
    /// Target triple, ASCII, padded with zeros.
    pub target: [u8; 64],
}

/// The header.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct Header {
    /// The part with a permanent layout.
    pub prefix: Prefix,
    /// CPU features that the code needs, as bits.
    pub cpu_features: U64,
    /// Name of the CPU level that was asked for, ASCII, padded with zeros.
    pub cpu_level: [u8; 16],
    /// Bits of [`settings`].
    pub settings: U64,
    /// Optimisation level: `0`, `1`, `2` or `s`, ASCII, padded with zeros.
    pub opt_level: [u8; 8],
    /// Size of the source wasm in bytes.
    pub source_length: U64,
    /// SHA-256 of the source wasm.
    pub source_sha256: [u8; 32],
    /// Size of this file in bytes.
    pub file_length: U64,
    /// How many leaves the file needs.
    pub leaf_count: U32,
    /// How many leaves there is room for; the rest are zero.
    pub leaf_capacity: U32,
    /// The sections, by the numbers of [`Section`]. Unused entries are zero.
    pub sections: [SectionRange; 24],
    /// How many bytes of the file a leaf covers: a power of two from [`MIN_CHUNK_SIZE`]
    /// to [`MAX_CHUNK_SIZE`].
    pub chunk_size: U32,
    /// Zero.
    pub reserved: [u8; 108],
    /// The root digest.
    pub root: [u8; 32],
}

impl Header {
    /// The header of a file, if the file is long enough to have one. The
    /// magic number is not looked at.
    #[must_use]
    pub fn of(file: &[u8]) -> Option<&Self> {
        let bytes = file.get(HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE)?;
        Self::ref_from_bytes(bytes).ok()
    }

    /// How the file is divided for its digest. `None` if no file may be divided like that.
    #[must_use]
    pub fn tree(&self) -> Option<Tree> {
        Tree::new(self.chunk_size.get(), self.leaf_capacity.get())
    }

    /// Where the part of the file that the leaves cover begins. Nowhere, if [`Header::tree`] is `None`.
    #[must_use]
    pub fn body_offset(&self) -> usize {
        self.tree().map_or(usize::MAX, Tree::body_offset)
    }

    /// Where a section is.
    #[must_use]
    pub fn section(&self, section: Section) -> SectionRange {
        self.sections[section as usize]
    }
}

/// The layout of the file as text, one fact per line, from the definitions
/// that the code uses.
///
/// The text of each format version is kept in `golden/`, and a test compares
/// them, so that the layout cannot change under an old version number.
#[must_use]
pub fn describe() -> String {
    use core::fmt::Write as _;
    use core::mem::offset_of;
    let mut text = format!("format {FORMAT_VERSION}\n");
    let mut fact = |name: &str, value: usize| {
        let _ = writeln!(text, "{name} = {value}");
    };
    fact("header offset", HEADER_OFFSET);
    fact("header size", HEADER_SIZE);
    fact("signatures offset", SIGNATURES_OFFSET);
    fact("signatures size", SIGNATURES_SIZE);
    fact("tree offset", TREE_OFFSET);
    fact("leaves per branch", LEAVES_PER_BRANCH);
    fact("smallest chunk", MIN_CHUNK_SIZE);
    fact("largest chunk", MAX_CHUNK_SIZE);
    fact("prefix.format_version", offset_of!(Prefix, format_version));
    fact("prefix.header_size", offset_of!(Prefix, header_size));
    fact("prefix.abi", offset_of!(Prefix, abi));
    fact("prefix.compiler", offset_of!(Prefix, compiler));
    fact("prefix.target", offset_of!(Prefix, target));
    fact("prefix size", size_of::<Prefix>());
    fact("header.cpu_features", offset_of!(Header, cpu_features));
    fact("header.cpu_level", offset_of!(Header, cpu_level));
    fact("header.settings", offset_of!(Header, settings));
    fact("header.opt_level", offset_of!(Header, opt_level));
    fact("header.source_length", offset_of!(Header, source_length));
    fact("header.source_sha256", offset_of!(Header, source_sha256));
    fact("header.file_length", offset_of!(Header, file_length));
    fact("header.leaf_count", offset_of!(Header, leaf_count));
    fact("header.leaf_capacity", offset_of!(Header, leaf_capacity));
    fact("header.sections", offset_of!(Header, sections));
    fact("header.chunk_size", offset_of!(Header, chunk_size));
    fact("header.reserved", offset_of!(Header, reserved));
    fact("header.root", offset_of!(Header, root));
    for section in Section::ALL {
        fact(&format!("section {}", section.name()), section as usize);
    }
    let settings = [
        ("fuel", settings::FUEL),
        ("epoch", settings::EPOCH),
        ("explicit checks", settings::EXPLICIT_CHECKS),
        ("canonical nans", settings::CANONICAL_NANS),
        ("deterministic relaxed simd", settings::DETERMINISTIC_RELAXED_SIMD),
    ];
    for (name, bit) in settings {
        let _ = writeln!(text, "setting {name} = {bit:#x}");
    }
    let _ = writeln!(text, "features {}", crate::cpu::CpuFeatures::from_bits(u64::MAX));
    crate::signature::describe(&mut text);
    crate::records::describe(&mut text);
    text
}

/// The text of a field that is padded with zeros; bytes that are not ASCII
/// graphics are replaced.
#[must_use]
pub fn padded_text(field: &[u8]) -> String {
    field
        .iter()
        .take_while(|byte| **byte != 0)
        .map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' })
        .collect()
}

/// A field that holds `text`, padded with zeros; `None` if it does not fit.
#[must_use]
pub fn pad_text<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut field = [0; N];
    field.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_one_that_is_written_down() {
        assert_eq!(size_of::<Prefix>(), 144);
        assert_eq!(HEADER_SIZE, 768);
        assert_eq!(core::mem::offset_of!(Header, cpu_features), 144);
        assert_eq!(core::mem::offset_of!(Header, sections), 240);
        assert_eq!(core::mem::offset_of!(Header, root), 736);
        assert_eq!(TREE_OFFSET, 1344);
    }

    #[test]
    fn section_numbers_are_their_positions() {
        for (index, section) in Section::ALL.into_iter().enumerate() {
            assert_eq!(section as usize, index);
            assert_eq!(Section::by_name(section.name()), Some(section));
        }
    }

    #[test]
    fn text_fields_are_padded() {
        let field: [u8; 8] = pad_text("0.1.0").unwrap();
        assert_eq!(padded_text(&field), "0.1.0");
        assert_eq!(pad_text::<4>("12345"), None);
        assert_eq!(padded_text(b"a\x01b\0c"), "a?b");
    }
}
