//! What functions become, put together from bytes, and what the second opinion says of that, and of mistakes.

use super::*;
use crate::codegen::{Handler, Relocation, Site};
use crate::layout::Phases;
use crate::module::FuncIndex;
use crate::reference::Reference;
use crate::translate::FuncRefUse;
use crate::unwind::{Rule, Unwind};
use cranelift_codegen::binemit::Reloc;
use cwasm_artifact::abi::traps::Trap;
use proptest::prelude::*;

const RET: u8 = 0xc3;
const NOP: u8 = 0x90;
const NOPS: &[u8] = &[NOP];
const UD2: [u8; 2] = [0x0f, 0x0b];

fn code(parts: &[&[u8]]) -> Code {
    Code {
        bytes: parts.concat(),
        alignment: 1,
        phases: Phases::HALVES,
        relocations: Vec::new(),
        sites: Vec::new(),
        features: CpuFeatures::NONE,
        handlers: Vec::new(),
        unwind: None,
        func_refs: FuncRefUse::default(),
    }
}

fn jmp(distance: i32) -> Vec<u8> {
    [&[0xe9][..], &distance.to_le_bytes()].concat()
}

fn je(distance: i32) -> Vec<u8> {
    [&[0x0f, 0x84][..], &distance.to_le_bytes()].concat()
}

fn signed(number: usize) -> i32 {
    i32::try_from(number).unwrap()
}

/// What may be wrong about a function, and about where its blocks begin.
type Mistake<'a> = (&'a str, &'a dyn Fn(&mut Code, &mut [u32]));

fn nops(count: usize) -> Vec<u8> {
    vec![NOP; count]
}

fn site(text: u32, trap: Option<Trap>) -> Site {
    Site { text, wasm: text + 1000, trap, inlined: None }
}

fn call(offset: u32) -> Relocation {
    Relocation {
        offset,
        kind: Reloc::X86CallPCRel4,
        target: Reference::Function(FuncIndex::from_u32(3)),
        addend: -4,
    }
}

/// What becomes of a function, and of where its blocks begin. The other opinion must be the same.
fn shortened(before: &Code, blocks: &[u32]) -> Option<(Code, Vec<u32>)> {
    let (mut after, mut moved) = (before.clone(), blocks.to_vec());
    let mut edges: Vec<_> = blocks.iter().map(|block| (*block, 0)).collect();
    if shorten(&mut after, &mut moved, &mut edges, Aim::Size).is_none() {
        assert_eq!((&after.bytes, &moved[..]), (&before.bytes, blocks));
        return None;
    }
    assert!(edges.iter().map(|(from, _)| *from).eq(moved.iter().copied()));
    let function = |code, blocks| check::Function { code, blocks };
    check::same(function(before, &blocks[..moved.len()]), function(&after, &moved)).unwrap();
    Some((after, moved))
}

fn bytes(before: &Code, blocks: &[u32]) -> Vec<u8> {
    shortened(before, blocks).expect("it is understood").0.bytes
}

#[test]
fn branches_are_short_from_minus_128_to_127() {
    let forward = |count: usize| bytes(&code(&[&je(signed(count)), &nops(count), &[RET]]), &[0]);
    assert_eq!(forward(127), [&[0x74, 127][..], &nops(127), &[RET]].concat());
    assert_eq!(forward(128), [&je(128), &nops(128)[..], &[RET]].concat());
    let backward = |count: usize| bytes(&code(&[&nops(count), &jmp(-5 - signed(count))]), &[0]);
    assert_eq!(backward(126), [&nops(126)[..], &[0xeb, 0x80]].concat());
    assert_eq!(backward(127), [&nops(127), &jmp(-132)[..]].concat());
}

#[test]
fn a_branch_gets_short_after_another_did() {
    // The first goes over 129 bytes, which are 125 once the second is short, and that ends there as well.
    let before = code(&[&je(129), &je(123), &nops(123), &[RET]]);
    assert_eq!(bytes(&before, &[0]), [&[0x74, 125, 0x74, 123][..], &nops(123), &[RET]].concat());
    // 132 bytes are not enough less.
    let before = code(&[&je(132), &je(126), &nops(126), &[RET]]);
    let expected = [&je(128), &[0x74, 126][..], &nops(126), &[RET]].concat();
    assert_eq!(bytes(&before, &[0]), expected);
}

#[test]
fn long_chains_end() {
    // Each gets short after the one behind it did.
    let link = [je(129), nops(123)].concat();
    let count = 1000;
    let before = code(&[&link.repeat(count), &je(0), &[RET]]);
    let after = bytes(&before, &[0]);
    assert!(after.len() < before.bytes.len() && after.len() > before.bytes.len() - 4 * count);
}

/// `lea r11, [rip + distance]`, a load, an addition and the branch, up to the table.
fn table_branch(distance: i32) -> Vec<u8> {
    let rest: &[u8] = &[0x4b, 0x63, 0x04, 0x93, 0x49, 0x01, 0xc3, 0x41, 0xff, 0xe3];
    [&[0x4c, 0x8d, 0x1d][..], &distance.to_le_bytes(), rest].concat()
}

fn entries(distances: &[i32]) -> Vec<u8> {
    distances.iter().flat_map(|distance| distance.to_le_bytes()).collect()
}

#[test]
fn tables_lead_where_they_led() {
    // The branch at 0 goes to 6 + 17 + 12; the first entry to the last block, the second to that before, the third back.
    let before = code(&[&je(29), &table_branch(10), &entries(&[18, 12, -17]), &je(0), &[NOP, RET]]);
    let (after, blocks) = shortened(&before, &[0, 6, 35, 41]).unwrap();
    let expected =
        [&[0x74, 29][..], &table_branch(10), &entries(&[14, 12, -17]), &[0x74, 0, NOP, RET]];
    assert_eq!(after.bytes, expected.concat());
    assert_eq!(blocks, [0, 2, 31, 33]);
}

/// `movups xmm0, [rip + distance]`
fn load_constant(distance: i32) -> Vec<u8> {
    [&[0x0f, 0x10, 0x05][..], &distance.to_le_bytes()].concat()
}

