//! Vectors from the host's side, what each CPU level makes of them, and the
//! settings for results that are the same everywhere.

use cwasm_artifact::cpu::{Arch, CpuFeatures};
use cwasm_artifact::header::Header;
use cwasm_compiler::{CpuLevel, OptLevel, RelaxedSimd, Settings};
use cwasm_loader::{Caller, Engine, Instance, Linker, Store, Val, WasmTyList};
use cwasm_tests::fault::random::Random;
use cwasm_tests::{artifact, compile_with, load};

const LEVELS: [CpuLevel; 4] =
    [CpuLevel::Baseline, CpuLevel::X86_64V2, CpuLevel::X86_64V3, CpuLevel::X86_64V4];

/// The CPU levels that this machine has.
fn levels() -> impl Iterator<Item = CpuLevel> {
    LEVELS.into_iter().filter(|level| {
        let features = Arch::host().and_then(|arch| level.features(arch));
        features.is_some_and(|features| CpuFeatures::host().contains(features))
    })
}

/// Does something with an instance of a module that imports nothing.
fn instantiate<R>(
    text: &str,
    settings: &Settings,
    with: impl FnOnce(&mut Store<'_, ()>, &Instance<'_>) -> R,
) -> R {
    let artifact = load(&compile_with(text, settings));
    let engine = Engine::default();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
    with(&mut store, &instance)
}

/// Calls the function `f` of a module that imports nothing.
fn call<P: WasmTyList, R: WasmTyList>(text: &str, settings: &Settings, params: P) -> R {
    instantiate(text, settings, |store, instance| {
        instance.typed_func::<P, R>(&*store, "f").unwrap().call(store, params).unwrap()
    })
}

fn bytes(vector: u128) -> [u8; 16] {
    vector.to_le_bytes()
}

#[test]
fn vectors_cross_every_border() {
    let artifact = artifact(
        r#"(module
            (import "host" "swap" (func $swap (param v128 v128) (result v128 v128)))
            (global $g (export "g") (mut v128) (v128.const i64x2 1 2))
            (global $constant v128 (v128.const i32x4 3 4 5 6))
            (func (export "f") (param i32 v128 v128) (result v128 v128)
                (local $zero v128)
                (global.set $g (i8x16.add (local.get 1) (local.get $zero)))
                (call $swap (local.get 1) (v128.xor (local.get 2) (global.get $constant)))
                (block $b (param v128 v128) (result v128 v128)
                    (br_if $b (local.get 0))
                    (i32x4.neg))))"#,
    );
    let engine = Engine::default();
    let mut linker = Linker::new(&engine);
    linker.func("host", "swap", |_: Caller<'_, '_, ()>, a: u128, b: u128| (b, a)).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = linker.instantiate(&mut store, &artifact).unwrap();
    let global = instance.global(&store, "g").unwrap();
    assert_eq!(global.get(&store).unwrap().v128(), Some(2 << 64 | 1));

    let f = instance.typed_func::<(i32, u128, u128), (u128, u128)>(&store, "f").unwrap();
    let constant = 6 << 96 | 5 << 64 | 4 << 32 | 3;
    let (a, b) = (u128::MAX - 77, 0x0123_4567_89ab_cdef << 32);
    assert_eq!(f.call(&mut store, (1, a, b)).unwrap(), (b ^ constant, a));
    assert_eq!(global.get(&store).unwrap().v128(), Some(a));

    let f = instance.func(&store, "f").unwrap();
    let one = 1 << 96 | 1 << 64 | 1 << 32 | 1;
    let results = f.call(&mut store, &[Val::I32(0), Val::V128(one), Val::V128(0)]).unwrap();
    let found: Vec<_> = results.iter().map(Val::v128).collect();
    assert_eq!(found, [Some(constant), Some(u128::MAX)]);
    global.set(&mut store, Val::from(9_u128)).unwrap();
    assert_eq!(global.get(&store).unwrap().v128(), Some(9));
    assert!(global.set(&mut store, Val::I32(0)).is_err());
}

