//! Identities of function types: one number per type in the whole process, so
//! that compiled code compares signatures by comparing numbers.
//!
//! An artifact and a host function hold a [`Registration`] of each type they
//! use for as long as they live. Loading and dropping them takes the lock of the
//! registry; calls never do.
//!
//! Types refer to other types and to themselves. The key of a type has the numbers of the
//! types that it refers to, and [`TypeRef::SELF`] for itself, so that equal types of different
//! modules have equal keys. A type holds a use of each type that it refers to. A number that is used
//! again gets another generation: a [`TypeRef`] that an application kept names
//! its type or none, and never another one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cwasm_artifact::types::{FuncType, TypeRef, ValType};

#[derive(Debug, Default)]
struct Registry {
    ids: HashMap<Arc<FuncType>, u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// What is known of a number.
#[derive(Debug)]
struct Slot {
    /// Zero if the number is free.
    uses: usize,
    /// From 1; zero is for indices of modules.
    generation: u32,
    key: Arc<FuncType>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Registry>> {
    // Every change to the registry is complete before anything can panic.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Adds a use of the type with this key.
    fn add(&mut self, key: FuncType) -> TypeRef {
        if let Some(id) = self.ids.get(&key) {
            let slot = &mut self.slots[*id as usize];
            slot.uses += 1;
            return TypeRef::new(*id, slot.generation);
        }
        for target in key.values().filter_map(ValType::concrete) {
            // What an application made up, or kept too long, names no type.
            if let Some(slot) = self.slot(target) {
                slot.uses += 1;
            }
        }
        let key = Arc::new(key);
        let id = match self.free.pop() {
            Some(id) => {
                let slot = &mut self.slots[id as usize];
                slot.uses = 1;
                slot.key = Arc::clone(&key);
                id
            }
            None => {
                self.slots.push(Slot { uses: 1, generation: 1, key: Arc::clone(&key) });
                // Billions of types do not fit into memory.
                u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.ids.insert(key, id);
        TypeRef::new(id, self.slots[id as usize].generation)
    }

    /// The slot of a type that is in use.
    fn slot(&mut self, ty: TypeRef) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(ty.number() as usize)?;
        (slot.uses > 0 && slot.generation == ty.generation()).then_some(slot)
    }

    /// Gives up a use of a type, and of what it refers to if that was the last.
    fn remove(&mut self, ty: TypeRef) {
        let mut removed = vec![ty];
        while let Some(ty) = removed.pop() {
            let Some(slot) = self.slot(ty) else { continue };
            slot.uses -= 1;
            if slot.uses > 0 {
                continue;
            }
            let key = Arc::clone(&slot.key);
            slot.generation += 1;
            // A number is used up when its generations are.
            if slot.generation < u32::MAX - 1 {
                self.free.push(ty.number());
            }
            self.ids.remove(&key);
            removed.extend(key.values().filter_map(ValType::concrete));
        }
    }
}

/// Function types with their numbers, for as long as this lives.
#[derive(Debug)]
pub struct Registration {
    /// As applications see them.
    types: Vec<FuncType>,
    refs: Vec<TypeRef>,
    ids: Vec<u32>,
}

impl Registration {
    /// Registers a type that refers to registered types.
    pub(crate) fn new(ty: FuncType) -> Self {
        let mut guard = lock();
        let ty_ref = guard.get_or_insert_default().add(ty.clone());
        Self { types: vec![ty], refs: vec![ty_ref], ids: vec![ty_ref.number()] }
    }

    /// Registers the types of a module, which refer to each other by index: each to
    /// itself and to those before it.
    pub(crate) fn of_module(types: &[FuncType]) -> Self {
        let mut guard = lock();
        let registry = guard.get_or_insert_default();
        let mut refs: Vec<TypeRef> = Vec::with_capacity(types.len());
        let mut resolved = Vec::with_capacity(types.len());
        for (index, ty) in types.iter().enumerate() {
            let number = |target: TypeRef| {
                let target = target.number() as usize;
                // Validation refuses references to types behind.
                if target == index { TypeRef::SELF } else { refs[target] }
            };
            let key = ty.renumber(number);
            let this = registry.add(key.clone());
            refs.push(this);
            resolved
                .push(key.renumber(|target| if target == TypeRef::SELF { this } else { target }));
        }
        let ids = refs.iter().map(|ty| ty.number()).collect();
        Self { types: resolved, refs, ids }
    }

    /// The numbers, in the order of the types.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Names of the types.
    pub(crate) fn type_refs(&self) -> &[TypeRef] {
        &self.refs
    }

    /// The types.
    pub(crate) fn types(&self) -> &[FuncType] {
        &self.types
    }

    /// The type with this number, if it is one of these.
    pub(crate) fn find(&self, id: u32) -> Option<(TypeRef, &FuncType)> {
        let position = self.ids.iter().position(|known| *known == id)?;
        Some((*self.refs.get(position)?, self.types.get(position)?))
    }

    /// A value type of the module as the process knows it.
    pub(crate) fn resolve(&self, ty: ValType) -> ValType {
        ty.renumber(|target| self.refs.get(target.number() as usize).copied().unwrap_or(target))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut guard = lock();
        let registry = guard.get_or_insert_default();
        for ty in &self.refs {
            registry.remove(*ty);
        }
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::{HeapType, RefType};

    use super::*;

    fn to(ty: TypeRef) -> ValType {
        ValType::Ref(RefType { nullable: false, heap: HeapType::Concrete(ty) })
    }

    fn unusual(count: usize) -> FuncType {
        FuncType::new(vec![ValType::F32; 17], vec![ValType::I64; count])
    }

    #[test]
    fn equal_types_have_equal_numbers_as_long_as_they_are_used() {
        let ty = unusual(3);
        let first = Registration::of_module(&[ty.clone(), FuncType::default()]);
        let second = Registration::of_module(&[FuncType::default(), ty.clone(), ty.clone()]);
        assert_eq!(first.ids()[0], second.ids()[1]);
        assert_eq!(second.ids()[1], second.ids()[2]);
        assert_ne!(first.ids()[0], first.ids()[1]);
        drop(second);
        let third = Registration::new(ty.clone());
        assert_eq!(first.ids()[0], third.ids()[0]);
        assert_eq!(third.find(third.ids()[0]).unwrap().1, &ty);
    }

    #[test]
    fn types_that_refer_to_others_are_equal_across_modules() {
        let module = TypeRef::of_module;
        let recursive = |index| FuncType::new([to(module(index))], vec![ValType::I64; 40]);
        let first = Registration::of_module(&[
            unusual(41),
            recursive(1),
            FuncType::new([to(module(0))], []),
        ]);
        let second = Registration::of_module(&[
            recursive(0),
            FuncType::new([to(module(0))], vec![ValType::I64; 40]),
            unusual(41),
            FuncType::new([to(module(2))], []),
        ]);
        assert_eq!(first.ids()[1], second.ids()[0]);
        assert_ne!(second.ids()[0], second.ids()[1], "only one refers to itself");
        assert_eq!(first.ids()[2], second.ids()[3]);
        // An application sees them alike.
        assert_eq!(first.types()[1], second.types()[0]);
        let host = Registration::new(FuncType::new([first.resolve(to(module(0)))], []));
        assert_eq!(host.ids()[0], first.ids()[2]);
    }

    #[test]
    fn a_name_never_comes_to_mean_another_type() {
        let first = Registration::new(unusual(50));
        let old = to(first.refs[0]);
        // What refers to it keeps it.
        let user = Registration::new(FuncType::new([old], vec![ValType::F32; 51]));
        let number = first.ids()[0];
        drop(first);
        assert_eq!(Registration::new(unusual(50)).ids()[0], number);
        drop(user);
        let others: Vec<_> = (60..80).map(|count| Registration::new(unusual(count))).collect();
        assert!(others.iter().all(|other| to(other.refs[0]) != old));
        let stale = Registration::new(FuncType::new([old], vec![ValType::F32; 51]));
        let again = Registration::new(unusual(50));
        let fresh = Registration::new(FuncType::new([to(again.refs[0])], vec![ValType::F32; 51]));
        assert_ne!(stale.ids()[0], fresh.ids()[0]);
    }
}
