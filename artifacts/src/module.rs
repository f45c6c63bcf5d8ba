//! Reading: the metadata of a checked artifact, in place.
//!
//! [`Module::new`] validates every offset, index and length once; after that
//! the accessors cannot fail. A digest proves that bytes were not changed
//! since they were sealed, not that they make sense, so nothing here
//! relies on it.

use core::ops::Range;

use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::abi::vmctx::{VmctxCounts, VmctxLayout};
use crate::check::{Checked, LATE};
use crate::cpu::Arch;
use crate::header::{Header, Section, padded_text};
use crate::records::{
    ConstOpRecord, DataSegmentRecord, DefinedRecord, ElementRecord, ExportRecord, ExternRecord,
    FuncRefRecord, FunctionRecord, HandlerRecord, ImageRecord, ImportRecord, InlinedRecord,
    ItemRecord, ModuleRecord, NONE, Span, Text, TypeRecord, extern_flags, extern_kind, type_kind,
};
use crate::report::{Problem, Report};
use crate::sites::{Site, Sites};
use crate::types::{
    CompositeType, ExternType, FieldType, FuncType, GlobalType, IndexType, Limits, MemoryType,
    StorageType, StructType, SubType, TableType, TagType, TypeRef, ValType,
};

/// The metadata of an artifact, as ranges of the file; borrow a [`View`] to read it.
///
/// Holds no reference, so that the owner of the file's bytes can hold it too.
#[derive(Clone, Debug)]
pub struct Module {
    sections: [Range<usize>; Section::ALL.len()],
    /// The same, without what a [`View`] must not read.
    visible: [Range<usize>; Section::ALL.len()],
    counts: Counts,
    layout: VmctxLayout,
    /// Positions in the import section, by kind.
    imported: [Vec<u32>; extern_kind::COUNT],
    page: u64,
}

/// How many of each importable thing a module has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Imported functions.
    pub imported_functions: u32,
    /// Imported tables.
    pub imported_tables: u32,
    /// Imported memories.
    pub imported_memories: u32,
    /// Imported globals.
    pub imported_globals: u32,
    /// Imported tags.
    pub imported_tags: u32,
    /// Imported and defined functions.
    pub functions: u32,
    /// Imported and defined tables.
    pub tables: u32,
    /// Imported and defined memories.
    pub memories: u32,
    /// Imported and defined globals.
    pub globals: u32,
    /// Imported and defined tags.
    pub tags: u32,
}

/// The metadata of a module, readable: what is needed to instantiate it and to call it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    file: &'a [u8],
    module: &'a Module,
}

/// The metadata that only traps, exceptions and backtraces need.
///
/// They may not have been validated, so each accessor leads to nothing, or to something that is wrong, if they make no
/// sense; and none reads outside of the section. None allocates, so that a signal handler can use them.
#[derive(Clone, Copy, Debug)]
pub struct Late<'a> {
    file: &'a [u8],
    module: &'a Module,
}

impl Module {
    /// Validates the metadata of a checked artifact.
    ///
    /// # Errors
    /// The first thing in each section that makes no sense.
    pub fn new(checked: &Checked<'_>) -> Result<Self, Report> {
        let mut module = Self::with_counts(checked)?;
        module.finish(checked)?;
        crate::validate::validate(
            &module.view(checked.file()),
            Some(&module.late(checked.file())),
        )?;
        Ok(module)
    }

    /// Validates the metadata of an artifact that was checked by [`crate::check::check_deferring`], but for those
    /// that are [`crate::check::LATE`]: they are neither read nor validated, and a [`View`] has none of them.
    ///
    /// Except for the strings that imports, exports and the module itself have for names. `fetch` gets the range of the file in which
    /// these are, and sees to it that they are there and are what was sealed.
    ///
    /// # Errors
    /// The first thing in each section that makes no sense; or what `fetch` fails with.
    pub fn deferring<E: From<Report>>(
        checked: &Checked<'_>,
        fetch: impl FnOnce(Range<usize>) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut module = Self::with_counts(checked)?;
        for section in LATE {
            module.visible[section as usize] = 0..0;
        }
        let strings = module.range(Section::Strings);
        let names =
            strings.start..strings.start + module.view(checked.file()).end_of_names(strings.len());
        fetch(names.clone())?;
        module.visible[Section::Strings as usize] = names;
        module.finish(checked)?;
        crate::validate::validate(&module.view(checked.file()), None)?;
        Ok(module)
    }

