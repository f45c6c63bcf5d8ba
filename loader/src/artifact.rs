//! Artifacts: checked, mapped, and ready to be instantiated.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use cwasm_artifact::check::{Checked, Deferred, Host, Origin, Part, check_unhashed};
use cwasm_artifact::digest::Digest;
use cwasm_artifact::header::{Section, settings};
use cwasm_artifact::module::{Late, Module, View};
use cwasm_artifact::records::{ExternRecord, HandlerRecord, ImageRecord, InlinedRecord, NONE};
use cwasm_artifact::report::{Problem, Report};
use cwasm_artifact::sites::{Site, Sites};
use cwasm_artifact::types::{ExternType, FuncType, ValType};

use crate::error::LoadError;
use crate::snapshot::Snapshot;
use crate::source::{Opened, Source};
use crate::sys::{ImageFile, ImageRun};
use crate::trust::Trust;
use crate::type_registry::Registration;
use crate::vm::lazy::{Kind, LazyParts, Lost};
use crate::vm::pending::LateImages;

/// A module's machine code and metadata, mapped and ready to be instantiated.
///
/// Owns its code: the code is unmapped when the artifact is dropped, which cannot
/// happen while a [`crate::Store`] that uses it exists. Can be
/// shared between threads and stores.
///
/// ```compile_fail
/// use cwasm_loader::{Artifact, Engine, Linker, Store, Trust};
/// # fn f(bytes: &[u8], trust: &Trust) -> Result<(), Box<dyn std::error::Error>> {
/// let engine = Engine::default();
/// let mut store = Store::new(&engine, ());
/// let artifact = Artifact::from_bytes(bytes, trust)?;
/// Linker::new(&engine).instantiate(&mut store, &artifact)?;
/// drop(artifact); // the store still holds its code
/// drop(store);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Artifact {
    snapshot: Snapshot,
    /// What is loaded when it is needed.
    lazy: Option<LazyParts>,
    module: Module,
    digest: Digest,
    source_sha256: [u8; 32],
    settings: u64,
    types: Registration,
    /// The images of memories, made when they are first worth it. `None` if there is nothing to map, or if the
    /// system has no such files, or has no more.
    images: OnceLock<Option<ImageFile>>,
    /// Where they are, if memories can begin without them.
    late_images: OnceLock<Option<LateImages>>,
    /// Whether it was instantiated before.
    instantiated: AtomicBool,
}

/// What a new instance does about the images of its memories.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Images<'a> {
    /// It copies them.
    Copied,
    /// It maps them.
    Mapped(&'a ImageFile),
    /// It begins without, and has them loaded when they are needed.
    Late,
}

/// Why a part that was to be loaded could not be.
fn failure(lazy: &LazyParts, lost: Lost) -> LoadError {
    let path = lazy.name().to_owned();
    match lost.system() {
        Some(error) => LoadError::Read { path, source: (*error).into() },
        None => LoadError::Changed { path },
    }
}

/// The report about a file that goes on behind its end.
fn trailing(report: Option<Report>, length: u64, wanted: u64) -> Report {
    let problem = Problem::TrailingBytes { length, wanted };
    let is_artifact = |report: &Report| !matches!(report.problems(), [Problem::NotAnArtifact(_)]);
    match report {
        None => problem.into(),
        Some(report) if is_artifact(&report) => report.with(problem),
        Some(report) => report,
    }
}

/// What an artifact imports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportType<'a> {
    /// First name.
    pub module: &'a str,
    /// Second name.
    pub name: &'a str,
    /// What must be provided.
    pub ty: ExternType,
}

/// What an artifact exports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportType<'a> {
    /// The name.
    pub name: &'a str,
    /// What is offered.
    pub ty: ExternType,
}

