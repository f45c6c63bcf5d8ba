//! Prints how compile time and memory grow with modules that are large in one direction: each
//! size in a process of its own, with one compiler thread. Seconds are processor time.
//!
//! `growth [SHAPE...]` measures these shapes, or all.

use std::process::Command;

use cwasm_compiler::{Settings, compile};
use cwasm_tests::shapes::Shape;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, shape, size] = &arguments[..]
        && flag == "--measure"
    {
        measure(shape, size);
        return;
    }
    let program = std::env::current_exe().expect("this program has a path");
    println!(
        "{:<18}{:>9}{:>11}{:>11}{:>9}{:>11}",
        "shape", "size", "wasm KiB", "cwasm KiB", "seconds", "peak MiB"
    );
    for shape in Shape::ALL {
        if !arguments.is_empty() && !arguments.contains(&shape.to_string()) {
            continue;
        }
        for part in [16, 8, 4, 2, 1] {
            let size = shape.large() / part;
            let status = Command::new(&program)
                .args(["--measure", &shape.to_string(), &size.to_string()])
                .status()
                .expect("this program runs");
            if !status.success() {
                println!("{shape:<18}{size:>9}  {status}");
            }
        }
    }
}

fn measure(shape: &str, size: &str) {
    let shape = Shape::by_name(shape).expect("a shape");
    let wasm = shape.module(size.parse().expect("a size"));
    let settings = Settings { jobs: 1, ..Settings::default() };
    let start = cpu_seconds();
    let result = compile(&wasm, &settings);
    let seconds = cpu_seconds() - start;
    match result {
        Ok(artifact) => println!(
            "{:<18}{size:>9}{:>11}{:>11}{seconds:>9.2}{:>11}",
            shape.to_string(),
            wasm.len() / 1024,
            artifact.len() / 1024,
            peak_memory()
        ),
        Err(error) => println!("{:<18}{size:>9}  {error}", shape.to_string()),
    }
}

/// The processor time that this process has used, in seconds: on a busy machine, the time of a
/// clock says little.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The fields behind the name of the program, which may contain spaces. Ticks are a
    // hundredth of a second, on every Linux that this runs on.
    let (_, fields) = stat.rsplit_once(')').unwrap_or_default();
    let ticks = |field: usize| -> f64 {
        fields.split_whitespace().nth(field).and_then(|text| text.parse().ok()).unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

/// The largest memory that this process had so far, in MiB.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    kib.unwrap_or(0_u64) / 1024
}
