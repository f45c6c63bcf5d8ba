//! Reasons to trust a file: signatures, digests, directories. Each way in which one
//! fails has its own answer.

use std::fs::{self, File, Permissions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use cwasm_artifact::builder::reseal;
use cwasm_artifact::header::{HEADER_OFFSET, SIGNATURES_OFFSET};
use cwasm_artifact::signature::{MAX_SIGNATURES, Signatures};
use cwasm_loader::{
    Artifact, CacheDir, CacheDirError, Digest, Exposure, LoadError, Problem, Report, Trust,
};
use cwasm_tests::compile;
use cwasm_tests::fault::child;
use cwasm_tests::fault::mutants::ARTIFACT;
use cwasm_tests::signing::{Key, with_signatures};

fn keys(numbers: &[u8]) -> Trust {
    Trust::keys(numbers.iter().map(|number| Key::new(*number).public()))
}

fn report(bytes: &[u8], trust: &Trust) -> Report {
    match Artifact::load(bytes, trust) {
        Err(LoadError::Refused(report)) => report,
        other => panic!("{other:?}"),
    }
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.problems().iter().map(Problem::kind).collect()
}

fn digest(bytes: &[u8]) -> Trust {
    Trust::digest(Digest::stated_in(bytes).unwrap())
}

#[test]
fn a_signature_by_a_trusted_key_is_a_reason() {
    let signed = Key::new(1).sign(&ARTIFACT);
    let code = Artifact::load(&signed, &keys(&[1])).unwrap();
    assert_eq!(Some(code.digest()), Digest::stated_in(&ARTIFACT), "signing makes no new artifact");
    // One of many, and among many.
    Artifact::load(&signed, &keys(&[7, 1, 9])).unwrap();
    let signed = Key::new(3).sign(&Key::new(2).sign(&signed));
    for trusted in [&[1][..], &[2], &[3], &[8, 3]] {
        Artifact::load(&signed, &keys(trusted)).unwrap();
    }
    Artifact::load(&signed, &digest(&ARTIFACT)).unwrap();
}

#[test]
fn the_order_of_signing_does_not_matter() {
    let one = Key::new(2).sign(&Key::new(1).sign(&ARTIFACT));
    let other = Key::new(1).sign(&Key::new(2).sign(&ARTIFACT));
    assert!(one == other);
    assert!(one == Key::new(1).sign(&one), "and to sign again changes nothing");
    let mut signatures = Signatures::of(&one).unwrap();
    assert!(signatures.remove(Key::new(2).public().id()));
    assert!(!signatures.remove(Key::new(2).public().id()));
    assert!(with_signatures(&one, &signatures) == Key::new(1).sign(&ARTIFACT));
    assert!(signatures.remove(Key::new(1).public().id()));
    assert!(with_signatures(&one, &signatures) == *ARTIFACT);
}

#[test]
fn there_is_room_for_some_signatures_and_no_more() {
    let mut file = ARTIFACT.clone();
    let count = u8::try_from(MAX_SIGNATURES).unwrap();
    for number in 1..=count {
        file = Key::new(number).sign(&file);
    }
    for number in 1..=count {
        Artifact::load(&file, &keys(&[number])).unwrap();
    }
    let mut signatures = Signatures::of(&file).unwrap();
    let error = signatures.insert(Key::new(100).signature(&file)).unwrap_err();
    assert!(error.to_string().contains("remove one first"));
}

#[test]
fn a_file_without_signatures_says_so() {
    let report = report(&ARTIFACT, &keys(&[1, 2]));
    let wanted = [1, 2].map(|number| Key::new(number).public().id()).to_vec();
    assert_eq!(report.problems(), [Problem::Unsigned { wanted: wanted.clone() }]);
    let text = report.to_string();
    assert!(text.contains(&wanted[1].to_string()) && text.contains("cwasm sign"), "{text}");
    assert!(!report.is_miss());
}

#[test]
fn a_file_that_others_signed_says_who() {
    let signed = Key::new(4).sign(&Key::new(5).sign(&ARTIFACT));
    let report = report(&signed, &keys(&[1]));
    match report.problems() {
        [Problem::UntrustedSigners { found, wanted }] => {
            assert_eq!(found.len(), 2);
            assert!(found.contains(&Key::new(4).public().id()));
            assert_eq!(*wanted, [Key::new(1).public().id()]);
        }
        other => panic!("{other:?}"),
    }
    let text = report.to_string();
    assert!(text.contains(&Key::new(5).public().id().to_string()), "{text}");
}

#[test]
fn no_key_trusts_nothing() {
    assert_eq!(kinds(&report(&Key::new(1).sign(&ARTIFACT), &keys(&[]))), ["untrusted"]);
    assert_eq!(kinds(&report(&ARTIFACT, &keys(&[]))), ["unsigned"]);
}

#[test]
fn a_signature_of_another_artifact_is_a_bad_one() {
    let other = Key::new(1).sign(&compile("(module)"));
    let swapped = with_signatures(&ARTIFACT, &Signatures::of(&other).unwrap());
    let bad = report(&swapped, &keys(&[1]));
    assert_eq!(bad.problems(), [Problem::BadSignature { key: Key::new(1).public().id() }]);
    assert!(bad.to_string().contains("taken from another"), "{bad}");
    // To those who do not trust the key, it is a stranger's.
    assert_eq!(kinds(&report(&swapped, &keys(&[2]))), ["untrusted"]);
    // A good signature beside it is enough.
    Artifact::load(&Key::new(2).sign(&swapped), &keys(&[1, 2])).unwrap();
    // Who knows the digest needs no signature.
    Artifact::load(&swapped, &digest(&ARTIFACT)).unwrap();
}

#[test]
fn a_signature_in_the_name_of_another_key_is_a_bad_one() {
    let stranger = Key::new(9).sign(&ARTIFACT);
    let mut forged = stranger.clone();
    forged[SIGNATURES_OFFSET + 16..][..16].copy_from_slice(&Key::new(1).public().id().0);
    // The checksum of the area, as anybody can compute it.
    reseal_signatures(&mut forged);
    assert_eq!(kinds(&report(&forged, &keys(&[1]))), ["bad-signature"]);
}

/// Computes the checksum of the signature area again, as FORMAT.md says.
fn reseal_signatures(file: &mut [u8]) {
    let area = &mut file[SIGNATURES_OFFSET..SIGNATURES_OFFSET + 512];
    let checksum = cwasm_tests::signing::checksum(&area[..480]);
    area[480..].copy_from_slice(&checksum);
}

#[test]
fn an_artifact_that_was_changed_and_sealed_again_has_a_bad_signature() {
    let mut file = Key::new(1).sign(&ARTIFACT);
    // The version of the compiler, in the header.
    file[HEADER_OFFSET + 48] = b'9';
    reseal(&mut file).unwrap();
    assert_eq!(kinds(&report(&file, &keys(&[1]))), ["bad-signature"]);
    // Something behind the header, which only the root stands for.
    let mut file = Key::new(1).sign(&ARTIFACT);
    let last = file.len() - 1;
    file[last] ^= 1;
    reseal(&mut file).unwrap();
    assert_eq!(kinds(&report(&file, &keys(&[1]))), ["bad-signature"]);
}

#[test]
fn damage_is_not_blamed_on_signatures() {
    let signed = Key::new(1).sign(&ARTIFACT);
    for (place, what) in [(HEADER_OFFSET + 48, "header"), (signed.len() - 1, "body")] {
        let mut file = signed.clone();
        file[place] ^= 1;
        assert_eq!(kinds(&report(&file, &keys(&[1]))), ["corrupt"], "{what}");
        // What else is wrong is reported too.
        assert_eq!(kinds(&report(&file, &keys(&[2]))), ["corrupt", "untrusted"], "{what}");
    }
    let mut file = ARTIFACT.clone();
    *file.last_mut().unwrap() ^= 1;
    assert_eq!(kinds(&report(&file, &keys(&[1]))), ["corrupt", "unsigned"]);
    let other = Trust::digest(Digest([3; 32]));
    assert_eq!(kinds(&report(&file, &other)), ["corrupt", "untrusted"]);
}

#[test]
fn a_damaged_signature_area_is_refused_for_any_reason() {
    // The digest does not cover it; its own checksum does.
    for file in [ARTIFACT.clone(), Key::new(1).sign(&ARTIFACT)] {
        for place in [0, 16, 32, 95, 96, 400, 480, 511] {
            let mut file = file.clone();
            file[SIGNATURES_OFFSET + place] ^= 4;
            for trust in [digest(&ARTIFACT), keys(&[1])] {
                let report = report(&file, &trust);
                assert_eq!(report.problems(), [Problem::CorruptSignatures], "byte {place}");
            }
        }
    }
}

/// What is wrong, and how to make it so.
type Change<'a> = (&'static str, &'a dyn Fn(&mut [u8]));

#[test]
fn a_signature_area_that_makes_no_sense_is_refused_for_any_reason() {
    let two = Key::new(2).sign(&Key::new(1).sign(&ARTIFACT));
    let cases: [Change<'_>; 5] = [
        ("one is of an unknown kind", &|area| {
            area[..16].copy_from_slice(b"ed448\0\0\0\0\0\0\0\0\0\0\0")
        }),
        ("they are not sorted by key", &|area| {
            let (first, second) = area[..192].split_at_mut(96);
            first.swap_with_slice(second);
        }),
        ("they are not sorted by key", &|area| area.copy_within(..96, 96)),
        ("bytes follow the last one", &|area| area[..16].fill(0)),
        ("bytes follow the last one", &|area| area[479] = 1),
    ];
    for (wanted, change) in cases {
        let mut file = two.clone();
        change(&mut file[SIGNATURES_OFFSET..]);
        reseal_signatures(&mut file);
        for trust in [digest(&ARTIFACT), keys(&[1, 2])] {
            match report(&file, &trust).problems() {
                [Problem::InvalidSignatures { what }] => assert_eq!(*what, wanted),
                other => panic!("{wanted}: {other:?}"),
            }
        }
    }
    let mut none = ARTIFACT.clone();
    reseal_signatures(&mut none);
    assert_eq!(kinds(&report(&none, &digest(&ARTIFACT))), ["invalid"]);
}

#[test]
fn the_message_is_that_of_the_specification() {
    // FORMAT.md, section 3, in other words than the code's.
    use ed25519_dalek::{Signer as _, SigningKey};
    let mut message = b"cwasm artifact signature ed25519".to_vec();
    message.extend_from_slice(&ARTIFACT[..832]);
    let key = SigningKey::from_bytes(&[1; 32]);
    let signed = Key::new(1).sign(&ARTIFACT);
    let area = &signed[832..832 + 512];
    assert_eq!(&area[..16], b"ed25519\0\0\0\0\0\0\0\0\0");
    assert_eq!(area[16..32], cwasm_tests::signing::sha256(key.verifying_key().as_bytes())[..16]);
    assert_eq!(area[32..96], key.sign(&message).to_bytes());
    assert!(area[96..480].iter().all(|byte| *byte == 0));
}

#[test]
fn an_open_file_is_read_from_its_beginning_and_keeps_its_position() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&ARTIFACT).unwrap();
    file.seek(SeekFrom::Start(100)).unwrap();
    let code = Artifact::load(&file, &digest(&ARTIFACT)).unwrap();
    assert_eq!(Some(code.digest()), Digest::stated_in(&ARTIFACT));
    assert_eq!(file.stream_position().unwrap(), 100);
    // It stays open, and usable.
    let mut rest = Vec::new();
    file.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), ARTIFACT.len() - 100);
    // SAFETY: the file is what the compiler wrote, and nobody else can open it.
    unsafe { Artifact::load_trusting_file(&file) }.unwrap();
}

