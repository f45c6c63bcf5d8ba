//! Changing one function of a wasm binary, as a programmer who changes a number does.

#![allow(unreachable_pub, reason = "shared by tests and examples")]

use wasmparser::{Operator, Parser, Payload};

/// The module with another constant in one function, about in the middle of the code.
pub fn change_one_function(wasm: &[u8]) -> Vec<u8> {
    let mut places = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        let Payload::CodeSectionEntry(body) = payload.unwrap() else { continue };
        let mut operators = body.get_operators_reader().unwrap();
        while !operators.eof() {
            let (operator, offset) = operators.read_with_offset().unwrap();
            // One byte, in which the lowest bit of the number can be changed.
            if matches!(operator, Operator::I32Const { value: 2..64 }) {
                places.push(usize::try_from(offset).unwrap() + 1);
                break;
            }
        }
    }
    let mut changed = wasm.to_vec();
    changed[places[places.len() / 2]] ^= 1;
    changed
}
