//! Validation of metadata: every index, offset and length, before its first use.
//!
//! A file with a right digest may still have been made by a broken compiler or
//! by somebody hostile. What passes here lets the accessors of
//! [`crate::module::View`] and the loader work without surprises. Machine code
//! cannot be validated; that is what trust is for.

use core::cell::Cell;

use crate::abi::object::type_info;
use crate::abi::vmctx::{VmctxCounts, VmctxLayout};
use crate::header::Section;
use crate::module::{Counts, Late, View, invalid};
use crate::records::{
    ConstOpRecord, DefinedRecord, ElementRecord, ExportRecord, ExternRecord, FuncRefRecord,
    FunctionRecord, HandlerRecord, ImageRecord, ImportRecord, InlinedRecord, ItemRecord,
    ModuleRecord, NONE, Span, Text, TypeRecord, const_op, extern_flags, extern_kind, item_kind,
    segment_mode,
};
use crate::reference::{canonical, end_of_group};
use crate::report::{Problem, Report};
use crate::sites::Sites;
use crate::types::{
    CompositeType, ExternType, FieldType, HeapType, RefType, SubType, TableType, TypeRef, ValType,
};

type Check = Result<(), Problem>;

const END_WITHIN_RECORD: &str = "the section ends within a record";

/// Counts imports and definitions.
pub(crate) fn counts(view: &View<'_>) -> Result<Counts, Report> {
    whole_records(view)?;
    let mut counts = Counts::default();
    for (index, import) in view.imports().iter().enumerate() {
        match import.ty.kind.get() {
            extern_kind::FUNC => counts.imported_functions += 1,
            extern_kind::TABLE => counts.imported_tables += 1,
            extern_kind::MEMORY => counts.imported_memories += 1,
            extern_kind::GLOBAL => counts.imported_globals += 1,
            extern_kind::TAG => counts.imported_tags += 1,
            _ => return Err(invalid(Section::Imports, index, "the kind is unknown").into()),
        }
    }
    let total = |section: Section, imported: u32, defined: usize| {
        u32::try_from(defined)
            .ok()
            .and_then(|defined| imported.checked_add(defined))
            .filter(|total| *total != NONE)
            .ok_or_else(|| invalid(section, 0, "there are too many records"))
    };
    // They need not be there yet.
    let functions = view.range(Section::Functions).len();
    if !functions.is_multiple_of(size_of::<FunctionRecord>()) {
        return Err(invalid(Section::Functions, 0, END_WITHIN_RECORD).into());
    }
    let functions = functions / size_of::<FunctionRecord>();
    counts.functions = total(Section::Functions, counts.imported_functions, functions)?;
    counts.tables = total(Section::Tables, counts.imported_tables, view.tables().len())?;
    counts.memories = total(Section::Memories, counts.imported_memories, view.memories().len())?;
    counts.globals = total(Section::Globals, counts.imported_globals, view.globals().len())?;
    counts.tags = total(Section::Tags, counts.imported_tags, view.tags().len())?;
    Ok(counts)
}

/// Every section is a whole number of records.
fn whole_records(view: &View<'_>) -> Check {
    for (section, size) in [
        (Section::Types, size_of::<TypeRecord>()),
        (Section::ValTypes, 4),
        (Section::Imports, size_of::<ImportRecord>()),
        (Section::FuncRefs, size_of::<FuncRefRecord>()),
        (Section::Tables, size_of::<DefinedRecord>()),
        (Section::Memories, size_of::<DefinedRecord>()),
        (Section::Globals, size_of::<DefinedRecord>()),
        (Section::Exports, size_of::<ExportRecord>()),
        (Section::ConstOps, size_of::<ConstOpRecord>()),
        (Section::Elements, size_of::<ElementRecord>()),
        (Section::Items, size_of::<ItemRecord>()),
        (Section::DataSegments, size_of::<crate::records::DataSegmentRecord>()),
        (Section::Images, size_of::<ImageRecord>()),
        (Section::Tags, size_of::<DefinedRecord>()),
    ] {
        if !view.bytes(section).len().is_multiple_of(size) {
            return Err(invalid(section, 0, END_WITHIN_RECORD));
        }
    }
    if view.bytes(Section::Module).len() != size_of::<ModuleRecord>() {
        return Err(invalid(Section::Module, 0, "the section has another size"));
    }
    Ok(())
}