    /// Validates what [`Module::deferring`] did not.
    ///
    /// # Errors
    /// The first thing in each section that makes no sense.
    pub fn validate_late(&self, late: &Late<'_>) -> Result<(), Report> {
        crate::validate::late(&self.view(late.file), late)
    }

    fn with_counts(checked: &Checked<'_>) -> Result<Self, Report> {
        let file = checked.file();
        let sections = section_ranges(checked.header(), file)?;
        let mut module = Self {
            visible: sections.clone(),
            sections,
            counts: Counts::default(),
            layout: VmctxLayout::new(VmctxCounts::default()).ok_or_else(|| {
                Report::from(invalid(Section::Module, 0, "the vmctx layout is impossible"))
            })?,
            imported: <[Vec<u32>; extern_kind::COUNT]>::default(),
            page: page_size(checked.header())?.into(),
        };
        module.counts = crate::validate::counts(&module.view(file))?;
        Ok(module)
    }

    fn finish(&mut self, checked: &Checked<'_>) -> Result<(), Report> {
        let file = checked.file();
        let mut imported = <[Vec<u32>; extern_kind::COUNT]>::default();
        for (position, import) in (0..).zip(self.view(file).imports()) {
            // `counts` has refused any other kind.
            if let Some(positions) = imported.get_mut(import.ty.kind.get() as usize) {
                positions.push(position);
            }
        }
        self.imported = imported;
        let view = self.view(file);
        self.layout = crate::validate::layout(&view, &self.counts)?;
        Ok(())
    }

    /// The metadata that are needed to instantiate, read from `file`, which must be the file that was
    /// validated.
    #[must_use]
    pub fn view<'a>(&'a self, file: &'a [u8]) -> View<'a> {
        View { file, module: self }
    }

    /// The other metadata, read from `file`, which must be the file that was validated. If it was with [`Module::deferring`], sections are to be there
    /// before they are read.
    #[must_use]
    pub fn late<'a>(&'a self, file: &'a [u8]) -> Late<'a> {
        Late { file, module: self }
    }

    /// The file offsets of a section.
    #[must_use]
    pub fn range(&self, section: Section) -> Range<usize> {
        self.sections[section as usize].clone()
    }

    /// How many of each importable thing there are.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The layout of the vmctx.
    #[must_use]
    pub fn layout(&self) -> &VmctxLayout {
        &self.layout
    }
}

fn page_size(header: &Header) -> Result<u32, Problem> {
    Arch::of_triple(&padded_text(&header.prefix.target))
        .map(|arch| arch.max_page_size())
        .ok_or_else(|| invalid(Section::Text, 0, "the target is unknown"))
}

/// Where the sections are, inside of the body and with text apart.
fn section_ranges(
    header: &Header,
    file: &[u8],
) -> Result<[Range<usize>; Section::ALL.len()], Report> {
    let body = header.body_offset();
    let mut ranges = Section::ALL.map(|_| 0..0);
    for section in Section::ALL {
        ranges[section as usize] = header
            .section(section)
            .within(file.len())
            .filter(|range| range.start >= body || range.is_empty())
            .ok_or_else(|| invalid(section, 0, "the section lies outside of the file"))?;
    }
    let page = page_size(header)? as usize;
    let text = &ranges[Section::Text as usize];
    if !text.start.is_multiple_of(page) {
        return Err(invalid(Section::Text, 0, "the section is not page-aligned").into());
    }
    if u32::try_from(text.len()).is_err() {
        return Err(invalid(Section::Text, 0, "the section exceeds 4 GiB").into());
    }
    // The pages of the text become executable; nothing else may lie in them.
    let text_pages = text.start..text.end.next_multiple_of(page);
    for section in Section::ALL.into_iter().filter(|section| *section != Section::Text) {
        let range = &ranges[section as usize];
        if !range.is_empty() && range.start < text_pages.end && text_pages.start < range.end {
            return Err(invalid(section, 0, "the section overlaps the pages of the code").into());
        }
    }
    Ok(ranges)
}

