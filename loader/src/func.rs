//! Functions: handles, typed and dynamic calls, and host functions.

use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;

use cwasm_artifact::abi::traps::Trap as TrapKind;
use cwasm_artifact::abi::vmctx::host_context;
use cwasm_artifact::types::{FuncType, HeapType, TypeRef, ValType};

use crate::error::{Error, HostError};
use crate::exception::Exception;
use crate::external::Extern;
use crate::instance::Instance;
use crate::memory::Memory;
use crate::store::{AsStore, AsStoreMut, Pending, StoreCore, StoreId, StoreMut, StoreRef};
use crate::type_registry::{Registration, TypeInfo};
use crate::value::list::{Slots, empty_slots};
use crate::value::sealed::{Core, Slot};
use crate::value::{Borrow, Val, WasmTy, WasmTyList};
use crate::vm::activation::HostFailure;
use crate::vm::bytes::MemoryBytes;
#[cfg(target_arch = "x86_64")]
use crate::vm::direct;
use crate::vm::host_func::HostCode;
use crate::vm::layout::{DirectCall, HostCall, VmFuncRef, VmHostContext, VmValue};

/// A function of a store.
///
/// A handle: small, `Copy`, used together with its store. It gives out no pointer to
/// code; functions are called through it, while the store is borrowed.
#[derive(Clone, Copy, Debug)]
pub struct Func<'code> {
    store: StoreId,
    raw: NonNull<VmFuncRef>,
    borrow: Borrow<'code>,
}

// SAFETY: the pointer is followed only together with the store that it belongs
// to, which is checked by the store's identity.
unsafe impl Send for Func<'_> {}
// SAFETY: as above.
unsafe impl Sync for Func<'_> {}

impl<'code> Func<'code> {
    /// # Safety
    /// `raw` points to a function reference that belongs to the store.
    pub(crate) unsafe fn from_raw(raw: NonNull<VmFuncRef>, core: &StoreCore<'code>) -> Self {
        Self { store: core.id, raw, borrow: PhantomData }
    }

    /// The function reference, if it belongs to the store.
    pub(crate) fn raw(&self, core: &StoreCore<'_>) -> Result<NonNull<VmFuncRef>, Error> {
        if self.store == core.id {
            Ok(self.raw)
        } else {
            Err(Error::WrongStore { what: "function" })
        }
    }