#[test]
fn constants_stay_aligned() {
    let constant: Vec<u8> = (1..=16).collect();
    for (count, length) in [(0, 16), (4, 16), (12, 32), (17, 32)] {
        // The code has 14 bytes more than these, and 10 when it is short.
        let start = (14 + count as usize).next_multiple_of(16);
        let padding = vec![0; start - 14 - count as usize];
        let distance = i32::try_from(start).unwrap() - 7;
        let mut before = code(&[
            &load_constant(distance),
            &je(count),
            &nops(count as usize),
            &[RET],
            &padding,
            &constant,
            &constant,
        ]);
        before.alignment = 16;
        let (after, _) = shortened(&before, &[0]).unwrap();
        assert_eq!(after.bytes[length..], [&constant[..], &constant].concat());
        assert_eq!(after.bytes[3..7], (i32::try_from(length).unwrap() - 7).to_le_bytes());
    }
}

#[test]
fn constants_may_follow_a_table() {
    let constant: Vec<u8> = (1..=16).collect();
    let mut before = code(&[
        &load_constant(25 + 16),
        &je(0),
        &table_branch(10),
        &entries(&[-17, -30]),
        &[0; 10],
        &constant,
    ]);
    before.alignment = 16;
    let (after, _) = shortened(&before, &[0, 13]).unwrap();
    let expected = [
        &load_constant(25 + 16),
        &[0x74, 0][..],
        &table_branch(10),
        &entries(&[-17, -26]),
        &[0; 14],
        &constant,
    ];
    assert_eq!(after.bytes, expected.concat());
}

#[test]
fn a_last_block_without_code_is_left_out() {
    let constant: Vec<u8> = (1..=16).collect();
    // At the end, or where an end was before something else became shorter.
    for last in [8, 9, 100] {
        let before = code(&[&je(1), &[NOP, RET]]);
        let (after, blocks) = shortened(&before, &[0, 6, last]).unwrap();
        assert_eq!((after.bytes, blocks), (vec![0x74, 1, NOP, RET], vec![0, 2]), "{last}");
    }
    // In front of constants, at the first, and among them.
    for last in [14, 16, 20] {
        let mut before = code(&[&load_constant(9), &je(0), &[RET], &[0; 2], &constant]);
        before.alignment = 16;
        let (after, blocks) = shortened(&before, &[0, last]).unwrap();
        assert_eq!(after.bytes[16..], constant, "{last}");
        assert_eq!((&after.bytes[7..10], blocks), (&[0x74, 0, RET][..], vec![0]), "{last}");
    }
    // Behind a table, and at the constants behind it.
    let table = [&load_constant(25 + 16), &je(0)[..], &table_branch(10), &entries(&[-17, -30])];
    for last in [38, 48] {
        let mut before = code(&[&table.concat(), &[0; 10], &constant]);
        before.alignment = 16;
        let found = shortened(&before, &[0, 13, last]);
        let (after, blocks) = found.unwrap();
        assert_eq!((&after.bytes[48..], blocks), (&constant[..], vec![0, 9]), "{last}");
    }
    // One that control gets to is code, by a branch, by a table, or alone.
    let branch = code(&[&je(1), &[RET], &[NOP, RET]]);
    let (after, blocks) = shortened(&branch, &[0, 6, 7]).unwrap();
    assert_eq!((after.bytes, blocks), (vec![0x74, 1, RET, NOP, RET], vec![0, 2, 3]));
    let alone = code(&[&je(0), &[RET], &[NOP, RET]]);
    assert_eq!(shortened(&alone, &[0, 7]).unwrap().1, [0, 3]);
    let mut before = code(&[&load_constant(9), &je(0), &[RET], &[NOP, RET], &constant]);
    before.alignment = 16;
    assert_eq!(shortened(&before, &[0, 14]).unwrap().1, [0, 10]);
    // And so is one that begins with zeros: `add [rax], al`.
    let zeros = code(&[&je(1), &[RET], &[0, 0, RET]]);
    assert_eq!(shortened(&zeros, &[0, 7]).unwrap().1, [0, 3]);
    // What does not align the constants is no padding.
    let mut before = code(&[&load_constant(25), &je(0), &[RET], &[0; 18], &constant]);
    before.alignment = 16;
    assert!(shortened(&before, &[0, 14]).is_none());
}

/// A function with everything in it that moves: branches, calls, a handler, traps. Its blocks begin at 0, 10, 32 and 39.
fn everything() -> Code {
    let mut before = code(&[
        &[0x55, 0x48, 0x89, 0xe5],        // 0: push rbp; mov rbp, rsp
        &je(27),                          // 4: to 37
        &[0x48, 0x81, 0xec, 16, 0, 0, 0], // 10: sub rsp, 16
        &[0xe8, 0, 0, 0, 0],              // 17: call
        &[0x48, 0x8d, 0x05, 0, 0, 0, 0],  // 22: lea rax, [rip + elsewhere]
        &[0x8b, 0x00],                    // 29: mov eax, [rax]
        &[RET],                           // 31
        &jmp(0),                          // 32: to 37
        &UD2,                             // 37
        &[0xe9, 0, 0, 0, 0],              // 39: jmp elsewhere
    ]);
    before.relocations = vec![call(18), call(25), call(40)];
    before.sites = vec![
        site(22, None),
        site(29, Some(Trap::MemoryOutOfBounds)),
        site(37, Some(Trap::StackOverflow)),
    ];
    before.handlers = vec![Handler { call: 22, handler: 32, tag: None, frame: 16, vmctx: 8 }];
    before.unwind = Some(Unwind {
        rules: vec![
            (1, Rule::FrameOffset(16)),
            (4, Rule::FrameRegister(6)),
            (17, Rule::Saved(3, -24)),
        ],
    });
    before
}

#[test]
fn everything_that_is_said_of_the_code_moves_along() {
    let before = everything();
    let (after, blocks) = shortened(&before, &[0, 10, 32, 39]).unwrap();
    let expected = [
        &[0x55, 0x48, 0x89, 0xe5, 0x74, 21, 0x48, 0x83, 0xec, 16][..],
        &[0xe8, 0, 0, 0, 0, 0x48, 0x8d, 0x05, 0, 0, 0, 0, 0x8b, 0x00, RET, 0xeb, 0],
        &UD2,
        &[0xe9, 0, 0, 0, 0],
    ];
    assert_eq!(after.bytes, expected.concat());
    assert_eq!(blocks, [0, 6, 25, 29]);
    let offsets: Vec<_> = after.relocations.iter().map(|it| it.offset).collect();
    assert_eq!(offsets, [11, 18, 30]);
    let places: Vec<_> = after.sites.iter().map(|it| (it.text, it.wasm)).collect();
    assert_eq!(places, [(15, 1022), (22, 1029), (27, 1037)]);
    assert_eq!((after.handlers[0].call, after.handlers[0].handler), (15, 25));
    let rules: Vec<_> = after.unwind.unwrap().rules.iter().map(|(place, _)| *place).collect();
    assert_eq!(rules, [1, 4, 10]);
}

