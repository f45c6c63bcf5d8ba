//! Identities of declared types: one number per type in the whole process, so
//! that compiled code compares types by comparing numbers.
//!
//! An artifact and a host function hold a [`Registration`] of each type they
//! use for as long as they live. Loading and dropping them takes the lock of the
//! registry; calls never do.
//!
//! Types are registered by recursion group (specification, 3.1.3). The key of a group has its types with the numbers of the types that they refer to outside of
//! it, and with positions for those inside, so that equal groups of different modules have equal keys. Each type of a group has a number
//! of its own. The types of a group live and die together, and a group holds a use of each group that it refers to. A number that is used
//! again gets another generation: a [`TypeRef`] that an application kept names
//! its type or none, and never another one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use cwasm_artifact::abi::object::{FIRST, StructLayout, type_info};
use cwasm_artifact::reference::end_of_group;
use cwasm_artifact::types::{
    CompositeType, FieldType, FuncType, HeapType, StorageType, SubType, TypeRef, ValType,
};

use crate::vm::heap::{Shape, Traced};

/// What is known of a registered type.
#[derive(Debug)]
pub(crate) struct TypeInfo {
    name: TypeRef,
    /// As applications see it: with the names of other types.
    ty: SubType,
    /// The types that it is below, the highest first.
    above: Box<[TypeRef]>,
    /// What compiled code reads, once it may: see [`type_info`].
    for_code: OnceLock<Box<[u32; type_info::POSITIONS as usize]>>,
    /// What objects of the type look like, if it has any.
    shape: Option<Shape>,
    /// Where the fields of a structure are.
    offsets: Vec<u32>,
}

impl TypeInfo {
    fn new(name: TypeRef, ty: SubType, above: Box<[TypeRef]>) -> Self {
        let (shape, offsets) = match &ty.composite {
            CompositeType::Func(_) => (None, Vec::new()),
            CompositeType::Struct(ty) => {
                let StructLayout { offsets, size } = StructLayout::new(&ty.fields);
                let all = |wanted| -> Box<[u32]> {
                    let fields = ty.fields.iter().zip(&offsets);
                    let fields = fields.filter(|(field, _)| traced(**field) == wanted);
                    fields.map(|(_, offset)| *offset).collect()
                };
                let (objects, exceptions) = (all(Traced::Object), all(Traced::Exception));
                (Some(Shape::Struct { size, objects, exceptions }), offsets)
            }
            CompositeType::Array(element) => {
                let element_size = element.storage.size();
                (Some(Shape::Array { element_size, elements: traced(*element) }), Vec::new())
            }
        };
        Self { name, ty, above, for_code: OnceLock::new(), shape, offsets }
    }

    /// The name of the type.
    pub(crate) fn name(&self) -> TypeRef {
        self.name
    }

    /// The number of the type.
    pub(crate) fn id(&self) -> u32 {
        self.name.number()
    }

    /// What references to values of the type point to.
    pub(crate) fn heap_type(&self) -> HeapType {
        self.ty.heap_type(self.name)
    }

    /// The type.
    pub(crate) fn ty(&self) -> &SubType {
        &self.ty
    }

    /// The function type, if it is one.
    pub(crate) fn func(&self) -> Option<&FuncType> {
        self.ty.func()
    }

    /// The fields of a structure, or the one that all elements of an array are.
    pub(crate) fn fields(&self) -> &[FieldType] {
        match &self.ty.composite {
            CompositeType::Func(_) => &[],
            CompositeType::Struct(ty) => &ty.fields,
            CompositeType::Array(element) => std::slice::from_ref(element),
        }
    }

    /// A field of a structure or an element of an array, and where it is from the beginning of the object. Arrays have any.
    pub(crate) fn field(&self, index: u32) -> Option<(FieldType, usize)> {
        match &self.ty.composite {
            CompositeType::Func(_) => None,
            CompositeType::Struct(ty) => {
                let offset = *self.offsets.get(index as usize)? as usize;
                Some((*ty.fields.get(index as usize)?, offset))
            }
            CompositeType::Array(element) => {
                let offset = FIRST as usize + index as usize * element.storage.size() as usize;
                Some((*element, offset))
            }
        }
    }

