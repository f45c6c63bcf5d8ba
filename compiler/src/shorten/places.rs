//! Places on the stack, in the order of how often they are used.
//!
//! An instruction refers to the 128 bytes above the stack pointer with one byte, and to what is farther away with four. The code
//! generator gives out places in another order. Here, they are exchanged, such that those are near that most instructions refer to, as long as all
//! of the function is known to take them for what the allocator of registers put there: each place has eight bytes, is stored to and loaded
//! from, never in part of something larger, and nobody computes its address or finds it in another way. So these stay
//! where they are: arguments of calls, which are stored only, and what is loaded only; registers of the caller, which
//! debuggers look for; and everything in a function that has handlers, whose frames the loader reads.

use iced_x86::{Decoder, DecoderOptions, EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::Aim;
use super::forms::{self, Form};
use super::listing::{Change, Spot};
use crate::codegen::Code;
use crate::unwind::Rule;

/// How many bytes a place has.
const PLACE: u32 = 8;

/// Frames up to this size are within reach of one byte.
const NEAR: u32 = 128;

/// An instruction that refers to the stack by the stack pointer.
#[derive(Clone, Copy, Debug)]
struct Use {
    /// Which spot it is. That has the form which the instruction has so far.
    spot: usize,
    /// How far above the stack pointer.
    offset: u32,
    /// Which of its bytes says how that is given.
    mode: usize,
}

/// What is known of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    loads: u32,
    stores: u32,
    /// Whether it has to stay where it is.
    is_fixed: bool,
}

/// What a function does with its frame.
#[derive(Debug, Default)]
pub(super) struct Places {
    uses: Vec<Use>,
    places: Vec<Place>,
    /// Whether there is anything that could find a place in another way.
    is_shared: bool,
}

impl Places {
    /// Whether an instruction refers to a place in a frame that is so large that this may change; then [`Places::add`] is to follow. `size` is
    /// how many bytes the frame has, if it is open.
    pub(super) fn note(&mut self, instruction: &Instruction, size: Option<i32>) -> bool {
        let is_place = || {
            instruction.memory_base() == Register::RSP
                && instruction.memory_index() == Register::None
                && instruction.mnemonic() != Mnemonic::Lea
        };
        match size {
            Some(size) if size <= NEAR.cast_signed() => false,
            Some(_) => {
                self.is_shared |= finds_places(instruction);
                is_place()
            }
            None => {
                self.is_shared |= is_place() || finds_places(instruction);
                false
            }
        }
    }

    /// Notes an instruction that cannot refer to another place than it does.
    pub(super) fn note_fixed(&mut self, instruction: &Instruction) {
        self.is_shared |= finds_places(instruction) || is_pointer(instruction.memory_base());
    }

    /// Adds an instruction that refers to a place, which is the spot of this number.
    pub(super) fn add(&mut self, instruction: &Instruction, spot: usize) {
        let distance = match instruction.memory_displ_size() {
            size @ 0..=1 => size as usize,
            _ => 4,
        };
        let mode = behind(instruction)
            .and_then(|behind| instruction.len().checked_sub(behind + distance + 2));
        let size = u32::try_from(instruction.memory_size().size()).unwrap_or(u32::MAX);
        let offset = u32::try_from(instruction.memory_displacement64()).ok();
        let end = offset.and_then(|offset| offset.checked_add(size.max(1)));
        // Frames are smaller, or the stack would overflow.
        let (Some(offset), Some(end), Some(mode)) =
            (offset, end.filter(|end| *end <= 1 << 20), mode)
        else {
            self.is_shared = true;
            return;
        };
        self.uses.push(Use { spot, offset, mode });
        let (first, last) = ((offset / PLACE) as usize, end.div_ceil(PLACE) as usize);
        if self.places.len() < last {
            self.places.resize(last, Place::default());
        }
        let is_whole = offset.is_multiple_of(PLACE)
            && size <= PLACE
            && matches!(instruction.encoding(), EncodingKind::Legacy | EncodingKind::VEX);
        let is_to_memory = instruction.op0_kind() == OpKind::Memory;
        let stores = matches!(
            instruction.mnemonic(),
            Mnemonic::Mov | Mnemonic::Movss | Mnemonic::Movsd | Mnemonic::Vmovss | Mnemonic::Vmovsd
        );
        for place in self.places.get_mut(first..last).unwrap_or_default() {
            match is_to_memory {
                true => place.stores += 1,
                false => place.loads += 1,
            }
            // Others that have memory as their first operand may read it, too.
            place.is_fixed |= !is_whole || is_to_memory && !stores;
        }
    }

    /// Gives all that refers to places its last form: by another place, or by the frame pointer, which `size` bytes lie below. Nothing
    /// changes if anything is not as expected.
    pub(super) fn arrange(
        mut self,
        code: &Code,
        size: Option<i32>,
        aim: Aim,
        spots: &mut [Spot],
    ) -> Option<()> {
        let size = u32::try_from(size?).ok()?;
        let by_frame_pointer = i32::try_from(size).ok().filter(|_| aim == Aim::Size);
        let order = self.order(code, size, by_frame_pointer.is_some());
        let mut forms = Vec::with_capacity(self.uses.len());
        for place in &self.uses {
            let Change::Form(mut form) = spots.get(place.spot)?.change else { return None };
            if let Some(order) = &order {
                let now = order.get((place.offset / PLACE) as usize)? + place.offset % PLACE;
                if now != place.offset {
                    form = place.at(&form, now)?;
                }
            }
            forms.push((place.spot, nearer(&form, by_frame_pointer).unwrap_or(form)));
        }
        for (spot, form) in forms {
            spots.get_mut(spot)?.change = Change::Form(form);
        }
        Some(())
    }

