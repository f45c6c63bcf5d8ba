//! Instantiation (specification, 4.5.4): from an artifact and its imports to
//! an instance.
//!
//! The instance becomes a part of the store before anything of it is
//! initialised, and stays there even if initialisation fails: element segments may
//! by then have put its functions into tables of others.

use std::ptr;
use std::sync::Arc;

use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::records::{ItemRecord, NONE, Span, extern_kind, item_kind, segment_mode};
use cwasm_artifact::types::{ExternType, IndexType, MemoryType};

use crate::artifact::{Artifact, Images};
use crate::constant::{evaluate, evaluate_plain, is_generative};
use crate::error::{Error, LinkError};
use crate::external::Extern;
use crate::func::{Func, KeepAlive};
use crate::instance::Instance;
use crate::shared_memory::SharedMemory;
use crate::store::{StoreCore, StoreMut};
use crate::type_registry::TypeInfo;
use crate::vm::builtins;
use crate::vm::host_func::{HostCode, VmHostFunc};
use crate::vm::instance::VmInstance;
use crate::vm::layout::{EntryTrampoline, VmFuncImport, VmFuncRef, VmHostContext, VmValue};
use crate::vm::memory::NoAccess;
use crate::vm::table::RawRef;

/// What an import is resolved to.
pub(crate) enum Import<'a, 'code> {
    /// Something in the store.
    Extern(Extern<'code>),
    /// A host function that is not in any store.
    Host(&'a Arc<dyn KeepAlive + 'code>),
    /// A memory that is not in any store, or in several.
    Shared(&'a SharedMemory),
}

/// Instantiates an artifact with imports in the order of the module, and runs its
/// start function.
pub(crate) fn instantiate<'code, T>(
    mut store: StoreMut<'_, 'code, T>,
    artifact: &'code Artifact,
    imports: &[Import<'_, 'code>],
) -> Result<Instance<'code>, Error> {
    let core = store.core_mut();
    check_imports(core, artifact, imports)?;
    core.limits.check_count("instances", core.instances.len(), core.limits.instances)?;
    core.register_artifact(artifact);
    let index = u32::try_from(core.instances.len())
        .map_err(|_| Error::StoreLimit { what: "instances", limit: u32::MAX as usize })?;
    let context = StoreCore::context(store.core_ptr()).cast();
    let instance = VmInstance::new(artifact, index, context, builtins::address())?;
    let core = store.core_mut();
    core.instances.push(instance);
    let position = index as usize;
    build(core, position, imports)?;
    initialise(core, position)?;
    let start = artifact.view().record().start.get();
    if start != NONE {
        start_function(&mut store, position, start)?;
    }
    Ok(Instance::from_index(index, store.core_mut()))
}

/// Checks that each import has the type that the module wants.
fn check_imports(
    core: &StoreCore<'_>,
    artifact: &Artifact,
    imports: &[Import<'_, '_>],
) -> Result<(), Error> {
    let view = artifact.view();
    for (record, import) in view.imports().iter().zip(imports) {
        // Equal types have equal numbers.
        let wanted = || artifact.types().types().get(record.ty.ty.get() as usize);
        let type_id = || wanted().map(|ty| ty.id());
        let matches = match (record.ty.kind.get(), import) {
            // Its type is below no other.
            (extern_kind::FUNC, Import::Host(host)) => {
                Some(host.registration().ids()[0]) == type_id()
            }
            (extern_kind::FUNC, Import::Extern(Extern::Func(func))) => {
                let found = func.type_id_in(core)?;
                let is_below = |wanted: &Arc<TypeInfo>| {
                    core.find_type(found).is_some_and(|found| found.is_below(wanted.name()))
                };
                Some(found) == type_id() || wanted().is_some_and(is_below)
            }
            (extern_kind::TAG, Import::Extern(Extern::Tag(tag))) => {
                Some(core.tags[tag.index(core)? as usize].type_id) == type_id()
            }
            (extern_kind::FUNC | extern_kind::TAG, _) => false,
            _ => import_matches(core, &artifact.extern_type(&record.ty), import)?,
        };
        if !matches {
            let found = match import {
                Import::Host(host) => host.registration().func_type().to_string(),
                Import::Shared(memory) => memory.ty().to_string(),
                Import::Extern(item) => item.ty_in(core)?.to_string(),
            };
            return Err(Error::Link(LinkError::IncompatibleImport {
                module: view.text(record.module).to_owned(),
                name: view.text(record.name).to_owned(),
                wanted: Box::new(artifact.extern_type(&record.ty)),
                found,
            }));
        }
        let guarded = match import {
            Import::Extern(Extern::Memory(memory)) => {
                core.memories[memory.index(core)? as usize].is_guarded()
            }
            Import::Shared(memory) => memory.vm().is_guarded(),
            _ => true,
        };
        if artifact.needs_guards() && !guarded {
            return Err(Error::Link(LinkError::UnguardedMemory {
                module: view.text(record.module).to_owned(),
                name: view.text(record.name).to_owned(),
            }));
        }
    }
    Ok(())
}

