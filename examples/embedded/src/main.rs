//! An application whose build compiled two WebAssembly modules.
//!
//! One is a part of the executable, the other a file beside it. The application knows the digests of
//! both: it loads them by safe calls, without keys, and contains no compiler.

use std::error::Error;

use cwasm_loader::{Embedded, Engine, Installed, Linker, Store};

/// In the executable.
const GREETING: Embedded = cwasm_loader::embedded!("greeting");
/// Beside the executable.
const NUMBERS: Installed = cwasm_loader::installed!("numbers");

fn main() -> Result<(), Box<dyn Error>> {
    let (greeting, numbers) = (GREETING.load()?, NUMBERS.load()?);
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());

    let instance = Linker::new(&engine).instantiate(&mut store, &greeting)?;
    let length = instance.typed_func::<(), i32>(&store, "length")?.call(&mut store, ())?;
    let byte = instance.typed_func::<i32, i32>(&store, "byte")?;
    let mut text = Vec::new();
    for at in 0..length {
        text.push(u8::try_from(byte.call(&mut store, at)?)?);
    }
    println!("{}", String::from_utf8(text)?);

    let instance = Linker::new(&engine).instantiate(&mut store, &numbers)?;
    let gcd = instance.typed_func::<(i64, i64), i64>(&store, "gcd")?;
    println!("gcd(1071, 462) = {}", gcd.call(&mut store, (1071, 462))?);
    Ok(())
}