    /// Makes a function from a closure with types that Rust knows.
    ///
    /// The closure takes a [`Caller`] and up to 16 [`WasmTy`]s, and returns one, a
    /// tuple of them, or a `Result` of these whose error becomes the
    /// caller's [`Error::Host`].
    pub fn wrap<T: 'static, Params, Results>(
        store: &mut impl AsStoreMut<'code, Data = T>,
        func: impl IntoHostFunc<T, Params, Results> + 'code,
    ) -> Self {
        Self::from_host(store, &func.into_host_func())
    }

    /// Makes a function of any type from a closure over dynamic values. The
    /// closure finds the default values of the result types in its last argument.
    pub fn new<T: 'static>(
        store: &mut impl AsStoreMut<'code, Data = T>,
        ty: FuncType,
        func: impl for<'a, 'c> Fn(
            Caller<'a, 'c, T>,
            &[Val<'c>],
            &mut [Val<'c>],
        ) -> Result<(), HostError>
        + Send
        + Sync
        + 'code,
    ) -> Self {
        Self::from_host(store, &HostFunc::dynamic(ty, func))
    }

    pub(crate) fn from_host<T>(
        store: &mut impl AsStoreMut<'code, Data = T>,
        func: &Arc<dyn KeepAlive + 'code>,
    ) -> Self {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let raw = core.add_host_func(func);
        // SAFETY: the reference was just made in this store.
        unsafe { Self::from_raw(raw, core) }
    }

    /// The function's type as what references point to. Equal function types have equal heap types in the whole process.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn heap_type<'c>(&self, store: &impl AsStore<'c>) -> Result<HeapType, Error> {
        self.type_ref_in(store.as_store().core()).map(HeapType::Concrete)
    }

    pub(crate) fn type_ref_in(&self, core: &StoreCore<'_>) -> Result<TypeRef, Error> {
        let type_id = self.type_id_in(core)?;
        let found = core.find_type(type_id).map(TypeInfo::name);
        found.ok_or(Error::WrongStore { what: "function's type" })
    }

    /// The number of the function's type in the process.
    pub(crate) fn type_id_in(&self, core: &StoreCore<'_>) -> Result<u32, Error> {
        // SAFETY: a function reference of the store lives as long as the store.
        Ok(unsafe { (*self.raw(core)?.as_ptr()).type_id })
    }

    /// The function's type.
    ///
    /// # Errors
    /// [`Error::WrongStore`].
    pub fn ty<'c>(&self, store: &impl AsStore<'c>) -> Result<FuncType, Error> {
        self.ty_in(store.as_store().core()).cloned()
    }

    pub(crate) fn ty_in<'s>(&self, core: &'s StoreCore<'_>) -> Result<&'s FuncType, Error> {
        let type_id = self.type_id_in(core)?;
        core.func_type(type_id).ok_or(Error::WrongStore { what: "function's type" })
    }

    /// Calls the function with values of any types.
    ///
    /// # Errors
    /// If the arguments do not fit, and whatever the function fails with: an
    /// [`Error::Trap`] or an [`Error::Host`].
    ///
    /// # Panics
    /// If a host function panics, this does, with the same payload.
    pub fn call<'c>(
        &self,
        store: &mut impl AsStoreMut<'c>,
        args: &[Val<'_>],
    ) -> Result<Vec<Val<'c>>, Error> {
        let mut store = store.as_store_mut();
        let core = store.core_mut();
        let raw = self.raw(core)?;
        let ty = self.ty_in(core)?.clone();
        if args.len() != ty.params.len() {
            return Err(Error::ArgumentCount { wanted: ty.params.len(), found: args.len() });
        }
        let mut values = vec![VmValue(0); ty.params.len().max(ty.results.len())];
        for ((slot, arg), param) in values.iter_mut().zip(args).zip(&ty.params) {
            *slot = arg.to_raw(*param, core)?;
        }
        // SAFETY: `store` is borrowed exclusively; the function belongs to it;
        // the values were just checked against its type.
        unsafe { StoreCore::call(store.core_ptr(), raw, values.as_mut_ptr()) }?;
        let core = store.core_mut();
        let results = ty.results.iter().zip(values);
        // SAFETY: the function returned values of its result types.
        let results = results.map(|(ty, value)| unsafe { Val::from_raw(value, *ty, core) });
        Ok(results.collect())
    }

    /// Checks references that are about to be passed, where the function wants others than any of their kind.
    ///
    /// # Safety
    /// From `slots` on there is a value for each parameter, and references belong to the store.
    #[cold]
    unsafe fn check(&self, core: &StoreCore<'_>, slots: *const VmValue) -> Result<(), Error> {
        for (index, ty) in self.ty_in(core)?.params.iter().enumerate() {
            if let ValType::Ref(wanted) = *ty {
                // SAFETY: by the caller's promise.
                let value = unsafe { VmValue::load(slots.add(index), *ty) };
                core.check_reference(value.to_ref(), wanted)?;
            }
        }
        Ok(())
    }

    /// The function with types that Rust knows, which is faster to call. References may be of more special types in the function: arguments
    /// are checked then.
    ///
    /// # Errors
    /// [`Error::FuncType`] if it has other types.
    pub fn typed<'c, Params: WasmTyList, Results: WasmTyList>(
        &self,
        store: &impl AsStore<'c>,
    ) -> Result<TypedFunc<'code, Params, Results>, Error> {
        let core = store.as_store().core();
        let found = self.ty_in(core)?;
        let fits = |found: ValType, wanted| core.is_subtype_of(found, wanted);
        // A wasm function may want more special references than Rust has types for.
        let params_fit = Params::matches(&found.params, |own, param| fits(param, own));
        if !params_fit || !Results::matches(&found.results, |own, result| fits(result, own)) {
            return Err(Error::FuncType {
                wanted: Box::new(FuncType::new(Params::types(), Results::types())),
                found: Box::new(found.clone()),
            });
        }
        let is_checked = !Params::matches(&found.params, |own, param| own == param);
        Ok(TypedFunc { func: *self, is_checked, types: PhantomData })
    }
}

/// A function of a store whose type was checked.
pub struct TypedFunc<'code, Params, Results> {
    func: Func<'code>,
    /// Whether references must be checked that are passed.
    is_checked: bool,
    types: PhantomData<fn(Params) -> Results>,
}

impl<P, R> Clone for TypedFunc<'_, P, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P, R> Copy for TypedFunc<'_, P, R> {}

impl<P, R> fmt::Debug for TypedFunc<'_, P, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.func.fmt(f)
    }
}