/// Whether an import that is no function and no tag has a type that is wanted.
fn import_matches(
    core: &StoreCore<'_>,
    wanted: &ExternType,
    import: &Import<'_, '_>,
) -> Result<bool, Error> {
    Ok(match (wanted, import) {
        (ExternType::Table(ty), Import::Extern(Extern::Table(table))) => {
            let found = table.ty_in(core)?;
            found.element == ty.element
                && found.index == ty.index
                && found.limits.matches(found.limits.min, &ty.limits)
        }
        (ExternType::Memory(ty), Import::Extern(Extern::Memory(memory))) => {
            memory_matches(&memory.ty_in(core)?, ty)
        }
        (ExternType::Memory(ty), Import::Shared(memory)) => memory_matches(&memory.ty(), ty),
        (ExternType::Global(ty), Import::Extern(Extern::Global(global))) => {
            let found = global.ty_in(core)?;
            // What can change must be able to hold all of the type, and nothing else.
            found == *ty
                || !found.mutable && !ty.mutable && core.is_subtype_of(found.value, ty.value)
        }
        _ => false,
    })
}

/// Whether a memory, whose type has its current size for a minimum, may be imported as `wanted`.
fn memory_matches(found: &MemoryType, wanted: &MemoryType) -> bool {
    found.is_like(wanted) && found.limits.matches(found.limits.min, &wanted.limits)
}

