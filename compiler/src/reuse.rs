//! Using the code of functions again that did not change since an earlier compilation.
//!
//! Two names lead to the code of a function. The *quick* name covers the bytes of its body and of
//! the bodies that are copied into it, and everything that the module declares: with it, neither translation nor code generation is done
//! again. The *exact* name covers the intermediate form, which the translator
//! made of the body: nothing else decides the code. It still fits when functions, types or globals
//! were added elsewhere and the quick names of all functions changed.
//!
//! ```text
//! quick name -> exact name, and the functions that are called or copied
//! exact name -> code, with calls as numbers in that list and offsets in the wasm from the body's start
//! ```
//!
//! So what comes out is what would have been generated, byte for byte. A body that is found by its
//! quick name is validated all the same: other parts of the module decide whether it is valid.

use std::borrow::Cow;
use std::hash::{Hash as _, Hasher};
use std::io::Write as _;

use cranelift_codegen::binemit::Reloc;
use cranelift_codegen::ir::Function;
use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::abi::traps::Trap;
use cwasm_artifact::cpu::CpuFeatures;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::codegen::{Code, Handler, Inlined, Relocation, Site};
use crate::inline::{Inlinable, Locations};
use crate::layout::Phases;
use crate::module::{FuncIndex, Module, TagIndex};
use crate::reference::Reference;
use crate::settings::Settings;
use crate::translate::{Environment, FuncRefUse};
use crate::unwind::Unwind;

/// What names what is kept, so that nothing is found that another form of it was put under. To be changed with what is
/// done to code once it is generated, and with [`Stored`].
const FORM: &str = "cwasm function, form 16";

/// A name of something in a [`FunctionCache`].
pub type Name = [u8; 32];

/// Keeps the code of functions from one compilation to another.
///
/// Whoever can write to what an implementation reads can put code into artifacts: it must give back what was put
/// into it, or nothing. Called from several threads.
pub trait FunctionCache: Sync {
    /// A compilation begins. `lineage` is the same for versions of one module, as far as its imports
    /// and exports tell, so that an implementation can keep what belongs together in one place.
    fn begin(&self, lineage: &Name);
    /// What was put under a name.
    fn get(&self, name: &Name) -> Option<Cow<'_, [u8]>>;
    /// Keeps something under a name.
    fn put(&self, name: &Name, bytes: Vec<u8>);
    /// A function was compiled, or its code was used again.
    fn count(&self, reused: bool);
}

/// A cache, and what names in it have in common in one compilation.
pub(crate) struct Reuse<'a> {
    cache: &'a dyn FunctionCache,
    /// Covers the compiler, the settings, the target, and the memories whose addresses do not wrap.
    exact: Sha256,
    /// Covers these, and the module's declarations.
    quick: Sha256,
}

impl<'a> Reuse<'a> {
    pub(crate) fn new(
        cache: &'a dyn FunctionCache,
        env: &Environment<'_>,
        settings: &Settings,
    ) -> Self {
        let mut exact = Sha256::new_with_prefix(FORM);
        // The number of threads does not change code.
        let settings = Settings { jobs: 0, ..settings.clone() };
        let isa = env.isa;
        let features: Vec<String> = isa.isa_flags().iter().map(ToString::to_string).collect();
        // Writing to a hash cannot fail.
        let _ = writeln!(
            Digest(&mut exact),
            "\n{} {:?}\n{settings:?}\n{}\n{}\n{features:?}\n{:?}",
            env!("CARGO_PKG_VERSION"),
            fingerprint(),
            isa.triple(),
            isa.flags(),
            env.short_memories,
        );
        cache.begin(&lineage(&exact, env.module));
        let mut quick = exact.clone();
        declarations(&mut Digest(&mut quick), env.module);
        let _ = writeln!(Digest(&mut quick), "{:?}", env.dispatch.in_order());
        Self { cache, exact, quick }
    }

