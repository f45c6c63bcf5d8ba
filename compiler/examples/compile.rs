//! Compiles `IN` to `OUT`, for looking at the result with `objdump`:
//! `cargo run -p cwasm-compiler --example compile -- IN OUT [fuel] [epoch] [explicit] [native]`
use std::path::Path;

use cwasm_compiler::{CpuLevel, MemoryBounds, Settings, compile, parse_text};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [input, output, options @ ..] = &arguments[..] else {
        return Err("usage: compile IN OUT [fuel] [epoch] [explicit] [native]".into());
    };
    let has = |name: &str| options.iter().any(|option| option == name);
    let settings = Settings {
        fuel: has("fuel"),
        epoch: has("epoch"),
        memory_bounds: if has("explicit") { MemoryBounds::Explicit } else { MemoryBounds::Guarded },
        cpu: if has("native") { CpuLevel::Native } else { CpuLevel::Baseline },
        ..Settings::default()
    };
    let bytes = std::fs::read(input)?;
    let start = std::time::Instant::now();
    let artifact = compile(&parse_text(&bytes, Path::new(input))?, &settings)?;
    println!("{} bytes in {:?}", artifact.len(), start.elapsed());
    std::fs::write(output, artifact)?;
    Ok(())
}
