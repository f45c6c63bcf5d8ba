//! The comparison of the stack pointer with the limit of wasm's stack, at the beginning of a function.
//!
//! The code generator compares the limit plus the size of the frame:
//!
//! ```text
//! push rbp; mov rbp, rsp
//! mov r10, [vmctx + 8]; mov r10, [r10]; add r10, SIZE; cmp r10, rsp; ja overflow
//! ```
//!
//! Compiled code may use [`BELOW_LIMIT`] bytes below the limit. So the size of a small frame need not be added, and the limit
//! is compared where it lies: `cmp [r10], rsp`. A function that calls none needs no comparison at all if its frame is small: whoever
//! called it has compared, and is the only one of its callers whose frame may reach below the limit. That is why
//! a small frame has at most half of those bytes. Calls in the last place give up the frame first.
//!
//! What is read is exactly what the code generator writes. Anything else stays as it is.

use cwasm_artifact::abi::vmctx::store_context::BELOW_LIMIT;

use super::forms::Form;

/// A larger frame is compared with what is left.
pub(super) const SMALL_FRAME: u32 = BELOW_LIMIT / 2;

/// Instructions of which something shorter can take the place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Comparison {
    /// Where the first of them begins.
    pub(super) start: u32,
    /// Where the last ends.
    pub(super) end: u32,
    pub(super) form: Form,
}

/// `push rbp; mov rbp, rsp; mov r10, [...]`, the last with a displacement of 8 bits from a register which is in the byte between.
const OPEN: [u8; 6] = [0x55, 0x48, 0x89, 0xe5, 0x4c, 0x8b];

/// `mov r10, [r10]`
const LOAD: [u8; 3] = [0x4d, 0x8b, 0x12];

/// `cmp r10, rsp`
const COMPARE: [u8; 3] = [0x4c, 0x3b, 0xd4];

/// `cmp [r10], rsp`
const COMPARE_THERE: [u8; 3] = [0x49, 0x39, 0x22];

/// What can be shorter at the beginning of a function, if it begins like that and has a small frame.
pub(super) fn comparison(code: &[u8], calls: bool) -> Option<Comparison> {
    let rest = code.strip_prefix(&OPEN)?;
    // The address is that of a register without `r12`'s and `rsp`'s form, and `r10` gets what is there.
    let ([mode, _], rest) = rest.split_first_chunk::<2>().map(|(field, rest)| (*field, rest))?;
    if mode & 0b1111_1000 != 0b0101_0000 || mode & 0b111 == 0b100 {
        return None;
    }
    let first = OPEN.len() - 2;
    let load = OPEN.len() + 2;
    let rest = rest.strip_prefix(&LOAD)?;
    let (size, rest) = match *rest {
        // add r10, SIZE
        [0x49, 0x83, 0xc2, size, ref rest @ ..] => (i8::try_from(size).ok()?.into(), rest),
        [0x49, 0x81, 0xc2, a, b, c, d, ref rest @ ..] => (i32::from_le_bytes([a, b, c, d]), rest),
        ref rest => (0, rest),
    };
    let rest = rest.strip_prefix(&COMPARE)?;
    // ja
    let [0x0f, 0x87, _, _, _, _, rest @ ..] = rest else { return None };
    if !u32::try_from(size).is_ok_and(|size| size <= SMALL_FRAME) {
        return None;
    }
    let branch = u32::try_from(code.len() - rest.len()).ok()?;
    let (start, end, form) = match calls {
        true => (load, branch - 6, Form::new(&[&COMPARE_THERE])?),
        false => (first, branch, Form::NOTHING),
    };
    Some(Comparison { start: u32::try_from(start).ok()?, end, form })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The beginning of a function that has its vmctx in `rdi`, with these instructions in the middle.
    fn begin(middle: &[u8]) -> Vec<u8> {
        let open = [&OPEN[..], &[0x57, 8], &LOAD];
        [&open.concat(), middle, &COMPARE, &[0x0f, 0x87, 9, 0, 0, 0], &[0x90]].concat()
    }

    #[test]
    fn small_frames_are_not_added() {
        let large = SMALL_FRAME.to_le_bytes();
        let large = [&[0x49, 0x81, 0xc2][..], &large].concat();
        for middle in [&[][..], &[0x49, 0x83, 0xc2, 0x7f], &large] {
            let code = begin(middle);
            let found = comparison(&code, true).unwrap();
            assert_eq!(found.form.bytes(), COMPARE_THERE);
            assert_eq!((found.start, found.end as usize), (8, 14 + middle.len()));
            let found = comparison(&code, false).unwrap();
            assert_eq!(found.form, Form::NOTHING);
            assert_eq!((found.start, found.end as usize), (4, 20 + middle.len()));
        }
    }

    #[test]
    fn large_frames_and_other_beginnings_stay() {
        let larger = (SMALL_FRAME + 1).to_le_bytes();
        let larger = [&[0x49, 0x81, 0xc2][..], &larger].concat();
        for middle in [&larger[..], &[0x49, 0x83, 0xc2, 0x80], &[0x49, 0x83, 0xc1, 0x10], &[0x90]] {
            assert_eq!(comparison(&begin(middle), true), None, "{middle:02x?}");
        }
        let code = begin(&[]);
        for place in [0, 3, 4, 6, 8, 10, 13, 15] {
            let mut code = code.clone();
            code[place] ^= 0x40;
            assert_eq!(comparison(&code, true), None, "{place}");
        }
        for length in 0..20 {
            assert_eq!(comparison(&code[..length], true), None, "{length}");
        }
        // mov r10, [rsp + 8] and [r12 + 8] are longer.
        let mut code = code;
        code[6] = 0x54;
        assert_eq!(comparison(&code, true), None);
    }
}