/// The vmctx layout for the counts.
pub(crate) fn layout(view: &View<'_>, counts: &Counts) -> Result<VmctxLayout, Report> {
    let too_large = || Report::from(invalid(Section::Module, 0, "the vmctx is too large"));
    let count = |records: usize| u32::try_from(records).map_err(|_| too_large());
    VmctxLayout::new(VmctxCounts {
        imported_functions: counts.imported_functions,
        memories: counts.memories,
        tables: counts.tables,
        imported_globals: counts.imported_globals,
        defined_globals: counts.globals - counts.imported_globals,
        types: count(view.types().len())?,
        func_refs: count(view.func_refs().len())?,
        tags: counts.tags,
    })
    .ok_or_else(too_large)
}

/// Validates everything else: of what can be left for later, what there is of it. Reports the first problem of each section.
pub(crate) fn validate(view: &View<'_>, late: Option<&Late<'_>>) -> Result<(), Report> {
    let mut validator = Validator::new(view);
    // What follows compares types, which must make sense before.
    validator.types()?;
    validator.hierarchy()?;
    let problems = [
        validator.module(),
        validator.imports(),
        validator.func_refs(),
        late.map_or(Ok(()), |late| validator.functions(late)),
        validator.definitions(),
        validator.exports(),
        validator.elements(),
        validator.data(),
        validator.images(),
        late.map_or(Ok(()), |late| validator.handlers(late)),
        late.map_or(Ok(()), |late| validator.sites(late)),
        late.map_or(Ok(()), inlined),
    ];
    report(problems)
}

/// Validates what can be left for later.
pub(crate) fn late(view: &View<'_>, late: &Late<'_>) -> Result<(), Report> {
    let validator = Validator::new(view);
    let problems =
        [validator.functions(late), validator.handlers(late), validator.sites(late), inlined(late)];
    report(problems)
}

fn report(problems: impl IntoIterator<Item = Check>) -> Result<(), Report> {
    Report::new(problems.into_iter().filter_map(Result::err).collect()).map_or(Ok(()), Err)
}

/// Any record may be wrong, and leads to a wrong frame in a backtrace.
fn inlined(late: &Late<'_>) -> Check {
    whole(late, Section::Inlined, size_of::<InlinedRecord>())
}

/// The section is a whole number of records.
fn whole(late: &Late<'_>, section: Section, size: usize) -> Check {
    if late.bytes(section).len().is_multiple_of(size) {
        return Ok(());
    }
    Err(invalid(section, 0, END_WITHIN_RECORD))
}

/// What must be true of a handler, so that an exception can go there.
pub(crate) fn handler(handler: &HandlerRecord, text: usize, tags: u32) -> Result<(), &'static str> {
    if handler.handler.get() == NONE {
        return Err("it has no address");
    }
    if handler.handler.get() as usize >= text {
        return Err("an address lies outside of the code");
    }
    if handler.tag.get() != NONE && handler.tag.get() >= tags {
        return Err("its tag does not exist");
    }
    // A pointer of the frame itself.
    if u64::from(handler.vmctx.get()) + 8 > u64::from(handler.frame.get()) {
        return Err("its vmctx is outside of its frame");
    }
    Ok(())
}

struct Validator<'v, 'a> {
    view: &'v View<'a>,
    counts: &'a Counts,
    page: u64,
    types: Vec<SubType>,
    /// For each type, the first that is equal to it.
    canonical: Vec<u32>,
    /// How many operations the constant expressions so far consist of.
    const_ops: Cell<usize>,
}

impl<'v, 'a> Validator<'v, 'a> {
    fn new(view: &'v View<'a>) -> Self {
        Self {
            view,
            counts: view.counts(),
            page: view.page(),
            types: Vec::new(),
            canonical: Vec::new(),
            const_ops: Cell::new(0),
        }
    }

    /// That the blocks are in order. Entries are bounded where they are read.
    fn sites(&self, late: &Late<'_>) -> Check {
        let sites = Sites::new(late.bytes(Section::Sites))
            .ok_or_else(|| invalid(Section::Sites, 0, "the section ends within its records"))?;
        match sites.first_invalid_block() {
            Some(block) => {
                Err(invalid(Section::Sites, block, "the record is out of order or has no entries"))
            }
            None => Ok(()),
        }
    }