impl Artifact {
    /// Loads an artifact from a path, an open file, or bytes, if there is a reason to trust it.
    ///
    /// The source is read once into private memory; what is checked is what runs,
    /// and a file may be changed or deleted afterwards.
    ///
    /// # Errors
    /// If the source cannot be read; or a [`LoadError::Refused`] with everything
    /// that is wrong with it.
    pub fn load<'a>(source: impl Into<Source<'a>>, trust: &Trust) -> Result<Self, LoadError> {
        Self::of_origin(Snapshot::of(&trust.open(source.into())?)?, trust.origin())
    }

    /// Loads an artifact like [`Artifact::load`], but reads, checks and copies a part of its code (from 8 KiB on) when
    /// a program first needs it, and so for what only traps, exceptions and backtraces need, and for what memories begin with. What is never used costs neither time nor memory.
    ///
    /// What is checked is still what runs, and what programs see. The difference is in when: the file is kept open, and if it is overwritten or cut
    /// before some of it was needed, the call that needs it ends with [`crate::Error::CodeLost`], and so does an access of the host to
    /// bytes of a memory that nobody touched before. So does a trap, if what it is
    /// cannot be found out any more. To delete the
    /// file, or to rename another over it, changes nothing. [`Artifact::load_rest`] loads what is not there yet.
    ///
    /// Memories begin without their contents as long as those were not all loaded. It is the quickest way to a first call, and not to many instances: each of them copies
    /// what it touches, where after [`Artifact::load_rest`] it would map it. The second instance of an artifact loads contents of less than 128 KiB for that.
    /// Contents are loaded by the first instance if a memory is shared, has 64-bit addresses or small pages, or if they are in more than 256
    /// places; and at once if the code checks bounds itself.
    ///
    /// What is only for debuggers and linkers, such as symbols, is neither read nor checked. Bytes in memory are loaded at once.
    ///
    /// # Errors
    /// As for [`Artifact::load`], for everything but the code.
    pub fn load_lazily<'a>(
        source: impl Into<Source<'a>>,
        trust: &Trust,
    ) -> Result<Self, LoadError> {
        let (snapshot, lazy) = Snapshot::lazily_of(trust.open(source.into())?)?;
        let artifact = Self::from_snapshot(snapshot, lazy, |snapshot, deferred| {
            snapshot.check(trust.origin(), deferred)
        })?;
        // Trampolines are there from the beginning, so that code that is lost can be reported to their callers.
        artifact.load_trampolines()?;
        Ok(artifact)
    }

    /// Loads everything that is not there yet, of an artifact that was loaded with [`Artifact::load_lazily`].
    ///
    /// # Errors
    /// If the file was changed, or cannot be read; or a [`LoadError::Refused`], if what was not needed before makes no sense.
    pub fn load_rest(&self) -> Result<(), LoadError> {
        let Some(lazy) = &self.lazy else { return Ok(()) };
        let all = 0..self.snapshot.bytes().len();
        for kind in [Kind::Code, Kind::Data] {
            self.load_parts(all.clone(), kind).map_err(|lost| failure(lazy, lost))?;
        }
        self.module.validate_late(&self.module.late(self.snapshot.bytes()))?;
        Ok(())
    }

    /// How many of the parts of its code that are loaded when they are needed have been loaded, and how many there are.
    #[must_use]
    pub fn lazy_parts(&self) -> (usize, usize) {
        self.lazy.as_ref().map_or((0, 0), |lazy| lazy.loaded(Part::Code))
    }

    /// The same for what its memories begin with.
    #[must_use]
    pub fn lazy_image_parts(&self) -> (usize, usize) {
        self.lazy.as_ref().map_or((0, 0), |lazy| lazy.loaded(Part::Image))
    }

    fn load_trampolines(&self) -> Result<(), LoadError> {
        let Some(lazy) = &self.lazy else { return Ok(()) };
        let view = self.view();
        let text = self.module.range(Section::Text);
        let places = view.types().iter().flat_map(|ty| [ty.entry.get(), ty.exit.get()]);
        // They lie behind the functions.
        match places.filter(|place| *place != NONE).min() {
            Some(first) => self
                .load_parts(text.start + first as usize..text.end, Kind::Code)
                .map_err(|lost| failure(lazy, lost)),
            None => Ok(()),
        }
    }

    /// Loads the chunks of one kind with these bytes of the file, unless they are there. May be called by a signal handler.
    fn load_parts(&self, bytes: Range<usize>, kind: Kind) -> Result<(), Lost> {
        let Some(lazy) = &self.lazy else { return Ok(()) };
        let text = self.module.range(Section::Text);
        // SAFETY: the snapshot is such a mapping: a private copy, made together with `lazy`, whose front was checked and which
        // lives as long as the artifact. Stores borrow the artifact as long as its code can run.
        unsafe { lazy.load_all(self.snapshot.bytes(), bytes, &text, kind) }
    }

    /// Loads the code at an address, if it is code that is loaded when it is needed. May be called by a signal handler.
    pub(crate) fn load_code_at(&self, address: usize) -> Option<Result<(), Lost>> {
        let lazy = self.lazy.as_ref()?;
        let map = self.snapshot.bytes();
        let offset = address.checked_sub(map.as_ptr().addr())?;
        let text = self.module.range(Section::Text);
        // SAFETY: as in `load_parts`.
        unsafe { lazy.load_code(map, offset, &text) }
    }

    /// The metadata that are loaded when they are needed, after these sections of them were. The only way to them.
    fn late(&self, sections: &[Section]) -> Result<Late<'_>, Lost> {
        for section in sections {
            self.load_parts(self.module.range(*section), Kind::Data)?;
        }
        Ok(self.module.late(self.snapshot.bytes()))
    }

    /// Traps and return addresses. May be called by a signal handler, as all of the following.
    pub(crate) fn sites(&self) -> Result<Sites<'_>, Lost> {
        Ok(self.late(&[Section::Sites])?.sites())
    }

    /// The handlers of the call with this return address, in the order in which they are tried.
    pub(crate) fn handlers_of(
        &self,
        call: u32,
    ) -> Result<impl Iterator<Item = &HandlerRecord>, Lost> {
        Ok(self.late(&[Section::Handlers])?.handlers_of(call))
    }

    /// Whether a site belongs to a function that was copied into its caller.
    pub(crate) fn inlined(&self, site: Site) -> Result<Option<&InlinedRecord>, Lost> {
        Ok(self.late(&[Section::Inlined])?.inlined(site))
    }

    /// The name of a defined function, if it has one.
    pub(crate) fn function_name(&self, function: u32) -> Result<Option<&str>, Lost> {
        let late = self.late(&[Section::Functions])?;
        self.load_parts(late.function_name_range(function), Kind::Data)?;
        Ok(late.function_name(function))
    }

    /// The defined function whose code contains a text offset.
    pub(crate) fn function_at(&self, text: u32) -> Result<Option<u32>, Lost> {
        Ok(self.late(&[Section::Functions])?.function_at(text))
    }

    /// Whether a text offset is in an entry trampoline, where a call may not have an entry frame yet.
    pub(crate) fn in_entry_trampoline(&self, text: u32) -> bool {
        let view = self.view();
        let entries = view.types().iter().map(|ty| (ty.entry.get(), true));
        let exits = view.types().iter().map(|ty| (ty.exit.get(), false));
        // Each ends where the next begins, and they lie behind the functions.
        let before = entries.chain(exits).filter(|(place, _)| *place <= text);
        before.max().is_some_and(|(_, entry)| entry)
    }

    /// Loads an artifact from memory, if there is a reason to trust it. The
    /// bytes are copied.
    ///
    /// # Errors
    /// As for [`Artifact::load`].
    pub fn from_bytes(bytes: &[u8], trust: &Trust) -> Result<Self, LoadError> {
        Self::load(bytes, trust)
    }

    /// Loads a source for no other reason than that it is there. Its digest must
    /// still match its contents.
    ///
    /// # Safety
    /// The source must be an unmodified output of the cwasm compiler: its
    /// machine code runs with all rights of this process. Nobody whom you do not
    /// trust that much may be able to write to a file or to its directory.
    ///
    /// # Errors
    /// As for [`Artifact::load`].
    pub unsafe fn load_trusting_file<'a>(source: impl Into<Source<'a>>) -> Result<Self, LoadError> {
        Self::of_origin(Snapshot::of(&source.into().open()?)?, Origin::Any)
    }

    /// Loads an artifact from memory for no other reason than that it is
    /// there. Its digest must still match its contents.
    ///
    /// # Safety
    /// The bytes must be an unmodified output of the cwasm compiler: their
    /// machine code runs with all rights of this process.
    ///
    /// # Errors
    /// As for [`Artifact::load`].
    pub unsafe fn from_trusted_bytes(bytes: &[u8]) -> Result<Self, LoadError> {
        Self::of_origin(Snapshot::of(&Opened::Bytes(bytes))?, Origin::Any)
    }

    /// Loads a file by mapping it, instead of a copy of it: processes that map the same file
    /// share its pages, and only those that are used take memory. It is checked like any other, and there
    /// must be a reason to trust it.
    ///
    /// # Safety
    /// The contents of the file must not change as long as the artifact exists: nobody may
    /// write to it or make it shorter, not even by a mapping or an open file from before. What was checked would not be what
    /// runs then; and a page that is gone ends the process with `SIGBUS`. To replace or delete
    /// the *name* of the file is fine. Files that are updated by renaming new ones over them, and that nobody
    /// but root may write to, satisfy this; a read-only file system does too.
    ///
    /// # Errors
    /// As for [`Artifact::load`]; also if the source is memory, or if the file is on a file system from
    /// which nothing may be executed.
    pub unsafe fn map_shared<'a>(
        source: impl Into<Source<'a>>,
        trust: &Trust,
    ) -> Result<Self, LoadError> {
        let source = trust.open(source.into())?;
        // SAFETY: the caller promises what this asks for.
        let snapshot = unsafe { Snapshot::map(&source) }?;
        Self::of_origin(snapshot, trust.origin())
    }

    /// Maps a file like [`Artifact::map_shared`], for no other reason than that it is there, and without
    /// computing its digest: the cost does not depend on the size of the code, and pages that
    /// are not used are not even read.
    ///
    /// What the header says (versions, target, CPU features, settings, lengths) is checked, and the metadata are
    /// validated.
    ///
    /// # Safety
    /// The file must be an unmodified output of the cwasm compiler, whose machine code runs
    /// with all rights of this process; damage, too, would be run. And its contents must not change as
    /// long as the artifact exists, as for [`Artifact::map_shared`].
    ///
    /// # Errors
    /// As for [`Artifact::map_shared`], as far as the header and the metadata tell.
    pub unsafe fn map_shared_unchecked<'a>(
        source: impl Into<Source<'a>>,
    ) -> Result<Self, LoadError> {
        let source = source.into().open()?;
        // SAFETY: the caller promises what this asks for.
        let snapshot = unsafe { Snapshot::map(&source) }?;
        Self::from_snapshot(snapshot, None, |snapshot, _| {
            check_unhashed(snapshot.bytes(), Some(&Host::for_file(snapshot.bytes())))
        })
    }

    fn of_origin(snapshot: Snapshot, origin: Origin<'_>) -> Result<Self, LoadError> {
        Self::from_snapshot(snapshot, None, |snapshot, deferred| snapshot.check(origin, deferred))
    }

    fn from_snapshot(
        snapshot: Snapshot,
        lazy: Option<LazyParts>,
        check: impl for<'s> FnOnce(&'s Snapshot, &Deferred) -> Result<Checked<'s>, Report>,
    ) -> Result<Self, LoadError> {
        let deferred = lazy.as_ref().map_or(const { &Deferred::NOTHING }, LazyParts::deferred);
        let checked = match (check(&snapshot, deferred), snapshot.longer_source()) {
            (Ok(checked), None) => checked,
            (Err(report), None) => return Err(report.into()),
            (result, Some(length)) => {
                let wanted = snapshot.bytes().len() as u64;
                return Err(LoadError::Refused(trailing(result.err(), length, wanted)));
            }
        };
        let digest = checked.digest();
        let module = match &lazy {
            None => Module::new(&checked)?,
            Some(lazy) => Module::deferring(&checked, |names| {
                // SAFETY: as in `load_parts`; there is no code among the metadata.
                unsafe { lazy.load_all(snapshot.bytes(), names, &(0..0), Kind::Data) }
                    .map_err(|lost| failure(lazy, lost))
            })?,
        };
        let settings = checked.header().settings.get();
        let source_sha256 = checked.header().source_sha256;
        let text = module.range(Section::Text);
        match &lazy {
            None => snapshot.make_executable(text)?,
            Some(lazy) => {
                let now = |(part, _): &(Part, Range<usize>)| *part == Part::Now;
                for (_, run) in lazy.runs(snapshot.bytes().len()).into_iter().filter(now) {
                    let start = run.start.clamp(text.start, text.end);
                    snapshot.make_executable(start..run.end.clamp(text.start, text.end))?;
                }
            }
        }
        let view = module.view(snapshot.bytes());
        let groups: Vec<_> = view.types().iter().map(|record| record.group.get()).collect();
        // They were validated.
        let types = (0..).zip(view.types()).map(|(index, _)| view.sub_type(index));
        let types: Vec<_> =
            types.map(|ty| ty.unwrap_or_else(|| FuncType::default().into())).collect();
        Ok(Self {
            module,
            digest,
            source_sha256,
            settings,
            types: Registration::of_module(&types, &groups),
            images: OnceLock::new(),
            late_images: OnceLock::new(),
            instantiated: AtomicBool::new(false),
            lazy,
            snapshot,
        })
    }

    /// The root digest: pin it with [`Trust::digest`] to load the same artifact again.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// SHA-256 of the wasm module that it was compiled from, as its compiler states it.
    #[must_use]
    pub fn source_sha256(&self) -> [u8; 32] {
        self.source_sha256
    }

    /// The module's name, if its name section has one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let name = self.view().text(self.view().record().name);
        (!name.is_empty()).then_some(name)
    }

    /// What must be provided to instantiate it, in the order of the module.
    pub fn imports(&self) -> impl ExactSizeIterator<Item = ImportType<'_>> {
        let view = self.view();
        view.imports().iter().map(move |import| ImportType {
            module: view.text(import.module),
            name: view.text(import.name),
            ty: self.resolve(view.extern_type(&import.ty)),
        })
    }

    /// What its instances offer, sorted by name.
    pub fn exports(&self) -> impl ExactSizeIterator<Item = ExportType<'_>> {
        let view = self.view();
        view.exports().iter().map(move |export| ExportType {
            name: view.text(export.name),
            ty: self.resolve(view.export_type(export)),
        })
    }

    /// Whether its code counts fuel.
    #[must_use]
    pub fn uses_fuel(&self) -> bool {
        self.settings & settings::FUEL != 0
    }

    /// Whether its code checks the epoch.
    #[must_use]
    pub fn uses_epoch(&self) -> bool {
        self.settings & settings::EPOCH != 0
    }

    /// Whether its code relies on guards behind its memories.
    pub(crate) fn needs_guards(&self) -> bool {
        self.settings & settings::EXPLICIT_CHECKS == 0
    }

    pub(crate) fn view(&self) -> View<'_> {
        self.module.view(self.snapshot.bytes())
    }

    pub(crate) fn text(&self) -> &[u8] {
        self.view().bytes(Section::Text)
    }

    /// The images of memories. To be asked for once per instance: small images are copied for the first,
    /// which is quicker if there is only one.
    pub(crate) fn images(&self) -> Result<Images<'_>, Lost> {
        let length = self.module.range(Section::ImageBytes).len();
        if let Some(lazy) = self.lazy.as_ref().filter(|lazy| lazy.lacks_images()) {
            let late = self.late_images.get_or_init(|| {
                let ty = |memory| self.view().memory_type(memory);
                LateImages::of(self.image_runs()?, &self.module.range(Section::ImageBytes), ty)
            });
            // More than one instance is better off with images that are mapped, if that costs next to nothing now.
            let again = self.instantiated.load(Ordering::Relaxed);
            let load = || self.load_parts(self.module.range(Section::ImageBytes), Kind::Data);
            match late {
                Some(_) if !again || ImageFile::is_large(length) || load().is_err() => {
                    self.instantiated.store(true, Ordering::Relaxed);
                    return Ok(Images::Late);
                }
                Some(_) => {}
                None => load()?,
            }
            debug_assert!(!lazy.lacks_images());
        }
        let images = match self.images.get() {
            Some(images) => images,
            None => {
                let bytes = self.view().bytes(Section::ImageBytes);
                let runs = self.view().images().len();
                if !self.instantiated.load(Ordering::Relaxed) && !ImageFile::is_large(length) {
                    self.instantiated.store(true, Ordering::Relaxed);
                    return Ok(Images::Copied);
                }
                let is_possible = ImageFile::is_possible(length, runs);
                self.images.get_or_init(|| {
                    is_possible.then(|| ImageFile::new(bytes, self.image_runs()?).ok()).flatten()
                })
            }
        };
        Ok(images.as_ref().map_or(Images::Copied, Images::Mapped))
    }

    /// Where the images are, if memories began without them.
    pub(crate) fn late_images(&self) -> Option<&LateImages> {
        self.late_images.get()?.as_ref()
    }

    fn image_runs(&self) -> Option<Vec<ImageRun>> {
        let run = |image: &ImageRecord| {
            let start = usize::try_from(image.bytes.get()).ok()?;
            let end = start.checked_add(usize::try_from(image.length.get()).ok()?)?;
            let at = usize::try_from(image.address.get()).ok()?;
            Some(ImageRun { memory: image.memory.get(), at, bytes: start..end })
        };
        self.view().images().iter().map(run).collect()
    }

    /// Bytes of images, at `range` of the file, which lies in that section, after they were loaded. May be called by a signal handler.
    pub(crate) fn image_at(&self, range: Range<usize>) -> Result<&[u8], Lost> {
        self.load_parts(range.clone(), Kind::Data)?;
        Ok(self.snapshot.bytes().get(range).unwrap_or_default())
    }

    /// The bytes of an image, after they were loaded. But for [`Artifact::image_at`], the only way to them.
    pub(crate) fn image_bytes(&self, image: &ImageRecord) -> Result<&[u8], Lost> {
        if self.lazy.as_ref().is_some_and(LazyParts::lacks_images) {
            let section = self.module.range(Section::ImageBytes);
            let at = |offset: u64| {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                section.start.saturating_add(offset).min(section.end)
            };
            let end = image.bytes.get().saturating_add(image.length.get());
            self.load_parts(at(image.bytes.get())..at(end), Kind::Data)?;
        }
        Ok(self.view().image_bytes(image))
    }

    /// A type of the module as the process knows it.
    pub(crate) fn resolve(&self, mut ty: ExternType) -> ExternType {
        let resolve = |ty: &mut ValType| *ty = self.types.resolve(*ty);
        match &mut ty {
            ExternType::Func(ty) => ty.params.iter_mut().chain(&mut ty.results).for_each(resolve),
            ExternType::Table(ty) => resolve(&mut ty.element),
            ExternType::Global(ty) => resolve(&mut ty.value),
            ExternType::Tag(ty) => ty.params.iter_mut().for_each(resolve),
            _ => {}
        }
        ty
    }

    /// The type that an import or definition has, as the process knows it.
    pub(crate) fn extern_type(&self, record: &ExternRecord) -> ExternType {
        self.resolve(self.view().extern_type(record))
    }

    pub(crate) fn types(&self) -> &Registration {
        &self.types
    }
}