impl<'code, Params: WasmTyList, Results: WasmTyList> TypedFunc<'code, Params, Results> {
    /// Calls the function. Takes no lock and touches no reference count.
    ///
    /// # Errors
    /// [`Error::WrongStore`], and whatever the function fails with: an
    /// [`Error::Trap`] or an [`Error::Host`].
    ///
    /// # Panics
    /// If a host function panics, this does, with the same payload.
    pub fn call<'c>(
        &self,
        store: &mut impl AsStoreMut<'c>,
        params: Params,
    ) -> Result<Results, Error> {
        const { assert!(Params::COUNT <= 16 && Results::COUNT <= 16) };
        let mut store = store.as_store_mut();
        let raw = self.func.raw(store.core_mut())?;
        let mut slots = empty_slots();
        params.store(&mut slots, &Core(store.core_mut()))?;
        if self.is_checked {
            // SAFETY: there is a value for each parameter of the function.
            unsafe { self.func.check(store.core_mut(), slots.as_ptr().cast()) }?;
        }
        // SAFETY: `store` is borrowed exclusively; the function belongs to it;
        // its type was checked when this was made, and a function never changes
        // its type. A `Slot` is a `VmValue`, and there are enough of them.
        unsafe { StoreCore::call(store.core_ptr(), raw, slots.as_mut_ptr().cast()) }?;
        // SAFETY: the function returned values of its result types.
        Ok(unsafe { Results::load(slots.as_ptr().cast(), &Core(store.core_mut())) })
    }

    /// The function without its types.
    #[must_use]
    pub fn func(&self) -> Func<'code> {
        self.func
    }
}

/// What a host function is called with: the store, and the instance that it serves.
///
/// The instance is the one that imports the function. A function that the application put
/// into a table or global itself serves none.
#[derive(Debug)]
pub struct Caller<'a, 'code, T> {
    store: StoreMut<'a, 'code, T>,
    instance: Option<u32>,
}

impl<'code, T> Caller<'_, 'code, T> {
    /// The application's data in the store.
    #[must_use]
    pub fn data(&self) -> &T {
        self.store.shared().into_data()
    }

    /// The application's data in the store.
    pub fn data_mut(&mut self) -> &mut T {
        self.store.reborrow().into_data_mut()
    }

    /// How many bytes of the thread's stack are left. A host function begins with
    /// [`crate::Config::host_stack`] or more.
    #[must_use]
    pub fn stack_left(&self) -> usize {
        crate::vm::activation::stack_left()
    }

    /// Whether `bytes` of stack are left, for a function that recurses or has large local variables.
    ///
    /// Rust ends the process when a stack is used up; nothing can catch that. A host function that
    /// asks before it goes deeper, and passes on the error by `?`, ends as wasm does that uses up
    /// its stack: with a trap. Ask for what is needed up to the next question, and some 16 KiB more,
    /// for the calls of libraries in between and for destructors on the way out; 64 KiB if something may panic.
    ///
    /// ```
    /// use cwasm_loader::{Caller, Error};
    ///
    /// fn depth(caller: &mut Caller<'_, '_, ()>, nested: &str) -> Result<u32, Error> {
    ///     caller.check_stack(64 << 10)?;
    ///     match nested.strip_prefix('(') {
    ///         Some(inner) => Ok(depth(caller, inner)? + 1),
    ///         None => Ok(0),
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// A trap by [`crate::TrapKind::StackOverflow`], with the wasm that is running.
    pub fn check_stack(&mut self, bytes: usize) -> Result<(), Error> {
        if self.stack_left() >= bytes {
            return Ok(());
        }
        Err(self.store.core_mut().host_trap(TrapKind::StackOverflow))
    }

    /// The memory that the calling instance exports as `memory`.
    #[must_use]
    pub fn memory(&self) -> Option<Memory<'code>> {
        let core = self.store.shared().core();
        let memory = core.instances.get(self.instance? as usize)?.exported_memory?;
        Some(Memory::from_index(memory, core))
    }

    /// The bytes of that memory together with the application's data. `None` also if the
    /// memory is shared, since other threads may write to it; and if some of the bytes were to be loaded when they are needed, and
    /// are lost ([`Memory::data_mut`] says why).
    ///
    /// This loads all of them. [`Caller::memory_bytes_and_data_mut`] does not.
    pub fn memory_and_data_mut(&mut self) -> Option<(&mut [u8], &mut T)> {
        let instance = self.instance?;
        let (core, data) = self.store.reborrow().into_parts();
        let memory = core.instances.get(instance as usize)?.exported_memory?;
        Some((core.memories[memory as usize].bytes_mut()?.ok()?, data))
    }

    /// The bytes of that memory, of which those are loaded that are asked for, together with the application's data. `None` also if the
    /// memory is shared, since other threads may write to it.
    pub fn memory_bytes_and_data_mut(&mut self) -> Option<(MemoryBytes<'_>, &mut T)> {
        let instance = self.instance?;
        let (core, data) = self.store.reborrow().into_parts();
        let memory = core.instances.get(instance as usize)?.exported_memory?;
        Some((core.memories[memory as usize].ranges()?, data))
    }

    /// An export of the calling instance.
    #[must_use]
    pub fn export(&self, name: &str) -> Option<Extern<'code>> {
        let core = self.store.shared().core();
        Instance::from_index(self.instance?, core).export_in(core, name)
    }
}

