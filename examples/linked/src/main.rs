//! An application that the ordinary linker put a compiled module into: it is loaded
//! from the application's own memory, without a file. `examples/linked-c` does the same in C.

use std::error::Error;

use cwasm_loader::{Embedded, Engine, Linker, Store};

/// What the linker put there.
const NUMBERS: Embedded = cwasm_loader::embedded!("numbers");

fn main() -> Result<(), Box<dyn Error>> {
    let numbers = NUMBERS.load()?;
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &numbers)?;
    let gcd = instance.typed_func::<(i64, i64), i64>(&store, "gcd")?;
    println!("{}", gcd.call(&mut store, (1071, 462))?);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_linked_module_runs() {
        super::main().unwrap();
        assert!(super::NUMBERS.bytes().starts_with(b"\x7fELF"));
        // The linker kept the alignment.
        assert_eq!(super::NUMBERS.bytes().as_ptr().addr() % 4096, 0);
    }
}
