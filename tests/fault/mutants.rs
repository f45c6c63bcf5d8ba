//! Damaged artifacts: raw bytes, and artifacts whose metadata was changed and
//! whose digest was made right again.
//!
//! The bodies of the fuzz targets in `fuzz/` are here, so that ordinary tests
//! run them too. Code is never changed and never run: nothing checks
//! machine code, which is what trust is for.

use std::fs::File;
use std::io::Write as _;
use std::ops::Range;
use std::sync::LazyLock;

use cwasm_artifact::builder::reseal;
use cwasm_artifact::check::{LATE, check};
use cwasm_artifact::header::{HEADER_OFFSET, HEADER_SIZE, Header, Section};
use cwasm_artifact::module::{Late, Module, View};
use cwasm_artifact::records::{Span, Text};
use cwasm_artifact::sites::Site;
use cwasm_loader::{Artifact, Digest, LoadError, Report, Trust};

/// A module with something in every section of its artifact.
pub const EVERY_SECTION: &str = r#"(module $everything
    (type $unary (func (param i32) (result i32)))
    (type $chain (func (param (ref null $chain) (ref $unary) exnref)))
    (import "host" "tag" (tag $theirs_too (param i64)))
    (import "host" "log" (func $log (param i32 i64 f32 f64)))
    (import "host" "table" (table $theirs 2 10 funcref))
    (import "host" "global" (global $base i32))
    (import "host" "counter" (global $counter (mut i64)))
    (table $own 4 20 funcref)
    (table $externs 1 externref)
    (table $typed 2 (ref $unary) (ref.func $double))
    (tag $mine (export "tag") (param i32 (ref $chain)))
    (memory (export "memory") 1 4)
    (global $g (export "global") (mut i32) (i32.const 7))
    (global $f (export "function") funcref (ref.func $double))
    (global $later i32 (global.get $base))
    (elem (table $own) (i32.const 1) func $double $halve)
    (elem $passive funcref (ref.func $halve) (ref.null func))
    (elem declare func $log)
    (data (i32.const 16) "an image of the memory")
    (data $apart "a segment that is applied by an instruction")
    (data (global.get $base) "at an address from outside")
    (func $double (type $unary) (i32.mul (local.get 0) (i32.const 2)))
    (func $halve (type $unary) (i32.div_s (local.get 0) (i32.load (i32.const 4096))))
    (func $begin (call $log (i32.const 1) (i64.const 2) (f32.const 3) (f64.const 4)))
    (func (export "pick") (param i32 i32) (result i32)
        (call_indirect $own (type $unary) (local.get 1) (local.get 0)))
    (func (export "init") (table.init $own $passive (i32.const 0) (i32.const 0) (i32.const 2))
        (memory.init $apart (i32.const 0) (i32.const 0) (i32.const 4)))
    (func (export "catch") (param i32 (ref $chain)) (result i32)
        (block $caught (result i32 (ref $chain))
            (try_table (catch $mine $caught) (throw $mine (local.get 0) (local.get 1)))
            unreachable)
        drop)
    (func $divide (param i32 i32) (result i32) (i32.div_u (local.get 0) (local.get 1)))
    (func (export "half") (param i32) (result i32) (call $divide (local.get 0) (i32.const 2)))
    (func (export "inverse") (param i32) (result i32) (call $divide (i32.const 1) (local.get 0)))
    (start $begin))"#;

/// The artifact of [`EVERY_SECTION`].
#[cfg(feature = "compiler")]
pub static ARTIFACT: LazyLock<Vec<u8>> = LazyLock::new(|| crate::compile(EVERY_SECTION));

/// The artifact of [`EVERY_SECTION`], as `make bless` wrote it.
#[cfg(not(feature = "compiler"))]
pub static ARTIFACT: LazyLock<Vec<u8>> =
    LazyLock::new(|| include_bytes!("../../fuzz/seed.cwasm").to_vec());

/// Loads bytes as they are, for the digest that they state. Whatever loads is read.
///
/// # Errors
/// Why they were refused.
pub fn raw_bytes(bytes: &[u8]) -> Result<(), LoadError> {
    load_and_read(bytes, Digest::stated_in(bytes).unwrap_or(Digest([0; 32])))
}