/// Patterns that code generators know by heart, and others that none does.
fn patterns() -> Vec<[u8; 16]> {
    let mut random = Random::new(1);
    let mut byte = |limit: usize| u8::try_from(random.below(limit)).unwrap();
    let mut patterns = Vec::new();
    for start in 0..17 {
        patterns.push(std::array::from_fn(|place| start + u8::try_from(place).unwrap()));
    }
    for size in [1_u8, 2, 4, 8] {
        // Pieces of one operand, or of both, in any order.
        for limit in [16, 32] {
            for _ in 0..40 {
                let starts: [u8; 16] = std::array::from_fn(|_| byte(limit) / size * size);
                patterns.push(std::array::from_fn(|place| {
                    let place = u8::try_from(place).unwrap();
                    starts[usize::from(place / size)] + place % size
                }));
            }
        }
        for half in [0, 8] {
            for first in [0, 16] {
                patterns.push(std::array::from_fn(|place| {
                    let place = u8::try_from(place).unwrap();
                    let piece = place / size;
                    ((piece % 2 * 16) ^ first) + half + piece / 2 * size + place % size
                }));
            }
        }
    }
    // Every other piece, and what nearly is that.
    for size in [1_u8, 2, 4] {
        for first in 0..4 {
            let every_other: [u8; 16] = std::array::from_fn(|place| {
                let place = u8::try_from(place).unwrap();
                ((place / size * 2 + first) * size + place % size) % 32
            });
            patterns.push(every_other);
            let mut nearly = every_other;
            nearly[usize::from(byte(16))] = byte(32);
            patterns.push(nearly);
        }
    }
    // One byte, or two, sixteen or eight times.
    for first in 0..31 {
        patterns.push([first; 16]);
        patterns.push(std::array::from_fn(|place| first + u8::try_from(place % 2).unwrap()));
    }
    // No byte moves; four 16-bit words of one half do.
    for _ in 0..20 {
        patterns.push(std::array::from_fn(|place| u8::try_from(place).unwrap() + byte(2) * 16));
        let words: [u8; 4] = std::array::from_fn(|_| byte(4));
        let high = byte(2) * 8;
        patterns.push(std::array::from_fn(|place| {
            let place = u8::try_from(place).unwrap();
            if place & 8 == high {
                high + words[usize::from(place % 8 / 2)] * 2 + place % 2
            } else {
                place
            }
        }));
    }
    patterns
}

#[test]
fn shuffles_of_every_pattern() {
    let (a, b) =
        (0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100_u128, 0x1f1e_1d1c_1b1a_1918_1716_1514_1312_1110);
    let patterns = patterns();
    let functions: String = patterns
        .iter()
        .enumerate()
        .map(|(number, pattern)| {
            let lanes = pattern.map(|lane| lane.to_string()).join(" ");
            format!(
                r#"(func (export "{number}") (param v128 v128) (result v128)
                    (i8x16.shuffle {lanes} (local.get 0) (local.get 1)))"#
            )
        })
        .collect();
    for cpu in levels() {
        let settings = Settings { cpu, ..Settings::default() };
        instantiate(&format!("(module {functions})"), &settings, |store, instance| {
            for (number, pattern) in patterns.iter().enumerate() {
                let name = number.to_string();
                let f = instance.typed_func::<(u128, u128), u128>(&*store, &name).unwrap();
                // The operands are the numbers of their bytes.
                assert_eq!(bytes(f.call(&mut *store, (a, b)).unwrap()), *pattern, "{cpu}");
            }
        });
    }
}

