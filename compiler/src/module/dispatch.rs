//! Tables whose elements never change: calls through them need not ask what is there.
//!
//! The table of a program that was written in C, C++, Rust or the like is filled when an instance is made, and only ever called
//! through. If nothing outside of the module can reach such a table, no function of the module writes to it, and all its functions
//! are the module's own, then the compiler knows the elements. The linker puts them into the text, as distances to the functions
//! beside the numbers of their types, and a call loads from there what it would otherwise find
//! behind three pointers. Where one function alone has the type of a call, the call is direct.

use std::collections::HashMap;

use cwasm_artifact::types::SubType;
use memchr::memchr2_iter;
use wasmparser::{BinaryReader, Operator};

use super::{
    Body, ConstOp, ElementItems, ElementSegment, ExportItem, FuncIndex, Module, SegmentMode,
    TableIndex, TypeIndex,
};

/// Larger tables are not looked at.
const MAX_LENGTH: u64 = 1 << 20;

/// A table with so few elements may have any number of empty places, a larger one no more than elements.
const SPARSE: usize = 1024;

/// The tables whose elements never change.
#[derive(Debug, Default)]
pub struct Dispatch(HashMap<TableIndex, ConstantTable>);

/// A table whose elements never change.
#[derive(Debug)]
pub struct ConstantTable {
    /// The function at each index; `None` where the table is null.
    pub elements: Vec<Option<FuncIndex>>,
    /// Whether an element is null.
    pub has_null: bool,
    /// Which functions there are, by the first type that is equal to theirs.
    targets: HashMap<TypeIndex, Targets>,
}

/// The functions of one type in a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    /// One function, at one index.
    Place(FuncIndex, u32),
    /// One function, at several.
    Function(FuncIndex),
    /// Several.
    Many,
}

impl Dispatch {
    /// Finds the tables of a module.
    pub(crate) fn of(module: &Module<'_>, bodies: &[Body<'_>]) -> Self {
        // Where types have subtypes, a call takes functions of several types.
        let open = |ty: &SubType| !ty.is_final && ty.func().is_some();
        let mut found = match module.types.values().any(open) {
            true => HashMap::new(),
            false => constant_at_first(module),
        };
        // Nobody looks through the bodies in vain.
        if !found.is_empty() {
            for body in bodies.iter().filter(|body| may_write(module, body.body.as_bytes())) {
                for table in written_by(body) {
                    found.remove(&table);
                }
            }
        }
        Self(
            found
                .into_iter()
                .filter_map(|(table, elements)| {
                    Some((table, ConstantTable::new(module, elements)?))
                })
                .collect(),
        )
    }

    /// A table, if its elements never change.
    #[must_use]
    pub fn table(&self, table: TableIndex) -> Option<&ConstantTable> {
        self.0.get(&table)
    }

    /// Everything that code may depend on, in an order that does not change.
    pub(crate) fn in_order(&self) -> Vec<(TableIndex, &[Option<FuncIndex>])> {
        let mut tables: Vec<_> =
            self.0.iter().map(|(index, table)| (*index, &*table.elements)).collect();
        tables.sort_unstable_by_key(|(index, _)| *index);
        tables
    }
}

impl ConstantTable {
    /// `None` if it would take more room than it is worth, or has a function that is imported, which has a vmctx of its own.
    fn new(module: &Module<'_>, elements: Vec<Option<FuncIndex>>) -> Option<Self> {
        let mut targets = HashMap::new();
        let mut filled = 0;
        for (place, function) in (0..).zip(&elements) {
            let Some(function) = *function else { continue };
            module.defined_func(function)?;
            filled += 1;
            targets
                .entry(module.canonical_types[module.functions[function].ty])
                .and_modify(|known| {
                    *known = match *known {
                        Targets::Place(other, _) | Targets::Function(other)
                            if other == function =>
                        {
                            Targets::Function(function)
                        }
                        _ => Targets::Many,
                    };
                })
                .or_insert(Targets::Place(function, place));
        }
        if elements.len() > SPARSE && elements.len() > 2 * filled {
            return None;
        }
        Some(Self { has_null: filled < elements.len(), elements, targets })
    }

    /// The functions of a type; `None` if there are none.
    #[must_use]
    pub fn targets(&self, ty: TypeIndex) -> Option<Targets> {
        self.targets.get(&ty).copied()
    }
}

/// The elements of the tables that nobody else can reach, as they are when the first code of the module runs.
fn constant_at_first(module: &Module<'_>) -> HashMap<TableIndex, Vec<Option<FuncIndex>>> {
    let exported =
        |table| module.exports.iter().any(|export| export.item == ExportItem::Table(table));
    let mut found: HashMap<_, _> = module
        .tables
        .iter()
        .skip(module.imported_tables as usize)
        .filter(|(table, ty)| {
            ty.limits.min <= MAX_LENGTH && module.table_inits[*table].is_none() && !exported(*table)
        })
        .filter_map(|(table, ty)| Some((table, vec![None; usize::try_from(ty.limits.min).ok()?])))
        .collect();
    // A segment that does not fit ends the instantiation. Functions that an earlier one put into a table of another module
    // are called all the same, and must not find what was to come.
    let mut certain = true;
    for segment in &module.elements {
        let SegmentMode::Active { target, .. } = &segment.mode else { continue };
        let applied = found.get_mut(target).and_then(|elements| apply(segment, elements));
        if !certain || applied.is_none() {
            found.remove(target);
        }
        certain &= applied.is_some();
    }
    found
}