    fn text(&self, section: Section, record: usize, text: Text) -> Check {
        Self::text_in(self.view.bytes(Section::Strings), section, record, text)
    }

    fn text_in(bytes: &[u8], section: Section, record: usize, text: Text) -> Check {
        let start = text.offset.get() as usize;
        let bytes = start
            .checked_add(text.length.get() as usize)
            .and_then(|end| bytes.get(start..end))
            .ok_or_else(|| invalid(section, record, "a name lies outside of the strings"))?;
        core::str::from_utf8(bytes)
            .map(|_| ())
            .map_err(|_| invalid(section, record, "a name is not UTF-8"))
    }

    fn span(&self, section: Section, record: usize, span: Span, length: usize) -> Check {
        let end = u64::from(span.start.get()) + u64::from(span.count.get());
        if end > length as u64 {
            return Err(invalid(section, record, "a range lies outside of its section"));
        }
        Ok(())
    }

    fn text_offset(&self, section: Section, record: usize, offset: u32) -> Check {
        if offset != NONE && offset as usize >= self.view.bytes(Section::Text).len() {
            return Err(invalid(section, record, "an address lies outside of the code"));
        }
        Ok(())
    }

    fn module(&self) -> Check {
        let record = self.view.record();
        self.text(Section::Module, 0, record.name)?;
        let start = record.start.get();
        if start != NONE {
            let ty = (start < self.counts.functions)
                .then(|| self.view.function_type_index(start))
                .flatten()
                .ok_or_else(|| invalid(Section::Module, 0, "the start function does not exist"))?;
            let ty = self.view.func_type(ty);
            if !ty.params.is_empty() || !ty.results.is_empty() {
                return Err(invalid(Section::Module, 0, "the start function has a wrong type"));
            }
        }
        Ok(())
    }

    /// Reads the types.
    fn types(&mut self) -> Check {
        let codes = self.view.bytes(Section::ValTypes).len() / 4;
        let records = self.view.types();
        let group_of: Vec<_> = records.iter().map(|record| record.group.get()).collect();
        // Each type has value types of its own, so that together they are no
        // larger than the file.
        let mut next = 0;
        let mut group = 0..0;
        for (index, record) in records.iter().enumerate() {
            let bad = |what| Err(invalid(Section::Types, index, what));
            self.span(Section::Types, index, record.types, codes)?;
            if u64::from(record.types.start.get()) != next {
                return bad("the value types are not in order");
            }
            next += u64::from(record.types.count.get());
            if record.types.count.get() > 20_000 {
                return bad("the type has too many values");
            }
            if index == group.end {
                group = index..end_of_group(&group_of, index);
            }
            if record.group.get() as usize != group.start {
                return bad("its recursion group is not in one piece");
            }
            let number = u32::try_from(index).unwrap_or(NONE);
            let Some(ty) = self.view.sub_type(number) else {
                return bad("the type or a type of its values is unknown");
            };
            if record.open.get() > 1 {
                return bad("whether it is final is unknown");
            }
            if ty.referred().any(|target| target.number() as usize >= group.end) {
                return bad("it refers to a type behind its group");
            }
            self.text_offset(Section::Types, index, record.entry.get())?;
            self.text_offset(Section::Types, index, record.exit.get())?;
            self.types.push(ty);
        }
        self.canonical = canonical(&self.types, &group_of);
        Ok(())
    }

    /// That types are declared below types that allow it.
    fn hierarchy(&self) -> Check {
        let mut depths = Vec::with_capacity(self.types.len());
        for (index, ty) in self.types.iter().enumerate() {
            let bad = |what| Err(invalid(Section::Types, index, what));
            for target in ty.composite.values().filter_map(ref_type) {
                let concrete = target.heap.concrete().map(|target| target.number() as usize);
                let Some(found) = concrete.and_then(|target| self.types.get(target)) else {
                    continue;
                };
                if target.heap.concrete().is_some_and(|name| found.heap_type(name) != target.heap) {
                    return bad("it refers to a type of another kind");
                }
            }
            let Some(supertype) = ty.supertype else {
                depths.push(0);
                continue;
            };
            let above = supertype.number() as usize;
            let (Some(supertype), Some(depth)) = (self.types.get(above), depths.get(above)) else {
                return bad("its supertype is not declared before it");
            };
            if *depth >= MAX_SUBTYPING_DEPTH {
                return bad("it is below too many types");
            }
            depths.push(depth + 1);
            let (own, supertype) = (
                self.resolved(&ty.composite),
                (supertype.is_final, self.resolved(&supertype.composite)),
            );
            if supertype.0
                || !own.matches(&supertype.1, |found, wanted| self.is_below(found, wanted))
            {
                return bad("it does not match its supertype");
            }
        }
        Ok(())
    }

