//! Tables whose elements never change: calls through them need not ask what is there.
//!
//! The table of a program that was written in C, C++, Rust or the like is filled when an instance is made, and only ever called
//! through. If nothing outside of the module can reach such a table, no function of the module writes to it, and all its functions
//! are the module's own, then the compiler knows the elements. The linker puts them into the text, as distances to the functions
//! beside the numbers of their types, and a call loads from there what it would otherwise find
//! behind three pointers. Where one function alone has the type of a call, the call is direct.

use std::collections::HashMap;

use rayon::prelude::*;
use wasmparser::Operator;

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
        let mut found = constant_at_first(module);
        // Nobody looks through the bodies in vain.
        if !found.is_empty() {
            let written = bodies
                .par_iter()
                .filter(|body| may_write(body.body.as_bytes(), module.tables.len()))
                .flat_map_iter(written_by)
                .collect::<Vec<_>>();
            for table in written {
                found.remove(&table);
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

/// Whether a body with these bytes may write to one of so many tables: whether two bytes are next to each other with which an
/// operator that does would begin. This takes a tenth of the time of reading the operators, which seldom is needed then.
fn may_write(body: &[u8], tables: usize) -> bool {
    /// Numbers may be written with more bytes than they need.
    const MORE: u8 = 0x80;
    body.windows(2).any(|pair| match *pair {
        // `table.set`, with the index of a table.
        [0x26, index] => index & MORE != 0 || usize::from(index) < tables,
        // `table.init`, `table.copy`, `table.grow`, and `table.fill`.
        [0xfc, operator] => operator & MORE != 0 || matches!(operator, 12 | 14 | 15 | 17),
        _ => false,
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