/// `push rbp; mov rbp, rsp; sub rsp, 32`, and the end of such a frame.
const OPEN: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x83, 0xec, 0x20];
const CLOSE: &[u8] = &[0x48, 0x83, 0xc4, 0x20, 0x48, 0x89, 0xec, 0x5d, RET];

/// The end without what it does not need.
const CLOSED: &[u8] = &[0x48, 0x89, 0xec, 0x5d, RET];

/// `mov rax, [rsp + 8]`, and the same by the frame pointer.
const BY_STACK: &[u8] = &[0x48, 0x8b, 0x44, 0x24, 8];
const BY_FRAME: &[u8] = &[0x48, 0x8b, 0x45, 0xe8];

#[test]
fn the_stack_is_reached_by_the_frame_pointer_where_that_is_known() {
    let branch: &[u8] = &[0x74, 7];
    let before = code(&[OPEN, BY_STACK, branch, BY_STACK, &UD2, BY_STACK, CLOSE]);
    let expected = [OPEN, BY_FRAME, &[0x74, 6], BY_FRAME, &UD2, BY_FRAME, CLOSED].concat();
    assert_eq!(bytes(&before, &[0, 15, 22]), expected);
    // Not where speed counts more; the end gets shorter all the same.
    let (mut after, expected) =
        (before.clone(), [OPEN, BY_STACK, &[0x74, 7], BY_STACK, &UD2, BY_STACK, CLOSED].concat());
    shorten(&mut after, &mut vec![0, 15, 22], &mut Vec::new(), Aim::Speed).unwrap();
    assert_eq!(after.bytes, expected);
    // Also behind a call of a function that takes its arguments from the stack.
    let call: &[u8] = &[0xff, 0xd0, 0x48, 0x83, 0xec, 16];
    let before = code(&[OPEN, call, BY_STACK, CLOSE]);
    assert_eq!(bytes(&before, &[0]), [OPEN, call, BY_FRAME, CLOSED].concat());
    // Not before it is known, and not once it is not.
    let before = code(&[&OPEN[..4], BY_STACK, &OPEN[4..], &CLOSE[..4], BY_STACK, &CLOSE[4..]]);
    assert_eq!(bytes(&before, &[0]), before.bytes);
    // Not in a function that changes one of the pointers anywhere: here by push rax; pop rax.
    let before = code(&[OPEN, BY_STACK, &je(0), &[0x50, 0x58], CLOSE]);
    let expected = [OPEN, BY_STACK, &[0x74, 0, 0x50, 0x58], CLOSE].concat();
    assert_eq!(bytes(&before, &[0]), expected);
    // And not if control leads to before the frame is open.
    let before = code(&[OPEN, BY_STACK, &jmp(-14)]);
    assert_eq!(bytes(&before, &[0]), [OPEN, BY_STACK, &[0xeb, 0xf5]].concat());
}

/// The beginning of a function, `push rbp; mov rbp, rsp; mov r10, [rdi + 8]`.
const BEGIN: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x4c, 0x8b, 0x57, 8];

/// `mov r10, [r10]`, `cmp r10, rsp` and `cmp [r10], rsp`
const LIMIT: &[u8] = &[0x4d, 0x8b, 0x12];
const COMPARE: &[u8] = &[0x4c, 0x3b, 0xd4];
const COMPARE_THERE: &[u8] = &[0x49, 0x39, 0x22];

/// A function with a frame of so many bytes that compares the stack pointer with its limit, and then does this.
fn comparing(size: u8, does: &[u8]) -> Code {
    let above: &[u8] = &[0x0f, 0x87];
    let distance = (signed(does.len())).to_le_bytes();
    let add: &[u8] = &[0x49, 0x83, 0xc2, size];
    let mut code = code(&[BEGIN, LIMIT, add, COMPARE, above, &distance, does, &UD2]);
    code.sites = vec![site(u32::try_from(24 + does.len()).unwrap(), Some(Trap::StackOverflow))];
    code
}

/// A call of another function, and the end.
const CALLING: &[u8] = &[0xe8, 0, 0, 0, 0, RET];

fn comparing_and_calling() -> Code {
    let mut code = comparing(0x20, CALLING);
    code.relocations = vec![call(25)];
    code.sites.insert(0, site(29, None));
    code
}

#[test]
fn the_stack_limit_is_compared_where_it_lies_or_not_at_all() {
    let before = comparing_and_calling();
    let (after, _) = shortened(&before, &[0]).unwrap();
    assert_eq!(after.bytes, [BEGIN, COMPARE_THERE, &[0x77, 6], CALLING, &UD2].concat());
    let places: Vec<_> = after.sites.iter().map(|site| site.text).collect();
    assert_eq!((after.relocations[0].offset, places), (14, vec![18, 19]));
    // Who calls nothing need not compare.
    let mut before = comparing(0x20, &[RET]);
    before.unwind = Some(Unwind {
        rules: vec![
            (1, Rule::FrameOffset(16)),
            (4, Rule::FrameRegister(6)),
            (24, Rule::Saved(3, -24)),
        ],
    });
    let (after, _) = shortened(&before, &[0]).unwrap();
    assert_eq!(after.bytes, [&BEGIN[..4], &[RET], &UD2].concat());
    assert_eq!(after.sites[0].text, 5);
    let rules: Vec<_> = after.unwind.unwrap().rules.iter().map(|(place, _)| *place).collect();
    assert_eq!(rules, [1, 4, 4]);
    // A call that nothing is said of is not understood.
    let mut before = comparing_and_calling();
    before.sites.remove(0);
    assert!(shortened(&before, &[0]).is_none());
    // Control does not lead into the comparison.
    assert!(shortened(&comparing_and_calling(), &[0, 11]).is_none());
}

