//! Identities of function types: one number per type in the whole process, so
//! that compiled code compares signatures by comparing numbers.
//!
//! An artifact and a host function hold a [`Registration`] of each type they
//! use for as long as they live. Loading and dropping them takes the lock of the
//! registry; calls never do.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cwasm_artifact::types::FuncType;

#[derive(Debug, Default)]
struct Registry {
    ids: HashMap<FuncType, u32>,
    /// Uses of each id; zero if it is free.
    uses: Vec<usize>,
    free: Vec<u32>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Registry>> {
    // Every change to the registry is complete before anything can panic.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Function types with their numbers, for as long as this lives.
#[derive(Debug)]
pub struct Registration {
    types: Vec<FuncType>,
    ids: Vec<u32>,
}

impl Registration {
    pub(crate) fn new(types: Vec<FuncType>) -> Self {
        let mut guard = lock();
        let Registry { ids, uses, free } = guard.get_or_insert_default();
        let numbers = types
            .iter()
            .map(|ty| {
                if let Some(id) = ids.get(ty) {
                    uses[*id as usize] += 1;
                    return *id;
                }
                let id = free.pop().unwrap_or_else(|| {
                    uses.push(0);
                    // Billions of types do not fit into memory.
                    u32::try_from(uses.len() - 1).unwrap_or(u32::MAX)
                });
                uses[id as usize] = 1;
                ids.insert(ty.clone(), id);
                id
            })
            .collect();
        Self { types, ids: numbers }
    }

    /// The numbers, in the order of the types.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The types.
    pub(crate) fn types(&self) -> &[FuncType] {
        &self.types
    }

    /// The type with this number, if it is one of these.
    pub(crate) fn find(&self, id: u32) -> Option<&FuncType> {
        self.types.get(self.ids.iter().position(|known| *known == id)?)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut guard = lock();
        let Registry { ids, uses, free } = guard.get_or_insert_default();
        for (ty, id) in self.types.iter().zip(&self.ids) {
            let count = &mut uses[*id as usize];
            *count -= 1;
            if *count == 0 {
                ids.remove(ty);
                free.push(*id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::ValType;

    use super::*;

    #[test]
    fn equal_types_have_equal_numbers_as_long_as_they_are_used() {
        let unusual = FuncType::new([ValType::F32; 17], [ValType::I64; 3]);
        let first = Registration::new(vec![unusual.clone(), FuncType::default()]);
        let second = Registration::new(vec![FuncType::default(), unusual.clone(), unusual.clone()]);
        assert_eq!(first.ids()[0], second.ids()[1]);
        assert_eq!(second.ids()[1], second.ids()[2]);
        assert_ne!(first.ids()[0], first.ids()[1]);
        drop(second);
        let third = Registration::new(vec![unusual.clone()]);
        assert_eq!(first.ids()[0], third.ids()[0]);
        assert_eq!(third.find(third.ids()[0]), Some(&unusual));
    }
}