    /// The same type with the first of equal types in place of each.
    fn resolved(&self, ty: &CompositeType) -> CompositeType {
        ty.renumber(|target| self.first_equal(target))
    }

    fn first_equal(&self, ty: TypeRef) -> TypeRef {
        let first = self.canonical.get(ty.number() as usize);
        first.map_or(ty, |first| TypeRef::of_module(*first))
    }

    /// Whether a type is declared below another, which is the first of those that are equal to it.
    fn is_below(&self, found: TypeRef, wanted: TypeRef) -> bool {
        let mut next = Some(found);
        // Supertypes come before their subtypes, so this ends.
        while let Some(ty) = next {
            if self.first_equal(ty) == wanted {
                return true;
            }
            next = self.types.get(ty.number() as usize).and_then(|ty| ty.supertype);
        }
        false
    }

    fn matches(&self, found: ValType, wanted: ValType) -> bool {
        found.matches(wanted, |found, wanted| self.is_below(found, wanted))
    }

    /// The value type with this code, if it exists in this module. Equal types are equal.
    fn val_type(&self, code: u32) -> Option<ValType> {
        self.canonical(ValType::from_code(code)?)
    }

    /// A value type of this module, if it exists, with the first of the types that are equal.
    fn canonical(&self, ty: ValType) -> Option<ValType> {
        match ref_type(ty).and_then(|ty| Some((ty.heap, ty.heap.concrete()?))) {
            None => Some(ty),
            Some((heap, name)) => {
                let declared = self.types.get(name.number() as usize)?;
                (declared.heap_type(name) == heap)
                    .then(|| ty.renumber(|name| self.first_equal(name)))
            }
        }
    }

    fn extern_record(&self, section: Section, index: usize, ty: &ExternRecord) -> Check {
        let bad = |what| Err(invalid(section, index, what));
        let has_max = ty.flags.get() & extern_flags::HAS_MAX != 0;
        if ty.flags.get() & !extern_flags::KNOWN != 0 || ty.reserved.get() != 0 {
            return bad("a flag is unknown");
        }
        if has_max && ty.min > ty.max {
            return bad("the minimum exceeds the maximum");
        }
        let allowed = match ty.kind.get() {
            extern_kind::TABLE => extern_flags::HAS_MAX | extern_flags::INDEX_64,
            extern_kind::MEMORY => {
                extern_flags::HAS_MAX | extern_flags::INDEX_64 | extern_flags::SHARED
            }
            extern_kind::GLOBAL => extern_flags::MUTABLE,
            _ => 0,
        };
        if ty.flags.get() & !allowed != 0 {
            return bad("a flag does not belong to its kind");
        }
        let value = self.val_type(ty.ty.get());
        match ty.kind.get() {
            extern_kind::FUNC if self.is_func_type(ty.ty.get()) => Ok(()),
            extern_kind::FUNC => bad("the function's type does not exist"),
            extern_kind::TABLE if !value.is_some_and(ValType::is_ref) => {
                bad("the element type is unknown")
            }
            extern_kind::GLOBAL if value.is_none() => bad("the value type is unknown"),
            extern_kind::GLOBAL => Ok(()),
            extern_kind::TAG => match self.view.types().get(ty.ty.get() as usize) {
                Some(_) if !self.is_func_type(ty.ty.get()) => bad("the tag's type is no function"),
                Some(ty) if ty.params == ty.types.count => Ok(()),
                Some(_) => bad("the tag's type has results"),
                None => bad("the tag's type does not exist"),
            },
            _ => match self.view.extern_type(ty) {
                ExternType::Table(TableType { limits, index, .. }) => {
                    if !limits.within(index.max()) {
                        return bad("the table has more elements than indices");
                    }
                    Ok(())
                }
                ExternType::Memory(memory) => memory.problem().map_or(Ok(()), bad),
                _ => bad("the kind is unknown"),
            },
        }
    }

    fn is_func_type(&self, index: u32) -> bool {
        self.types.get(index as usize).is_some_and(|ty| ty.func().is_some())
    }

