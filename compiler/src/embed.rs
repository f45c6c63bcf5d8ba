//! An artifact inside an object file, for the ordinary linker.
//!
//! An artifact is an object file itself. But a linker takes object files apart and lays their
//! sections out anew, and then neither the header nor the digest fits any longer. So
//! the artifact goes into a section as it is, as one piece of read-only data,
//! and symbols lead to it:
//!
//! ```text
//! NAME         the bytes of the artifact, at the start of a page
//! NAME_size    their number, 8 bytes
//! NAME_digest  the root digest, 32 bytes
//! ```

use cwasm_artifact::cpu::Arch;
use cwasm_artifact::digest::Digest;
use cwasm_artifact::header::{Header, MAGIC, padded_text};
use object::write::{Object, Symbol, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, FileFlags, SectionFlags, SectionKind, SymbolFlags,
    SymbolKind, SymbolScope,
};

use crate::error::CompileError;

/// The symbol for a module with this name: `cwasm_artifact_`, and the name with an underscore
/// for everything that is not a letter or digit of ASCII.
#[must_use]
pub fn symbol_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    format!("cwasm_artifact_{}", name.chars().map(plain).collect::<String>())
}

/// Puts an artifact into an object file of its target, under a symbol.
///
/// # Errors
/// If the bytes are not an artifact, or the symbol is not a name in C.
pub fn wrap_in_object(artifact: &[u8], symbol: &str) -> Result<Vec<u8>, CompileError> {
    let refuse = |message: &str| CompileError::Settings { message: message.to_owned() };
    let header = Header::of(artifact)
        .filter(|header| header.prefix.magic == MAGIC)
        .ok_or_else(|| refuse("only an artifact can be put into an object file"))?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let begins = symbol.starts_with(|c: char| is_name(c) && !c.is_ascii_digit());
    if !begins || !symbol.chars().all(is_name) {
        return Err(refuse(&format!("{symbol:?} is not the name of a symbol in C")));
    }
    let target = padded_text(&header.prefix.target);
    let Some(arch) = Arch::of_triple(&target) else {
        return Err(refuse(&format!("there are no object files for {target}")));
    };
    let architecture = match arch {
        Arch::X86_64 => Architecture::X86_64,
        Arch::Aarch64 => Architecture::Aarch64,
        Arch::Riscv64 => Architecture::Riscv64,
        Arch::S390x => Architecture::S390x,
    };
    let page = arch.max_page_size();
    let endianness = if arch.is_big_endian() { Endianness::Big } else { Endianness::Little };
    let mut object = Object::new(BinaryFormat::Elf, architecture, endianness);
    if arch == Arch::Riscv64 {
        // The ABI with floating-point registers: linkers refuse to mix it with others.
        object.flags = FileFlags::Elf {
            os_abi: object::elf::ELFOSABI_NONE,
            abi_version: 0,
            e_flags: object::elf::EF_RISCV_RVC | object::elf::EF_RISCV_FLOAT_ABI_DOUBLE,
        };
    }
    let section =
        object.add_section(Vec::new(), b".rodata.cwasm".to_vec(), SectionKind::ReadOnlyData);
    let size = (artifact.len() as u64).to_le_bytes();
    for (suffix, bytes, align) in [
        ("", artifact, u64::from(page)),
        ("_size", &size[..], 8),
        ("_digest", &Digest(header.root).0[..], 8),
    ] {
        let offset = object.append_section_data(section, bytes, align);
        object.add_symbol(Symbol {
            name: format!("{symbol}{suffix}").into_bytes(),
            value: offset,
            size: bytes.len() as u64,
            kind: SymbolKind::Data,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    // Without it, linkers make the stack of the program executable.
    let note = object.add_section(Vec::new(), b".note.GNU-stack".to_vec(), SectionKind::Other);
    object.section_mut(note).flags = SectionFlags::Elf { sh_flags: 0 };
    object.write().map_err(|error| CompileError::Assembly {
        message: format!("cannot write the object file: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::read::elf::ElfFile64;
    use object::{LittleEndian, Object as _, ObjectSection as _, ObjectSymbol as _};

    #[test]
    fn symbols_lead_to_the_artifact() {
        let artifact = crate::compile(b"\0asm\x01\0\0\0", &crate::Settings::default()).unwrap();
        let name = symbol_name("my-app.v2");
        assert_eq!(name, "cwasm_artifact_my_app_v2");
        let file = wrap_in_object(&artifact, &name).unwrap();
        let elf = ElfFile64::<LittleEndian>::parse(&*file).unwrap();
        let section = elf.section_by_name(".rodata.cwasm").unwrap();
        assert_eq!(section.align(), 4096);
        let bytes = |name: &str| {
            let symbol = elf.symbols().find(|symbol| symbol.name() == Ok(name)).unwrap();
            section.data_range(symbol.address(), symbol.size()).unwrap().unwrap()
        };
        assert!(bytes(&name) == artifact);
        let size = u64::from_le_bytes(bytes(&format!("{name}_size")).try_into().unwrap());
        assert_eq!(size, artifact.len() as u64);
        let digest = Digest::stated_in(&artifact).unwrap();
        assert_eq!(bytes(&format!("{name}_digest")), digest.0);
    }

    #[test]
    fn what_cannot_be_wrapped_is_refused() {
        assert!(wrap_in_object(b"\0asm", "name").is_err());
        let artifact = crate::compile(b"\0asm\x01\0\0\0", &crate::Settings::default()).unwrap();
        for symbol in ["", "1a", "a b", "a-b"] {
            assert!(wrap_in_object(&artifact, symbol).is_err(), "{symbol:?}");
        }
    }
}
