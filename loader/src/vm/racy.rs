//! Copying to and from memory that other threads may write to meanwhile.
//!
//! Rust calls an access undefined behaviour that races with another which is not
//! atomic. What happens inside of a shared linear memory is only up to the guest, and compiled code
//! of other threads accesses it in any size. So these functions move bytes where
//! the compiler does not look: by an instruction on x86-64, by atomic accesses of
//! single bytes elsewhere. Which mixture of old and new bytes a racing copy finds is
//! unspecified, as it is for `memory.copy` (threads proposal, "bulk memory").

#[cfg(not(all(target_arch = "x86_64", not(miri))))]
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// Copies bytes between ranges that may overlap, as `ptr::copy` does.
///
/// # Safety
/// `from` is valid for reads and `to` for writes of `length` bytes during the call.
/// Others may access the bytes at the same time if these accesses are atomic, or those of
/// compiled code to a shared memory.
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    use std::arch::asm;
    // Upwards, unless the target begins within the source.
    if to.addr().wrapping_sub(from.addr()) >= length {
        // SAFETY: reads and writes only the two ranges. The direction flag is clear
        // at the beginning of every `asm` block.
        unsafe {
            asm!("rep movsb", inout("rcx") length => _, inout("rdi") to => _, inout("rsi") from => _,
                options(nostack, preserves_flags));
        }
    } else {
        // SAFETY: reads and writes only the two ranges, from their last bytes (there
        // are some: `length` exceeds a number that is not negative). The
        // direction flag is clear again at the end.
        unsafe {
            asm!("std", "rep movsb", "cld", inout("rcx") length => _,
                inout("rdi") to.add(length - 1) => _, inout("rsi") from.add(length - 1) => _,
                options(nostack));
        }
    }
}

/// Sets bytes, as `ptr::write_bytes` does.
///
/// # Safety
/// As for the target of [`copy`].
#[cfg(all(target_arch = "x86_64", not(miri)))]
pub(crate) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    // SAFETY: writes only the range. The direction flag is clear at the beginning of
    // every `asm` block.
    unsafe {
        std::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _, in("al") value,
            options(nostack, preserves_flags));
    }
}

/// See the version for x86-64.
///
/// # Safety
/// The same.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(crate) unsafe fn copy(to: *mut u8, from: *const u8, length: usize) {
    let one = |at: usize| {
        // SAFETY: `at` is below `length`, for which the ranges are valid. A byte is
        // always aligned, and a source that others only read is not written to.
        unsafe {
            let byte = (*from.add(at).cast::<AtomicU8>()).load(Relaxed);
            (*to.add(at).cast::<AtomicU8>()).store(byte, Relaxed);
        }
    };
    if to.addr().wrapping_sub(from.addr()) >= length {
        (0..length).for_each(one);
    } else {
        (0..length).rev().for_each(one);
    }
}

/// See the version for x86-64.
///
/// # Safety
/// The same.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub(crate) unsafe fn fill(to: *mut u8, value: u8, length: usize) {
    for at in 0..length {
        // SAFETY: `at` is below `length`, for which the range is valid. A byte is
        // always aligned.
        unsafe { (*to.add(at).cast::<AtomicU8>()).store(value, Relaxed) };
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn copies_are_those_of_the_standard_library() {
        let original: Vec<u8> = (0..=99).collect();
        for (to, from, length) in
            [(0, 0, 100), (0, 1, 99), (1, 0, 99), (30, 40, 20), (40, 30, 20), (7, 93, 7), (5, 9, 0)]
        {
            let (mut found, mut wanted) = (original.clone(), original.clone());
            wanted.copy_within(from..from + length, to);
            let start = found.as_mut_ptr();
            // SAFETY: both ranges lie in the vector.
            unsafe { super::copy(start.add(to), start.add(from), length) };
            assert_eq!(found, wanted, "{to} {from} {length}");
        }
        let mut found = original.clone();
        // SAFETY: the range lies in the vector.
        unsafe { super::fill(found.as_mut_ptr().add(3), 200, 5) };
        assert_eq!(found[2..9], [2, 200, 200, 200, 200, 200, 8]);
    }
}