#[test]
fn every_kind_of_source_is_checked_alike() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program.cwasm");
    let mut bytes = ARTIFACT.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&path, &bytes).unwrap();
    let file = File::open(&path).unwrap();
    let trust = digest(&ARTIFACT);
    for result in [
        Artifact::load(&path, &trust),
        Artifact::load(path.to_str().unwrap(), &trust),
        Artifact::load(path.as_os_str(), &trust),
        Artifact::load(path.clone(), &trust),
        Artifact::load(&file, &trust),
        Artifact::load(&bytes, &trust),
        Artifact::load(&bytes[..], &trust),
    ] {
        match result {
            Err(LoadError::Refused(report)) => assert_eq!(kinds(&report), ["corrupt"]),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_open_file_that_is_none_or_cannot_be_read_is_refused() {
    let trust = digest(&ARTIFACT);
    let directory = File::open("/").unwrap();
    match Artifact::load(&directory, &trust) {
        Err(LoadError::NotAFile { found, .. }) => assert_eq!(found, "a directory"),
        other => panic!("{other:?}"),
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    let pipe = File::from(std::os::fd::OwnedFd::from(reader));
    match Artifact::load(&pipe, &trust) {
        Err(LoadError::NotAFile { found, .. }) => assert_eq!(found, "a named pipe"),
        other => panic!("{other:?}"),
    }
    let dir = tempfile::tempdir().unwrap();
    let write_only = File::create(dir.path().join("file")).unwrap();
    match Artifact::load(&write_only, &trust) {
        Err(error @ LoadError::Read { .. }) => {
            assert_eq!(error.to_string(), "cannot read the open file");
        }
        other => panic!("{other:?}"),
    }
}

/// A directory that only this user can write to, with an artifact in it.
struct Cache {
    folder: tempfile::TempDir,
}

impl Cache {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), Permissions::from_mode(0o700)).unwrap();
        let cache = Self { folder };
        fs::create_dir(cache.path("cache")).unwrap();
        fs::set_permissions(cache.path("cache"), Permissions::from_mode(0o755)).unwrap();
        cache.write("cache/app.cwasm");
        cache
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str) {
        fs::write(self.path(name), &*ARTIFACT).unwrap();
        self.mode(name, 0o644);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn open(&self) -> Result<CacheDir, CacheDirError> {
        CacheDir::open(self.path("cache"))
    }

    /// Why the directory is refused, and what in it or on the way is to blame.
    fn exposed(&self) -> (PathBuf, Exposure) {
        match self.open() {
            Err(CacheDirError::Exposed { path, exposure, directory }) => {
                assert_eq!(directory, self.path("cache"));
                (path, exposure)
            }
            other => panic!("{other:?}"),
        }
    }

    /// Why a file in it is refused.
    fn entry(&self, name: &str) -> Exposure {
        match Artifact::load(name, &Trust::cache(&self.open().unwrap())) {
            Err(LoadError::CacheEntry { exposure, path }) => {
                assert!(path.starts_with(self.path("cache")), "{}", path.display());
                exposure
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Whether this process may give files away, which only root may.
fn give_away(path: &Path) -> bool {
    match chown(path, Some(12345), None) {
        Ok(()) => true,
        Err(error) => {
            eprintln!("not tested: only root can give files to somebody else: {error}");
            false
        }
    }
}

#[test]
fn a_directory_of_this_user_is_a_reason() {
    let cache = Cache::new();
    let dir = cache.open().unwrap();
    let trust = Trust::cache(&dir);
    Artifact::load("app.cwasm", &trust).unwrap();
    Artifact::load(cache.path("cache/app.cwasm"), &trust).unwrap();
    fs::create_dir_all(cache.path("cache/v1/ab")).unwrap();
    cache.write("cache/v1/ab/cd.cwasm");
    for name in ["cache/v1", "cache/v1/ab"] {
        cache.mode(name, 0o700);
    }
    Artifact::load("v1/ab/cd.cwasm", &trust).unwrap();
    // Damage is found as ever.
    let mut bytes = ARTIFACT.clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(cache.path("cache/app.cwasm"), bytes).unwrap();
    match Artifact::load("app.cwasm", &trust) {
        Err(LoadError::Refused(report)) => assert_eq!(kinds(&report), ["corrupt"]),
        other => panic!("{other:?}"),
    }
    assert_eq!(trust, Trust::cache(&dir));
    assert_ne!(trust, Trust::cache(&cache.open().unwrap()));
}

#[test]
fn a_directory_of_root_is_a_reason_for_everybody() {
    child::run("a_directory_of_root_is_a_reason_for_everybody", || {
        let cache = Cache::new();
        let folder = cache.folder.path();
        fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
        let load = || Artifact::load("app.cwasm", &Trust::cache(&cache.open().unwrap()));
        // SAFETY: of the process of this test alone. Only root may do it.
        if unsafe { libc::seteuid(12345) } != 0 {
            return eprintln!("not tested: only root can act for somebody else");
        }
        load().unwrap();
        // SAFETY: as above.
        unsafe { libc::seteuid(0) };
        // Somebody else's is none.
        assert!(give_away(&cache.path("cache/app.cwasm")));
        // SAFETY: as above.
        unsafe { libc::seteuid(54321) };
        assert_eq!(cache.entry("app.cwasm"), Exposure::Owner { found: 12345, wanted: 54321 });
        // SAFETY: as above.
        unsafe { libc::seteuid(0) };
    })
    .well();
}

#[test]
fn a_directory_that_others_can_write_to_is_no_reason() {
    let cache = Cache::new();
    for mode in [0o777, 0o775, 0o757, 0o720, 0o1777] {
        cache.mode("cache", mode);
        let (path, exposure) = cache.exposed();
        assert_eq!((path, exposure), (cache.path("cache"), Exposure::Writable { mode }));
    }
    let text = cache.open().unwrap_err().to_string();
    assert!(text.contains("mode 1777") && text.contains("chmod go-w"), "{text}");
    cache.mode("cache", 0o755);
    // On the way to it, a sticky directory is good enough: see `/tmp`.
    let above = cache.folder.path().to_owned();
    for (mode, good) in [(0o777, false), (0o770, false), (0o1777, true), (0o755, true)] {
        fs::set_permissions(&above, Permissions::from_mode(mode)).unwrap();
        if good {
            cache.open().unwrap();
        } else {
            assert_eq!(cache.exposed(), (above.clone(), Exposure::Writable { mode }));
        }
    }
}

#[test]
fn a_directory_of_somebody_else_is_no_reason() {
    let cache = Cache::new();
    if !give_away(&cache.path("cache")) {
        return;
    }
    let (path, exposure) = cache.exposed();
    assert_eq!(path, cache.path("cache"));
    assert!(matches!(exposure, Exposure::Ancestor { found: 12345, .. }), "{exposure:?}");
    chown(cache.path("cache"), Some(0), None).unwrap();
    cache.open().unwrap();
    assert!(give_away(cache.folder.path()));
    let (path, exposure) = cache.exposed();
    assert_eq!(path, cache.folder.path());
    assert_eq!(exposure, Exposure::Ancestor { found: 12345, wanted: 0 });
}

#[test]
fn links_to_a_directory_are_followed_if_nobody_else_can_change_them() {
    let cache = Cache::new();
    symlink("cache", cache.path("link")).unwrap();
    symlink(cache.path("link"), cache.path("absolute")).unwrap();
    symlink("../x/../cache", cache.path("cache/around")).unwrap();
    fs::create_dir(cache.path("x")).unwrap();
    for name in ["link", "absolute", "cache/around", "cache/../link/."] {
        let dir = CacheDir::open(cache.path(name)).unwrap();
        Artifact::load("app.cwasm", &Trust::cache(&dir)).unwrap();
    }
    // One that leads through a directory in which others could put another.
    cache.mode("x", 0o777);
    symlink(cache.path("cache"), cache.path("x/link")).unwrap();
    match CacheDir::open(cache.path("x/link")) {
        Err(CacheDirError::Exposed { path, .. }) => assert_eq!(path, cache.path("x")),
        other => panic!("{other:?}"),
    }
    // In a sticky directory everybody can make links, and only their owners count.
    cache.mode("x", 0o1777);
    CacheDir::open(cache.path("x/link")).unwrap();
    if give_away_link(&cache.path("x/link")) {
        match CacheDir::open(cache.path("x/link")) {
            Err(CacheDirError::Exposed { path, exposure, .. }) => {
                assert_eq!(path, cache.path("x/link"));
                assert_eq!(exposure, Exposure::Ancestor { found: 12345, wanted: 0 });
            }
            other => panic!("{other:?}"),
        }
    }
    // Links that lead nowhere, or round and round.
    symlink("nowhere", cache.path("nowhere-yet")).unwrap();
    symlink("round", cache.path("round")).unwrap();
    for name in ["nowhere-yet", "round", "absent"] {
        let result = CacheDir::open(cache.path(name));
        assert!(matches!(result, Err(CacheDirError::Open { .. })), "{name}: {result:?}");
    }
    let result = CacheDir::open(cache.path("cache/app.cwasm/x"));
    assert!(matches!(result, Err(CacheDirError::NotADirectory { .. })), "{result:?}");
}

fn give_away_link(path: &Path) -> bool {
    std::os::unix::fs::lchown(path, Some(12345), None).is_ok()
}

#[test]
fn a_file_that_others_could_have_written_is_not_trusted_for_its_place() {
    let cache = Cache::new();
    for mode in [0o666, 0o664, 0o646] {
        cache.mode("cache/app.cwasm", mode);
        assert_eq!(cache.entry("app.cwasm"), Exposure::Writable { mode });
    }
    cache.mode("cache/app.cwasm", 0o644);
    symlink("app.cwasm", cache.path("cache/link.cwasm")).unwrap();
    assert_eq!(cache.entry("link.cwasm"), Exposure::Link);
    fs::create_dir(cache.path("cache/sub")).unwrap();
    cache.mode("cache/sub", 0o777);
    cache.write("cache/sub/app.cwasm");
    assert_eq!(cache.entry("sub/app.cwasm"), Exposure::Writable { mode: 0o777 });
    symlink("sub", cache.path("cache/elsewhere")).unwrap();
    assert_eq!(cache.entry("elsewhere/app.cwasm"), Exposure::Link);
    if give_away(&cache.path("cache/app.cwasm")) {
        assert_eq!(cache.entry("app.cwasm"), Exposure::Owner { found: 12345, wanted: 0 });
    }
}

#[test]
fn only_what_is_named_in_the_directory_is_trusted_for_its_place() {
    let cache = Cache::new();
    let trust = Trust::cache(&cache.open().unwrap());
    cache.write("outside.cwasm");
    for name in ["../outside.cwasm", "sub/../../outside.cwasm", "", "."] {
        let result = Artifact::load(name, &trust);
        assert!(matches!(result, Err(LoadError::NotInCache { .. })), "{name}: {result:?}");
    }
    for result in [
        Artifact::load(cache.path("outside.cwasm"), &trust),
        Artifact::load(cache.path("cache"), &trust),
        Artifact::load(&File::open(cache.path("cache/app.cwasm")).unwrap(), &trust),
        Artifact::load(&*ARTIFACT, &trust),
    ] {
        assert!(matches!(result, Err(LoadError::NotInCache { .. })), "{result:?}");
    }
    assert!(matches!(Artifact::load("absent", &trust), Err(LoadError::Read { .. })));
    assert!(matches!(Artifact::load("app.cwasm/x", &trust), Err(LoadError::Read { .. })));
    fs::create_dir(cache.path("cache/sub")).unwrap();
    assert!(matches!(Artifact::load("sub", &trust), Err(LoadError::NotAFile { .. })));
}

#[test]
fn a_directory_that_is_replaced_is_still_the_one_that_was_examined() {
    let cache = Cache::new();
    let trust = Trust::cache(&cache.open().unwrap());
    fs::rename(cache.path("cache"), cache.path("moved")).unwrap();
    fs::create_dir(cache.path("cache")).unwrap();
    fs::write(cache.path("cache/app.cwasm"), b"planted").unwrap();
    Artifact::load("app.cwasm", &trust).unwrap();
}