/// Functions of a vector, each with its name.
fn functions_of_one(bodies: &[String]) -> String {
    let functions = bodies.iter().enumerate().map(|(number, body)| {
        format!(r#"(func (export "{number}") (param v128) (result v128) {body})"#)
    });
    format!("(module {})", functions.collect::<String>())
}

/// What each function of a module makes of a vector, at each level, also without an optimiser.
fn check_all(bodies: &[String], operand: u128, wanted: &[u128]) {
    let text = functions_of_one(bodies);
    for (cpu, opt_level) in levels().flat_map(|cpu| [(cpu, OptLevel::Speed), (cpu, OptLevel::None)])
    {
        let settings = Settings { cpu, opt_level, ..Settings::default() };
        instantiate(&text, &settings, |store, instance| {
            for (number, (body, wanted)) in bodies.iter().zip(wanted).enumerate() {
                let f = instance.typed_func::<u128, u128>(&*store, &number.to_string()).unwrap();
                assert_eq!(f.call(&mut *store, operand).unwrap(), *wanted, "{cpu}: {body}");
            }
        });
    }
}

#[test]
fn shuffles_of_shuffles() {
    let operand = 0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100_u128;
    let patterns = patterns();
    let mut random = Random::new(2);
    let (mut bodies, mut wanted) = (Vec::new(), Vec::new());
    for _ in 0..1500 {
        let [first, second] = [0; 2].map(|_| patterns[random.below(patterns.len())]);
        let lanes = |pattern: [u8; 16]| pattern.map(|lane| lane.to_string()).join(" ");
        // What is shuffled twice has other bytes in its second operand, or the same in both.
        let (other, add) = match random.below(2) {
            0 => ("(local.get 0)", 0),
            _ => ("(v128.not (local.get 0))", 0xff),
        };
        let same = random.below(2) == 0;
        bodies.push(format!(
            "(local v128)
            (local.set 1 (i8x16.shuffle {} (local.get 0) {other}))
            (i8x16.shuffle {} (local.get 1) (local.get {}))",
            lanes(first),
            lanes(second),
            if same { 1 } else { 0 },
        ));
        let once = first.map(|byte| if byte < 16 { byte } else { (byte - 16) ^ add });
        let of_both =
            |byte: u8| if same || byte < 16 { once[usize::from(byte % 16)] } else { byte - 16 };
        wanted.push(u128::from_le_bytes(second.map(of_both)));
    }
    check_all(&bodies, operand, &wanted);
}

/// Each lane of a vector, shifted by this.
fn lanes_shifted(vector: u128, width: u32, shift: impl Fn(u128) -> u128) -> u128 {
    let mask = u128::MAX >> (128 - width);
    (0..128 / width).fold(0, |result, lane| {
        result | (shift(vector >> (lane * width) & mask) & mask) << (lane * width)
    })
}

#[test]
fn rotations_by_shifts() {
    let operand = 0x8123_4567_89ab_cdef_fedc_ba98_7654_3217_u128;
    let (mut bodies, mut wanted) = (Vec::new(), Vec::new());
    let mut add = |body: String, result: u128| {
        bodies.push(body);
        wanted.push(result);
    };
    for (shape, width) in [("i8x16", 8), ("i16x8", 16), ("i32x4", 32), ("i64x2", 64)] {
        for count in 0..=width {
            let left = |count: u32| lanes_shifted(operand, width, |lane| lane << (count % width));
            let right = |count: u32| lanes_shifted(operand, width, |lane| lane >> (count % width));
            for (op, join) in
                [("or", (|a, b| a | b) as fn(u128, u128) -> u128), ("xor", |a, b| a ^ b)]
            {
                // Rotations, and what only looks like one.
                for rest in [width - count, width + 8 - count] {
                    let shl = format!("({shape}.shl (local.get 0) (i32.const {count}))");
                    let shr = format!("({shape}.shr_u (local.get 0) (i32.const {rest}))");
                    add(format!("(v128.{op} {shl} {shr})"), join(left(count), right(rest)));
                    add(format!("(v128.{op} {shr} {shl})"), join(left(count), right(rest)));
                }
                if count % 8 == 0 {
                    let rest = width - count;
                    let shl = format!("({shape}.shl (local.get 0) (i32.const {count}))");
                    let other =
                        format!("({shape}.shr_u (v128.not (local.get 0)) (i32.const {rest}))");
                    let inverse = lanes_shifted(!operand, width, |lane| lane >> (rest % width));
                    add(format!("(v128.{op} {shl} {other})"), join(left(count), inverse));
                    let signed = format!("({shape}.shr_s (local.get 0) (i32.const {rest}))");
                    let arithmetic = lanes_shifted(operand, width, |lane| {
                        // The sign is moved to the highest bit, and back.
                        let lane = (lane << (128 - width)).cast_signed();
                        (lane >> (128 - width) >> (rest % width)).cast_unsigned()
                    });
                    add(format!("(v128.{op} {shl} {signed})"), join(left(count), arithmetic));
                    add(format!("(v128.{op} {shl} {shl})"), join(left(count), left(count)));
                }
            }
        }
    }
    // Of lanes that are not those that are shifted back.
    let body = "(v128.or (i32x4.shl (local.get 0) (i32.const 16))
        (i64x2.shr_u (local.get 0) (i32.const 16)))";
    let mixed = lanes_shifted(operand, 32, |lane| lane << 16)
        | lanes_shifted(operand, 64, |lane| lane >> 16);
    add(body.to_owned(), mixed);
    check_all(&bodies, operand, &wanted);
}

/// The even lanes of 16 bits of two locals, and the odd ones.
const EVEN: &str =
    "(i8x16.shuffle 0 1 4 5 8 9 12 13 16 17 20 21 24 25 28 29 (local.get 2) (local.get 3))";
const ODD: &str =
    "(i8x16.shuffle 2 3 6 7 10 11 14 15 18 19 22 23 26 27 30 31 (local.get 2) (local.get 3))";

/// Sums of neighbouring products: how they are written, and what they are for the lanes of both operands.
type Neighbours = (String, fn([i32; 16], [i32; 16]) -> [i32; 8]);

