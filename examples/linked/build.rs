//! Compiles a module to an object file, which the linker puts into the application.

fn main() {
    cwasm_build::link("../numbers.wat");
}
