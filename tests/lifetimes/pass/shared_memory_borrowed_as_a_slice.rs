//! Other threads write to a shared memory, so there is no slice of its bytes.

use cwasm_loader::{Limits, MemoryType, SharedMemory};

fn main() {
    let limits = Limits { min: 1, max: Some(1) };
    let ty = MemoryType { shared: true, ..MemoryType::new(limits) };
    let memory = SharedMemory::new(ty).unwrap();
    let mut bytes = [1; 4];
    memory.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 4]);
}