pub(crate) fn invalid(section: Section, record: usize, what: &'static str) -> Problem {
    Problem::Invalid { section: section.name(), record: record as u64, what }
}

impl<'a> View<'a> {
    /// The bytes of a section. Empty, if it was left for later: [`Late`] has it.
    #[must_use]
    pub fn bytes(&self, section: Section) -> &'a [u8] {
        self.file.get(self.module.visible[section as usize].clone()).unwrap_or_default()
    }

    fn records<R: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
        section: Section,
    ) -> &'a [R] {
        records(self.bytes(section))
    }

    /// Where the names of imports, exports and the module itself end in the strings, which have this length.
    fn end_of_names(&self, length: usize) -> usize {
        let imports = self.imports().iter().flat_map(|import| [import.module, import.name]);
        let names = imports.chain(self.exports().iter().map(|export| export.name));
        let ends = names
            .chain([self.record().name])
            .map(|text| (text.offset.get() as usize).saturating_add(text.length.get() as usize));
        // What lies outside is refused.
        ends.filter(|end| *end <= length).max().unwrap_or(0)
    }

    /// Singular facts.
    #[must_use]
    pub fn record(&self) -> ModuleRecord {
        ModuleRecord::read_from_prefix(self.bytes(Section::Module))
            .map(|(record, _)| record)
            .unwrap_or_default()
    }

    /// How many of each importable thing there are.
    #[must_use]
    pub fn counts(&self) -> &'a Counts {
        &self.module.counts
    }

    /// The layout of the vmctx.
    #[must_use]
    pub fn layout(&self) -> &'a VmctxLayout {
        &self.module.layout
    }

    /// The file offsets of a section.
    pub(crate) fn range(&self, section: Section) -> Range<usize> {
        self.module.range(section)
    }

    /// The largest size that a page of memory has on the target.
    pub(crate) fn page(&self) -> u64 {
        self.module.page
    }

    /// A text of the string pool: the name of an import, an export or the module. Empty if the range or the text is bad, or if
    /// it was left for later.
    #[must_use]
    pub fn text(&self, text: Text) -> &'a str {
        text_of(self.bytes(Section::Strings), text)
    }

    /// Declared types.
    #[must_use]
    pub fn types(&self) -> &'a [TypeRecord] {
        self.records(Section::Types)
    }

    /// A function type; the empty type if there is none with this index.
    #[must_use]
    pub fn func_type(&self, index: u32) -> FuncType {
        match self.types().get(index as usize) {
            Some(record) if record.kind.get() == type_kind::FUNC => {
                self.func_of(record).unwrap_or_default()
            }
            _ => FuncType::default(),
        }
    }

    /// A declared type; `None` if there is none with this index.
    #[must_use]
    pub fn sub_type(&self, index: u32) -> Option<SubType> {
        let record = self.types().get(index as usize)?;
        let composite = match record.kind.get() {
            type_kind::FUNC => CompositeType::Func(self.func_of(record)?),
            type_kind::STRUCT => {
                CompositeType::Struct(StructType { fields: self.fields_of(record)? })
            }
            type_kind::ARRAY => match self.fields_of(record)?[..] {
                [element] => CompositeType::Array(element),
                _ => return None,
            },
            _ => return None,
        };
        let supertype = Some(record.supertype.get()).filter(|supertype| *supertype != NONE);
        Some(SubType {
            composite,
            is_final: record.open.get() == 0,
            supertype: supertype.map(TypeRef::of_module),
        })
    }

    fn func_of(&self, record: &TypeRecord) -> Option<FuncType> {
        let types = self.val_types(record)?;
        let (params, results) = types.split_at_checked(record.params.get() as usize)?;
        Some(FuncType { params: params.to_vec(), results: results.to_vec() })
    }

    fn fields_of(&self, record: &TypeRecord) -> Option<Vec<FieldType>> {
        let fields = self.type_codes(record).chunks(2).map(|field| match field {
            [storage, mutable] => Some(FieldType {
                storage: StorageType::from_code(storage.get())?,
                mutable: match mutable.get() {
                    0 => false,
                    1 => true,
                    _ => return None,
                },
            }),
            _ => None,
        });
        fields.collect()
    }

    fn val_types(&self, record: &TypeRecord) -> Option<Vec<ValType>> {
        self.type_codes(record).iter().map(|code| ValType::from_code(code.get())).collect()
    }

    fn type_codes(&self, record: &TypeRecord) -> &'a [zerocopy::little_endian::U32] {
        slice(self.records(Section::ValTypes), record.types)
    }

    /// Imports.
    #[must_use]
    pub fn imports(&self) -> &'a [ImportRecord] {
        self.records(Section::Imports)
    }

    /// Defined functions that something may refer to. The vmctx has a reference for each.
    #[must_use]
    pub fn func_refs(&self) -> &'a [FuncRefRecord] {
        self.records(Section::FuncRefs)
    }

    /// The number of a defined function's reference; `None` if the function is imported, or nothing may refer to it.
    #[must_use]
    pub fn func_ref(&self, function: u32) -> Option<u32> {
        let found =
            self.func_refs().binary_search_by_key(&function, |it| it.function.get()).ok()?;
        u32::try_from(found).ok()
    }

    /// Defined tables.
    #[must_use]
    pub fn tables(&self) -> &'a [DefinedRecord] {
        self.records(Section::Tables)
    }

    /// Defined memories.
    #[must_use]
    pub fn memories(&self) -> &'a [DefinedRecord] {
        self.records(Section::Memories)
    }

    /// Defined globals.
    #[must_use]
    pub fn globals(&self) -> &'a [DefinedRecord] {
        self.records(Section::Globals)
    }

    /// Defined tags.
    #[must_use]
    pub fn tags(&self) -> &'a [DefinedRecord] {
        self.records(Section::Tags)
    }

    /// Exports, sorted by name.
    #[must_use]
    pub fn exports(&self) -> &'a [ExportRecord] {
        self.records(Section::Exports)
    }

    /// The export with this name.
    #[must_use]
    pub fn export(&self, name: &str) -> Option<&'a ExportRecord> {
        let exports = self.exports();
        let position = exports.binary_search_by(|export| self.text(export.name).cmp(name)).ok()?;
        exports.get(position)
    }

    /// A constant expression.
    #[must_use]
    pub fn const_ops(&self, span: Span) -> &'a [ConstOpRecord] {
        slice(self.records(Section::ConstOps), span)
    }

    /// All operations of constant expressions.
    #[must_use]
    pub fn all_const_ops(&self) -> &'a [ConstOpRecord] {
        self.records(Section::ConstOps)
    }

    /// Element segments.
    #[must_use]
    pub fn elements(&self) -> &'a [ElementRecord] {
        self.records(Section::Elements)
    }

    /// Items of an element segment.
    #[must_use]
    pub fn items(&self, span: Span) -> &'a [ItemRecord] {
        slice(self.records(Section::Items), span)
    }

    /// Data segments.
    #[must_use]
    pub fn data_segments(&self) -> &'a [DataSegmentRecord] {
        self.records(Section::DataSegments)
    }

    /// The bytes of a data segment.
    #[must_use]
    pub fn data(&self, segment: &DataSegmentRecord) -> &'a [u8] {
        byte_range(self.bytes(Section::Data), segment.data.get(), segment.length.get())
    }

    /// Linear-memory images.
    #[must_use]
    pub fn images(&self) -> &'a [ImageRecord] {
        self.records(Section::Images)
    }

    /// The bytes of an image.
    #[must_use]
    pub fn image_bytes(&self, image: &ImageRecord) -> &'a [u8] {
        byte_range(self.bytes(Section::ImageBytes), image.bytes.get(), image.length.get())
    }

    /// The type index of a tag.
    #[must_use]
    pub fn tag_type_index(&self, tag: u32) -> Option<u32> {
        let record = match tag.checked_sub(self.counts().imported_tags) {
            Some(defined) => self.tags().get(defined as usize)?.ty,
            None => self.imported(extern_kind::TAG, tag)?.ty,
        };
        Some(record.ty.get())
    }

    /// The type index of a function. `None` if nothing may refer to it.
    #[must_use]
    pub fn function_type_index(&self, function: u32) -> Option<u32> {
        if function < self.counts().imported_functions {
            return self.imported(extern_kind::FUNC, function).map(|import| import.ty.ty.get());
        }
        let number = self.func_ref(function)?;
        self.func_refs().get(number as usize).map(|func_ref| func_ref.ty.get())
    }

    /// The import that stands at `index` in the index space of its kind.
    #[must_use]
    pub fn imported(&self, kind: u32, index: u32) -> Option<&'a ImportRecord> {
        let position = *self.module.imported.get(kind as usize)?.get(index as usize)?;
        self.imports().get(position as usize)
    }

    /// The type that an import or definition has.
    #[must_use]
    pub fn extern_type(&self, record: &ExternRecord) -> ExternType {
        let flag = |flag| record.flags.get() & flag != 0;
        let limits = Limits {
            min: record.min.get(),
            max: flag(extern_flags::HAS_MAX).then(|| record.max.get()),
        };
        let index = if flag(extern_flags::INDEX_64) { IndexType::I64 } else { IndexType::I32 };
        let value = ValType::from_code(record.ty.get()).unwrap_or(ValType::I32);
        match record.kind.get() {
            extern_kind::TABLE => ExternType::Table(TableType { element: value, limits, index }),
            extern_kind::MEMORY => ExternType::Memory(MemoryType {
                limits,
                index,
                page_size_log2: u8::try_from(record.ty.get()).unwrap_or(u8::MAX),
                shared: flag(extern_flags::SHARED),
            }),
            extern_kind::GLOBAL => {
                ExternType::Global(GlobalType { value, mutable: flag(extern_flags::MUTABLE) })
            }
            extern_kind::TAG => {
                ExternType::Tag(TagType { params: self.func_type(record.ty.get()).params })
            }
            _ => ExternType::Func(self.func_type(record.ty.get())),
        }
    }

    /// The type of an imported or defined table.
    #[must_use]
    pub fn table_type(&self, index: u32) -> Option<TableType> {
        let record = match index.checked_sub(self.counts().imported_tables) {
            Some(defined) => self.tables().get(defined as usize)?.ty,
            None => self.imported(extern_kind::TABLE, index)?.ty,
        };
        match self.extern_type(&record) {
            ExternType::Table(ty) => Some(ty),
            _ => None,
        }
    }

    /// The type of an imported or defined memory.
    #[must_use]
    pub fn memory_type(&self, index: u32) -> Option<MemoryType> {
        let record = match index.checked_sub(self.counts().imported_memories) {
            Some(defined) => self.memories().get(defined as usize)?.ty,
            None => self.imported(extern_kind::MEMORY, index)?.ty,
        };
        match self.extern_type(&record) {
            ExternType::Memory(ty) => Some(ty),
            _ => None,
        }
    }

    /// The type of what an export refers to.
    #[must_use]
    pub fn export_type(&self, export: &ExportRecord) -> ExternType {
        let index = export.index.get();
        let counts = self.counts();
        let (imported, defined) = match export.kind.get() {
            extern_kind::TABLE => (counts.imported_tables, self.tables()),
            extern_kind::MEMORY => (counts.imported_memories, self.memories()),
            extern_kind::GLOBAL => (counts.imported_globals, self.globals()),
            extern_kind::TAG => (counts.imported_tags, self.tags()),
            _ => {
                let ty = self.function_type_index(index).unwrap_or(NONE);
                return ExternType::Func(self.func_type(ty));
            }
        };
        match index.checked_sub(imported) {
            Some(own) => defined.get(own as usize).map(|record| record.ty),
            None => self.imported(export.kind.get(), index).map(|import| import.ty),
        }
        .map_or_else(|| ExternType::Func(FuncType::default()), |ty| self.extern_type(&ty))
    }
}