#[test]
fn products_of_neighbours_are_added() {
    let product = |half: &str, first: &str, second: &str| {
        let [first, second] = [first, second].map(|it| {
            let (operand, sign) = it.split_at(1);
            format!("(i16x8.extend_{half}_i8x16_{sign} (local.get {operand}))")
        });
        format!("(i16x8.mul {first} {second})")
    };
    let write = |sum: &str, low: String, high: String| {
        let sum = sum.replace("EVEN", EVEN).replace("ODD", ODD);
        format!("(local v128 v128) (local.set 2 {low}) (local.set 3 {high}) {sum}")
    };
    let usual = "(i16x8.add_sat_s EVEN ODD)";
    let both =
        |first: &str, second: &str| (product("low", first, second), product("high", first, second));
    let written = |sum: &str, first: &str, second: &str| {
        let (low, high) = both(first, second);
        write(sum, low, high)
    };
    fn signed(byte: i32) -> i32 {
        (byte + 128) % 256 - 128
    }
    fn narrow(number: i32) -> i32 {
        (number + 0x8000).rem_euclid(0x1_0000) - 0x8000
    }
    fn sums(products: [i32; 16], add: impl Fn(i32, i32) -> i32) -> [i32; 8] {
        std::array::from_fn(|lane| add(narrow(products[2 * lane]), narrow(products[2 * lane + 1])))
    }
    fn saturated(a: i32, b: i32) -> i32 {
        (a + b).clamp(-0x8000, 0x7fff)
    }
    fn products(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    let forms: Vec<Neighbours> = vec![
        (written(usual, "0s", "1u"), |a, b| sums(products(a.map(signed), b), saturated)),
        (written(usual, "1u", "0s"), |a, b| sums(products(a.map(signed), b), saturated)),
        (written("(i16x8.add_sat_s ODD EVEN)", "0u", "1s"), |a, b| {
            sums(products(a, b.map(signed)), saturated)
        }),
        (written(usual, "0s", "0u"), |a, _| sums(products(a.map(signed), a), saturated)),
        // These are others, which only look like them.
        (written(usual, "0s", "1s"), |a, b| {
            sums(products(a.map(signed), b.map(signed)), saturated)
        }),
        (written(usual, "0u", "1u"), |a, b| sums(products(a, b), saturated)),
        (written("(i16x8.add EVEN ODD)", "0s", "1u"), |a, b| {
            sums(products(a.map(signed), b), |a, b| narrow(a + b))
        }),
        (written("(i16x8.add_sat_s EVEN EVEN)", "0s", "1u"), |a, b| {
            let all = products(a.map(signed), b);
            sums(std::array::from_fn(|lane| all[lane / 2 * 2]), saturated)
        }),
        (write(usual, product("low", "0s", "1u"), product("high", "1s", "0u")), |a, b| {
            let (first, second) = (products(a.map(signed), b), products(a, b.map(signed)));
            sums(std::array::from_fn(|at| if at < 8 { first[at] } else { second[at] }), saturated)
        }),
        (write(usual, product("low", "0s", "1u"), product("low", "0s", "1u")), |a, b| {
            let all = products(a.map(signed), b);
            sums(std::array::from_fn(|lane| all[lane % 8]), saturated)
        }),
        (write(usual, product("high", "0s", "1u"), product("low", "0s", "1u")), |a, b| {
            let all = products(a.map(signed), b);
            sums(std::array::from_fn(|lane| all[(lane + 8) % 16]), saturated)
        }),
    ];
    let mut random = Random::new(3);
    let mut operands =
        vec![([0x7f; 16], [0xff; 16]), ([0x80; 16], [0xff; 16]), ([0x80; 16], [0x80; 16])];
    operands.extend((0..200).map(|_| {
        let mut bytes = || std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap());
        (bytes(), bytes())
    }));
    for cpu in levels() {
        for (form, model) in &forms {
            let text =
                format!(r#"(module (func (export "f") (param v128 v128) (result v128) {form}))"#);
            instantiate(&text, &Settings { cpu, ..Settings::default() }, |store, instance| {
                let f = instance.typed_func::<(u128, u128), u128>(&*store, "f").unwrap();
                for (a, b) in &operands {
                    let found = f
                        .call(&mut *store, (u128::from_le_bytes(*a), u128::from_le_bytes(*b)))
                        .unwrap()
                        .to_le_bytes();
                    let found: [i32; 8] = std::array::from_fn(|lane| {
                        i16::from_le_bytes([found[2 * lane], found[2 * lane + 1]]).into()
                    });
                    let wanted = model(a.map(i32::from), b.map(i32::from));
                    assert_eq!(found, wanted, "{cpu}: {form} of {a:02x?} and {b:02x?}");
                }
            });
        }
    }
}

/// What only looks like sums of products, beside the same with something in between that hides what it looks like.
#[test]
fn what_looks_like_products_of_neighbours_is_none() {
    let turned = ODD.replace("(local.get 2) (local.get 3)", "(local.get 3) (local.get 2)");
    let half = |shape: &str, of: &str| {
        format!("(i32x4.shr_s {})", shape.replace("OF", &format!("(local.get {of})")))
    };
    let low_half = "(i32x4.shl OF (i32.const 16)) (i32.const 16)";
    let narrow = |first: &str, second: &str| {
        format!("(i16x8.narrow_i32x4_s {} {})", half(first, "2"), half(second, "3"))
    };
    let high_half = "OF (i32.const 16)";
    let bytes = |op: &str, half: &str| {
        format!(
            "(i16x8.{op} (i16x8.extend_{half}_i8x16_s (local.get 0))
                (i16x8.extend_{half}_i8x16_u (local.get 1)))"
        )
    };
    let wide = |half: &str| {
        format!(
            "(i32x4.mul (i32x4.extend_{half}_i16x8_s (local.get 4))
                (i32x4.extend_{half}_i16x8_u (local.get 5)))"
        )
    };
    let products = [bytes("mul", "low"), bytes("mul", "high")];
    let sum = |first: &str, second: &str| format!("(i16x8.add_sat_s {first} {second})");
    let narrowed = |first: &str, second: &str| sum(&narrow(first, second), ODD);
    let forms: Vec<([String; 2], String)> = vec![
        (products.clone(), sum(EVEN, ODD)),
        (products.clone(), sum(EVEN, &turned)),
        (products.clone(), {
            let even = "(i8x16.shuffle 0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30 (local.get 2) (local.get 3))";
            let odd = "(i8x16.shuffle 1 3 5 7 9 11 13 15 17 19 21 23 25 27 29 31 (local.get 2) (local.get 3))";
            sum(even, odd)
        }),
        ([bytes("add", "low"), bytes("add", "high")], sum(EVEN, ODD)),
        ([wide("low"), wide("high")], sum(EVEN, ODD)),
        (products.clone(), narrowed(low_half, low_half)),
        (products.clone(), narrowed(low_half, high_half)),
        (products.clone(), narrowed(high_half, low_half)),
        (products.clone(), {
            let other = "(i32x4.shr_u OF (i32.const 16)) (i32.const 16)";
            narrowed(other, other)
        }),
        (products.clone(), sum(&narrow(low_half, low_half), &narrow(high_half, high_half))),
        (products.clone(), sum(EVEN, &narrow("OF (i32.const 17)", high_half))),
        (products.clone(), sum(EVEN, &narrow(high_half, "OF (i32.const 15)"))),
        (products.clone(), {
            sum(&narrow("(i32x4.shl OF (i32.const 15)) (i32.const 16)", low_half), ODD)
        }),
        (products.clone(), {
            sum(&narrow(low_half, "(i32x4.shl OF (i32.const 16)) (i32.const 15)"), ODD)
        }),
    ];
    let words = "(local.set 4 (i16x8.neg (local.get 0))) (local.set 5 (i16x8.neg (local.get 1)))";
    let mut random = Random::new(4);
    for cpu in levels() {
        for ([low, high], form) in &forms {
            let text = format!(
                r#"(module (global $zero (mut v128) (v128.const i64x2 0 0))
                    (func (export "f") (param v128 v128) (result v128) (local v128 v128 v128 v128)
                        {words} (local.set 2 {low}) (local.set 3 {high}) {form})
                    (func (export "hidden") (param v128 v128) (result v128)
                        (local v128 v128 v128 v128) {words}
                        (local.set 2 (v128.xor (global.get $zero) {low}))
                        (local.set 3 (v128.xor (global.get $zero) {high})) {form}))"#
            );
            instantiate(&text, &Settings { cpu, ..Settings::default() }, |store, instance| {
                let [f, hidden] = ["f", "hidden"]
                    .map(|name| instance.typed_func::<(u128, u128), u128>(&*store, name).unwrap());
                for _ in 0..50 {
                    let mut vector = || {
                        let bytes =
                            std::array::from_fn(|_| u8::try_from(random.below(256)).unwrap());
                        u128::from_le_bytes(bytes)
                    };
                    let operands = (vector(), vector());
                    let wanted = hidden.call(&mut *store, operands).unwrap();
                    assert_eq!(f.call(&mut *store, operands).unwrap(), wanted, "{cpu}: {form}");
                }
            });
        }
    }
}

