//! Damaged files: every single bit flipped, a cut at every length, and metadata
//! that somebody changed and sealed again.
//!
//! Of the reference artifacts for this host, every bit is flipped and every cut is made, always. Of the one
//! for another architecture, which is large since its pages are, and of metadata that were sealed again, a sample runs
//! by default. `CWASM_LONG=1` runs all of it.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cwasm_artifact::check::{Origin, check, check_from};
use cwasm_artifact::header::{HEADER_OFFSET, HEADER_SIZE, Header, Section, TREE_OFFSET};
use cwasm_loader::{Artifact, Digest, LoadError, Report, Trust};
use cwasm_tests::fault::mutants::{self, ARTIFACT};
use cwasm_tests::fault::random::Random;
use cwasm_tests::signing::Key;

fn long() -> bool {
    std::env::var_os("CWASM_LONG").is_some()
}

/// Why the bytes are refused; they never load, and never for lack of memory.
fn refusal(bytes: &[u8], trust: &Trust, what: &dyn std::fmt::Display) -> Report {
    match catch_unwind(|| Artifact::from_bytes(bytes, trust)) {
        Ok(Err(LoadError::Refused(report))) => report,
        Ok(Err(error)) => panic!("{what}: {error}"),
        Ok(Ok(_)) => panic!("{what}: it was accepted"),
        Err(_) => panic!("{what}: panic"),
    }
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.problems().iter().map(|problem| problem.kind()).collect()
}

#[test]
fn the_artifact_has_every_section() {
    let header = Header::of(&ARTIFACT).unwrap();
    for section in Section::ALL {
        assert!(header.section(section).length.get() > 0, "{} is empty", section.name());
    }
    mutants::raw_bytes(&ARTIFACT).unwrap();
}

/// A reference artifact, as it is on disk.
fn golden(name: &str) -> Vec<u8> {
    let folder = format!("../artifacts/golden/v{}", cwasm_artifact::header::FORMAT_VERSION);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder).join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a body with the numbers below `count`, shared out to the processors, each with a state of its own.
fn in_parallel<S>(count: usize, state: impl Fn() -> S + Sync, body: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                let mut state = state();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    body(&mut state, number);
                }
            });
        }
    });
    // A body that panics takes its number with it; the scope then panics.
    assert!(next.into_inner() >= count);
}

/// The kinds of which one must be reported for a flipped bit at an offset.
fn kinds_for(artifact: &[u8], offset: usize) -> &'static [&'static str] {
    // Offsets of fields in the header, by FORMAT.md.
    match offset {
        0..4 | 64..72 => &["not-an-artifact"],
        // Bytes of the header that decide how the rest is to be understood.
        72..76 | 80..112 => &["stale"],
        144..208 if artifact[offset] != 0 => &["other-target"],
        // CPU features and settings: made for another host, and not as sealed.
        208..216 | 232..240 => &["corrupt"],
        // The length of the file.
        288..296 => &["truncated", "trailing-bytes"],
        // The signatures too: the root does not cover them, and their own checksum does.
        _ => &["corrupt"],
    }
}

/// Flips the bits of an artifact, and expects the right refusal: all of the header and the
/// signatures; of the rest one bit in `stride`.
fn flipped_bits(artifact: &[u8], trust: &Trust, stride: usize) {
    let front = TREE_OFFSET * 8;
    let bits: Vec<_> = (0..front).chain((front..artifact.len() * 8).step_by(stride)).collect();
    in_parallel(
        bits.len(),
        || artifact.to_vec(),
        |bytes, number| {
            let bit = bits[number];
            let offset = bit / 8;
            bytes[offset] ^= 1 << (bit % 8);
            let what = format_args!("bit {} of byte {offset:#x}", bit % 8).to_string();
            let report = refusal(bytes, trust, &what);
            let found = kinds(&report);
            let wanted = kinds_for(artifact, offset);
            assert!(wanted.iter().any(|kind| found.contains(kind)), "{what}: {report}");
            // Damage is never mistaken for a lie,
            assert!(
                !found.contains(&"bad-signature") && !found.contains(&"unsigned"),
                "{what}: {report}"
            );
            // nor for a file for another loader, except
            // in the version of the format, without which nothing else has a meaning.
            assert_eq!(report.is_miss(), (72..76).contains(&offset), "{what}: {report}");
            bytes[offset] ^= 1 << (bit % 8);
        },
    );
}