    /// What objects of the type look like.
    pub(crate) fn shape(&self) -> Option<&Shape> {
        self.shape.as_ref()
    }

    /// Whether the type is another or declared below it.
    pub(crate) fn is_below(&self, wanted: TypeRef) -> bool {
        self.name == wanted || self.above.contains(&wanted)
    }

    /// Where compiled code finds what it knows of the type. It stays there as long as this.
    pub(crate) fn for_code(&self) -> *const u32 {
        const { assert!(type_info::ABOVE == 0) };
        let words = self.for_code.get_or_init(|| {
            let mut words = [type_info::NO_TYPE; type_info::POSITIONS as usize];
            // Validation allows no more.
            for (word, ty) in words.iter_mut().zip(self.above.iter().chain([&self.name])) {
                *word = ty.number();
            }
            Box::new(words)
        });
        words.as_ptr()
    }

    /// Whether compiled code may ask for what the type is below, or make objects of it.
    fn is_of_interest(&self) -> bool {
        self.func().is_none() || !self.ty.is_final || !self.above.is_empty()
    }
}

/// What a collection does about a field.
fn traced(field: FieldType) -> Traced {
    match field.storage {
        StorageType::Val(ty) if ty.is_collected() => Traced::Object,
        StorageType::Val(ValType::Ref(ty)) if ty.heap.top() == HeapType::Exn => Traced::Exception,
        _ => Traced::Nothing,
    }
}

#[derive(Debug, Default)]
struct Registry {
    by_key: HashMap<Arc<[SubType]>, u32>,
    groups: Vec<Group>,
    free_groups: Vec<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
}

/// A recursion group.
#[derive(Debug, Default)]
struct Group {
    /// Zero if there is none at its place.
    uses: usize,
    key: Arc<[SubType]>,
    /// The numbers of its types.
    numbers: Box<[u32]>,
    /// The groups that it refers to, each as often as it holds a use of it.
    held: Box<[u32]>,
}

/// What is known of a number.
#[derive(Debug)]
struct Slot {
    /// From 1; zero is for indices of modules.
    generation: u32,
    group: u32,
    /// `None` if the number is free.
    info: Option<Arc<TypeInfo>>,
}