#[test]
fn the_other_opinion_knows_when_the_stack_need_not_be_compared() {
    let opinion = |before: &Code, after: &Code| {
        let function = |code| check::Function { code, blocks: &[0] };
        check::same(function(before), function(after))
    };
    let calling = comparing_and_calling();
    let (compared, _) = shortened(&calling, &[0]).unwrap();
    opinion(&calling, &compared).unwrap();
    let changed = |code: &Code, change: &dyn Fn(&mut Code)| {
        let mut code = code.clone();
        change(&mut code);
        code
    };
    // cmp [r9], rsp; cmp [r10], rax; jae
    for (place, byte) in [(8, 0x41), (10, 0x02), (11, 0x73)] {
        let after = changed(&compared, &|code| code.bytes[place] = byte);
        assert!(opinion(&calling, &after).is_err(), "{place}");
    }
    // A large frame, another limit, another addition
    for (place, byte) in [(14, 0x80), (9, 0x4b), (13, 0xc1)] {
        let before = changed(&calling, &|code| code.bytes[place] = byte);
        assert!(opinion(&before, &compared).is_err(), "{place}");
    }
    let leaf = comparing(0x20, &[RET]);
    let (gone, _) = shortened(&leaf, &[0]).unwrap();
    opinion(&leaf, &gone).unwrap();
    // Not if it calls others.
    let calls = |code: &mut Code| code.sites.insert(0, site(code.sites[0].text, None));
    assert!(opinion(&changed(&leaf, &calls), &changed(&gone, &calls)).is_err());
    let other = changed(&leaf, &|code| code.bytes[7] = 16);
    assert!(opinion(&other, &gone).is_err());
}

#[test]
fn the_other_opinion_finds_mistakes() {
    let opinion = |before: &Code, blocks: &[u32], mistake: &dyn Fn(&mut Code, &mut [u32])| {
        let (mut after, mut moved) = shortened(before, blocks).unwrap();
        mistake(&mut after, &mut moved);
        let function = |code, blocks| check::Function { code, blocks };
        check::same(function(before, blocks), function(&after, &moved))
    };
    let everything = everything();
    let mistakes: [Mistake<'_>; 18] = [
        ("a branch that leads elsewhere", &|code, _| code.bytes[5] -= 3),
        ("another condition", &|code, _| code.bytes[4] ^= 1),
        ("another register", &|code, _| code.bytes[8] ^= 1),
        ("another value", &|code, _| code.bytes[9] += 1),
        ("another instruction", &|code, _| code.bytes[24] = 0xf4),
        ("less code", &|code, _| code.bytes.truncate(30)),
        ("a relocation that was forgotten", &|code, _| code.relocations[1].offset = 25),
        ("a relocation that is gone", &|code, _| code.relocations.truncate(2)),
        ("a relocation too much", &|code, _| code.relocations.push(call(100))),
        ("a return address that was forgotten", &|code, _| code.sites[0].text = 22),
        ("a trap that was forgotten", &|code, _| code.sites[1].text = 29),
        ("a trap of another kind", &|code, _| code.sites[1].trap = Some(Trap::HostError)),
        ("a site that is gone", &|code, _| code.sites.truncate(2)),
        ("a handler that was forgotten", &|code, _| code.handlers[0].handler = 32),
        ("a call that was forgotten", &|code, _| code.handlers[0].call = 22),
        ("a rule that was forgotten", &|code, _| {
            code.unwind.as_mut().unwrap().rules[2].0 = 17;
        }),
        ("a block that was forgotten", &|_, blocks| blocks[1] = 10),
        ("another alignment", &|code, _| code.alignment = 32),
    ];
    for (what, mistake) in mistakes {
        assert!(opinion(&everything, &[0, 10, 32, 39], mistake).is_err(), "{what}");
    }
    let framed = code(&[OPEN, BY_STACK, CLOSE]);
    let mistakes: [Mistake<'_>; 3] = [
        ("another place on the stack", &|code, _| code.bytes[11] += 8),
        ("another size of the frame", &|code, _| code.bytes[7] += 8),
        ("another register", &|code, _| code.bytes[10] = 0x43),
    ];
    for (what, mistake) in mistakes {
        assert!(opinion(&framed, &[0], mistake).is_err(), "{what}");
    }
    // The same where nobody knows how far the pointers are apart.
    let unknown = |place| code(&[&OPEN[..4], &[0x48, 0x89, 0xc4], place, &[RET]]);
    let (before, after) = (unknown(BY_STACK), unknown(BY_FRAME));
    let function = |code| check::Function { code, blocks: &[0] };
    assert!(check::same(function(&before), function(&after)).is_err());
    check::same(function(&before), function(&before)).unwrap();
    let table = code(&[&je(25), &table_branch(10), &entries(&[14, -17]), &je(0), &[NOP, RET]]);
    let mut constant = code(&[&load_constant(25), &je(4), &nops(4), &[RET], &[0; 14], &[7; 16]]);
    constant.alignment = 16;
    for place in 19..27 {
        let mistake = |code: &mut Code, _: &mut [u32]| code.bytes[place] ^= 4;
        assert!(opinion(&table, &[0, 6, 31, 37], &mistake).is_err(), "{place}");
    }
    let mistakes: [Mistake<'_>; 3] = [
        ("an address that was forgotten", &|code, _| code.bytes[3] = 25),
        ("another constant", &|code, _| code.bytes[20] = 8),
        ("a constant that is not aligned", &|code, _| {
            code.bytes[3] += 1;
            code.bytes.insert(16, 0);
        }),
    ];
    for (what, mistake) in mistakes {
        assert!(opinion(&constant, &[0], mistake).is_err(), "{what}");
    }
}

#[test]
fn loads_from_the_stack_become_operands() {
    // mov rcx, [rsp + 8]; mov rdx, [rsp + 0x10]; or eax, ecx; xor eax, edx; mov ecx, eax; mov edx, eax
    let loads: &[u8] = &[0x48, 0x8b, 0x4c, 0x24, 8, 0x48, 0x8b, 0x54, 0x24, 0x10];
    let uses: &[u8] = &[0x09, 0xc8, 0x31, 0xd0];
    let over: &[u8] = &[0x89, 0xc1, 0x89, 0xc2];
    let before = code(&[&je(19), loads, uses, over, &[RET], &nops(5), &[RET]]);
    let fused: &[u8] = &[0x0b, 0x44, 0x24, 8, 0x33, 0x44, 0x24, 0x10];
    let wanted = [&[0x74, 13][..], fused, over, &[RET], &nops(5), &[RET]].concat();
    assert_eq!(bytes(&before, &[0, 6, 25]), wanted);
    // By the frame pointer, where that is known: mov rcx, [rsp + 0x18]
    let far: &[u8] = &[0x48, 0x8b, 0x4c, 0x24, 0x18];
    let framed = code(&[OPEN, far, &uses[..2], &[0xb9, 1, 0, 0, 0], CLOSE]);
    let after = bytes(&framed, &[0]);
    let wanted = [OPEN, &[0x0b, 0x45, 0xf8], &[0xb9, 1, 0, 0, 0]].concat();
    assert_eq!(after.get(..wanted.len()), Some(&wanted[..]));
    // Where a table leads to the load.
    let over: &[u8] = &[0xb9, 1, 0, 0, 0];
    let led = [&table_branch(10)[..], &entries(&[8, 8])].concat();
    let before_led = code(&[&led, &loads[..5], &uses[..2], over, &[RET]]);
    let wanted = [&led[..], &fused[..4], over, &[RET]].concat();
    assert_eq!(bytes(&before_led, &[0, 25]), wanted);
    // Not where code comes from elsewhere, or something is said of what is in between.
    for entry in [11, 16, 18] {
        let after = bytes(&before, &[0, 6, entry, 25]);
        assert!(after.len() > 2 + fused.len() + 11, "{entry}");
    }
    // Nor where that is found out later.
    for back in [5 + 2 + 2 + 5 + 6, 2 + 5 + 6] {
        let load: &[u8] = &loads[..5];
        let other: &[u8] = &[0x89, 0xf2];
        let over: &[u8] = &[0xb9, 1, 0, 0, 0];
        let parts = [load, other, &uses[..2], over, &je(-signed(back)), &[RET]];
        let after = shortened(&code(&parts), &[0]);
        assert_eq!(after.is_some(), back == 20, "{back}");
    }
    let mut trapping = before.clone();
    trapping.sites.push(site(16, Some(Trap::HostError)));
    assert!(bytes(&trapping, &[0, 6, 25]).len() > 2 + fused.len() + 11);
}

