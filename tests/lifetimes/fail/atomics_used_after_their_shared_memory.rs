//! A shared memory is released with its last clone.

use cwasm_loader::{Limits, MemoryType, SharedMemory};

fn main() {
    let limits = Limits { min: 1, max: Some(1) };
    let ty = MemoryType { shared: true, ..MemoryType::new(limits) };
    let memory = SharedMemory::new(ty).unwrap();
    let atomics = memory.clone().atomics();
    assert_eq!(atomics.len(), 65536);
}
