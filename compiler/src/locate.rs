//! From a byte offset in an assembled module back to the line of its text.
//!
//! Errors of validation name byte offsets, which mean nothing to somebody who
//! wrote text. The text is assembled once more: for function bodies with the
//! line table that the assembler offers, for declarations by counting
//! the entries of the section that holds the offset.

use std::path::Path;

use gimli::{DebugLine, DebugLineOffset, LittleEndian};
use wasmparser::{Parser, Payload};
use wast::Wat;
use wast::core::{EncodeOptions, GenerateDwarf, ModuleField, ModuleKind};
use wast::lexer::Lexer;
use wast::parser::{self, ParseBuffer};
use wast::token::Span;

use crate::error::CompileError;

/// A refusal of a module that was assembled from `text`, told with the line
/// and column of the text if they can be found.
#[must_use]
pub fn explain(error: CompileError, text: &[u8], file: &Path) -> CompileError {
    let (CompileError::Invalid { offset, .. } | CompileError::Unsupported { offset, .. }) = &error
    else {
        return error;
    };
    let Some((line, column)) =
        std::str::from_utf8(text).ok().and_then(|text| position(text, *offset))
    else {
        return error;
    };
    CompileError::Text { file: file.to_owned(), line, column, message: error.to_string() }
}

/// Line and column, from 1, of what an offset belongs to.
fn position(text: &str, offset: u64) -> Option<(usize, usize)> {
    let mut lexer = Lexer::new(text);
    lexer.allow_confusing_unicode(true);
    let mut buffer = ParseBuffer::new_with_lexer(lexer).ok()?;
    buffer.track_instr_spans(true);
    let mut wat = parser::parse::<Wat<'_>>(&buffer).ok()?;
    let wasm = EncodeOptions::new()
        .dwarf(Path::new("text"), text, GenerateDwarf::Lines)
        .encode_wat(&mut wat)
        .ok()?;
    let place = place(&wasm, offset)?;
    if let Place::Code { start, .. } = place
        && let Some(found) = line_table(&wasm, offset - start)
    {
        return Some(found);
    }
    let Wat::Module(module) = &wat else { return None };
    let ModuleKind::Text(fields) = &module.kind else { return None };
    let (line, column) = nth_field(fields, place)?.linecol_in(text);
    Some((line + 1, column + 1))
}

/// The entry of a module that an offset lies in.
#[derive(Clone, Copy)]
enum Place {
    /// An entry of a section, by the section's number and the entry's.
    Entry(u8, usize),
    /// A function body, by its number; `start` is where the section's contents begin.
    Code { start: u64, body: usize },
}

fn place(wasm: &[u8], offset: u64) -> Option<Place> {
    /// The last entry of a section that begins at or before `offset`.
    macro_rules! entry {
        ($number:literal, $reader:expr) => {{
            let reader = $reader;
            if !reader.range().contains(&offset) {
                continue;
            }
            let starts = reader.into_iter_with_offsets().map_while(Result::ok);
            let before = starts.take_while(|(start, _)| *start <= offset).count();
            return Some(Place::Entry($number, before.saturating_sub(1)));
        }};
    }
    let (mut code_start, mut bodies) = (0, 0);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.ok()? {
            Payload::TypeSection(reader) => entry!(1, reader),
            Payload::ImportSection(reader) => entry!(2, reader),
            Payload::FunctionSection(reader) => entry!(3, reader),
            Payload::TableSection(reader) => entry!(4, reader),
            Payload::MemorySection(reader) => entry!(5, reader),
            Payload::GlobalSection(reader) => entry!(6, reader),
            Payload::ExportSection(reader) => entry!(7, reader),
            Payload::StartSection { range, .. } if range.contains(&offset) => {
                return Some(Place::Entry(8, 0));
            }
            Payload::ElementSection(reader) => entry!(9, reader),
            Payload::DataSection(reader) => entry!(11, reader),
            Payload::TagSection(reader) => entry!(13, reader),
            Payload::CodeSectionStart { unchecked_range, .. } => code_start = unchecked_range.start,
            Payload::CodeSectionEntry(body) => {
                // The offset of an unexpected end is behind the body.
                if (body.range().start..=body.range().end).contains(&offset) {
                    return Some(Place::Code { start: code_start, body: bodies });
                }
                bodies += 1;
            }
            _ => {}
        }
    }
    None
}