#[test]
fn the_other_opinion_knows_which_loads_may_go() {
    let opinion = |before: &[&[u8]], after: &[&[u8]], blocks: &[u32]| {
        let (before, after) = (code(before), code(after));
        let moved: Vec<u32> = blocks.iter().map(|block| block.saturating_sub(5)).collect();
        let function = |code, blocks| check::Function { code, blocks };
        check::same(function(&before, blocks), function(&after, &moved))
    };
    // mov rcx, [rsp + 8]; or eax, ecx or or eax, [rsp + 8]; mov ecx, 1
    let load: &[u8] = &[0x48, 0x8b, 0x4c, 0x24, 8];
    let (user, fused): (&[u8], &[u8]) = (&[0x09, 0xc8], &[0x0b, 0x44, 0x24, 8]);
    let over: &[u8] = &[0xb9, 1, 0, 0, 0];
    let other: &[u8] = &[0x89, 0xf2];
    let ret = &[RET];
    let good = [load, other, user, over, ret];
    opinion(&good, &[other, fused, over, ret], &[0]).unwrap();
    opinion(&[load, user, over, ret], &[fused, over, ret], &[0]).unwrap();
    for (what, after) in [
        ("another place", [other, &[0x0b, 0x44, 0x24, 16], over, ret]),
        ("another register", [other, &[0x0b, 0x4c, 0x24, 8], over, ret]),
        ("another instruction", [other, &[0x23, 0x44, 0x24, 8], over, ret]),
        ("more bytes", [other, &[0x48, 0x0b, 0x44, 0x24, 8], over, ret]),
        ("another base", [other, &[0x0b, 0x45, 8, 0x90], over, ret]),
        ("an index", [other, &[0x0b, 0x44, 0x04, 8], over, ret]),
        ("the register", [other, user, over, ret]),
    ] {
        assert!(opinion(&good, &after, &[0]).is_err(), "{what}");
    }
    let read: &[u8] = &[0x89, 0xce];
    for (what, between, behind) in [
        ("read behind", other, [read, over].concat()),
        ("written in part behind", other, [&[0xb1, 1][..], over].concat()),
        ("never written", other, vec![]),
        ("written behind a branch", other, [&[0x72, 0][..], over].concat()),
        ("a store in between", &[0x89, 0x17], over.to_vec()),
        ("read in between", read, over.to_vec()),
        ("written in between", over, over.to_vec()),
        ("another stack", &[0x5a], over.to_vec()),
    ] {
        let (before, after) = ([load, between, user, &behind, ret], [between, fused, &behind, ret]);
        assert!(opinion(&before, &after, &[0]).is_err(), "{what}");
    }
    // Another way leads to what had the load before it: as a block, or by a branch.
    for block in [5, 7] {
        assert!(opinion(&good, &[other, fused, over, ret], &[0, block]).is_err(), "{block}");
    }
    let [mut before, mut after] = [good.to_vec(), vec![other, fused, over, ret]];
    before.pop();
    after.pop();
    let (back, back_after) = (jmp(-12), jmp(-14));
    before.push(&back);
    after.push(&back_after);
    assert!(opinion(&before, &after, &[0]).is_err());
}

/// `add ecx, -1`, `test ecx, ecx`
const COUNT: &[u8] = &[0x83, 0xc1, 0xff];
const TEST: &[u8] = &[0x85, 0xc9];

#[test]
fn tests_of_what_was_just_computed_go() {
    let back = |distance: i32| [&[0x0f, 0x85][..], &distance.to_le_bytes()].concat();
    let short = |distance: i8| [0x75, distance.cast_unsigned()];
    // A loop that ends; a branch over a jump.
    let before = code(&[NOPS, COUNT, TEST, &back(-12), &[RET]]);
    assert_eq!(bytes(&before, &[0, 1, 12]), [NOPS, COUNT, &short(-6), &[RET]].concat());
    let before = code(&[NOPS, COUNT, TEST, &je(5), &jmp(-16), &[RET]]);
    let wanted = [NOPS, COUNT, &[0x74, 2, 0xeb, 0xf9, RET]].concat();
    assert_eq!(bytes(&before, &[0, 1, 17]), wanted);
    let stays = |parts: &[&[u8]], blocks: &[u32]| {
        let after = bytes(&code(parts), blocks);
        assert!(after.windows(2).any(|pair| pair == TEST), "{parts:x?} {blocks:?}");
    };
    // Something leads to the test, as is known before, or found later; something is said of it.
    stays(&[NOPS, COUNT, TEST, &back(-12), &[RET]], &[0, 1, 4, 12]);
    stays(&[&jmp(3), COUNT, TEST, &back(-11), &[RET]], &[0, 5, 16]);
    let mut trapping = code(&[NOPS, COUNT, TEST, &back(-12), &[RET]]);
    trapping.sites.push(site(4, Some(Trap::HostError)));
    assert!(bytes(&trapping, &[0, 1, 12]).windows(2).any(|pair| pair == TEST));
    let late = code(&[NOPS, COUNT, TEST, &back(-12), &back(-14), &[RET]]);
    assert!(shortened(&late, &[0, 1, 12]).is_none());
    // Another register, or another part of it; another instruction before; something in between.
    stays(&[NOPS, &[0x83, 0xc2, 0xff], TEST, &back(-12), &[RET]], &[0, 1, 12]);
    stays(&[NOPS, &[0x48, 0x83, 0xc1, 0xff], TEST, &back(-13), &[RET]], &[0, 1, 13]);
    stays(&[NOPS, &[0x8d, 0x49, 0xff], TEST, &back(-12), &[RET]], &[0, 1, 12]);
    stays(&[NOPS, COUNT, NOPS, TEST, &back(-13), &[RET]], &[0, 1, 13]);
    // Another question, and flags that may be read behind.
    let less = [&[0x0f, 0x8c][..], &(-12_i32).to_le_bytes()].concat();
    stays(&[NOPS, COUNT, TEST, &less, &[RET]], &[0, 1, 12]);
    stays(&[NOPS, COUNT, TEST, &back(-12), &[RET]], &[0, 1]);
}