    /// The quick name of a function. `copied` are those that its body may get copies of.
    pub(crate) fn quick_name(
        &self,
        module: &Module<'_>,
        index: FuncIndex,
        body: &[u8],
        copied: &[FuncIndex],
        inlinable: &Inlinable<'_>,
    ) -> Name {
        // A call of this number may be one of itself.
        let mut hash =
            self.quick.clone().chain_update(b"quick").chain_update(index.as_u32().to_le_bytes());
        let mut add = |index: FuncIndex, body: &[u8]| {
            let (ty, hints) = (module.functions[index].ty, module.hints.of(index));
            // Writing to a hash cannot fail. What is before a body says where it ends itself.
            let _ = writeln!(Digest(&mut hash), "{ty:?} {hints:?} {}", body.len());
            hash.update(body);
        };
        add(index, body);
        for index in copied {
            add(*index, inlinable.bytes(*index).unwrap_or_default());
        }
        hash.finalize().into()
    }

    /// The exact name of a function in intermediate form.
    pub(crate) fn exact_name(&self, kept: &Kept<'_>) -> Name {
        let mut hasher = Buffered { hash: self.exact.clone(), buffer: Vec::with_capacity(8192) };
        hasher.hash.update(b"exact");
        // The intermediate form counts offsets in the wasm from the first one that occurs in
        // it, and what is kept counts from the start of the body.
        let first = kept.function.params.base_srcloc();
        let first = if first.is_default() { 0 } else { first.bits().wrapping_sub(kept.start) };
        hasher.hash.update(first.to_le_bytes());
        hasher.hash.update([kept.func_refs.called, kept.func_refs.taken].map(u8::from));
        let others = kept.others();
        // Where code begins depends on whether it calls itself.
        let own = Reference::of_own(&kept.function.name);
        others.iter().position(|other| Some(*other) == own).hash(&mut hasher);
        for (wasm, inlined) in kept.locations.iter() {
            let of_copied = kept.inlinable.start(inlined.function).unwrap_or_default();
            let function = Reference::Function(inlined.function);
            let number = others.iter().position(|other| *other == function);
            let call = inlined.call.wrapping_sub(kept.start);
            (number, wasm.wrapping_sub(of_copied), call).hash(&mut hasher);
        }
        kept.function.stencil.hash(&mut hasher);
        hasher.flush();
        hasher.hash.finalize().into()
    }

    /// The code under a quick name, for a body that starts at `start`.
    pub(crate) fn find_quick(
        &self,
        name: &Name,
        start: u32,
        inlinable: &Inlinable<'_>,
    ) -> Option<Code> {
        let record = self.cache.get(name)?;
        let (exact, others) = record.split_first_chunk::<32>()?;
        let (others, []) = others.as_chunks::<8>() else { return None };
        let others: Vec<_> =
            others.iter().map(|it| Reference::from_bytes(*it)).collect::<Option<_>>()?;
        self.find(exact, &Place { start, others: &others, inlinable })
    }

    /// The code under an exact name, for a function in intermediate form.
    pub(crate) fn find_exact(&self, name: &Name, kept: &Kept<'_>) -> Option<Code> {
        let others = kept.others();
        self.find(name, &Place { start: kept.start, others: &others, inlinable: kept.inlinable })
    }

    fn find(&self, name: &Name, place: &Place<'_>) -> Option<Code> {
        Stored::decode(&self.cache.get(name)?)?.into_code(place)
    }

    /// Keeps the code of a function in intermediate form.
    pub(crate) fn keep(&self, name: &Name, code: &Code, kept: &Kept<'_>) {
        let others = kept.others();
        let place = Place { start: kept.start, others: &others, inlinable: kept.inlinable };
        if let Some(bytes) = Stored::of(code, &place).and_then(|it| it.encode()) {
            self.cache.put(name, bytes);
        }
    }

    /// Lets a quick name lead to an exact one.
    pub(crate) fn alias(&self, quick: &Name, exact: &Name, kept: &Kept<'_>) {
        let mut record = exact.to_vec();
        for other in kept.others() {
            record.extend_from_slice(&other.to_bytes());
        }
        self.cache.put(quick, record);
    }

    pub(crate) fn count(&self, reused: bool) {
        self.cache.count(reused);
    }
}

/// What versions of one module have in common.
fn lineage(exact: &Sha256, module: &Module<'_>) -> Name {
    let mut hash = exact.clone().chain_update(b"lineage");
    let mut digest = Digest(&mut hash);
    // Writing to a hash cannot fail.
    for import in &module.imports {
        let _ = writeln!(digest, "{:?} {:?}", import.module, import.name);
    }
    for export in &module.exports {
        let _ = writeln!(digest, "{:?}", export.name);
    }
    hash.finalize().into()
}