#[test]
fn swizzles_take_zero_from_outside() {
    let text = r#"(module (func (export "f") (param v128 v128) (result v128)
        (i8x16.swizzle (local.get 0) (local.get 1))))"#;
    let a: [u8; 16] = std::array::from_fn(|place| 0x80 + u8::try_from(place).unwrap());
    for cpu in levels() {
        let settings = Settings { cpu, ..Settings::default() };
        for start in (0..=255).step_by(5) {
            let indices: [u8; 16] = std::array::from_fn(|place| {
                u8::try_from(place).unwrap().wrapping_mul(7).wrapping_add(start)
            });
            let found: u128 =
                call(text, &settings, (u128::from_le_bytes(a), u128::from_le_bytes(indices)));
            let wanted = indices.map(|index| *a.get(usize::from(index)).unwrap_or(&0));
            assert_eq!(bytes(found), wanted, "{cpu}");
        }
    }
}

/// A function of all operators that take vectors to one vector, by their names.
fn every_operator() -> String {
    let unary = "v128.not i8x16.abs i8x16.neg i8x16.popcnt i16x8.abs i16x8.neg i32x4.abs i32x4.neg \
        i64x2.abs i64x2.neg i16x8.extadd_pairwise_i8x16_s i16x8.extadd_pairwise_i8x16_u \
        i32x4.extadd_pairwise_i16x8_s i16x8.extend_low_i8x16_s i16x8.extend_high_i8x16_u \
        i32x4.extend_high_i16x8_s i64x2.extend_low_i32x4_u f32x4.ceil f32x4.floor f32x4.trunc \
        f32x4.nearest f32x4.abs f32x4.neg f32x4.sqrt f64x2.ceil f64x2.floor f64x2.trunc \
        f64x2.nearest f64x2.abs f64x2.neg f64x2.sqrt i32x4.trunc_sat_f32x4_s \
        i32x4.trunc_sat_f32x4_u f32x4.convert_i32x4_s f32x4.convert_i32x4_u \
        i32x4.trunc_sat_f64x2_s_zero i32x4.trunc_sat_f64x2_u_zero f64x2.convert_low_i32x4_s \
        f64x2.convert_low_i32x4_u f32x4.demote_f64x2_zero f64x2.promote_low_f32x4";
    let binary = "i8x16.swizzle v128.and v128.andnot v128.or v128.xor i8x16.eq i8x16.lt_u i16x8.ge_u \
        i32x4.gt_u i64x2.lt_s i64x2.eq f32x4.lt f64x2.ge i8x16.narrow_i16x8_s i8x16.narrow_i16x8_u \
        i16x8.narrow_i32x4_u i8x16.add_sat_s i16x8.sub_sat_u i8x16.min_s i8x16.max_u i16x8.min_u \
        i32x4.max_s i32x4.min_u i16x8.avgr_u i16x8.q15mulr_sat_s i16x8.mul i32x4.mul i64x2.mul \
        i16x8.extmul_low_i8x16_s i32x4.extmul_high_i16x8_u i64x2.extmul_low_i32x4_s \
        i32x4.dot_i16x8_s f32x4.add f32x4.div f32x4.min f32x4.max f32x4.pmin f64x2.sub f64x2.mul \
        f64x2.min f64x2.max f64x2.pmax";
    let unary =
        unary.split_whitespace().fold("(local.get 0)".to_owned(), |x, op| format!("({op} {x})"));
    let both = binary.split_whitespace().fold(unary, |x, op| format!("({op} {x} (local.get 1))"));
    format!(r#"(module (func (export "f") (param v128 v128) (result v128) {both}))"#)
}

#[test]
fn code_needs_no_feature_beyond_its_level() {
    let text = every_operator();
    for cpu in LEVELS {
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        let settings = Settings { target, cpu, ..Settings::default() };
        let file = compile_with(&text, &settings);
        let needed = CpuFeatures::from_bits(Header::of(&file).unwrap().cpu_features.get());
        let allowed = cpu.features(Arch::X86_64).unwrap();
        assert!(allowed.contains(needed), "{cpu}: {}", needed.difference(allowed));
        let expected = match cpu {
            CpuLevel::X86_64V2 => CpuFeatures::SSSE3.union(CpuFeatures::SSE41),
            CpuLevel::X86_64V3 => CpuFeatures::AVX,
            CpuLevel::X86_64V4 => CpuFeatures::AVX512F.union(CpuFeatures::AVX512VL),
            _ => CpuFeatures::NONE,
        };
        assert!(needed.contains(expected), "{cpu}: {needed}");
    }
}

#[test]
fn single_instructions_record_their_feature() {
    let features = |body: &str, cpu, relaxed_simd| {
        let text =
            format!("(module (func (export \"f\") (param v128 v128 v128) (result v128) {body}))");
        let target = "x86_64-unknown-linux-gnu".parse().unwrap();
        let settings = Settings { target, cpu, relaxed_simd, ..Settings::default() };
        let file = compile_with(&text, &settings);
        CpuFeatures::from_bits(Header::of(&file).unwrap().cpu_features.get())
    };
    let madd = "(f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))";
    let add = "(i32x4.add (local.get 0) (local.get 1))";
    let swizzle = "(i8x16.swizzle (local.get 0) (local.get 1))";
    let floor = "(f32x4.floor (local.get 0))";
    let splat = "(i8x16.splat (i8x16.extract_lane_u 3 (local.get 0)))";
    let native = RelaxedSimd::Native;
    assert!(features(madd, CpuLevel::X86_64V3, native).contains(CpuFeatures::FMA));
    assert_eq!(features(madd, CpuLevel::X86_64V2, native), CpuFeatures::NONE);
    let deterministic = features(madd, CpuLevel::X86_64V3, RelaxedSimd::Deterministic);
    assert_eq!(deterministic, CpuFeatures::AVX);
    assert_eq!(features(add, CpuLevel::X86_64V2, native), CpuFeatures::NONE);
    assert_eq!(features(add, CpuLevel::X86_64V3, native), CpuFeatures::AVX);
    assert!(features(splat, CpuLevel::X86_64V3, native).contains(CpuFeatures::AVX2));
    assert_eq!(features(splat, CpuLevel::Baseline, native), CpuFeatures::NONE);
    assert_eq!(features(swizzle, CpuLevel::Baseline, native), CpuFeatures::NONE);
    assert_eq!(features(swizzle, CpuLevel::X86_64V2, native), CpuFeatures::SSSE3);
    assert_eq!(features(floor, CpuLevel::Baseline, native), CpuFeatures::NONE);
    assert_eq!(features(floor, CpuLevel::X86_64V2, native), CpuFeatures::SSE41);
}

#[test]
fn every_level_computes_the_same() {
    let text = every_operator();
    let mut random = Random::new(2);
    for _ in 0..8 {
        let mut vector = || u128::from(random.number()) << 64 | u128::from(random.number());
        let params = (vector(), vector());
        let results: Vec<u128> = levels()
            .map(|cpu| {
                let settings = Settings { cpu, canonicalize_nans: true, ..Settings::default() };
                call(&text, &settings, params)
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{params:x?}: {results:x?}");
    }
}

fn repeat<const N: usize>(lane: [u8; N]) -> u128 {
    u128::from_le_bytes(std::array::from_fn(|place| lane[place % N]))
}

#[test]
fn relaxed_operators_can_be_the_same_for_every_level() {
    // One plus a bit, times one plus a bit: the last bit of the product is
    // lost if it is rounded before the sum.
    let (x, y, z) =
        (f32::from_bits(0x3f80_0002), f32::from_bits(0x3f80_0100), f32::from_bits(0xbf80_0102));
    let params = (repeat(x.to_le_bytes()), repeat(y.to_le_bytes()), repeat(z.to_le_bytes()));
    let madd = r#"(module (func (export "f") (param v128 v128 v128) (result v128)
        (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))))"#;
    for cpu in levels() {
        for relaxed_simd in [RelaxedSimd::Deterministic, RelaxedSimd::Native] {
            let settings = Settings { cpu, relaxed_simd, ..Settings::default() };
            let found: u128 = call(madd, &settings, params);
            let fused = relaxed_simd == RelaxedSimd::Native
                && match Arch::host() {
                    Some(Arch::X86_64) => LEVELS[2..].contains(&cpu),
                    _ => true,
                };
            let wanted = if fused { x.mul_add(y, z) } else { x * y + z };
            assert_eq!(found, repeat(wanted.to_le_bytes()), "{cpu} {relaxed_simd:?}");
        }
    }
    assert!(x.mul_add(y, z) != 0.0 && x * y + z == 0.0);

    let other = r#"(module (func (export "f") (param v128 v128) (result v128 v128 v128 v128 v128)
        (i8x16.relaxed_swizzle (local.get 0) (local.get 1))
        (i16x8.relaxed_dot_i8x16_i7x16_s (local.get 0) (local.get 0))
        (i16x8.relaxed_q15mulr_s (local.get 1) (local.get 1))
        (i32x4.relaxed_trunc_f32x4_s (local.get 1))
        (f64x2.relaxed_min (local.get 0) (local.get 1))))"#;
    for cpu in levels() {
        let relaxed_simd = RelaxedSimd::Deterministic;
        let settings = Settings { cpu, relaxed_simd, ..Settings::default() };
        // All bytes -128; indices in the middle range; the smallest 16-bit number.
        let smallest = repeat([0x80]);
        let found: (u128, u128, u128, u128, u128) =
            call(other, &settings, (smallest, repeat([16])));
        assert_eq!(found.0, 0, "{cpu}: an index above 15 gives zero");
        assert_eq!(found.1, repeat([0xff, 0x7f]), "{cpu}: a sum saturates");
        let found: (u128, u128, u128, u128, u128) =
            call(other, &settings, (smallest, repeat([0x00, 0x80])));
        assert_eq!(found.2, repeat([0xff, 0x7f]), "{cpu}: a product saturates");
        let nan = repeat(f32::NAN.to_le_bytes());
        let found: (u128, u128, u128, u128, u128) = call(other, &settings, (0_u128, nan));
        assert_eq!(found.3, 0, "{cpu}: NaN is zero");
        let nan = repeat(f64::NAN.to_le_bytes());
        let found: (u128, u128, u128, u128, u128) = call(other, &settings, (0_u128, nan));
        assert!(f64::from_bits(u64::try_from(found.4 >> 64).unwrap()).is_nan(), "{cpu}");
    }
}