impl<'code, T> AsStore<'code> for Caller<'_, 'code, T> {
    type Data = T;

    fn as_store(&self) -> StoreRef<'_, 'code, T> {
        self.store.shared()
    }
}

impl<'code, T> AsStoreMut<'code> for Caller<'_, 'code, T> {
    fn as_store_mut(&mut self) -> StoreMut<'_, 'code, T> {
        self.store.reborrow()
    }
}

/// A host function, without its type: what keeps its closure alive.
pub trait KeepAlive: Any0 + Send + Sync {
    #[doc(hidden)]
    fn registration(&self) -> Arc<Registration>;
    #[doc(hidden)]
    fn host_code(&self) -> HostCode;
}

/// Nothing; `Any` would need `'static`.
pub trait Any0 {}
impl<V> Any0 for V {}

impl fmt::Debug for dyn KeepAlive + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "host function {}", self.registration().func_type())
    }
}

/// A closure that is a host function, with its type.
pub(crate) struct HostFunc<F> {
    registration: Arc<Registration>,
    call: HostCall,
    /// See [`HostCode`].
    direct: Option<DirectCall>,
    closure: F,
}

impl<F: Send + Sync> KeepAlive for HostFunc<F> {
    fn registration(&self) -> Arc<Registration> {
        Arc::clone(&self.registration)
    }

    fn host_code(&self) -> HostCode {
        HostCode {
            call: self.call,
            direct: self.direct,
            closure: (&raw const self.closure).cast::<c_void>(),
            type_id: self.registration.ids()[0],
        }
    }
}

impl<F: Send + Sync> HostFunc<F> {
    fn shared<'code>(
        ty: FuncType,
        call: HostCall,
        direct: Option<DirectCall>,
        closure: F,
    ) -> Arc<dyn KeepAlive + 'code>
    where
        F: 'code,
    {
        Arc::new(Self { registration: Arc::new(Registration::new(ty)), call, direct, closure })
    }
}

/// A dynamic closure and the type that its values have.
struct Dynamic<F> {
    ty: FuncType,
    func: F,
}