/// Cuts an artifact at lengths, and expects the right refusal.
fn cuts(artifact: &[u8], trust: &Trust, stride: usize) {
    let lengths: Vec<_> = (0..TREE_OFFSET)
        .chain((TREE_OFFSET..artifact.len()).step_by(stride))
        .chain([artifact.len() - 1])
        .collect();
    in_parallel(
        lengths.len(),
        || (),
        |(), number| {
            let length = lengths[number];
            let report = refusal(&artifact[..length], trust, &format!("cut to {length}"));
            let wanted = if length < 4 { "not-an-artifact" } else { "truncated" };
            assert!(kinds(&report).contains(&wanted), "cut to {length}: {report}");
            assert!(!report.is_miss());
        },
    );
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_flipped_bit_and_every_cut_of_the_reference_artifact_is_found() {
    let file = golden("everything.x86_64.cwasm");
    let trust = Trust::digest(Digest::stated_in(&file).unwrap());
    Artifact::from_bytes(&file, &trust).unwrap();
    flipped_bits(&file, &trust, 1);
    cuts(&file, &trust, 1);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn every_flipped_bit_and_every_cut_of_the_signed_reference_artifact_is_found() {
    let file = golden("signed.x86_64.cwasm");
    let keys = Trust::keys([Key::new(1).public()]);
    Artifact::from_bytes(&file, &keys).unwrap();
    flipped_bits(&file, &keys, 1);
    cuts(&file, &keys, 1);
    // Who knows the digest does not ask for signatures, and gets none that are damaged.
    let stride = if long() { 1 } else { 29 };
    flipped_bits(&file, &Trust::digest(Digest::stated_in(&file).unwrap()), stride);
}

/// Its digest is checked on every host, and it loads on none but its own.
#[test]
fn flipped_bits_and_cuts_of_the_reference_artifact_for_aarch64_are_found() {
    let file = golden("everything.aarch64.cwasm");
    let intact = check(&file, None).unwrap();
    let wanted = Origin::Digest(intact.digest());
    // No power of two divides the distance, so that it is another bit of the byte each time.
    let stride = if long() { 1 } else { 997 };
    let front = TREE_OFFSET * 8;
    let bits: Vec<_> = (0..front).chain((front..file.len() * 8).step_by(stride)).collect();
    in_parallel(
        bits.len(),
        || file.clone(),
        |bytes, number| {
            let (offset, mask) = (bits[number] / 8, 1 << (bits[number] % 8));
            bytes[offset] ^= mask;
            // The triple and ABI are the host's to compare; they are sealed like everything else.
            let wanted_kinds = match offset {
                0..4 | 64..72 => "not-an-artifact",
                72..76 => "stale",
                _ => "corrupt",
            };
            let report = check_from(bytes, None, wanted).expect_err("it was accepted");
            assert!(kinds(&report).contains(&wanted_kinds), "byte {offset:#x}: {report}");
            bytes[offset] ^= mask;
        },
    );
    in_parallel(
        file.len() / stride,
        || (),
        |(), number| {
            let length = number * stride;
            let report = check_from(&file[..length], None, wanted).expect_err("it was accepted");
            let wanted = if length < 4 { "not-an-artifact" } else { "truncated" };
            assert!(kinds(&report).contains(&wanted), "cut to {length}: {report}");
        },
    );
}

#[test]
fn flipped_bits_of_an_artifact_of_this_compiler_are_found() {
    let stride = if long() { 1 } else { 29 };
    flipped_bits(&ARTIFACT, &Trust::digest(Digest::stated_in(&ARTIFACT).unwrap()), stride);
    let signed = Key::new(1).sign(&Key::new(2).sign(&ARTIFACT));
    flipped_bits(&signed, &Trust::keys([Key::new(1).public()]), stride);
}

#[test]
fn every_cut_and_every_addition_is_found() {
    let trust = Trust::digest(Digest::stated_in(&ARTIFACT).unwrap());
    cuts(&ARTIFACT, &trust, 1);
    for more in [1, 7, 4096, 65536, 1 << 20] {
        let mut bytes = ARTIFACT.clone();
        bytes.resize(bytes.len() + more, 0);
        let report = refusal(&bytes, &trust, &format!("{more} bytes more"));
        assert!(kinds(&report).contains(&"trailing-bytes"), "{report}");
    }
}

#[test]
fn an_artifact_is_not_another_one() {
    let other = Trust::digest(Digest::stated_in(&cwasm_tests::compile("(module)")).unwrap());
    let report = refusal(&ARTIFACT, &other, &"the digest of another artifact");
    assert_eq!(kinds(&report), ["untrusted"]);
}

#[test]
fn resealed_metadata_is_refused_or_harmless() {
    let count = if long() { 1_000_000 } else { 24_000 };
    let (mut loaded, mut slowest) = (0, Duration::ZERO);
    for seed in 0..count {
        let mut random = Random::new(seed);
        let steps = 1 + random.below(4);
        let script = random.bytes(steps * mutants::STEP);
        let begin = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| mutants::resealed(&script))) {
            Ok(Ok(())) => loaded += 1,
            Ok(Err(LoadError::Refused(_))) => {}
            Ok(Err(error)) => panic!("seed {seed}: {error}"),
            Err(_) => panic!("seed {seed}: panic"),
        }
        slowest = slowest.max(begin.elapsed());
    }
    // Both must happen, or the mutants are of no use.
    assert!(loaded > count / 100 && loaded < count * 9 / 10, "{loaded} of {count} loaded");
    assert!(slowest < Duration::from_secs(2), "a mutant took {slowest:?}");
}

#[test]
fn every_number_in_the_metadata_may_be_extreme() {
    let records = Section::ALL.into_iter().filter(|section| {
        !matches!(section, Section::Text | Section::ImageBytes | Section::Data | Section::Strings)
    });
    let places = records
        .flat_map(mutants::section)
        .chain(HEADER_OFFSET..HEADER_OFFSET + HEADER_SIZE)
        .filter(|place| long() || place % 4 == 0);
    for place in places {
        for number in mutants::INTERESTING {
            for width in [4, 8] {
                let result = catch_unwind(|| {
                    mutants::resealed_after(|file| {
                        file[place..place + width].copy_from_slice(&number.to_le_bytes()[..width]);
                    })
                });
                assert!(
                    matches!(result, Ok(Ok(()) | Err(LoadError::Refused(_)))),
                    "{width} bytes at {place:#x} with {number:#x}: {result:?}"
                );
            }
        }
    }
}

#[test]
fn bytes_that_are_no_artifact_at_all_are_refused() {
    for seed in 0..2000 {
        let mut random = Random::new(seed);
        let length = random.below(6000);
        let mut bytes = random.bytes(length);
        // Let most of them get past the first look.
        let front = [0, 4, 64, 76, 300, 1344][random.below(6)].min(length);
        bytes[..front].copy_from_slice(&ARTIFACT[..front]);
        let result = catch_unwind(|| mutants::raw_bytes(&bytes));
        assert!(matches!(result, Ok(Err(LoadError::Refused(_)))), "seed {seed}: {result:?}");
    }
}