/// NaNs of all kinds, and numbers that make more of them.
const FLOATS: [u64; 8] = [
    0x7ff8_0000_0000_0000, // canonical
    0xfff8_0000_0000_0000, // negative
    0x7ff0_0000_0000_0001, // signalling
    0xfff4_dead_beef_0bad, // negative, signalling, with a payload
    0x7ff8_1234_5678_9abc, // with a payload
    0x7ff0_0000_0000_0000, // infinity
    0x0000_0000_0000_0000,
    0xbff0_0000_0000_0000, // minus one
];

/// The same as `f32`: sign, quiet bit and some of the payload.
fn narrow(bits: u64) -> u32 {
    let sign = u32::try_from(bits >> 63).unwrap() << 31;
    let exponent = match bits >> 52 & 0x7ff {
        0x7ff => 0xff,
        0x3ff => 0x7f,
        _ => 0,
    };
    let fraction = u32::try_from(bits >> 29 & 0x7f_ffff).unwrap() | u32::from(bits & 1 == 1);
    sign | exponent << 23 | fraction
}

#[test]
fn nans_are_canonical_whatever_makes_them() {
    let unary = ["sqrt", "ceil", "floor", "trunc", "nearest"];
    let binary = ["add", "sub", "mul", "div", "min", "max"];
    let mut functions = String::new();
    let mut names = Vec::new();
    for (ty, lanes, integer) in [("f64", "f64x2", "i64"), ("f32", "f32x4", "i32")] {
        let operators = unary
            .map(|name| (name, "(local.get 0)"))
            .into_iter()
            .chain(binary.map(|name| (name, "(local.get 0) (local.get 1)")));
        for (operator, operands) in operators {
            // The bits of a scalar are seen by its reinterpretation, and through a branch.
            functions += &format!(
                r#"(func (export "{ty}.{operator}") (param {ty} {ty}) (result {integer})
                    (block $b (result {ty})
                        (br_if $b ({ty}.{operator} {operands}) (i32.const 1)))
                    {integer}.reinterpret_{ty})
                (func (export "{lanes}.{operator}") (param v128 v128) (result v128)
                    ({lanes}.{operator} {operands}))"#
            );
            names.push((format!("{ty}.{operator}"), format!("{lanes}.{operator}"), ty == "f64"));
        }
    }
    functions += r#"
        (func (export "demote") (param f64) (result f32) (f32.demote_f64 (local.get 0)))
        (func (export "promote") (param f32) (result f64) (f64.promote_f32 (local.get 0)))
        (func (export "memory") (param f64 f64) (result i64)
            (f64.store (i32.const 0) (f64.add (local.get 0) (local.get 1)))
            (i64.load (i32.const 0)))
        (memory 1)"#;
    for cpu in levels() {
        for opt_level in [OptLevel::None, OptLevel::Speed] {
            let settings =
                Settings { cpu, opt_level, canonicalize_nans: true, ..Settings::default() };
            let artifact = load(&compile_with(&format!("(module {functions})"), &settings));
            let engine = Engine::default();
            let mut store = Store::new(&engine, ());
            let instance = Linker::new(&engine).instantiate(&mut store, &artifact).unwrap();
            let mut call = |name: &str, args: &[Val<'_>]| {
                instance.func(&store, name).unwrap().call(&mut store, args).unwrap()[0]
            };
            let check64 = |bits: u64, name: &str| {
                if f64::from_bits(bits).is_nan() {
                    assert_eq!(bits, 0x7ff8_0000_0000_0000, "{name} {cpu} {opt_level:?}");
                }
            };
            let check32 = |bits: u32, name: &str| {
                if f32::from_bits(bits).is_nan() {
                    assert_eq!(bits, 0x7fc0_0000, "{name} {cpu} {opt_level:?}");
                }
            };
            for (a, b) in FLOATS.iter().flat_map(|a| FLOATS.map(|b| (*a, b))) {
                for (scalar, vector, wide) in &names {
                    if *wide {
                        let found = call(scalar, &[Val::F64(a), Val::F64(b)]);
                        check64(found.i64().unwrap().cast_unsigned(), scalar);
                        let both = |bits: u64| Val::V128(repeat(bits.to_le_bytes()));
                        let found = bytes(call(vector, &[both(a), both(b)]).v128().unwrap());
                        let (lanes, _) = found.as_chunks::<8>();
                        lanes.iter().for_each(|lane| check64(u64::from_le_bytes(*lane), vector));
                    } else {
                        let (a, b) = (narrow(a), narrow(b));
                        let found = call(scalar, &[Val::F32(a), Val::F32(b)]);
                        check32(found.i32().unwrap().cast_unsigned(), scalar);
                        let all = |bits: u32| Val::V128(repeat(bits.to_le_bytes()));
                        let found = bytes(call(vector, &[all(a), all(b)]).v128().unwrap());
                        let (lanes, _) = found.as_chunks::<4>();
                        lanes.iter().for_each(|lane| check32(u32::from_le_bytes(*lane), vector));
                    }
                }
                let found = call("memory", &[Val::F64(a), Val::F64(b)]);
                check64(found.i64().unwrap().cast_unsigned(), "f64.store");
                let Val::F32(found) = call("demote", &[Val::F64(a)]) else { unreachable!() };
                check32(found, "f32.demote_f64");
                let found = call("promote", &[Val::F32(narrow(a))]);
                let Val::F64(found) = found else { unreachable!() };
                check64(found, "f64.promote_f32");
            }
        }
    }
}

#[test]
fn without_the_setting_nans_leak_their_bits() {
    let text = r#"(module (func (export "f") (param f64) (result i64)
        (i64.reinterpret_f64 (f64.add (local.get 0) (f64.const 1)))))"#;
    let payload = f64::from_bits(0x7ff8_1234_5678_9abc);
    let of = |canonicalize_nans| -> u64 {
        call(text, &Settings { canonicalize_nans, ..Settings::default() }, payload)
    };
    assert_eq!(of(false), payload.to_bits());
    assert_eq!(of(true), 0x7ff8_0000_0000_0000);
}