/// Fills in the vmctx: imports, memories, tables, globals, function references.
fn build<'code>(
    core: &mut StoreCore<'code>,
    position: usize,
    imports: &[Import<'_, 'code>],
) -> Result<(), Error> {
    let artifact = core.instances[position].artifact;
    let view = artifact.view();
    core.instances[position].set_type_ids(artifact.types().ids());

    let counts = view.counts();
    let indices = |count: u32| Vec::with_capacity(count as usize);
    let (mut memories, mut tables) = (indices(counts.memories), indices(counts.tables));
    let (mut globals, mut tags) = (indices(counts.globals), indices(counts.tags));
    let mut functions = 0;
    for (import, record) in imports.iter().zip(view.imports()) {
        match import {
            Import::Host(host) => {
                import_host(core, position, functions, record.ty.ty.get(), host.host_code());
                core.keep(host);
                functions += 1;
            }
            Import::Extern(Extern::Func(func)) => {
                import_function(core, position, functions, record.ty.ty.get(), func)?;
                functions += 1;
            }
            Import::Extern(Extern::Memory(memory)) => memories.push(memory.index(core)?),
            Import::Shared(memory) => memories.push(core.add_shared_memory(memory)?),
            Import::Extern(Extern::Table(table)) => tables.push(table.index(core)?),
            Import::Extern(Extern::Global(global)) => globals.push(global.index(core)?),
            Import::Extern(Extern::Tag(tag)) => tags.push(tag.index(core)?),
        }
    }
    for (index, global) in (0..).zip(&globals) {
        let storage = core.globals[*global as usize].storage;
        core.instances[position].set_imported_global(index, storage);
    }
    let images = artifact.images().map_err(StoreCore::lost_to_host)?;
    for (index, record) in (counts.imported_memories..).zip(view.memories()) {
        if let ExternType::Memory(ty) = view.extern_type(&record.ty) {
            let image = match images {
                Images::Mapped(images) => images.image(index),
                _ => None,
            };
            let memory = core.add_memory(&ty, artifact.needs_guards(), image)?;
            if let Images::Late = images {
                let bytes = ty.bytes(ty.limits.min).unwrap_or(u64::MAX);
                // SAFETY: the memory was just made, of the type that the artifact says, and the store borrows the artifact. Whether
                // the image may be late was decided for the artifact as a whole.
                unsafe { core.memories[memory as usize].begin_without(artifact, index) }
                    .map_err(|source| Error::MemoryReservation { bytes, source })?;
                core.late_memory |= core.memories[memory as usize].is_late();
            }
            memories.push(memory);
        }
    }
    for record in view.tables() {
        if let ExternType::Table(ty) = artifact.extern_type(&record.ty) {
            tables.push(core.add_table(ty, ptr::null_mut())?);
        }
    }
    for (index, record) in (0..).zip(view.globals()) {
        if let ExternType::Global(ty) = artifact.extern_type(&record.ty) {
            let storage = core.instances[position].defined_global(index);
            globals.push(core.add_global(ty, storage));
        }
    }
    for record in view.tags() {
        if let ExternType::Tag(ty) = artifact.extern_type(&record.ty) {
            let type_id = artifact.types().ids()[record.ty.ty.get() as usize];
            tags.push(core.add_tag(type_id, ty)?);
        }
    }

    let instance = &mut core.instances[position];
    for (index, memory) in (0..).zip(&memories) {
        instance.set_memory(index, &core.memories[*memory as usize]);
    }
    for (index, table) in (0..).zip(&tables) {
        instance.set_table(index, &core.tables[*table as usize]);
    }
    for (index, tag) in (0..).zip(&tags) {
        instance.set_tag(index, &core.tags[*tag as usize]);
    }
    instance.exported_memory = view
        .export("memory")
        .filter(|export| export.kind.get() == extern_kind::MEMORY)
        .and_then(|export| memories.get(export.index.get() as usize).copied());
    instance.memories = memories.into();
    instance.tables = tables.into();
    instance.globals = globals.into();
    instance.tags = tags.into();

    for (number, function) in (0..).zip(view.func_refs()) {
        let ty = function.ty.get() as usize;
        let entry = instance.code(view.types()[ty].entry.get());
        let func_ref = VmFuncRef {
            code: instance.code(function.text.get()),
            vmctx: instance.vmctx(),
            type_id: artifact.types().ids()[ty],
            // SAFETY: the text offset of an entry trampoline of the artifact,
            // which is trusted to contain what its tables say. The code
            // stays mapped as long as the store borrows the artifact.
            entry: Some(unsafe {
                std::mem::transmute::<*const std::ffi::c_void, EntryTrampoline>(entry)
            }),
        };
        instance.set_func_ref(number, func_ref);
    }
    Ok(())
}

/// Imports a host function: it gets a context that names this instance.
fn import_host(core: &mut StoreCore<'_>, position: usize, function: u32, ty: u32, host: HostCode) {
    let instance = &mut core.instances[position];
    let exit = instance.code(instance.artifact.view().types()[ty as usize].exit.get());
    let host = VmHostFunc::new(instance.store_context(), host, exit, instance.vmctx());
    let import = VmFuncImport {
        code: VmHostFunc::code(&host),
        vmctx: host.as_ptr().cast(),
        func_ref: VmHostFunc::func_ref(&host),
    };
    instance.set_imported_function(function, import);
    instance.host_funcs.push(host);
}

