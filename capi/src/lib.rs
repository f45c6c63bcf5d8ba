//! The C interface. `include/cwasm.h` is its documentation.
//!
//! Each function is a thin shell: it turns pointers into references, catches panics, and lets safe code of
//! [`object`] do the work. What a caller must keep to is what the header says:
//! pointers to objects come from this library and were not freed; pointers with
//! a length lead to that many elements; an instance is used by one thread at a time.

mod object;
mod value;

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use object::{Artifact, Error, Instance};
pub use value::Value;

/// Runs safe code, and turns its error, or its panic, into an object for C.
fn guarded(run: impl FnOnce() -> Result<(), Error>) -> *mut Error {
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| Err(Error::panicked()));
    match result {
        Ok(()) => std::ptr::null_mut(),
        Err(error) => Box::into_raw(Box::new(error)),
    }
}

/// Frees an object. Its destructor may not unwind into C.
///
/// # Safety
/// `object` is null, or came from `Box::into_raw` and was not freed.
unsafe fn free<T>(object: *mut T) {
    if !object.is_null() {
        // SAFETY: the caller's promise.
        let object = unsafe { Box::from_raw(object) };
        let _ = catch_unwind(AssertUnwindSafe(|| drop(object)));
    }
}

/// The elements that C describes by a pointer and a number.
///
/// # Safety
/// `start` leads to `count` elements that nobody changes during `'a`, or `count` is 0.
unsafe fn elements<'a, T>(start: *const T, count: usize, what: &str) -> Result<&'a [T], Error> {
    if count == 0 {
        return Ok(&[]);
    }
    if start.is_null() {
        return Err(Error::null(what));
    }
    if count > isize::MAX.cast_unsigned() / size_of::<T>().max(1) {
        return Err(Error::misuse(format!("{count} {what} cannot be in memory")));
    }
    // SAFETY: the caller's promise; the length was compared with the largest that a slice may have.
    Ok(unsafe { std::slice::from_raw_parts(start, count) })
}

/// See `cwasm.h`.
///
/// # Safety
/// `error` is null or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_error_message(error: *const Error) -> *const c_char {
    // SAFETY: the caller's promise.
    match unsafe { error.as_ref() } {
        Some(error) => error.message().as_ptr(),
        None => c"no error".as_ptr(),
    }
}

/// See `cwasm.h`.
///
/// # Safety
/// `error` is null or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_error_is_trap(error: *const Error) -> bool {
    // SAFETY: the caller's promise.
    unsafe { error.as_ref() }.is_some_and(Error::is_trap)
}

/// See `cwasm.h`.
///
/// # Safety
/// `error` is null or an error that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_error_free(error: *mut Error) {
    // SAFETY: the caller's promise; errors come from `guarded`.
    unsafe { free(error) }
}

/// See `cwasm.h`.
///
/// # Safety
/// `bytes` leads to `size` bytes, `digest` to 32, and `artifact` to a pointer to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_artifact_load(
    bytes: *const u8,
    size: usize,
    digest: *const u8,
    artifact: *mut *mut Artifact,
) -> *mut Error {
    guarded(|| {
        if artifact.is_null() {
            return Err(Error::null("the place for the artifact"));
        }
        // SAFETY: the caller's promise.
        let bytes = unsafe { elements(bytes, size, "bytes") }?;
        // SAFETY: the caller's promise.
        let digest = unsafe { elements(digest, 32, "bytes of a digest") }?;
        let loaded = Box::new(Artifact::load(bytes, digest)?);
        // SAFETY: the caller's promise, and not null.
        unsafe { artifact.write(Box::into_raw(loaded)) };
        Ok(())
    })
}

/// See `cwasm.h`.
///
/// # Safety
/// `artifact` is null or an artifact that was not freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_artifact_free(artifact: *mut Artifact) {
    // SAFETY: the caller's promise; artifacts come from `cwasm_artifact_load`.
    unsafe { free(artifact) }
}

/// See `cwasm.h`.
///
/// # Safety
/// `artifact` is null or an artifact that was not freed, and `instance` leads to a pointer to be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_instance_new(
    artifact: *const Artifact,
    instance: *mut *mut Instance,
) -> *mut Error {
    guarded(|| {
        if instance.is_null() {
            return Err(Error::null("the place for the instance"));
        }
        // SAFETY: the caller's promise.
        let artifact = unsafe { artifact.as_ref() }.ok_or_else(|| Error::null("the artifact"))?;
        let made = Box::new(Instance::new(artifact)?);
        // SAFETY: the caller's promise, and not null.
        unsafe { instance.write(Box::into_raw(made)) };
        Ok(())
    })
}

/// See `cwasm.h`.
///
/// # Safety
/// `instance` is null or an instance that was not freed and that no thread is using.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_instance_free(instance: *mut Instance) {
    // SAFETY: the caller's promise; instances come from `cwasm_instance_new`.
    unsafe { free(instance) }
}

/// See `cwasm.h`.
///
/// # Safety
/// `instance` is null or an instance that was not freed and that no other thread is using; `name` ends with
/// a zero byte; `arguments` leads to `argument_count` values, and `results` to places for `result_count`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cwasm_instance_call(
    instance: *mut Instance,
    name: *const c_char,
    arguments: *const Value,
    argument_count: usize,
    results: *mut Value,
    result_count: usize,
) -> *mut Error {
    guarded(|| {
        // SAFETY: the caller's promise.
        let instance = unsafe { instance.as_mut() }.ok_or_else(|| Error::null("the instance"))?;
        if name.is_null() {
            return Err(Error::null("the name of the function"));
        }
        // SAFETY: the caller's promise, and not null.
        let name = unsafe { CStr::from_ptr(name) };
        // SAFETY: the caller's promise.
        let arguments = unsafe { elements(arguments, argument_count, "arguments") }?;
        if result_count > 0 && results.is_null() {
            return Err(Error::null("the place for the results"));
        }
        // SAFETY: the header says that the member of the kind is the one that was written.
        let arguments = arguments.iter().map(|value| unsafe { value.to_val() });
        let arguments = arguments.collect::<Result<Vec<_>, _>>()?;
        let found = instance.call(name, &arguments, result_count)?;
        for (number, value) in found.into_iter().enumerate() {
            // SAFETY: the caller's promise, and not null: `call` gives `result_count` values.
            // The places may be uninitialised, and are only written to.
            unsafe { results.add(number).write(value) };
        }
        Ok(())
    })
}