/// Puts the elements of an active segment into a table; `None` if they are not known or do not fit.
fn apply(segment: &ElementSegment, elements: &mut [Option<FuncIndex>]) -> Option<()> {
    let SegmentMode::Active { offset, .. } = &segment.mode else { return None };
    let start = match offset.constant()? {
        ConstOp::I32(offset) => u64::from(offset.cast_unsigned()),
        ConstOp::I64(offset) => offset.cast_unsigned(),
        _ => return None,
    };
    let places = elements.get_mut(usize::try_from(start).ok()?..)?;
    match &segment.items {
        ElementItems::Funcs(functions) => {
            for (place, function) in places.get_mut(..functions.len())?.iter_mut().zip(functions) {
                *place = Some(*function);
            }
        }
        ElementItems::Exprs(expressions) => {
            let places = places.get_mut(..expressions.len())?;
            for (place, expression) in places.iter_mut().zip(expressions) {
                *place = match expression.constant()? {
                    ConstOp::RefFunc(function) => Some(function),
                    ConstOp::RefNull(_) => None,
                    _ => return None,
                };
            }
        }
    }
    Some(())
}

/// Whether a body with these bytes may write to a table: whether there are bytes in it with which an operator would begin
/// that does. This takes a small part of the time of reading the operators, which seldom is needed then.
fn may_write(module: &Module<'_>, body: &[u8]) -> bool {
    let (tables, segments) = (module.tables.len(), module.elements.len());
    let below = |reader: &mut BinaryReader<'_>, limit| {
        reader.read_var_u32().is_ok_and(|number| (number as usize) < limit)
    };
    // `table.set`, and the first byte of the others.
    memchr2_iter(0x26, 0xfc, body).any(|place| {
        let Some([first, rest @ ..]) = body.get(place..) else { return false };
        let mut reader = BinaryReader::new(rest, 0);
        if *first == 0x26 {
            return below(&mut reader, tables);
        }
        match reader.read_var_u32() {
            // `table.init`
            Ok(12) => below(&mut reader, segments) && below(&mut reader, tables),
            // `table.copy`, `table.grow`, and `table.fill`
            Ok(14 | 15 | 17) => below(&mut reader, tables),
            _ => false,
        }
    })
}

/// The tables that a body writes to.
fn written_by(body: &Body<'_>) -> Vec<TableIndex> {
    let mut written = Vec::new();
    // What cannot be read is not valid, which is found elsewhere.
    let operators = body.body.get_operators_reader().into_iter().flatten();
    for operator in operators.map_while(Result::ok) {
        let table = match operator {
            Operator::TableSet { table }
            | Operator::TableGrow { table }
            | Operator::TableFill { table }
            | Operator::TableInit { table, .. }
            | Operator::TableCopy { dst_table: table, .. } => TableIndex::from_u32(table),
            _ => continue,
        };
        if !written.contains(&table) {
            written.push(table);
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::module;

    /// Every operator that writes to a table, also with numbers in more bytes than they need, and some that look
    /// as if they did.
    #[test]
    fn bodies_that_write_to_tables_are_found_by_their_bytes() {
        let cases: [(&[u8], bool); 11] = [
            (b"\x41\x00\xd0\x70\x26\x00", true),
            (b"\x41\x00\xd0\x70\x26\x80\x80\x00", true),
            (b"\x41\x00\x41\x00\x41\x00\xfc\x0c\x00\x00", true),
            (b"\x41\x00\x41\x00\x41\x00\xfc\x8c\x80\x00\x80\x00\x80\x00", true),
            (b"\x41\x00\x41\x00\x41\x00\xfc\x0e\x00\x00", true),
            (b"\xd0\x70\x41\x00\xfc\x0f\x00\x1a", true),
            (b"\x41\x00\xd0\x70\x41\x00\xfc\x11\x00", true),
            // `table.get`, `table.size`, constants with such bytes, and a copy of memory.
            (b"\x41\x00\x25\x00\x1a\xfc\x10\x00\x1a", false),
            (b"\x41\x26\x1a", false),
            (b"\x41\xfc\x0e\x1a", false),
            (b"\x41\x00\x41\x00\x41\x00\xfc\x0a\x00\x00", false),
        ];
        for (operators, writes) in cases {
            let mut body = vec![0];
            body.extend_from_slice(operators);
            body.push(0x0b);
            let mut wasm = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x04\x04\x01\x70\0\x01\x05\x03\x01\0\x01".to_vec();
            wasm.extend_from_slice(b"\x09\x04\x01\x01\0\0");
            let size = u8::try_from(body.len()).unwrap();
            wasm.extend_from_slice(&[0x0a, size + 2, 1, size]);
            wasm.extend_from_slice(&body);
            let (module, bodies) = module::parse(&wasm).unwrap();
            let mut validator = bodies[0].validator(Default::default());
            validator.validate(&bodies[0].body).unwrap();
            assert_eq!(may_write(&module, bodies[0].body.as_bytes()), writes, "{operators:02x?}");
            assert_eq!(!written_by(&bodies[0]).is_empty(), writes, "{operators:02x?}");
        }
    }
}
