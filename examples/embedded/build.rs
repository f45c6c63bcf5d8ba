//! Compiles one module into the application, and another to a file beside it.

fn main() {
    cwasm_build::embed("src/greeting.wat");
    cwasm_build::install("../numbers.wat");
}
