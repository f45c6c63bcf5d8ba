//! What pieces of code are called by tools.

use cwasm_artifact::builder::Tables;
use object::elf;

use super::elf::Symbol;
use crate::CompiledModule;
use crate::error::CompileError;
use crate::link::TextRange;
use crate::module::{DefinedFuncIndex, ExportItem};

/// Symbols longer than this are cut; wasm allows names of any length.
const MAX_SYMBOL: usize = 512;

/// Names every piece of code, in the order of the text: as the name section
/// does, or by an export, or by its number. The names are put into the strings of the artifact, where most of them are anyway.
pub(super) fn symbols(
    compiled: &CompiledModule<'_>,
    tables: &mut Tables,
    section: u16,
) -> Result<Vec<Symbol>, CompileError> {
    let CompiledModule { module, text, .. } = compiled;
    let mut exported = vec![None; module.functions.len()];
    for export in &module.exports {
        if let ExportItem::Func(index) = export.item {
            exported[index.as_u32() as usize].get_or_insert(export.name);
        }
    }
    let mut symbols = Vec::with_capacity(text.functions.len());
    let mut add = |name: &str, kind, range: TextRange| -> Result<(), CompileError> {
        let name = tables.add_text(name)?.offset.get();
        symbols.push(Symbol { name, kind, section, value: range.offset, size: range.len });
        Ok(())
    };
    for (number, range) in (0..).map(DefinedFuncIndex::from_u32).zip(&text.functions) {
        let index = module.func_index(number);
        let number = index.as_u32();
        let wanted = module.names.function(index).or(exported[number as usize]);
        let name = wanted
            .filter(|name| !name.is_empty())
            .map_or_else(|| format!("func[{number}]"), printable);
        add(&name, elf::STT_FUNC, *range)?;
    }
    for (ty, trampolines) in &text.trampolines {
        for (kind, range) in [("entry", trampolines.entry), ("exit", trampolines.exit)] {
            if let Some(range) = range {
                add(&format!("trampoline.{kind}[{}]", ty.as_u32()), elf::STT_FUNC, range)?;
            }
        }
    }
    for (table, range) in &text.tables {
        add(&format!("table[{}]", table.as_u32()), elf::STT_OBJECT, *range)?;
    }
    symbols.sort_by_key(|symbol| symbol.value);
    Ok(symbols)
}

/// A name that can stand in a symbol table.
fn printable(name: &str) -> String {
    let mut end = name.len().min(MAX_SYMBOL);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].chars().map(|c| if c.is_control() { '?' } else { c }).collect()
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