impl<'a> Late<'a> {
    /// The bytes of a section.
    #[must_use]
    pub fn bytes(&self, section: Section) -> &'a [u8] {
        self.file.get(self.module.range(section)).unwrap_or_default()
    }

    /// Traps and return addresses.
    #[must_use]
    pub fn sites(&self) -> Sites<'a> {
        Sites::new(self.bytes(Section::Sites)).unwrap_or_default()
    }

    /// Handlers of exceptions, sorted by the return address of the call that they are for.
    #[must_use]
    pub fn handlers(&self) -> &'a [HandlerRecord] {
        records(self.bytes(Section::Handlers))
    }

    /// The handlers of the call with this return address, in the order in which they are tried. Those that validation would refuse
    /// are left out.
    pub fn handlers_of(&self, call: u32) -> impl Iterator<Item = &'a HandlerRecord> + use<'a> {
        let handlers = self.handlers();
        let start = handlers.partition_point(|handler| handler.call.get() < call);
        let rest = handlers.get(start..).unwrap_or_default();
        let (text, tags) = (self.module.range(Section::Text).len(), self.module.counts.tags);
        rest.iter()
            .take_while(move |handler| handler.call.get() == call)
            .filter(move |handler| crate::validate::handler(handler, text, tags).is_ok())
    }

    /// Whether a site belongs to a function that was copied into its caller: which function, and for which call.
    #[must_use]
    pub fn inlined(&self, site: Site) -> Option<&'a InlinedRecord> {
        let is_call = site.trap == 0;
        let text = site.text.checked_sub(u32::from(is_call))?;
        let inlined: &[InlinedRecord] = records(self.bytes(Section::Inlined));
        inlined.get(inlined.binary_search_by_key(&text, |record| record.text.get()).ok()?)
    }

    /// Defined functions.
    #[must_use]
    pub fn functions(&self) -> &'a [FunctionRecord] {
        records(self.bytes(Section::Functions))
    }

    /// The defined function whose code contains a text offset: its index in
    /// the function index space.
    #[must_use]
    pub fn function_at(&self, text: u32) -> Option<u32> {
        let functions = self.functions();
        let after = functions.partition_point(|function| function.text.get() <= text);
        let position = after.checked_sub(1)?;
        let function = functions.get(position)?;
        let end = u64::from(function.text.get()) + u64::from(function.length.get());
        if u64::from(text) >= end {
            return None;
        }
        u32::try_from(position).ok()?.checked_add(self.module.counts.imported_functions)
    }

    /// The name of a defined function, if the name section has one.
    #[must_use]
    pub fn function_name(&self, function: u32) -> Option<&'a str> {
        let name = text_of(self.bytes(Section::Strings), self.name_of(function)?);
        (!name.is_empty()).then_some(name)
    }

    /// Where in the file the name of a defined function is. Empty, if it has none, or if it would be outside of the strings.
    #[must_use]
    pub fn function_name_range(&self, function: u32) -> Range<usize> {
        let strings = self.module.range(Section::Strings);
        let place = self.name_of(function).and_then(|name| {
            let start = strings.start.checked_add(name.offset.get() as usize)?;
            let end = start.checked_add(name.length.get() as usize)?;
            (end <= strings.end).then_some(start..end)
        });
        place.unwrap_or(0..0)
    }

    fn name_of(&self, function: u32) -> Option<Text> {
        let defined = function.checked_sub(self.module.counts.imported_functions)?;
        Some(self.functions().get(defined as usize)?.name)
    }
}

/// Records of a section. A partial record at the end is left out, which
/// validation refuses.
fn records<R: FromBytes + KnownLayout + Immutable + Unaligned>(bytes: &[u8]) -> &[R] {
    let whole = bytes.len() - bytes.len() % size_of::<R>();
    <[R]>::ref_from_bytes(&bytes[..whole]).unwrap_or_default()
}

fn text_of(strings: &[u8], text: Text) -> &str {
    let start = text.offset.get() as usize;
    let end = start.saturating_add(text.length.get() as usize);
    core::str::from_utf8(strings.get(start..end).unwrap_or_default()).unwrap_or_default()
}

fn slice<T>(all: &[T], span: Span) -> &[T] {
    let start = span.start.get() as usize;
    all.get(start..start.saturating_add(span.count.get() as usize)).unwrap_or_default()
}

fn byte_range(bytes: &[u8], offset: u64, length: u64) -> &[u8] {
    usize::try_from(offset)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(start, length)| bytes.get(start..start.checked_add(length)?))
        .unwrap_or_default()
}