/// Everything that a module declares and the translation of a body may depend on. Every
/// declaration is named here, so that a new one cannot be forgotten.
fn declarations(digest: &mut Digest<'_>, module: &Module<'_>) {
    let Module {
        types,
        group_of,
        canonical_types: _, // follows from these
        imports: _,         // the names; the types are in what follows
        exports: _,         // matter by the function references that they need
        functions,
        imported_functions,
        func_refs,
        tables,
        imported_tables,
        table_inits,
        tags,
        imported_tags,
        memories,
        imported_memories,
        globals,
        imported_globals,
        elements: _, // matter by the function references that they need, and by what is known of tables
        data: _,     // matters when an instance is made
        start: _,    // as the elements
        names: _,    // for people
        hints: _,    // a part of the name of each function
        vmctx,
    } = module;
    // Writing to a hash cannot fail.
    let _ = writeln!(
        digest,
        "{types:?} {group_of:?}\n{functions:?} {imported_functions}\n{func_refs:?}\n{tables:?} {imported_tables} \
         {table_inits:?}\n{tags:?} {imported_tags}\n{memories:?} {imported_memories}\n\
         {globals:?} {imported_globals}\n{vmctx:?}"
    );
}

/// A function in intermediate form whose code is kept or looked for.
pub(crate) struct Kept<'a> {
    pub(crate) function: &'a Function,
    /// Where in the wasm its body begins.
    pub(crate) start: u32,
    /// Where its copied instructions come from.
    pub(crate) locations: &'a Locations,
    pub(crate) inlinable: &'a Inlinable<'a>,
    pub(crate) func_refs: FuncRefUse,
}

impl Kept<'_> {
    /// What it refers to or has copies of. What is kept has their numbers in this list.
    fn others(&self) -> Vec<Reference> {
        let names = self.function.params.user_named_funcs();
        // What is behind the code itself is known once it is generated.
        let names = names.values().filter_map(Reference::of).filter(|it| *it != Reference::Own);
        let mut others: Vec<_> = names.collect();
        for (_, inlined) in self.locations.iter() {
            let function = Reference::Function(inlined.function);
            if !others.contains(&function) {
                others.push(function);
            }
        }
        others
    }
}

/// Where a function is, and what it refers to or has copies of.
struct Place<'a> {
    start: u32,
    others: &'a [Reference],
    inlinable: &'a Inlinable<'a>,
}

/// The number of what refers to itself. No function has so many others.
const OWN: u32 = u32::MAX;

impl Place<'_> {
    fn number(&self, reference: Reference) -> Option<u32> {
        if reference == Reference::Own {
            return Some(OWN);
        }
        u32::try_from(self.others.iter().position(|other| *other == reference)?).ok()
    }

    fn reference(&self, number: u32) -> Option<Reference> {
        if number == OWN {
            return Some(Reference::Own);
        }
        self.others.get(number as usize).copied()
    }
}

/// A hash as something to write to.
struct Digest<'a>(&'a mut Sha256);

impl std::io::Write for Digest<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A hash of many small things.
struct Buffered {
    hash: Sha256,
    buffer: Vec<u8>,
}

impl Buffered {
    fn flush(&mut self) {
        self.hash.update(&self.buffer);
        self.buffer.clear();
    }
}

impl Hasher for Buffered {
    fn write(&mut self, bytes: &[u8]) {
        if self.buffer.len() + bytes.len() > 8192 {
            self.flush();
        }
        self.buffer.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        // Nothing that is hashed asks for it.
        0
    }
}

/// Code of a function, wherever in a module it is.
#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    alignment: u32,
    phases: Phases,
    /// Offset, kind, number of what is referred to, addend.
    relocations: Vec<(u32, Reloc, u32, i64)>,
    sites: Vec<StoredSite>,
    /// Bits of the CPU features that it needs.
    features: u64,
    handlers: Vec<StoredHandler>,
    unwind: Option<Unwind>,
    func_refs: FuncRefUse,
    /// The machine code, which is kept behind the rest.
    #[serde(skip)]
    bytes: Vec<u8>,
}

/// A [`Site`], wherever the bodies are.
#[derive(Debug, Serialize, Deserialize)]
struct StoredSite {
    text: u32,
    /// From the start of the body that the operator belongs to.
    wasm: u32,
    trap: Option<u8>,
    /// If that is a copied one: its number, and the call from the start of the function's own.
    copied: Option<(u32, u32)>,
}