    fn imports(&self) -> Check {
        for (index, import) in self.view.imports().iter().enumerate() {
            self.text(Section::Imports, index, import.module)?;
            self.text(Section::Imports, index, import.name)?;
            self.extern_record(Section::Imports, index, &import.ty)?;
            if import.ty.kind.get() == extern_kind::FUNC {
                let ty = self.view.types()[import.ty.ty.get() as usize];
                if ty.exit.get() == NONE {
                    return Err(invalid(
                        Section::Imports,
                        index,
                        "its type has no exit trampoline",
                    ));
                }
            }
        }
        Ok(())
    }

    fn func_refs(&self) -> Check {
        let mut next = self.counts.imported_functions;
        for (index, func_ref) in self.view.func_refs().iter().enumerate() {
            let bad = |what| Err(invalid(Section::FuncRefs, index, what));
            let function = func_ref.function.get();
            if function < next {
                return bad("the references are not in the order of their functions");
            }
            if function >= self.counts.functions {
                return bad("its function does not exist");
            }
            next = function + 1;
            if func_ref.text.get() as usize >= self.view.bytes(Section::Text).len() {
                return bad("an address lies outside of the code");
            }
            match self.view.types().get(func_ref.ty.get() as usize) {
                Some(_) if !self.is_func_type(func_ref.ty.get()) => {
                    return bad("its type is no function");
                }
                None => return bad("the function's type does not exist"),
                Some(ty) if ty.entry.get() == NONE => {
                    return bad("its type has no entry trampoline");
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Functions, and that those that are referred to are these.
    fn functions(&self, late: &Late<'_>) -> Check {
        let strings = late.bytes(Section::Strings);
        let text = self.view.bytes(Section::Text).len() as u64;
        let mut func_refs = (0..).zip(self.view.func_refs()).peekable();
        let mut end = 0;
        let numbers = self.counts.imported_functions..self.counts.functions;
        for (index, (this, function)) in numbers.zip(late.functions()).enumerate() {
            let bad = |what| Err(invalid(Section::Functions, index, what));
            let start = u64::from(function.text.get());
            if start < end {
                return bad("the functions are not in order");
            }
            end = start + u64::from(function.length.get());
            if end > text || function.length.get() == 0 {
                return bad("the function lies outside of the code");
            }
            Self::text_in(strings, Section::Functions, index, function.name)?;
            if let Some((number, func_ref)) = func_refs.next_if(|(_, it)| it.function.get() == this)
                && func_ref.text != function.text
            {
                let what = "its address is not that of its function";
                return Err(invalid(Section::FuncRefs, number, what));
            }
        }
        Ok(())
    }

    fn definitions(&self) -> Check {
        for (section, kind, records) in [
            (Section::Tables, extern_kind::TABLE, self.view.tables()),
            (Section::Memories, extern_kind::MEMORY, self.view.memories()),
            (Section::Globals, extern_kind::GLOBAL, self.view.globals()),
            (Section::Tags, extern_kind::TAG, self.view.tags()),
        ] {
            for (index, record) in records.iter().enumerate() {
                if record.ty.kind.get() != kind {
                    return Err(invalid(section, index, "the kind is wrong"));
                }
                self.extern_record(section, index, &record.ty)?;
                let ty = self.val_type(record.ty.ty.get());
                match kind {
                    extern_kind::MEMORY | extern_kind::TAG => {}
                    extern_kind::TABLE => {
                        if record.init.count.get() == 0 {
                            if !ty.is_some_and(ValType::has_default) {
                                return Err(invalid(section, index, "its elements have no value"));
                            }
                        } else {
                            self.const_expr(section, index, record.init, ty, self.counts.globals)?;
                        }
                    }
                    _ => {
                        // A global may read the ones before it.
                        let before =
                            self.counts.imported_globals + u32::try_from(index).unwrap_or(u32::MAX);
                        self.const_expr(section, index, record.init, ty, before)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A constant expression: operations that leave one value, of the right type.
    ///
    /// No operation belongs to two expressions, so that the work is bounded by the
    /// size of the file.
    fn const_expr(
        &self,
        section: Section,
        record: usize,
        span: Span,
        ty: Option<ValType>,
        globals: u32,
    ) -> Check {
        let bad = |what| Err(invalid(section, record, what));
        let all = self.view.all_const_ops().len();
        self.span(section, record, span, all)?;
        let ops = self.view.const_ops(span);
        self.const_ops.set(self.const_ops.get().saturating_add(ops.len()));
        if self.const_ops.get() > all {
            return bad("a constant operation belongs to two expressions");
        }
        let mut stack = Vec::new();
        for op in ops {
            let found = if let Some(operand) = arithmetic_type(op.op.get()) {
                self.take(&mut stack, &[operand; 2]).then_some(operand)
            } else if (const_op::STRUCT_NEW..=const_op::EXTERN_CONVERT_ANY).contains(&op.op.get()) {
                self.made(&mut stack, op)
            } else {
                Some(self.const_value(section, record, op, globals)?)
            };
            let Some(found) = found else { return bad("a constant operation has wrong operands") };
            stack.push(found);
        }
        let [found] = stack[..] else { return bad("a constant has a wrong type") };
        if !ty.is_some_and(|wanted| self.matches(found, wanted)) {
            return bad("a constant has a wrong type");
        }
        Ok(())
    }

    /// Takes values of these types from a stack, the last from its top. `None` if there are others.
    fn take(&self, stack: &mut Vec<ValType>, wanted: &[ValType]) -> bool {
        let Some(start) = stack.len().checked_sub(wanted.len()) else { return false };
        stack.drain(start..).zip(wanted).all(|(found, wanted)| self.matches(found, *wanted))
    }

    /// The type of what an operation pushes that makes or converts a reference, and takes its operands. `None` if they are wrong.
    fn made(&self, stack: &mut Vec<ValType>, op: &ConstOpRecord) -> Option<ValType> {
        let index = op.index.get();
        let converted = |stack: &mut Vec<ValType>, from, to| {
            let ValType::Ref(RefType { nullable, .. }) = *stack.last()? else { return None };
            let operand = RefType { nullable: true, heap: from };
            self.take(stack, &[operand.into()]).then_some(RefType { nullable, heap: to }.into())
        };
        match op.op.get() {
            const_op::REF_I31 => {
                let ty = RefType { nullable: false, heap: HeapType::I31 };
                return self.take(stack, &[ValType::I32]).then_some(ty.into());
            }
            const_op::ANY_CONVERT_EXTERN => {
                return converted(stack, HeapType::Extern, HeapType::Any);
            }
            const_op::EXTERN_CONVERT_ANY => {
                return converted(stack, HeapType::Any, HeapType::Extern);
            }
            _ => {}
        }
        let ty = self.types.get(index as usize)?;
        let value = |field: &FieldType| self.canonical(field.storage.value());
        let default = |field: &FieldType| value(field).is_some_and(ValType::has_default);
        let taken = match (op.op.get(), &ty.composite) {
            (const_op::STRUCT_NEW, CompositeType::Struct(ty)) => {
                let fields: Option<Vec<_>> = ty.fields.iter().map(value).collect();
                self.take(stack, &fields?)
            }
            (const_op::STRUCT_NEW_DEFAULT, CompositeType::Struct(ty)) => {
                ty.fields.iter().all(default)
            }
            (const_op::ARRAY_NEW, CompositeType::Array(element)) => {
                self.take(stack, &[value(element)?, ValType::I32])
            }
            (const_op::ARRAY_NEW_DEFAULT, CompositeType::Array(element)) => {
                default(element) && self.take(stack, &[ValType::I32])
            }
            (const_op::ARRAY_NEW_FIXED, CompositeType::Array(element)) => {
                // No more than there are.
                let count = usize::try_from(op.low.get()).ok().filter(|it| *it <= stack.len())?;
                self.take(stack, &vec![value(element)?; count])
            }
            _ => false,
        };
        let heap = ty.heap_type(self.first_equal(TypeRef::of_module(index)));
        taken.then_some(RefType { nullable: false, heap }.into())
    }

    /// The type of what an operation pushes that takes nothing.
    fn const_value(
        &self,
        section: Section,
        record: usize,
        op: &ConstOpRecord,
        globals: u32,
    ) -> Result<ValType, Problem> {
        let bad = |what| Err(invalid(section, record, what));
        let index = op.index.get();
        let found = match op.op.get() {
            const_op::I32 => Some(ValType::I32),
            const_op::I64 => Some(ValType::I64),
            const_op::F32 => Some(ValType::F32),
            const_op::F64 => Some(ValType::F64),
            const_op::V128 => Some(ValType::V128),
            const_op::REF_NULL => match self.val_type(index) {
                Some(ValType::Ref(ty)) if ty.nullable => Some(ValType::Ref(ty)),
                _ => None,
            },
            const_op::REF_FUNC => {
                if !self.has_func_ref(index) {
                    return bad("a constant refers to a function without a reference");
                }
                let ty = self.view.function_type_index(index).unwrap_or(NONE);
                self.canonical.get(ty as usize).map(|ty| {
                    let heap = HeapType::Concrete(TypeRef::of_module(*ty));
                    ValType::Ref(RefType { nullable: false, heap })
                })
            }
            const_op::GLOBAL_GET => {
                if index >= globals {
                    return bad("a constant reads a global that is not initialised");
                }
                self.global_type(index)
            }
            _ => None,
        };
        found.ok_or_else(|| invalid(section, record, "a constant operation is unknown"))
    }

    fn global_type(&self, index: u32) -> Option<ValType> {
        let record = match index.checked_sub(self.counts.imported_globals) {
            Some(defined) => self.view.globals().get(defined as usize)?.ty,
            None => self.view.imported(extern_kind::GLOBAL, index)?.ty,
        };
        self.val_type(record.ty.get())
    }

    /// Whether a function is imported, or has a reference.
    fn has_func_ref(&self, function: u32) -> bool {
        function < self.counts.imported_functions || self.view.func_ref(function).is_some()
    }

    /// The same for an item, which says the number of the reference.
    fn is_function_item(&self, item: &ItemRecord) -> bool {
        match item.count.get() {
            NONE => item.first.get() < self.counts.imported_functions,
            number => {
                let func_ref = self.view.func_refs().get(number as usize);
                func_ref.is_some_and(|func_ref| func_ref.function == item.first)
            }
        }
    }

    fn exports(&self) -> Check {
        let mut last: Option<&str> = None;
        for (index, export) in self.view.exports().iter().enumerate() {
            let bad = |what| Err(invalid(Section::Exports, index, what));
            self.text(Section::Exports, index, export.name)?;
            let name = self.view.text(export.name);
            if last.is_some_and(|last| last >= name) {
                return bad("the exports are not sorted by name");
            }
            last = Some(name);
            let exists = match export.kind.get() {
                extern_kind::FUNC => {
                    export.index.get() < self.counts.functions
                        && self.has_func_ref(export.index.get())
                }
                extern_kind::TABLE => export.index.get() < self.counts.tables,
                extern_kind::MEMORY => export.index.get() < self.counts.memories,
                extern_kind::GLOBAL => export.index.get() < self.counts.globals,
                extern_kind::TAG => export.index.get() < self.counts.tags,
                _ => return bad("the kind is unknown"),
            };
            if !exists {
                return bad("what it exports does not exist");
            }
        }
        Ok(())
    }

    fn elements(&self) -> Check {
        let item_count = self.view.bytes(Section::Items).len() / size_of::<ItemRecord>();
        for (index, segment) in self.view.elements().iter().enumerate() {
            let bad = |what| Err(invalid(Section::Elements, index, what));
            let ty = self.val_type(segment.ty.get()).filter(|ty| ty.is_ref());
            match segment.mode.get() {
                segment_mode::ACTIVE => {
                    if segment.table.get() >= self.counts.tables {
                        return bad("its table does not exist");
                    }
                    let table = self.view.table_type(segment.table.get());
                    let element = table.and_then(|table| self.canonical(table.element));
                    if !ty.zip(element).is_some_and(|(ty, element)| self.matches(ty, element)) {
                        return bad("its type is not the table's");
                    }
                    let offset = table.map(|table| table.index.value());
                    let globals = self.counts.globals;
                    self.const_expr(Section::Elements, index, segment.offset, offset, globals)?;
                }
                segment_mode::PASSIVE | segment_mode::DECLARED => {}
                _ => return bad("its mode is unknown"),
            }
            if ty.is_none() {
                return bad("its type is unknown");
            }
            self.span(Section::Elements, index, segment.items, item_count)?;
            self.items(index, segment, ty)?;
        }
        Ok(())
    }

    fn items(&self, index: usize, segment: &ElementRecord, ty: Option<ValType>) -> Check {
        let bad = |what| Err(invalid(Section::Elements, index, what));
        for item in self.view.items(segment.items) {
            match segment.item_kind.get() {
                item_kind::FUNCTIONS => {
                    let of_functions = [true, false].map(|nullable| {
                        Some(ValType::Ref(RefType { nullable, heap: HeapType::Func }))
                    });
                    if !of_functions.contains(&ty) || !self.is_function_item(item) {
                        return bad("an item is a function without a reference");
                    }
                }
                item_kind::EXPRESSIONS => {
                    let span = Span { start: item.first, count: item.count };
                    self.const_expr(Section::Elements, index, span, ty, self.counts.globals)?;
                }
                _ => return bad("the kind of its items is unknown"),
            }
        }
        Ok(())
    }

    fn data(&self) -> Check {
        let bytes = self.view.bytes(Section::Data).len() as u64;
        for (index, segment) in self.view.data_segments().iter().enumerate() {
            let bad = |what| Err(invalid(Section::DataSegments, index, what));
            match segment.mode.get() {
                segment_mode::ACTIVE => {
                    if segment.memory.get() >= self.counts.memories {
                        return bad("its memory does not exist");
                    }
                    let memory = self.view.memory_type(segment.memory.get());
                    let ty = memory.map(|memory| memory.index.value());
                    let globals = self.counts.globals;
                    self.const_expr(Section::DataSegments, index, segment.offset, ty, globals)?;
                }
                segment_mode::PASSIVE => {}
                _ => return bad("its mode is unknown"),
            }
            if segment.data.get().checked_add(segment.length.get()).is_none_or(|end| end > bytes) {
                return bad("its bytes lie outside of the data");
            }
            if segment.in_image.get() > 1
                || segment.in_image.get() == 1 && segment.length.get() != 0
            {
                return bad("it is both in an image and apart");
            }
        }
        Ok(())
    }

    fn images(&self) -> Check {
        let section = self.view.range(Section::ImageBytes);
        let bytes = section.len() as u64;
        for (index, image) in self.view.images().iter().enumerate() {
            let bad = |what| Err(invalid(Section::Images, index, what));
            let memory = image.memory.get();
            let defined = memory >= self.counts.imported_memories;
            let Some(memory) = self.view.memory_type(memory).filter(|_| defined) else {
                return bad("its memory is not defined here");
            };
            // Whether the minimum is possible is checked elsewhere.
            let size = memory.bytes(memory.limits.min).unwrap_or(u64::MAX);
            let length = image.length.get();
            if image.address.get().checked_add(length).is_none_or(|end| end > size) {
                return bad("it lies outside of its memory");
            }
            if image.bytes.get().checked_add(length).is_none_or(|end| end > bytes) {
                return bad("its bytes lie outside of the image bytes");
            }
            // Neither sum exceeds the length of the file.
            let place = section.start as u64 + image.bytes.get();
            if length > 0 && image.address.get() % self.page != place % self.page {
                return bad("it does not lie in pages of the file as in those of the memory");
            }
        }
        Ok(())
    }

    fn handlers(&self, late: &Late<'_>) -> Check {
        whole(late, Section::Handlers, size_of::<HandlerRecord>())?;
        let text = self.view.bytes(Section::Text).len();
        let mut last = 0;
        for (index, record) in late.handlers().iter().enumerate() {
            if record.call.get() < last {
                let what = "the handlers are not in the order of their calls";
                return Err(invalid(Section::Handlers, index, what));
            }
            last = record.call.get();
            handler(record, text, self.counts.tags)
                .map_err(|what| invalid(Section::Handlers, index, what))?;
        }
        Ok(())
    }
}

/// How many types a type may be below.
const MAX_SUBTYPING_DEPTH: u32 = type_info::POSITIONS - 1;

/// The reference type, if it is one.
fn ref_type(ty: ValType) -> Option<RefType> {
    match ty {
        ValType::Ref(ty) => Some(ty),
        _ => None,
    }
}

/// The type of the operands and the result, if an operation is one of arithmetic.
fn arithmetic_type(op: u32) -> Option<ValType> {
    match op {
        const_op::I32_ADD | const_op::I32_SUB | const_op::I32_MUL => Some(ValType::I32),
        const_op::I64_ADD | const_op::I64_SUB | const_op::I64_MUL => Some(ValType::I64),
        _ => None,
    }
}