#[test]
fn the_other_opinion_knows_which_tests_may_go() {
    // add ecx, -1; test ecx, ecx; je; ret; ret
    let opinion = |counts: &[u8], test: &[u8], branch: &[u8], rest: &[u8], blocks: &[u32]| {
        let before = code(&[counts, test, branch, rest]);
        let after = code(&[counts, branch, rest]);
        let gone = u32::try_from(test.len()).unwrap();
        let end = u32::try_from(counts.len()).unwrap();
        let moved: Vec<u32> =
            blocks.iter().map(|it| if *it > end { it - gone } else { *it }).collect();
        let function = |code, blocks| check::Function { code, blocks };
        check::same(function(&before, blocks), function(&after, &moved))
    };
    let rest = &[RET, RET];
    opinion(COUNT, TEST, &je(1), rest, &[0, 11, 12]).unwrap();
    for counts in [
        // Another register; a part; what does not set the flags, or so that they tell something else.
        &[0x83, 0xc2, 0xff][..],
        &[0x48, 0x83, 0xc1, 0xff],
        &[0x8d, 0x49, 0xff],
        &[0x83, 0xf9, 0xff],
        &[0xd3, 0xe1],
    ] {
        assert!(opinion(counts, TEST, &je(1), rest, &[0]).is_err(), "{counts:x?}");
    }
    // test ecx, edx; test ecx, 1
    for test in [&[0x85, 0xca][..], &[0xf7, 0xc1, 1, 0, 0, 0]] {
        assert!(opinion(COUNT, test, &je(1), rest, &[0]).is_err(), "{test:x?}");
    }
    let js = [&[0x0f, 0x88][..], &1_i32.to_le_bytes()].concat();
    assert!(opinion(COUNT, TEST, &js, rest, &[0]).is_err(), "another question");
    // seta al: on the way that goes on, and where it leads
    for (distance, rest) in [(4, &[0x0f, 0x97, 0xc0, RET, RET]), (1, &[RET, 0x0f, 0x97, 0xc0, RET])]
    {
        assert!(opinion(COUNT, TEST, &je(distance), rest, &[0]).is_err(), "{rest:x?}");
    }
    // Control comes to the test from elsewhere.
    assert!(opinion(COUNT, TEST, &je(1), rest, &[0, 3]).is_err());
    assert!(opinion(COUNT, TEST, &je(-8), rest, &[0]).is_err());
}

/// `mov [rsp + place], rcx`, or `mov rcx, [rsp + place]`.
fn access(loads: bool, place: u32) -> Vec<u8> {
    let opcode = if loads { 0x8b } else { 0x89 };
    match place {
        0 => vec![0x48, opcode, 0x0c, 0x24],
        1..128 => vec![0x48, opcode, 0x4c, 0x24, u8::try_from(place).unwrap()],
        _ => [&[0x48, opcode, 0x8c, 0x24][..], &place.to_le_bytes()].concat(),
    }
}

/// A function with a frame of 0x110 bytes.
fn large_frame(body: &[Vec<u8>]) -> Code {
    let open: &[u8] = &[0x55, 0x48, 0x89, 0xe5, 0x48, 0x81, 0xec, 0x10, 1, 0, 0];
    let close: &[u8] = &[0x48, 0x81, 0xc4, 0x10, 1, 0, 0, 0x48, 0x89, 0xec, 0x5d, RET];
    let mut code = code(&[open, &body.concat(), close]);
    code.unwind = Some(Unwind { rules: vec![(1, Rule::FrameOffset(16))] });
    code
}

/// Uses one place once, and one far away four times.
fn uses(near: u32, far: u32) -> Vec<Vec<u8>> {
    let mut uses = vec![access(false, near), access(true, near)];
    uses.extend([access(false, far), access(true, far), access(true, far), access(true, far)]);
    uses
}

fn faster(before: &Code) -> Vec<u8> {
    let mut after = before.clone();
    shorten(&mut after, &mut vec![0], &mut Vec::new(), Aim::Speed).unwrap();
    let function = |code| check::Function { code, blocks: &[0] };
    check::same(function(before), function(&after)).unwrap();
    after.bytes
}

#[test]
fn places_that_are_used_most_are_near() {
    for (near, far) in [(8, 0x100), (0, 0x88), (0x78, 0x80)] {
        let before = large_frame(&uses(near, far));
        let wanted = uses(far, near).concat();
        let after = faster(&before);
        assert_eq!(after.get(11..11 + wanted.len()), Some(&wanted[..]), "{near:#x} {far:#x}");
        // The other way around, all is well.
        assert_eq!(
            faster(&large_frame(&uses(far, near))).get(11..11 + wanted.len()),
            Some(&wanted[..])
        );
    }
    // A branch across something that grows: the one back gets longer, and the one ahead shorter.
    let mut body = uses(8, 0x100);
    body.insert(0, je(10));
    body.insert(3, je(-16));
    body.extend((0..20).map(|_| access(true, 0x100)));
    body.insert(0, vec![0xeb, 0]);
    faster(&large_frame(&body));
    // With an operand in the instruction itself, and as an operand: mov dword [rsp + 0x100], 1; add rcx, [rsp + 0x100]
    let mut body = uses(8, 0x100);
    body.push(vec![0xc7, 0x84, 0x24, 0, 1, 0, 0, 1, 0, 0, 0]);
    body.push(vec![0x48, 0x03, 0x8c, 0x24, 0, 1, 0, 0]);
    let after = faster(&large_frame(&body));
    let wanted: &[u8] = &[0xc7, 0x44, 0x24, 8, 1, 0, 0, 0, 0x48, 0x03, 0x4c, 0x24, 8];
    assert!(after.windows(wanted.len()).any(|bytes| bytes == wanted));
}