static REGISTRY: Mutex<Option<Registry>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Registry>> {
    // Every change to the registry is complete before anything can panic.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An index of something that there are not billions of: it does not fit into memory.
fn index(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

impl Registry {
    /// Adds a use of the group with this key. Its place.
    fn add(&mut self, key: Cow<'_, [SubType]>) -> u32 {
        if let Some(group) = self.by_key.get(&*key) {
            self.groups[*group as usize].uses += 1;
            return *group;
        }
        let key: Arc<[SubType]> = key.into_owned().into();
        // What an application made up, or kept too long, names no type.
        let referred = key.iter().flat_map(SubType::referred);
        let held: Box<[u32]> = referred.filter_map(|target| Some(self.find(target)?.0)).collect();
        for group in &held {
            self.groups[*group as usize].uses += 1;
        }
        let group = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(Group::default());
            index(self.groups.len() - 1)
        });
        let names: Vec<_> = key.iter().map(|_| self.name(group)).collect();
        for (ty, name) in key.iter().zip(&names) {
            let ty = ty.renumber(|target| {
                let position = target.position_in_group().map(|position| position as usize);
                position.and_then(|position| names.get(position)).copied().unwrap_or(target)
            });
            // Validation puts supertypes before their subtypes.
            let above = ty.supertype.and_then(|supertype| self.find(supertype));
            let above = above.map_or_else(Box::default, |(_, supertype)| {
                supertype.above.iter().chain([&supertype.name]).copied().collect()
            });
            let info = TypeInfo::new(*name, ty, above);
            self.slots[name.number() as usize].info = Some(Arc::new(info));
        }
        let numbers = names.iter().map(|name| name.number()).collect();
        self.by_key.insert(Arc::clone(&key), group);
        self.groups[group as usize] = Group { uses: 1, key, numbers, held };
        group
    }

    /// A number for a type of a group.
    fn name(&mut self, group: u32) -> TypeRef {
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 1, group, info: None });
            index(self.slots.len() - 1)
        });
        let slot = &mut self.slots[number as usize];
        slot.group = group;
        TypeRef::new(number, slot.generation)
    }

    /// The group and the type with this name, if there is one.
    fn find(&self, name: TypeRef) -> Option<(u32, &Arc<TypeInfo>)> {
        let slot = self.slots.get(name.number() as usize)?;
        Some((slot.group, slot.info.as_ref().filter(|info| info.name == name)?))
    }

    /// The types of a group.
    fn types_of(&self, group: u32) -> impl Iterator<Item = &Arc<TypeInfo>> {
        let numbers = self.groups[group as usize].numbers.iter();
        numbers.filter_map(|number| self.slots[*number as usize].info.as_ref())
    }

    /// Gives up a use of a group, and of what it refers to if that was the last.
    fn remove(&mut self, group: u32) {
        let mut removed = vec![group];
        while let Some(place) = removed.pop() {
            let group = &mut self.groups[place as usize];
            group.uses -= 1;
            if group.uses > 0 {
                continue;
            }
            let Group { key, numbers, held, .. } = std::mem::take(group);
            self.free_groups.push(place);
            self.by_key.remove(&key);
            for number in numbers {
                let slot = &mut self.slots[number as usize];
                slot.info = None;
                slot.generation += 1;
                // A number is used up when its generations are. The last stands for positions in groups.
                if slot.generation < u32::MAX - 1 {
                    self.free.push(number);
                }
            }
            removed.extend(held);
        }
    }
}

/// Whether a type is another or declared below it, as far as both are registered. Takes the lock.
pub(crate) fn is_subtype(found: TypeRef, wanted: TypeRef) -> bool {
    let guard = lock();
    let registry = guard.as_ref();
    registry.and_then(|registry| registry.find(found)).is_some_and(|(_, ty)| ty.is_below(wanted))
}

/// Types with their numbers, for as long as this lives.
#[derive(Debug)]
pub struct Registration {
    types: Vec<Arc<TypeInfo>>,
    ids: Vec<u32>,
    groups: Vec<u32>,
    has_objects: bool,
    is_of_interest: bool,
}

impl Registration {
    /// Registers a function type that refers to registered types. It is final, and alone in its group.
    pub(crate) fn new(ty: FuncType) -> Self {
        Self::of_module(&[ty.into()], &[0])
    }

    /// Registers the types of a module, which refer to each other by index: each to those
    /// before it, and to those of its group. `group_of` says of each which is the first of its group.
    ///
    /// What is named in another way than by an index of the module is registered already.
    pub(crate) fn of_module(types: &[SubType], group_of: &[u32]) -> Self {
        let mut guard = lock();
        let registry = guard.get_or_insert_default();
        let mut all: Vec<Arc<TypeInfo>> = Vec::with_capacity(types.len());
        let mut groups = Vec::with_capacity(types.len());
        while let Some(rest) = types.get(all.len()..).filter(|rest| !rest.is_empty()) {
            let start = all.len();
            let group = &rest[..(end_of_group(group_of, start) - start).min(rest.len())];
            let key = if group.iter().any(|ty| ty.referred().next().is_some()) {
                let number = |target: TypeRef| {
                    let position = target.number() as usize;
                    match (target.generation(), all.get(position)) {
                        (0, Some(ty)) => ty.name,
                        // Of this group. Validation refuses others.
                        (0, None) => TypeRef::within_group(index(position.wrapping_sub(start))),
                        _ => target,
                    }
                };
                Cow::Owned(group.iter().map(|ty| ty.renumber(number)).collect())
            } else {
                Cow::Borrowed(group)
            };
            let group = registry.add(key);
            groups.push(group);
            all.extend(registry.types_of(group).cloned());
        }
        Self {
            ids: all.iter().map(|ty| ty.id()).collect(),
            has_objects: all.iter().any(|ty| ty.func().is_none()),
            is_of_interest: all.iter().any(|ty| ty.is_of_interest()),
            types: all,
            groups,
        }
    }

