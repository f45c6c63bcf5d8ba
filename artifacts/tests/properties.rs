//! Properties of checking: no bytes make it panic, and nothing but the sealed
//! bytes passes.

use cwasm_artifact::abi::fingerprint;
use cwasm_artifact::builder::{Provenance, Tables, reseal, seal};
use cwasm_artifact::check::{Host, check, claimed_length};
use cwasm_artifact::cpu::{CpuFeatures, host_triple};
use cwasm_artifact::header::{
    HEADER_OFFSET, SIGNATURES_OFFSET, Section, SectionRange, TREE_OFFSET,
};
use cwasm_artifact::module::Module;
use cwasm_artifact::signature::Signatures;
use cwasm_artifact::tree::Tree;
use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

/// The smallest artifact: an ELF header, the front, and empty metadata with
/// this much padding behind it.
fn artifact(padding: usize) -> Vec<u8> {
    let module = Tables::default()
        .sections()
        .into_iter()
        .find(|(section, _)| *section == Section::Module)
        .map(|(_, mut bytes)| {
            // No start function.
            bytes[8..12].fill(0xff);
            bytes
        })
        .unwrap();
    let tree = Tree::for_at_most(module.len() + padding, 4096);
    let start = tree.body_offset();
    let mut file = vec![0; start];
    file[..4].copy_from_slice(b"\x7fELF");
    let range = SectionRange::new(start as u64, module.len() as u64);
    file.extend_from_slice(&module);
    file.extend((0..padding).map(|i| i.to_le_bytes()[0]));
    let provenance = Provenance {
        abi: fingerprint(),
        compiler: "0.0.0",
        target: &host_triple(),
        cpu_features: CpuFeatures::NONE,
        cpu_level: "x86-64-v1",
        settings: 0,
        opt_level: "2",
        source: b"",
    };
    seal(&mut file, &provenance, &[(Section::Module, range)], tree).unwrap();
    file
}

#[test]
fn the_smallest_artifact_is_accepted() {
    // Miri takes minutes to hash what has more than a chunk.
    let paddings: &[usize] = if cfg!(miri) { &[0, 1] } else { &[0, 1, 16_384, 200_000, 3_000_000] };
    for padding in paddings {
        let file = artifact(*padding);
        let checked = check(&file, Some(&Host::this())).unwrap();
        let module = Module::new(&checked).unwrap();
        assert_eq!(module.counts().functions, 0);
        assert_eq!(claimed_length(&file), Ok(file.len() as u64));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        prop_assert!(check(&bytes, Some(&Host::this())).is_err());
        // And with the front of an artifact before them.
        let mut file = artifact(0);
        file.truncate(TREE_OFFSET);
        file.extend_from_slice(&bytes);
        prop_assert!(check(&file, None).is_err());
    }

    #[test]
    fn changed_bytes_are_refused(padding in 0_usize..100_000, place in any::<prop::sample::Index>(), bits in 1_u8..) {
        let mut file = artifact(padding);
        let place = place.index(file.len());
        file[place] ^= bits;
        prop_assert!(check(&file, Some(&Host::this())).is_err(), "byte {place:#x}");
    }

    #[test]
    fn a_front_that_was_sealed_again_never_panics(
        place in HEADER_OFFSET..TREE_OFFSET,
        bytes in proptest::collection::vec(any::<u8>(), 1..64),
    ) {
        let mut file = artifact(100);
        let end = (place + bytes.len()).min(TREE_OFFSET);
        file[place..end].copy_from_slice(&bytes[..end - place]);
        if reseal(&mut file).is_ok() && let Ok(checked) = check(&file, None) {
            let _ = Module::new(&checked);
        }
    }

    #[test]
    fn a_signature_area_is_what_reading_and_writing_it_gives_or_is_refused(
        records in proptest::collection::vec((0_u8..5, 0_u8..5, any::<u8>()), 0..6),
        stray in prop_oneof![Just((0, 0)), (0_usize..480, any::<u8>())],
    ) {
        let mut file = artifact(0);
        let area = &mut file[SIGNATURES_OFFSET..TREE_OFFSET];
        for (place, (kind, key, byte)) in area.chunks_exact_mut(96).zip(&records) {
            match kind {
                0 => continue,
                1 => place[..5].copy_from_slice(b"ed448"),
                _ => place[..7].copy_from_slice(b"ed25519"),
            }
            place[16..32].fill(*key);
            place[32..].fill(*byte);
        }
        area[stray.0] ^= stray.1;
        let checksum = Sha256::new_with_prefix([2]).chain_update(&area[..480]).finalize();
        area[480..].copy_from_slice(&checksum);
        match Signatures::of(&file) {
            Ok(signatures) => {
                let mut copy = artifact(0);
                signatures.write(&mut copy).unwrap();
                prop_assert!(copy == file);
                prop_assert!(!signatures.is_empty());
                prop_assert!(check(&file, None).is_ok());
            }
            Err(problem) => {
                prop_assert_eq!(problem.kind(), "invalid");
                prop_assert!(check(&file, None).is_err());
            }
        }
    }
}