#[test]
fn places_stay_that_somebody_else_may_know_of() {
    let stays = |what: &str, code: &Code| {
        let found = faster(code);
        let places = uses(8, 0x100).concat();
        assert!(found.windows(places.len()).any(|bytes| bytes == places), "{what}");
    };
    for (what, instruction) in [
        ("its address: lea rax, [rsp + 0x100]", &[0x48, 0x8d, 0x84, 0x24, 0, 1, 0, 0][..]),
        ("lea rax, [rbp - 16]", &[0x48, 0x8d, 0x45, 0xf0]),
        ("mov rax, rsp", &[0x48, 0x89, 0xe0]),
        ("mov rax, rbp", &[0x48, 0x89, 0xe8]),
        ("mov [rdi], rbp", &[0x48, 0x89, 0x2f]),
        ("mov rax, [rbp - 16]", &[0x48, 0x8b, 0x45, 0xf0]),
        ("mov rax, [rsp + rcx]", &[0x48, 0x8b, 0x04, 0x0c]),
        ("mov rax, [rcx + rbp]", &[0x48, 0x8b, 0x04, 0x29]),
        ("more of it: movups xmm0, [rsp + 0x100]", &[0x0f, 0x10, 0x84, 0x24, 0, 1, 0, 0]),
        ("what ends in it: mov rax, [rsp + 0xfc]", &[0x48, 0x8b, 0x84, 0x24, 0xfc, 0, 0, 0]),
        ("its end: mov eax, [rsp + 0x104]", &[0x8b, 0x84, 0x24, 4, 1, 0, 0]),
        ("both: add [rsp + 0x100], rcx", &[0x48, 0x01, 0x8c, 0x24, 0, 1, 0, 0]),
    ] {
        let mut body = uses(8, 0x100);
        body.push(instruction.to_vec());
        stays(what, &large_frame(&body));
    }
    // Above the frame, or with the limit: mov rax, [rbp + 16]; cmp rsp, rax
    for instruction in [&[0x48, 0x8b, 0x45, 16][..], &[0x48, 0x39, 0xc4]] {
        let mut body = uses(8, 0x100);
        body.push(instruction.to_vec());
        assert!(faster(&large_frame(&body)).len() < large_frame(&body).bytes.len());
    }
    let good = large_frame(&uses(8, 0x100));
    let mut unknown = good.clone();
    unknown.unwind = None;
    stays("nobody knows what is saved", &unknown);
    let mut handling = good.clone();
    handling.sites = vec![site(11, None)];
    handling.handlers = vec![Handler { call: 11, handler: 11, tag: None, frame: 0x110, vmctx: 0 }];
    let mut opened = handling.clone();
    shorten(&mut opened, &mut vec![0], &mut Vec::new(), Aim::Speed).unwrap();
    let places = uses(8, 0x100).concat();
    assert!(opened.bytes.windows(places.len()).any(|bytes| bytes == places), "handlers");
    // 0x110 below the frame pointer, which is 16 below the frame's address.
    for (offset, is_saved) in [(-0x20, true), (-0x118, true), (-0x28, false), (-0x120, false)] {
        let mut saving = good.clone();
        saving.unwind.as_mut().unwrap().rules.push((11, Rule::Saved(3, offset)));
        match is_saved {
            true => stays("a register of the caller", &saving),
            false => assert!(faster(&saving).len() < good.bytes.len(), "{offset}"),
        }
    }
    // What is stored only, or loaded only.
    for loads in [false, true] {
        let body = vec![access(loads, 8), access(loads, 8)];
        let far = uses(8, 0x100).split_off(2);
        let after = faster(&large_frame(&[body, far.clone()].concat()));
        assert!(after.windows(far.concat().len()).any(|bytes| bytes == far.concat()));
    }
}

#[test]
fn the_other_opinion_knows_which_places_may_be_others() {
    let opinion = |before: &[Vec<u8>], after: &[Vec<u8>], change: &dyn Fn(&mut Code)| {
        let [mut before, mut after] = [large_frame(before), large_frame(after)];
        change(&mut before);
        change(&mut after);
        let function = |code| check::Function { code, blocks: &[0] };
        check::same(function(&before), function(&after))
    };
    let (before, after) = (uses(8, 0x100), uses(0x100, 8));
    opinion(&before, &after, &|_| {}).unwrap();
    for place in 0..after.len() {
        let mut wrong = after.clone();
        wrong[place] = before[place].clone();
        assert!(opinion(&before, &wrong, &|_| {}).is_err(), "{place}");
    }
    // A place that nobody had, or that is outside, or two in one, or half of one.
    for (near, far) in [(0x100, 16), (8, 0x110), (8, 8), (0x100, 12), (0x104, 8)] {
        assert!(opinion(&before, &uses(near, far), &|_| {}).is_err(), "{near:#x} {far:#x}");
    }
    // Two of three in one.
    let with = |places: &[Vec<u8>], near, far| [places, &uses(near, far)].concat();
    let [three, two] = [with(&before, 0x80, 0x80), with(&after, 0x100, 0x100)];
    assert!(opinion(&three, &two, &|_| {}).is_err());
    let saves = |offset| {
        move |code: &mut Code| {
            code.unwind.as_mut().unwrap().rules.push((11, Rule::Saved(3, offset)));
        }
    };
    assert!(opinion(&before, &after, &saves(-0x20)).is_err());
    assert!(opinion(&before, &after, &saves(-0x118)).is_err());
    opinion(&before, &after, &saves(-0x28)).unwrap();
    assert!(opinion(&before, &after, &|code| code.unwind = None).is_err());
    for instruction in [
        &[0x48, 0x8d, 0x84, 0x24, 0, 1, 0, 0][..],
        &[0x48, 0x89, 0xe0],
        &[0x48, 0x89, 0x2f],
        &[0x48, 0x8b, 0x45, 0xf0],
        &[0x48, 0x8b, 0x04, 0x0c],
    ] {
        let with = |uses: &[Vec<u8>]| [uses, &[instruction.to_vec()]].concat();
        let found = opinion(&with(&before), &with(&after), &|_| {});
        assert!(found.is_err(), "{instruction:02x?}");
    }
    // What is stored only.
    let stores = |near, far| vec![access(false, near), access(false, far), access(true, far)];
    assert!(opinion(&stores(8, 0x100), &stores(0x100, 8), &|_| {}).is_err());
}