impl StoredSite {
    fn of(site: &Site, place: &Place<'_>) -> Option<Self> {
        let Site { text, wasm, trap, inlined } = *site;
        let trap = trap.map(Trap::code);
        Some(match inlined {
            None => Self { text, wasm: wasm.checked_sub(place.start)?, trap, copied: None },
            Some(Inlined { function, call }) => Self {
                text,
                wasm: wasm.checked_sub(place.inlinable.start(function)?)?,
                trap,
                copied: Some((
                    place.number(Reference::Function(function))?,
                    call.checked_sub(place.start)?,
                )),
            },
        })
    }

    fn into_site(self, place: &Place<'_>) -> Option<Site> {
        let Self { text, wasm, trap, copied } = self;
        let trap = match trap {
            None => None,
            Some(code) => Some(Trap::ALL.into_iter().find(|trap| trap.code() == code)?),
        };
        Some(match copied {
            None => Site { text, wasm: place.start.checked_add(wasm)?, trap, inlined: None },
            Some((number, call)) => {
                let Reference::Function(function) = place.reference(number)? else { return None };
                let wasm = place.inlinable.start(function)?.checked_add(wasm)?;
                let call = place.start.checked_add(call)?;
                Site { text, wasm, trap, inlined: Some(Inlined { function, call }) }
            }
        })
    }
}

/// The fields of a [`Handler`].
#[derive(Debug, Serialize, Deserialize)]
struct StoredHandler {
    call: u32,
    handler: u32,
    tag: Option<u32>,
    frame: u32,
    vmctx: u32,
}

impl From<&Handler> for StoredHandler {
    fn from(handler: &Handler) -> Self {
        let Handler { call, handler, tag, frame, vmctx } = *handler;
        Self { call, handler, tag: tag.map(|tag| tag.as_u32()), frame, vmctx }
    }
}

impl From<StoredHandler> for Handler {
    fn from(stored: StoredHandler) -> Self {
        let StoredHandler { call, handler, tag, frame, vmctx } = stored;
        Self { call, handler, tag: tag.map(TagIndex::from_u32), frame, vmctx }
    }
}

impl Stored {
    /// `None` if there is something in the code that cannot be kept.
    fn of(code: &Code, place: &Place<'_>) -> Option<Self> {
        let Code {
            bytes,
            alignment,
            phases,
            relocations,
            sites,
            features,
            handlers,
            unwind,
            func_refs,
        } = code;
        let relocations = relocations.iter().map(|relocation| {
            let number = place.number(relocation.target)?;
            Some((relocation.offset, relocation.kind, number, relocation.addend))
        });
        let sites = sites.iter().map(|site| StoredSite::of(site, place));
        Some(Self {
            alignment: *alignment,
            phases: *phases,
            relocations: relocations.collect::<Option<_>>()?,
            sites: sites.collect::<Option<_>>()?,
            features: features.bits(),
            handlers: handlers.iter().map(StoredHandler::from).collect(),
            unwind: unwind.clone(),
            func_refs: *func_refs,
            bytes: bytes.clone(),
        })
    }

    fn into_code(self, place: &Place<'_>) -> Option<Code> {
        let Self {
            alignment,
            phases,
            relocations,
            sites,
            features,
            handlers,
            unwind,
            func_refs,
            bytes,
        } = self;
        let relocations = relocations.into_iter().map(|(offset, kind, number, addend)| {
            Some(Relocation { offset, kind, target: place.reference(number)?, addend })
        });
        let sites = sites.into_iter().map(|site| site.into_site(place));
        Some(Code {
            relocations: relocations.collect::<Option<_>>()?,
            sites: sites.collect::<Option<_>>()?,
            bytes,
            alignment,
            phases,
            features: CpuFeatures::from_bits(features),
            handlers: handlers.into_iter().map(Handler::from).collect(),
            unwind,
            func_refs,
        })
    }

    fn encode(&self) -> Option<Vec<u8>> {
        let records = postcard::to_stdvec(self).ok()?;
        let length = u32::try_from(records.len()).ok()?;
        Some([&length.to_le_bytes()[..], &records, &self.bytes].concat())
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (length, rest) = bytes.split_first_chunk::<4>()?;
        let (records, code) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let stored: Self = postcard::from_bytes(records).ok()?;
        Some(Self { bytes: code.to_vec(), ..stored })
    }
}