impl HostFunc<()> {
    /// A host function over dynamic values.
    pub(crate) fn dynamic<'code, T: 'static, F>(ty: FuncType, func: F) -> Arc<dyn KeepAlive + 'code>
    where
        F: for<'a, 'c> Fn(Caller<'a, 'c, T>, &[Val<'c>], &mut [Val<'c>]) -> Result<(), HostError>
            + Send
            + Sync
            + 'code,
    {
        unsafe extern "C" fn call<T, F>(context: *mut VmHostContext, values: *mut VmValue) -> u8
        where
            F: for<'a, 'c> Fn(
                Caller<'a, 'c, T>,
                &[Val<'c>],
                &mut [Val<'c>],
            ) -> Result<(), HostError>,
        {
            // SAFETY: this is the call of a host function with a closure of this
            // type (see `dynamic`).
            let result = unsafe {
                host_call::<T, Dynamic<F>, ()>(context, |closure, mut caller| {
                    let core = caller.store.core_mut();
                    // SAFETY: the caller passed values of the parameter types.
                    let args: Vec<_> = (0..)
                        .zip(&closure.ty.params)
                        .map(|(index, ty)| {
                            Val::from_raw(VmValue::load(values.add(index), *ty), *ty, core)
                        })
                        .collect();
                    let mut results: Vec<_> =
                        closure.ty.results.iter().map(|ty| Val::default_of(*ty)).collect();
                    let mut store = caller.store.reborrow();
                    let inner = Caller { store: store.reborrow(), instance: caller.instance };
                    (closure.func)(inner, &args, &mut results)?;
                    let core = store.core_mut();
                    for (index, (ty, value)) in closure.ty.results.iter().zip(&results).enumerate()
                    {
                        // SAFETY: there is a slot for every result.
                        *values.add(index) = value.to_raw(*ty, core)?;
                    }
                    Ok(())
                })
            };
            for_trampoline(result)
        }
        HostFunc::shared(ty.clone(), call::<T, F>, None, Dynamic { ty, func })
    }
}

/// How a call ended, as exit trampolines ask for it.
fn for_trampoline(result: Result<(), HostFailure>) -> u8 {
    match result {
        Ok(()) => host_context::RETURNED,
        Err(HostFailure::Failed) => host_context::FAILED,
        Err(HostFailure::Threw) => host_context::THREW,
    }
}

/// Runs the body of a host function: finds its closure and caller, and leaves
/// errors, panics and exceptions in the store.
///
/// # Safety
/// * `context` is the context of a host function whose closure is an `F`, in a store
///   whose data is a `T`.
/// * The store is exclusively borrowed by whoever entered wasm or called this,
///   who does not use it meanwhile.
#[inline]
unsafe fn host_call<T, F, V>(
    context: *mut VmHostContext,
    body: impl for<'a, 'c> FnOnce(&'a F, Caller<'a, 'c, T>) -> Result<V, HostError>,
) -> Result<V, HostFailure> {
    // SAFETY: the context is alive; its store context is the first field of its
    // store; its closure is an `F`, kept alive by the store; an importer is the
    // vmctx of an instance of the store.
    let (store, closure, instance) = unsafe {
        let context = &*context;
        let store = NonNull::new_unchecked(context.store_context.cast::<StoreCore<'_>>());
        let instance = context.importer.as_ref().map(|vmctx| vmctx.instance);
        (store, &*context.closure.cast::<F>(), instance)
    };
    // SAFETY: nobody else uses the store, and the body does not yet, or has ended.
    let core = || unsafe { &mut *store.as_ptr() };
    let scope = core().roots.begin();
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: by the caller's promise.
        let store = unsafe { StoreMut::from_core(store) };
        body(closure, Caller { store, instance })
    }));
    // Results have been converted by now.
    core().roots.end(scope);
    match result {
        Ok(Ok(values)) => Ok(values),
        Ok(Err(error)) => Err(failure(core(), error)),
        Err(panic) => {
            core().pending = Some(Pending::Panic(panic));
            Err(HostFailure::Failed)
        }
    }
}

/// Leaves an error in the store, or an exception if it is one.
#[cold]
fn failure(core: &mut StoreCore<'_>, error: HostError) -> HostFailure {
    if let Some(thrown) = exception_in(&error).and_then(|exception| exception.raw(core)) {
        core.thrown = Some(thrown);
        return HostFailure::Threw;
    }
    core.pending = Some(Pending::Error(error));
    HostFailure::Failed
}

/// The exception that a host function returned as its error, or passed on.
fn exception_in(error: &HostError) -> Option<&Exception> {
    error.downcast_ref::<Exception>().or_else(|| error.downcast_ref::<Error>()?.exception())
}

/// What a host function may return: `()`, a [`WasmTy`], a tuple of them, or a
/// `Result` of these.
pub trait HostResult {
    #[doc(hidden)]
    type Values: WasmTyList;
    #[doc(hidden)]
    fn into_result(self) -> Result<Self::Values, HostError>;
}

impl<V: WasmTyList> HostResult for V {
    type Values = V;

    fn into_result(self) -> Result<V, HostError> {
        Ok(self)
    }
}

impl<V: WasmTyList, E: Into<HostError>> HostResult for Result<V, E> {
    type Values = V;

