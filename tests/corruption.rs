//! Damaged files: every single bit flipped, a cut at every length, and metadata
//! that somebody changed and sealed again.
//!
//! A sample runs by default. `CWASM_LONG=1` runs all of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use cwasm_artifact::header::{HEADER_OFFSET, HEADER_SIZE, Header, LEAVES_OFFSET, Section};
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

/// The kinds of which one must be reported for a flipped bit at an offset.
fn kinds_for(offset: usize) -> &'static [&'static str] {
    // Offsets of fields in the header, by FORMAT.md.
    match offset {
        0..4 | 64..72 => &["not-an-artifact"],
        // Bytes of the header that decide how the rest is to be understood.
        72..76 | 80..112 => &["stale"],
        144..208 if ARTIFACT[offset] != 0 => &["other-target"],
        // CPU features and settings: made for another host, and not as sealed.
        208..216 | 232..240 => &["corrupt"],
        // The length of the file.
        288..296 => &["truncated", "trailing-bytes"],
        // The signatures too: the root does not cover them, and their own checksum does.
        _ => &["corrupt"],
    }
}

/// Flips every bit of an artifact, or a sample of them, and expects the right refusal.
fn every_flipped_bit(artifact: &[u8], trust: &Trust) {
    let mut bytes = artifact.to_vec();
    let bits = bytes.len() * 8;
    // All of the header and the signatures; of the rest a bit now and then, at a distance that
    // no power of two divides, so that it is another bit of the byte each time.
    let front = LEAVES_OFFSET * 8;
    let stride = if long() { 1 } else { 5 };
    for bit in (0..front).chain((front..bits).step_by(stride)) {
        let offset = bit / 8;
        bytes[offset] ^= 1 << (bit % 8);
        let what = format_args!("bit {} of byte {offset:#x}", bit % 8).to_string();
        let report = refusal(&bytes, trust, &what);
        let found = kinds(&report);
        let wanted = kinds_for(offset);
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
    }
}

#[test]
fn every_flipped_bit_is_found() {
    every_flipped_bit(&ARTIFACT, &Trust::digest(Digest::stated_in(&ARTIFACT).unwrap()));
}

#[test]
fn every_flipped_bit_of_a_signed_artifact_is_found() {
    let signed = Key::new(1).sign(&Key::new(2).sign(&ARTIFACT));
    every_flipped_bit(&signed, &Trust::keys([Key::new(1).public()]));
    // Who knows the digest does not ask for signatures, and gets none that are damaged.
    every_flipped_bit(&signed, &Trust::digest(Digest::stated_in(&ARTIFACT).unwrap()));
}

#[test]
fn every_cut_is_found() {
    let trust = Trust::digest(Digest::stated_in(&ARTIFACT).unwrap());
    let signed = Key::new(1).sign(&ARTIFACT);
    let keys = Trust::keys([Key::new(1).public()]);
    for length in 0..ARTIFACT.len() {
        for (file, trust) in [(&*ARTIFACT, &trust), (&signed, &keys)] {
            let report = refusal(&file[..length], trust, &format!("cut to {length}"));
            let wanted = if length < 4 { "not-an-artifact" } else { "truncated" };
            assert!(kinds(&report).contains(&wanted), "cut to {length}: {report}");
            assert!(!report.is_miss());
        }
    }
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