/// Imports a function of the store.
fn import_function(
    core: &mut StoreCore<'_>,
    position: usize,
    function: u32,
    ty: u32,
    func: &Func<'_>,
) -> Result<(), Error> {
    let func_ref = func.raw(core)?;
    // SAFETY: a function reference of the store lives as long as the store.
    let VmFuncRef { code, vmctx, entry, type_id } = unsafe { func_ref.read() };
    if entry.is_some() {
        let import = VmFuncImport { code, vmctx, func_ref: func_ref.as_ptr() };
        core.instances[position].set_imported_function(function, import);
        return Ok(());
    }
    // A host function, which another instance may import too: this instance
    // gets a context of its own.
    //
    // SAFETY: a function reference without an entry trampoline has a host
    // context for its vmctx, which lives as long as the store.
    let context = unsafe { vmctx.cast::<VmHostContext>().read() };
    let VmHostContext { call, direct, closure, .. } = context;
    import_host(core, position, function, ty, HostCode { call, direct, closure, type_id });
    Ok(())
}

/// Evaluates initial values, and applies active segments.
fn initialise(core: &mut StoreCore<'_>, position: usize) -> Result<(), Error> {
    let artifact = core.instances[position].artifact;
    let view = artifact.view();
    let counts = *view.counts();
    for (index, record) in (counts.imported_globals..).zip(view.globals()) {
        let value = evaluate(core, position, record.init)?;
        let global = core.instances[position].globals[index as usize];
        core.set_global_value(global, value);
    }
    for (index, record) in (counts.imported_tables..).zip(view.tables()) {
        if record.init.count.get() != 0 {
            let value = evaluate(core, position, record.init)?.to_ref();
            let table = core.instances[position].tables[index as usize] as usize;
            let size = core.tables[table].size();
            core.tables[table].fill(0, value, size);
        }
    }
    if artifact.types().has_objects() {
        make_elements(core, position)?;
    }
    for (index, segment) in (0..).zip(view.elements()) {
        match segment.mode.get() {
            segment_mode::ACTIVE => {
                let ty = view.table_type(segment.table.get()).map(|ty| ty.index);
                let offset = offset(core, position, segment.offset, ty);
                let table = core.instances[position].tables[segment.table.get() as usize];
                let count = segment.items.count.get().into();
                let done = core.init_table(position, table, index, offset, 0, count);
                core.instances[position].drop_elements(index);
                if done.is_none() {
                    withdraw_images(core, position);
                    return Err(trap(TrapKind::TableOutOfBounds));
                }
            }
            segment_mode::DECLARED => {
                core.instances[position].drop_elements(index);
            }
            _ => {}
        }
    }
    for image in view.images() {
        let memory = core.instances[position].memories[image.memory.get() as usize] as usize;
        let memory = &mut core.memories[memory];
        if !memory.has_image() {
            let bytes = artifact.image_bytes(image).map_err(StoreCore::lost_to_host)?;
            memory.init(image.address.get(), bytes, 0, bytes.len() as u64).map_err(inaccessible)?;
        }
    }
    for (index, segment) in (0..).zip(view.data_segments()) {
        if segment.mode.get() != segment_mode::ACTIVE {
            continue;
        }
        if segment.in_image.get() == 0 {
            let ty = view.memory_type(segment.memory.get()).map(|ty| ty.index);
            let offset = offset(core, position, segment.offset, ty);
            let memory = core.instances[position].memories[segment.memory.get() as usize];
            core.init_memory(position, memory, index, offset, 0, segment.length.get())
                .map_err(inaccessible)?;
        }
        core.instances[position].dropped_data[index as usize] = true;
    }
    Ok(())
}

/// Evaluates the expressions of element segments that make objects: once, however often the segments are used. A segment that is only
/// declared is never used.
#[cold]
fn make_elements(core: &mut StoreCore<'_>, position: usize) -> Result<(), Error> {
    let view = core.instances[position].artifact.view();
    for (index, segment) in view.elements().iter().enumerate() {
        let span = |item: &ItemRecord| Span { start: item.first, count: item.count };
        let items = view.items(segment.items);
        if segment.mode.get() == segment_mode::DECLARED
            || segment.item_kind.get() != item_kind::EXPRESSIONS
            || !items.iter().any(|item| is_generative(core, position, span(item)))
        {
            continue;
        }
        let all = &mut core.instances[position].made_elements;
        if all.is_empty() {
            *all = view.elements().iter().map(|_| None).collect();
        }
        // From now on, a collection finds those that are there.
        all[index] = Some(vec![ptr::null_mut(); items.len()].into());
        for (place, item) in items.iter().enumerate() {
            let value = evaluate(core, position, span(item))?.to_ref();
            if let Some(made) = &mut core.instances[position].made_elements[index] {
                made[place] = value;
            }
        }
    }
    Ok(())
}