/// Changes an artifact as `script` says, seals it again, loads it, and reads
/// everything that loads.
///
/// # Errors
/// Why it was refused.
pub fn resealed(script: &[u8]) -> Result<(), LoadError> {
    resealed_after(|file| script.chunks_exact(STEP).for_each(|step| change(file, step)))
}

/// The same for any change to [`ARTIFACT`].
///
/// # Errors
/// Why it was refused.
pub fn resealed_after(change: impl FnOnce(&mut [u8])) -> Result<(), LoadError> {
    let mut file = ARTIFACT.clone();
    change(&mut file);
    // The code stays as the compiler made it.
    let text = section(Section::Text);
    file[text.clone()].copy_from_slice(&ARTIFACT[text]);
    let Ok(digest) = reseal(&mut file) else { return raw_bytes(&file) };
    read_checked(&file);
    load_and_read(&file, digest)
}

/// Loads a file of the bytes lazily, and then the bytes at once. Whatever loads is read.
///
/// # Errors
/// Why they were refused.
///
/// # Panics
/// If only what loads at once loads. The other way round it may be: what is only for
/// debuggers is not checked then.
fn load_and_read(bytes: &[u8], digest: Digest) -> Result<(), LoadError> {
    let trust = Trust::digest(digest);
    let file = file_of(bytes);
    let lazy = Artifact::load_lazily(&file, &trust);
    let rest = lazy.as_ref().map(|lazy| {
        read_artifact(lazy);
        lazy.load_rest()
    });
    let artifact = Artifact::from_bytes(bytes, &trust)?;
    assert!(matches!(rest, Ok(Ok(()))), "loads at once, but not lazily: {lazy:?}");
    read_artifact(&artifact);
    Ok(())
}

/// A file without a name.
fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("a temporary directory");
    file.write_all(bytes).expect("room for a small file");
    file
}

/// Where a section of [`ARTIFACT`] is.
#[must_use]
pub fn section(section: Section) -> Range<usize> {
    Header::of(&ARTIFACT)
        .and_then(|header| header.section(section).within(ARTIFACT.len()))
        .unwrap_or(0..0)
}

/// How many bytes of a script describe one change.
pub const STEP: usize = 12;