#[test]
fn what_is_not_understood_stays() {
    let constant = [1; 16];
    for (what, bytes, blocks) in [
        ("no instruction", code(&[&je(1), &[0x06, RET]]), &[0][..]),
        ("half of an instruction", code(&[&je(1), &[RET, 0x48]]), &[0, 7]),
        ("a branch into an instruction", code(&[&je(1), &[0x8b, 0xc3, RET]]), &[0]),
        ("a branch out of the function", code(&[&je(2), &[NOP, RET]]), &[0]),
        ("a branch before the function", code(&[&je(-7), &[RET]]), &[0]),
        (
            "a branch to a table",
            code(&[&je(0), &table_branch(10), &entries(&[4]), &jmp(-9)]),
            &[0, 27],
        ),
        ("a block outside", code(&[&je(0), &[RET]]), &[0, 7, 6]),
        ("a block in an instruction", code(&[&je(0), &[RET]]), &[0, 3]),
        ("the end of the function is reached", code(&[&je(0), &[NOP]]), &[0]),
        ("a gap without a table", code(&[&je(0), &[RET, 0, 0, 0, 0, RET]]), &[0, 11]),
        ("bytes that nothing refers to", code(&[&je(0), &[RET, 0]]), &[0]),
        ("a loop instruction", code(&[&je(0), &[0xe2, 0, RET]]), &[0]),
        ("a branch with a prefix", code(&[&je(0), &[0x3e, 0x74, 0, RET]]), &[0]),
        ("a call without a relocation", code(&[&je(0), &[0xe8, 0, 0, 0, 0, RET]]), &[0]),
        ("an interrupt", code(&[&je(0), &[0xcc, RET]]), &[0]),
        ("an address in an instruction", code(&[&je(0), &load_constant(-2), &[RET]]), &[0]),
        ("an address behind", code(&[&je(0), &load_constant(17), &[RET], &constant]), &[0]),
        (
            "padding that is too long",
            code(&[&je(0), &load_constant(2), &[RET, 0], &constant]),
            &[0],
        ),
        ("an empty function", code(&[]), &[]),
        (
            "a table that leads into an instruction",
            code(&[&je(0), &table_branch(10), &entries(&[5]), &je(0), &[RET]]),
            &[0, 27],
        ),
        (
            "a table of which nothing has the address",
            code(&[&je(0), &table_branch(14), &entries(&[4]), &je(0), &[RET]]),
            &[0, 27],
        ),
        (
            "a table with half an entry",
            code(&[&je(0), &table_branch(10), &entries(&[6]), &[0, 0], &je(0), &[RET]]),
            &[0, 29],
        ),
    ] {
        assert!(shortened(&bytes, blocks).is_none(), "{what}");
    }
    let plain = code(&[&je(0), &[0xe8, 0, 0, 0, 0, 0x8b, 0x00, RET]]);
    let handler = Handler { call: 11, handler: 11, tag: None, frame: 0, vmctx: 0 };
    let place = |offset| Unwind { rules: vec![(offset, Rule::FrameOffset(8))] };
    let changed = |change: &dyn Fn(&mut Code, &mut [u32])| {
        let mut code = Code { relocations: vec![call(7)], ..plain.clone() };
        change(&mut code, &mut []);
        shortened(&code, &[0]).is_some()
    };
    assert!(changed(&|_, _| ()));
    let changes: [Mistake<'_>; 11] = [
        ("a relocation of a branch", &|code, _| code.relocations.insert(0, call(2))),
        ("a relocation between instructions", &|code, _| code.relocations[0].offset = 8),
        ("a relocation of an opcode", &|code, _| code.relocations[0].offset = 6),
        ("relocations that overlap", &|code, _| code.relocations.push(call(9))),
        ("a relocation behind", &|code, _| code.relocations.push(call(20))),
        ("a trap in an instruction", &|code, _| {
            code.sites.push(site(12, Some(Trap::MemoryOutOfBounds)))
        }),
        ("a return to an instruction", &|code, _| code.sites.push(site(10, None))),
        ("a handler in an instruction", &|code, _| {
            code.handlers.push(Handler { handler: 12, ..handler })
        }),
        ("a call in an instruction", &|code, _| {
            code.handlers.push(Handler { call: 12, ..handler })
        }),
        ("a rule in an instruction", &|code, _| code.unwind = Some(place(1))),
        ("a rule behind", &|code, _| code.unwind = Some(place(100))),
    ];
    for (what, change) in changes {
        assert!(!changed(change), "{what}");
    }
}

proptest! {
    #[test]
    fn whatever_branches_there_are(
        blocks in prop::collection::vec((0_usize..90, any::<bool>(), any::<prop::sample::Index>()), 1..40)
    ) {
        // Each block: instructions that do nothing, and a branch to another, or a return.
        let length = |(count, conditional, _): &(usize, bool, _)| count + if *conditional { 6 } else { 5 };
        let mut starts = vec![0];
        for block in &blocks {
            starts.push(starts.last().unwrap() + length(block));
        }
        let mut before = code(&[]);
        for (block, end) in blocks.iter().zip(&starts[1..]) {
            let (count, conditional, target) = block;
            let distance = signed(*target.get(&starts)) - signed(*end);
            before.bytes.extend(nops(*count));
            before.bytes.extend(if *conditional { je(distance) } else { jmp(distance) });
        }
        before.bytes.push(RET);
        let starts: Vec<u32> = starts.into_iter().map(|start| u32::try_from(start).unwrap()).collect();
        let (after, moved) = shortened(&before, &starts).unwrap();
        // None is long that need not be.
        for (block, (start, end)) in blocks.iter().zip(moved.iter().zip(&moved[1..])) {
            let (count, conditional, target) = block;
            let distance = i64::from(*target.get(&moved)) - i64::from(*end);
            let long = (end - start) as usize != count + 2;
            let saved = if distance < 0 { if *conditional { 4 } else { 3 } } else { 0 };
            prop_assert_eq!(long, i8::try_from(distance + saved).is_err());
        }
        prop_assert!(after.bytes.len() <= before.bytes.len());
    }

    #[test]
    fn no_bytes_do_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        offsets in prop::collection::vec(0_u32..220, 0..20),
        alignment in 0_u32..20,
    ) {
        let mut code = code(&[&bytes]);
        code.alignment = alignment;
        let (blocks, rest) = offsets.split_at(offsets.len() / 2);
        code.relocations = rest.iter().step_by(2).map(|offset| call(*offset)).collect();
        code.sites = rest.iter().map(|offset| site(*offset, None)).collect();
        let _ = shortened(&code, blocks);
    }
}
