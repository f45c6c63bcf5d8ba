//! A box whose contents may be pointed to from elsewhere.
//!
//! Compiled code and vmctx structures hold raw pointers to memories and tables. A
//! `Box` claims that nothing else points to its contents; this type does not.

use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Owns a value at an address that never changes, to which raw pointers may exist.
#[derive(Debug)]
pub(crate) struct Stable<T>(NonNull<T>);

// SAFETY: the owner is the only way to the value that outlives a call; raw
// pointers to it are used by whoever has exclusive use of the owner.
unsafe impl<T: Send> Send for Stable<T> {}
// SAFETY: sharing the owner gives out `&T` only.
unsafe impl<T: Sync> Sync for Stable<T> {}

impl<T> Stable<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(NonNull::from(Box::leak(Box::new(value))))
    }

    /// The address of the value.
    pub(crate) fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Deref for Stable<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the pointer is to a live value that this owns. Writes
        // through other pointers need `&mut` of the owner or of its store.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Stable<T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as in `deref`, and `&mut self` is exclusive.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Stable<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `Box::leak` and is given back once.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