    fn into_result(self) -> Result<V, HostError> {
        self.map_err(Into::into)
    }
}

/// A closure that can be a host function.
///
/// Implemented for closures that take a [`Caller`] and up to 16 [`WasmTy`]s.
pub trait IntoHostFunc<T, Params, Results>: Send + Sync {
    #[doc(hidden)]
    fn into_host_func<'code>(self) -> Arc<dyn KeepAlive + 'code>
    where
        Self: Sized + 'code;
}

macro_rules! into_host_func {
    ($(($($name:ident $index:tt),*))*) => { $(
        impl<T: 'static, F, R, $($name: WasmTy),*> IntoHostFunc<T, ($($name,)*), R> for F
        where
            F: for<'a, 'c> Fn(Caller<'a, 'c, T>, $($name),*) -> R + Send + Sync,
            R: HostResult,
        {
            fn into_host_func<'code>(self) -> Arc<dyn KeepAlive + 'code>
            where
                Self: Sized + 'code,
            {
                unsafe extern "C" fn call<T, F, R, $($name: WasmTy),*>(
                    context: *mut VmHostContext,
                    values: *mut VmValue,
                ) -> u8
                where
                    F: for<'a, 'c> Fn(Caller<'a, 'c, T>, $($name),*) -> R,
                    R: HostResult,
                {
                    // SAFETY: this is the call of a host function with a closure
                    // of this type (see below). The caller's row of slots is as
                    // long as the longer of parameters and results.
                    let result = unsafe {
                        host_call::<T, F, ()>(context, |closure, mut caller| {
                            let slots = values.cast::<Slot>();
                            #[allow(unused_variables, reason = "without parameters")]
                            let params = {
                                let core = Core(caller.store.core_mut());
                                <($($name,)*) as Slots>::load(slots, &core)
                            };
                            let store = caller.store.core_ptr();
                            let results = closure(caller, $(params.$index),*).into_result()?;
                            // SAFETY: the closure's borrow of the store has ended.
                            let core = Core(&*store.as_ptr());
                            let count = R::Values::COUNT;
                            let slots = std::slice::from_raw_parts_mut(slots.cast(), count);
                            results.store(slots, &core)?;
                            Ok(())
                        })
                    };
                    for_trampoline(result)
                }

                /// The same for compiled code that passes everything in registers.
                #[cfg(target_arch = "x86_64")]
                #[allow(non_snake_case, unused_mut, unused_variables, reason = "a parameter has the name of its type, if there is one")]
                unsafe extern "C" fn in_registers<T, F, R, $($name: WasmTy),*>(
                    context: *mut VmHostContext,
                    $($name: $name::Wire),*
                ) -> <R::Values as Slots>::Wire
                where
                    F: for<'a, 'c> Fn(Caller<'a, 'c, T>, $($name),*) -> R,
                    R: HostResult,
                {
                    // SAFETY: as above.
                    let result = unsafe {
                        host_call::<T, F, _>(context, |closure, mut caller| {
                            let core = Core(caller.store.core_mut());
                            $( let $name = $name::from_wire($name, &core); )*
                            let store = caller.store.core_ptr();
                            let results = closure(caller, $($name),*).into_result()?;
                            // SAFETY: the closure's borrow of the store has ended.
                            let core = Core(&*store.as_ptr());
                            Ok(results.to_wire(&core)?)
                        })
                    };
                    match result {
                        Ok(results) => results,
                        // SAFETY: the result and the parameters are plain values (`Copy`), and nothing else is left. The store
                        // has the error.
                        Err(failed) => unsafe { direct::leave(context, failed) },
                    }
                }

                /// What compiled code calls.
                #[cfg(target_arch = "x86_64")]
                #[unsafe(naked)]
                unsafe extern "C" fn direct<T, F, R, $($name: WasmTy),*>()
                where
                    F: for<'a, 'c> Fn(Caller<'a, 'c, T>, $($name),*) -> R,
                    R: HostResult,
                {
                    direct::enter_host!(in_registers::<T, F, R, $($name),*>)
                }
                #[cfg(target_arch = "x86_64")]
                let direct = const { direct::fits(&[$($name::REGISTER),*], R::Values::IN_REGISTERS) }
                    .then_some(direct::<T, F, R, $($name),*> as DirectCall);
                #[cfg(not(target_arch = "x86_64"))]
                let direct = None;
                let ty = FuncType::new([$($name::TYPE),*], R::Values::types());
                HostFunc::shared(ty, call::<T, F, R, $($name),*>, direct, self)
            }
        }
    )* };
}

into_host_func! {
    ()
    (A 0)
    (A 0, B 1)
    (A 0, B 1, C 2)
    (A 0, B 1, C 2, D 3)
    (A 0, B 1, C 2, D 3, E 4)
    (A 0, B 1, C 2, D 3, E 4, G 5)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7, J 8)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7, J 8, K 9)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7, J 8, K 9, L 10)
    (A 0, B 1, C 2, D 3, E 4, G 5, H 6, I 7, J 8, K 9, L 10, M 11)
}