    /// The numbers, in the order of the types.
    pub(crate) fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The types, as far as they are known.
    pub(crate) fn types(&self) -> &[Arc<TypeInfo>] {
        &self.types
    }

    /// The first type: of a host function, the only one.
    pub(crate) fn func_type(&self) -> &FuncType {
        static NONE: FuncType = FuncType { params: Vec::new(), results: Vec::new() };
        self.types.first().and_then(|ty| ty.func()).unwrap_or(&NONE)
    }

    /// The type with this number, if it is one of these.
    pub(crate) fn find(&self, id: u32) -> Option<&TypeInfo> {
        let position = self.ids.iter().position(|known| *known == id)?;
        self.types.get(position).map(|ty| &**ty)
    }

    /// Whether there are types of structures or arrays.
    pub(crate) fn has_objects(&self) -> bool {
        self.has_objects
    }

    /// Whether compiled code that uses these types may ask for what a type is below, or make objects.
    pub(crate) fn is_of_interest(&self) -> bool {
        self.is_of_interest
    }

    /// A value type of the module as the process knows it.
    pub(crate) fn resolve(&self, ty: ValType) -> ValType {
        ty.renumber(|target| self.types.get(target.number() as usize).map_or(target, |ty| ty.name))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut guard = lock();
        let registry = guard.get_or_insert_default();
        for group in &self.groups {
            registry.remove(*group);
        }
    }
}

#[cfg(test)]
mod tests {
    use cwasm_artifact::types::{RefType, StructType};

    use super::*;

    fn to(ty: TypeRef) -> ValType {
        ValType::Ref(RefType { nullable: false, heap: HeapType::Concrete(ty) })
    }

    fn unusual(count: usize) -> FuncType {
        FuncType::new(vec![ValType::F32; 17], vec![ValType::I64; count])
    }

    /// Types that are each alone in their group.
    fn alone(types: &[FuncType]) -> Registration {
        let types: Vec<_> = types.iter().cloned().map(SubType::from).collect();
        let groups: Vec<_> = (0..).take(types.len()).collect();
        Registration::of_module(&types, &groups)
    }

    #[test]
    fn equal_types_have_equal_numbers_as_long_as_they_are_used() {
        let ty = unusual(3);
        let first = alone(&[ty.clone(), FuncType::default()]);
        let second = alone(&[FuncType::default(), ty.clone(), ty.clone()]);
        assert_eq!(first.ids()[0], second.ids()[1]);
        assert_eq!(second.ids()[1], second.ids()[2]);
        assert_ne!(first.ids()[0], first.ids()[1]);
        drop(second);
        let third = Registration::new(ty.clone());
        assert_eq!(first.ids()[0], third.ids()[0]);
        assert_eq!(third.find(third.ids()[0]).unwrap().func(), Some(&ty));
    }

    #[test]
    fn types_that_refer_to_others_are_equal_across_modules() {
        let module = TypeRef::of_module;
        let recursive = |index| FuncType::new([to(module(index))], vec![ValType::I64; 40]);
        let first = alone(&[unusual(41), recursive(1), FuncType::new([to(module(0))], [])]);
        let second = alone(&[
            recursive(0),
            FuncType::new([to(module(0))], vec![ValType::I64; 40]),
            unusual(41),
            FuncType::new([to(module(2))], []),
        ]);
        assert_eq!(first.ids()[1], second.ids()[0]);
        assert_ne!(second.ids()[0], second.ids()[1], "only one refers to itself");
        assert_eq!(first.ids()[2], second.ids()[3]);
        // An application sees them alike.
        assert_eq!(first.types()[1].ty(), second.types()[0].ty());
        let host = Registration::new(FuncType::new([first.resolve(to(module(0)))], []));
        assert_eq!(host.ids()[0], first.ids()[2]);
    }

