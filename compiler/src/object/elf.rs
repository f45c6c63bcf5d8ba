//! The structures of an object file (ELF64, relocatable), as bytes in the byte order of its machine.

use cwasm_artifact::header::HEADER_OFFSET;
use object::elf::{self, FileHeader64, Ident, Rela64, SectionHeader64, Sym64};
use object::pod::bytes_of;
use object::{Endianness, I64, U16, U32, U64};
use target_lexicon::{Architecture, Triple};

use crate::error::CompileError;

/// A machine, as object files have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Machine {
    order: Endianness,
    number: u16,
    flags: u32,
    /// The distance from the place to the target, in four bytes.
    distance: u32,
}

impl Machine {
    pub(super) fn of(target: &Triple) -> Result<Self, CompileError> {
        let little =
            |number, flags, distance| Self { order: Endianness::Little, number, flags, distance };
        Ok(match target.architecture {
            Architecture::X86_64 => little(elf::EM_X86_64, 0, elf::R_X86_64_PC32),
            Architecture::Aarch64(_) => little(elf::EM_AARCH64, 0, elf::R_AARCH64_PREL32),
            Architecture::Riscv64(_) => {
                little(elf::EM_RISCV, elf::EF_RISCV_FLOAT_ABI_DOUBLE, elf::R_RISCV_32_PCREL)
            }
            Architecture::S390x => Self {
                order: Endianness::Big,
                number: elf::EM_S390,
                flags: 0,
                distance: elf::R_390_PC32,
            },
            other => {
                return Err(super::assembly("write the object file", format!("no {other} there")));
            }
        })
    }

    /// The header of a file with so many sections, whose headers are at `offset`. That numbered `names` has their names.
    pub(super) fn file_header(
        self,
        offset: usize,
        sections: u16,
        names: u16,
    ) -> [u8; HEADER_OFFSET] {
        let order = self.order;
        let data = match order {
            Endianness::Little => elf::ELFDATA2LSB,
            Endianness::Big => elf::ELFDATA2MSB,
        };
        let header = FileHeader64 {
            e_ident: Ident {
                magic: elf::ELFMAG,
                class: elf::ELFCLASS64,
                data,
                version: elf::EV_CURRENT,
                os_abi: elf::ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: U16::new(order, elf::ET_REL),
            e_machine: U16::new(order, self.number),
            e_version: U32::new(order, elf::EV_CURRENT.into()),
            e_entry: U64::new(order, 0),
            e_phoff: U64::new(order, 0),
            e_shoff: U64::new(order, offset as u64),
            e_flags: U32::new(order, self.flags),
            e_ehsize: U16::new(order, size::<FileHeader64<Endianness>>()),
            e_phentsize: U16::new(order, 0),
            e_phnum: U16::new(order, 0),
            e_shentsize: U16::new(order, size::<SectionHeader64<Endianness>>()),
            e_shnum: U16::new(order, sections),
            e_shstrndx: U16::new(order, names),
        };
        let mut bytes = [0; HEADER_OFFSET];
        bytes.copy_from_slice(bytes_of(&header));
        bytes
    }

    /// Writes the header of a section. The first of all is that of none.
    pub(super) fn section_header(self, out: &mut Vec<u8>, header: &SectionHeader) {
        let order = self.order;
        let SectionHeader { name, kind, flags, offset, length, link, info, alignment, entry } =
            *header;
        out.extend_from_slice(bytes_of(&SectionHeader64 {
            sh_name: U32::new(order, name),
            sh_type: U32::new(order, kind),
            sh_flags: U64::new(order, flags.into()),
            sh_addr: U64::new(order, 0),
            sh_offset: U64::new(order, offset as u64),
            sh_size: U64::new(order, length as u64),
            sh_link: U32::new(order, link.into()),
            sh_info: U32::new(order, info),
            sh_addralign: U64::new(order, alignment as u64),
            sh_entsize: U64::new(order, entry as u64),
        }));
    }

    /// Writes a symbol that no other file sees. The first of all is that of nothing.
    pub(super) fn symbol(self, out: &mut Vec<u8>, symbol: &Symbol) {
        let order = self.order;
        let Symbol { name, kind, section, value, size } = *symbol;
        out.extend_from_slice(bytes_of(&Sym64 {
            st_name: U32::new(order, name),
            st_info: elf::STB_LOCAL << 4 | kind,
            st_other: elf::STV_DEFAULT,
            st_shndx: U16::new(order, section),
            st_value: U64::new(order, value.into()),
            st_size: U64::new(order, size.into()),
        }));
    }

    /// Writes a relocation: has the distance to the place that is `addend` behind a symbol written to four bytes.
    pub(super) fn relocation(self, out: &mut Vec<u8>, offset: u64, symbol: u32, addend: i64) {
        let order = self.order;
        out.extend_from_slice(bytes_of(&Rela64 {
            r_offset: U64::new(order, offset),
            r_info: U64::new(order, u64::from(symbol) << 32 | u64::from(self.distance)),
            r_addend: I64::new(order, addend),
        }));
    }
}

/// The sizes of structures have 16 bits in the file's header.
fn size<T>() -> u16 {
    u16::try_from(size_of::<T>()).unwrap_or(u16::MAX)
}

/// What is said about a section.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SectionHeader {
    /// Where its name is among the strings.
    pub(super) name: u32,
    pub(super) kind: u32,
    pub(super) flags: u32,
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) link: u16,
    pub(super) info: u32,
    pub(super) alignment: usize,
    /// How long an entry is, if it has some.
    pub(super) entry: usize,
}

/// What is said about a symbol.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Symbol {
    /// Where its name is among the strings.
    pub(super) name: u32,
    pub(super) kind: u8,
    pub(super) section: u16,
    pub(super) value: u32,
    pub(super) size: u32,
}