/// What the line table says of an address, which is relative to the contents
/// of the code section.
fn line_table(wasm: &[u8], address: u64) -> Option<(usize, usize)> {
    let table = Parser::new(0).parse_all(wasm).find_map(|payload| match payload {
        Ok(Payload::CustomSection(section)) if section.name() == ".debug_line" => {
            Some(section.data())
        }
        _ => None,
    })?;
    let program =
        DebugLine::new(table, LittleEndian).program(DebugLineOffset(0), 4, None, None).ok()?;
    let mut rows = program.rows();
    let mut found: Option<(u64, usize, usize)> = None;
    while let Ok(Some((_, row))) = rows.next_row() {
        if row.address() > address || row.end_sequence() {
            continue;
        }
        let column = match row.column() {
            gimli::ColumnType::LeftEdge => 1,
            gimli::ColumnType::Column(column) => usize::try_from(column.get()).ok()?,
        };
        if let Some(line) = row.line()
            && found.is_none_or(|(best, ..)| row.address() >= best)
        {
            found = Some((row.address(), usize::try_from(line.get()).ok()?, column));
        }
    }
    found.map(|(_, line, column)| (line, column))
}

/// Where the text has the entry. The assembler has put the fields of a module
/// into the order of their indices.
fn nth_field(fields: &[ModuleField<'_>], place: Place) -> Option<Span> {
    let (section, entry) = match place {
        Place::Entry(section, entry) => (section, entry),
        Place::Code { body, .. } => (3, body),
    };
    let spans = fields.iter().filter_map(|field| match (section, field) {
        (1, ModuleField::Type(item)) => Some(item.span),
        (1, ModuleField::Rec(item)) => Some(item.span),
        (3, ModuleField::Func(item)) => Some(item.span),
        (4, ModuleField::Table(item)) => Some(item.span),
        (5, ModuleField::Memory(item)) => Some(item.span),
        (6, ModuleField::Global(item)) => Some(item.span),
        (7, ModuleField::Export(item)) => Some(item.span),
        (8, ModuleField::Start(item)) => Some(item.span()),
        (9, ModuleField::Elem(item)) => Some(item.span),
        (11, ModuleField::Data(item)) => Some(item.span),
        (13, ModuleField::Tag(item)) => Some(item.span),
        _ => None,
    });
    spans.collect::<Vec<_>>().get(entry).copied()
}

#[cfg(test)]
mod tests {
    use crate::{Settings, compile, parse_text};

    use super::*;

    fn refusal(text: &str) -> String {
        let file = Path::new("app.wat");
        let wasm = parse_text(text.as_bytes(), file).unwrap();
        let error = compile(&wasm, &Settings::default()).unwrap_err();
        explain(error, text.as_bytes(), file).to_string()
    }

    #[test]
    fn errors_in_bodies_have_the_line_of_the_instruction() {
        let message = refusal(
            "(module\n (func)\n (func (result i32)\n  nop\n  (i32.add\n   (i64.const 1)\n   (i32.const 2))))",
        );
        assert!(message.starts_with("app.wat:5:"), "{message}");
        assert!(message.contains("type mismatch"), "{message}");
        let message = refusal("(module\n (func)\n (func (result i32)\n  nop))");
        assert!(
            message.starts_with("app.wat:3:") || message.starts_with("app.wat:4:"),
            "{message}"
        );
    }

    #[test]
    fn errors_in_declarations_have_the_line_of_the_field() {
        let message =
            refusal("(module\n (global i32 (i32.const 1))\n (global i32\n  (i64.const 1)))");
        assert!(message.starts_with("app.wat:3:"), "{message}");
        let message = refusal(
            "(module\n (memory 1)\n (data (i32.const 0) \"\")\n (data (i64.const 0) \"\"))",
        );
        assert!(message.starts_with("app.wat:4:"), "{message}");
        let message = refusal("(module\n (func $f (param i32))\n (start $f))");
        assert!(message.starts_with("app.wat:3:"), "{message}");
    }
}