    #[test]
    fn a_name_never_comes_to_mean_another_type() {
        let first = Registration::new(unusual(50));
        let name = |registration: &Registration| to(registration.types()[0].name());
        let old = name(&first);
        // What refers to it keeps it.
        let user = Registration::new(FuncType::new([old], vec![ValType::F32; 51]));
        let number = first.ids()[0];
        drop(first);
        assert_eq!(Registration::new(unusual(50)).ids()[0], number);
        drop(user);
        let others: Vec<_> = (60..80).map(|count| Registration::new(unusual(count))).collect();
        assert!(others.iter().all(|other| name(other) != old));
        let stale = Registration::new(FuncType::new([old], vec![ValType::F32; 51]));
        let again = Registration::new(unusual(50));
        let fresh = Registration::new(FuncType::new([name(&again)], vec![ValType::F32; 51]));
        assert_ne!(stale.ids()[0], fresh.ids()[0]);
    }

    #[test]
    fn a_name_that_was_made_up_takes_no_use_of_the_type_that_gets_it_later() {
        let first = Registration::new(unusual(90));
        let name = first.types()[0].name();
        drop(first);
        // Whatever gets the number next is called so.
        let next = to(TypeRef::new(name.number(), name.generation() + 1));
        let made_up = Registration::new(FuncType::new([next], vec![ValType::F32; 91]));
        let mut others: Vec<_> = (100..200).map(|n| Registration::new(unusual(n))).collect();
        let hit = others.iter().position(|other| to(other.types()[0].name()) == next);
        drop(made_up);
        if let Some(hit) = hit {
            let kept = others.swap_remove(hit);
            let again = Registration::new(kept.func_type().clone());
            assert_eq!(again.ids(), kept.ids());
        }
    }

    /// A structure with fields of these types, below another type.
    fn structure(fields: &[ValType], supertype: Option<u32>) -> SubType {
        let fields = fields.iter().map(|ty| FieldType { storage: (*ty).into(), mutable: true });
        SubType {
            composite: CompositeType::Struct(StructType { fields: fields.collect() }),
            is_final: false,
            supertype: supertype.map(TypeRef::of_module),
        }
    }

    fn to_struct(index: u32) -> ValType {
        let heap = HeapType::ConcreteStruct(TypeRef::of_module(index));
        ValType::Ref(RefType { nullable: true, heap })
    }

    #[test]
    fn groups_are_equal_as_a_whole_and_have_a_number_for_each_type() {
        let list = |first: u32| structure(&[to_struct(first + 1), ValType::F64], None);
        let node = |first: u32| structure(&[to_struct(first)], None);
        let one = Registration::of_module(&[list(0), node(0)], &[0, 0]);
        assert_ne!(one.ids()[0], one.ids()[1]);
        assert!(one.has_objects() && one.is_of_interest());
        let two = Registration::of_module(
            &[unusual(201).into(), list(1), node(1), list(3), node(3), node(5), node(1)],
            &[0, 1, 1, 3, 3, 5, 6],
        );
        assert_eq!(one.ids(), &two.ids()[1..3]);
        assert_eq!(one.ids(), &two.ids()[3..5]);
        // Of another group, even if it refers to the same.
        assert_ne!(two.ids()[5], one.ids()[1]);
        assert_ne!(two.ids()[6], one.ids()[1]);
        // References inside of a group are to its own types.
        assert_eq!(one.types()[1].fields()[0].storage.value(), one.resolve(to_struct(0)));
        let names: Vec<_> = one.types().iter().map(|ty| ty.name()).collect();
        let old = one.ids().to_vec();
        drop(one);
        // The other module still has them.
        let three = Registration::of_module(&[list(0), node(0)], &[0, 0]);
        assert_eq!(three.ids(), old);
        drop((two, three));
        let four = Registration::of_module(&[list(0), node(0)], &[0, 0]);
        assert!(four.types().iter().all(|ty| !names.contains(&ty.name())));
    }