    /// Where each place is to be, in bytes above the stack pointer; `None` if they stay.
    fn order(&mut self, code: &Code, size: u32, by_frame_pointer: bool) -> Option<Vec<u32>> {
        let rules = &code.unwind.as_ref()?.rules;
        if self.is_shared
            || !code.handlers.is_empty()
            || self.places.len() > (size / PLACE) as usize
        {
            return None;
        }
        for (_, rule) in rules {
            if let Rule::Saved(_, offset) = rule {
                // From the frame's address, which is above the return address and the caller's frame pointer.
                let place = i64::from(size) + 16 + i64::from(*offset);
                let place = usize::try_from(place.div_euclid(PLACE.into())).ok()?;
                if let Some(place) = self.places.get_mut(place) {
                    place.is_fixed = true;
                }
            }
        }
        // How many bytes it takes to refer to a place.
        let cost = |place: u32| match place {
            _ if by_frame_pointer && place + NEAR >= size => 1,
            0 => 1,
            1..NEAR => 2,
            _ => 5,
        };
        let offset = |index: usize| u32::try_from(index).unwrap_or(u32::MAX).saturating_mul(PLACE);
        let moves = |place: &Place| !place.is_fixed && place.loads > 0 && place.stores > 0;
        let uses = |index: usize| self.places.get(index).map_or(0, |it| it.loads + it.stores);
        let mut movable: Vec<usize> =
            (0..).zip(&self.places).filter(|(_, place)| moves(place)).map(|(it, _)| it).collect();
        let mut there = movable.clone();
        movable.sort_by_key(|index| (std::cmp::Reverse(uses(*index)), *index));
        there.sort_by_key(|index| (cost(offset(*index)), *index));
        let mut order: Vec<u32> = (0..self.places.len()).map(offset).collect();
        let mut saved = 0_i64;
        for (from, to) in movable.into_iter().zip(there) {
            let less = i64::from(cost(offset(from))) - i64::from(cost(offset(to)));
            saved += less * i64::from(uses(from));
            *order.get_mut(from)? = offset(to);
        }
        (saved > 0).then_some(order)
    }
}

/// Whether a register is the stack pointer or the frame pointer, or a part of one.
fn is_pointer(register: Register) -> bool {
    use Register::{BP, BPL, EBP, ESP, RBP, RSP, SP, SPL};
    matches!(register, RSP | RBP | ESP | EBP | SP | BP | SPL | BPL)
}

/// Whether an instruction does anything by which a place could be found other than by the stack pointer: it refers to the frame in another way, or
/// copies a pointer. What changes a pointer is not looked at, since then nothing is known of the frame, or it is opened or closed.
fn finds_places(instruction: &Instruction) -> bool {
    let (base, index) = (instruction.memory_base(), instruction.memory_index());
    if is_pointer(base) || is_pointer(index) {
        let is_above =
            base == Register::RSP || instruction.memory_displacement64().cast_signed() >= 0;
        if index != Register::None || !is_above || instruction.mnemonic() == Mnemonic::Lea {
            return true;
        }
    }
    // None, if an operand is no register.
    let others =
        [instruction.op1_register(), instruction.op2_register(), instruction.op3_register()];
    others.into_iter().any(is_pointer)
        && !is_pointer(instruction.op0_register())
        && instruction.mnemonic() != Mnemonic::Cmp
}

/// The form of an instruction by the frame pointer, if that is `size` bytes above the stack pointer, and nearer.
fn nearer(form: &Form, size: Option<i32>) -> Option<Form> {
    let size = Some(size?);
    let mut decoder = Decoder::new(64, form.bytes(), DecoderOptions::NONE);
    let instruction = decoder.decode();
    forms::smaller(&instruction, form.bytes(), size, |instruction| {
        decoder.get_constant_offsets(instruction)
    })
}

/// How many bytes of an instruction are behind the distance from the stack pointer.
fn behind(instruction: &Instruction) -> Option<usize> {
    let last = instruction.op_count().checked_sub(1)?;
    Some(match instruction.op_kind(last) {
        OpKind::Register | OpKind::Memory => 0,
        OpKind::Immediate8
        | OpKind::Immediate8to16
        | OpKind::Immediate8to32
        | OpKind::Immediate8to64 => 1,
        OpKind::Immediate16 => 2,
        OpKind::Immediate32 | OpKind::Immediate32to64 => 4,
        _ => return None,
    })
}

impl Use {
    /// The form of the instruction that refers to another place above the stack pointer.
    fn at(&self, form: &Form, place: u32) -> Option<Form> {
        let (front, rest) = form.bytes().split_at_checked(self.mode)?;
        // A byte that has the register, one that says that the stack pointer is all of the address, and the distance.
        let ([mode, 0x24], rest) = rest.split_first_chunk()? else { return None };
        let distance = match mode & 0b1100_0111 {
            0b0000_0100 => 0,
            0b0100_0100 => 1,
            0b1000_0100 => 4,
            _ => return None,
        };
        let rest = rest.get(distance..)?;
        let mode = mode & 0b0011_1111;
        let distance = place.to_le_bytes();
        match place {
            0 => Form::new(&[front, &[mode, 0x24], rest]),
            1..NEAR => Form::new(&[front, &[mode | 0b0100_0000, 0x24], &distance[..1], rest]),
            _ => Form::new(&[front, &[mode | 0b1000_0000, 0x24], &distance, rest]),
        }
    }
}