/// Numbers at which arithmetic goes wrong.
pub const INTERESTING: [u64; 16] = [
    0,
    1,
    2,
    7,
    255,
    4095,
    4096,
    65535,
    65536,
    65537,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

/// One change: three bytes say where, one how, eight with what.
fn change(file: &mut [u8], step: &[u8]) {
    let (Some(place), Some(value)) = (step.get(..4), step.get(4..STEP)) else { return };
    let how = place[3];
    let mut number = [0; 8];
    number.copy_from_slice(value);
    let number = u64::from_le_bytes(number);
    let place = u32::from_le_bytes([place[0], place[1], place[2], 0]) as usize;
    let at = match how & 3 {
        // The header, whose fields decide about everything else.
        0 => HEADER_OFFSET + place % HEADER_SIZE,
        // The records: wherever the directory points to.
        1 | 2 => in_a_section(place, number),
        _ => place % file.len(),
    };
    let interesting = INTERESTING[(number % 16) as usize];
    let mut write = |at: usize, bytes: &[u8]| {
        for (byte, new) in file.iter_mut().skip(at).zip(bytes) {
            *byte = *new;
        }
    };
    match (how >> 2) % 8 {
        0 => write(at, &[file_byte(at) ^ (1 << (number % 8))]),
        1 => write(at, &number.to_le_bytes()[..1]),
        2 => write(at & !3, &interesting.to_le_bytes()[..4]),
        3 => write(at & !7, &interesting.to_le_bytes()),
        4 => write(at & !3, &number.to_le_bytes()[..4]),
        5 => write(at & !7, &((number >> 8) % (2 * ARTIFACT.len() as u64)).to_le_bytes()),
        6 => write(at & !3, &((number >> 8) % 64).to_le_bytes()[..4]),
        _ => {
            // A record from elsewhere.
            let length = 4 << (number % 5);
            let from = usize::try_from(number >> 16).unwrap_or(0) % ARTIFACT.len();
            let end = (from + length).min(ARTIFACT.len());
            write(at & !3, &ARTIFACT[from..end]);
        }
    }
}

fn file_byte(at: usize) -> u8 {
    ARTIFACT.get(at).copied().unwrap_or(0)
}

/// A place in one of the sections behind the code.
fn in_a_section(place: usize, number: u64) -> usize {
    let sections = &Section::ALL[1..];
    let range = section(sections[usize::try_from(number >> 56).unwrap_or(0) % sections.len()]);
    if range.is_empty() { HEADER_OFFSET } else { range.start + place % range.len() }
}

/// Reads everything that an artifact tells about itself.
fn read_artifact(artifact: &Artifact) {
    let mut letters = artifact.name().map_or(0, str::len);
    for import in artifact.imports() {
        letters += import.module.len() + import.name.len() + import.ty.to_string().len();
    }
    for export in artifact.exports() {
        letters += export.name.len() + export.ty.to_string().len();
    }
    let flags = (artifact.uses_fuel(), artifact.uses_epoch(), artifact.digest());
    std::hint::black_box((letters, flags));
}

/// Reads an artifact's metadata through every accessor, with indices that are
/// right and indices that are not.
fn read_checked(file: &[u8]) {
    let Ok(checked) = check(file, None) else { return };
    let all = Module::new(&checked);
    // As a lazy load does it: what can be left for later is read without having been validated.
    let deferring = Module::deferring(&checked, |names| {
        assert!(names.end <= file.len());
        Ok::<(), Report>(())
    });
    assert!(
        all.is_err() || deferring.is_ok(),
        "it is valid, but not without a part: {deferring:?}"
    );
    if let Ok(module) = &deferring {
        let late = module.late(file);
        assert_eq!(module.validate_late(&late).is_ok(), all.is_ok());
        for section in LATE.into_iter().filter(|section| *section != Section::Strings) {
            assert!(module.view(file).bytes(section).is_empty());
        }
    }
    for module in [all, deferring].into_iter().flatten() {
        read_module(file, &module);
    }
}

fn read_module(file: &[u8], module: &Module) {
    let view = module.view(file);
    let mut sum = 0;
    for import in view.imports() {
        sum += view.text(import.module).len() + view.text(import.name).len();
    }
    for element in view.elements() {
        sum += view.items(element.items).len() + view.const_ops(element.offset).len();
    }
    sum += view.data_segments().iter().map(|segment| view.data(segment).len()).sum::<usize>();
    sum += view.images().iter().map(|image| view.image_bytes(image).len()).sum::<usize>();
    for export in view.exports() {
        let found = view.export(view.text(export.name)).is_some();
        sum += usize::from(found) + view.export_type(export).to_string().len();
    }
    sum += by_index(&view, &module.late(file));
    std::hint::black_box(sum);
}

fn by_index(view: &View<'_>, late: &Late<'_>) -> usize {
    let few = 0..40;
    let many = INTERESTING.iter().filter_map(|number| u32::try_from(*number).ok());
    let mut sum = 0;
    for index in few.chain(many) {
        sum += view.func_type(index).params.len();
        sum += usize::from(view.function_type_index(index).is_some());
        sum += usize::from(view.tag_type_index(index).is_some()) + late.handlers_of(index).count();
        sum +=
            late.function_name(index).map_or(0, str::len) + late.function_name_range(index).len();
        let sites = [0, 1].map(|trap| Site { text: index, wasm: 0, trap });
        sum += sites.into_iter().filter(|site| late.inlined(*site).is_some()).count();
        sum += usize::from(view.imported(index % 5, index).is_some());
        sum +=
            usize::from(late.sites().trap_at(index).is_some() || late.function_at(index).is_some());
        let span = Span { start: index.into(), count: index.into() };
        sum += view.items(span).len() + view.const_ops(span).len();
        sum += view.text(Text { offset: index.into(), length: index.into() }).len();
    }
    sum
}