    #[test]
    fn a_group_keeps_what_it_refers_to() {
        let base = structure(&[ValType::V128], None);
        let both = Registration::of_module(
            &[base.clone(), structure(&[ValType::V128, to_struct(0)], Some(0))],
            &[0, 1],
        );
        let (base_id, own) = (both.ids()[0], both.types()[1].name());
        let base_name = both.types()[0].name();
        let user = Registration::new(FuncType::new(
            [ValType::Ref(RefType { nullable: true, heap: HeapType::ConcreteStruct(own) })],
            [],
        ));
        drop(both);
        assert!(is_subtype(own, base_name));
        assert_eq!(Registration::of_module(&[base], &[0]).ids(), [base_id]);
        drop(user);
        assert!(!is_subtype(own, base_name) && !is_subtype(own, own));
    }

    #[test]
    fn types_know_what_they_are_below() {
        let depth = 11;
        let types: Vec<_> = (0..=depth)
            .map(|index: u32| structure(&vec![ValType::F32; index as usize], index.checked_sub(1)))
            .collect();
        // The first half in one group, the others alone.
        let groups: Vec<_> = (0..=depth).map(|index| if index < 6 { 0 } else { index }).collect();
        let all = Registration::of_module(&types, &groups);
        for (index, ty) in all.types().iter().enumerate() {
            let words = ty.for_code();
            // SAFETY: so many words there are, as long as the type is registered.
            let words = unsafe { std::slice::from_raw_parts(words, type_info::POSITIONS as usize) };
            assert_eq!(words[..=index], all.ids()[..=index]);
            assert!(words[index + 1..].iter().all(|word| *word == type_info::NO_TYPE));
            for (wanted, other) in all.types().iter().enumerate() {
                assert_eq!(ty.is_below(other.name()), wanted <= index);
                assert_eq!(is_subtype(ty.name(), other.name()), wanted <= index);
            }
        }
        let flat = Registration::new(unusual(300));
        assert!(!flat.is_of_interest() && !flat.has_objects());
        let open = SubType { is_final: false, ..unusual(300).into() };
        let open = Registration::of_module(&[open], &[0]);
        assert!(open.is_of_interest() && !open.has_objects());
        assert_ne!(open.ids(), flat.ids());
    }

    #[test]
    fn objects_are_traced_where_they_have_references() {
        let func = ValType::FuncRef;
        let fields = [
            ValType::I32,
            ValType::AnyRef,
            func,
            ValType::ExnRef,
            ValType::ExternRef,
            to_struct(0),
        ];
        let ty = Registration::of_module(&[structure(&fields, None)], &[0]);
        let Some(Shape::Struct { size, objects, exceptions }) = ty.types()[0].shape() else {
            panic!("no structure")
        };
        assert_eq!((*size, &**objects, &**exceptions), (56, &[16, 40, 48][..], &[32][..]));
        let array = |storage| {
            let element = FieldType { storage, mutable: true };
            let ty =
                Registration::of_module(&[SubType::alone(CompositeType::Array(element))], &[0]);
            match ty.types()[0].shape() {
                Some(Shape::Array { element_size, elements }) => (*element_size, *elements),
                _ => panic!("no array"),
            }
        };
        assert_eq!(array(StorageType::I16), (2, Traced::Nothing));
        assert_eq!(array(ValType::V128.into()), (16, Traced::Nothing));
        assert_eq!(array(func.into()), (8, Traced::Nothing));
        assert_eq!(array(ValType::ExnRef.into()), (8, Traced::Exception));
        assert_eq!(array(ValType::ExternRef.into()), (8, Traced::Object));
    }
}