/// Makes memories zero that began as images: data follow elements, and those have failed. Functions of the
/// instance may be in tables of others by now, and look.
#[cold]
fn withdraw_images(core: &mut StoreCore<'_>, position: usize) {
    let instance = &core.instances[position];
    for image in instance.artifact.view().images() {
        let memory = instance.memories[image.memory.get() as usize] as usize;
        let memory = &mut core.memories[memory];
        if memory.has_image() {
            memory.withdraw_image(image.address.get(), image.length.get());
        }
    }
}

/// Where a segment goes, by an expression of the index type of its target.
fn offset(core: &StoreCore<'_>, position: usize, at: Span, ty: Option<IndexType>) -> u64 {
    let value = evaluate_plain(core, position, at);
    match ty {
        Some(IndexType::I64) => value.low64(),
        _ => value.low32().into(),
    }
}

fn inaccessible(why: NoAccess) -> Error {
    match why {
        NoAccess::Outside => trap(TrapKind::MemoryOutOfBounds),
        NoAccess::Lost(lost) => StoreCore::lost_to_host(lost),
    }
}

fn trap(kind: TrapKind) -> Error {
    Error::trapped(kind, Vec::new(), 0)
}

fn start_function<T>(
    store: &mut StoreMut<'_, '_, T>,
    position: usize,
    start: u32,
) -> Result<(), Error> {
    let instance = &store.core_mut().instances[position];
    let func = instance.function(start).ok_or(Error::WrongStore { what: "start function" })?;
    // SAFETY: the store is borrowed exclusively; the function belongs to it, and
    // takes and returns nothing (validation of the artifact checks its type).
    unsafe { StoreCore::call(store.core_ptr(), func, [VmValue(0); 0].as_mut_ptr()) }
}

impl StoreCore<'_> {
    /// `table.init`. `None` if it is out of bounds.
    pub(crate) fn init_table(
        &mut self,
        position: usize,
        table: u32,
        segment: u32,
        to: u64,
        from: u64,
        length: u64,
    ) -> Option<()> {
        let instance = &self.instances[position];
        let items = instance.elements(segment, from, length)?;
        // The bounds come first: a failing init writes nothing.
        self.tables[table as usize].range(to, length)?;
        for (at, index) in items.zip(to..) {
            let value = self.element(position, segment, at);
            self.tables[table as usize].set(index, value)?;
        }
        Some(())
    }

    /// The reference at a place of an element segment that is not dropped. It makes no object.
    pub(crate) fn element(&self, position: usize, segment: u32, at: usize) -> RawRef {
        let instance = &self.instances[position];
        if let Some(Some(made)) = instance.made_elements.get(segment as usize) {
            return made.get(at).copied().unwrap_or_default();
        }
        let view = instance.artifact.view();
        let record = view.elements().get(segment as usize);
        let item = record.and_then(|record| Some((record, view.items(record.items).get(at)?)));
        match item {
            None => ptr::null_mut(),
            Some((record, item)) if record.item_kind.get() == item_kind::FUNCTIONS => {
                instance.item(item).map_or(ptr::null_mut(), |func| func.as_ptr().cast())
            }
            Some((_, item)) => {
                let span = Span { start: item.first, count: item.count };
                evaluate_plain(self, position, span).to_ref()
            }
        }
    }

    /// `memory.init`.
    pub(crate) fn init_memory(
        &mut self,
        position: usize,
        memory: u32,
        segment: u32,
        to: u64,
        from: u64,
        length: u64,
    ) -> Result<(), NoAccess> {
        let bytes = self.instances[position].data(segment);
        self.memories[memory as usize].init(to, bytes, from, length)
    }
}
