//! Checking a file: is it an artifact, for this host, and intact?
//!
//! [`check_from`] looks at everything and reports all that is wrong, in this order: what it is,
//! how long it is, what it was made for, whether its bytes match its
//! digest, and whether it comes from where it should. Only a file that passes becomes a
//! [`Checked`], and only that can be read as a [`crate::module::Module`].

use std::ops::Range;

use crate::abi::{Fingerprint, fingerprint};
use crate::cpu::{CpuFeatures, host_triple};
use crate::digest::{self, Digest, Expected};
use crate::header::{
    FORMAT_VERSION, HEADER_SIZE, Header, MAGIC, Section, TREE_OFFSET, padded_text, settings,
};
use crate::report::{Problem, Report, Resemblance};
use crate::signature::{PublicKey, Signatures};
use crate::tree::{LEAVES_PER_BRANCH, Tree};

/// What a loader can load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its ABI.
    pub abi: Fingerprint,
    /// Its target triple.
    pub target: String,
    /// Its CPU's features.
    pub cpu_features: CpuFeatures,
}

impl Host {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        Self::with(CpuFeatures::host())
    }

    /// This process, as far as the file with this front can tell: it has those of the CPU's features that the file needs. Others
    /// are not looked for.
    #[must_use]
    pub fn for_file(front: &[u8]) -> Self {
        let needed = Header::of(front).map_or(0, |header| header.cpu_features.get());
        Self::with(CpuFeatures::host_among(CpuFeatures::from_bits(needed)))
    }

    fn with(cpu_features: CpuFeatures) -> Self {
        Self { abi: fingerprint(), target: host_triple(), cpu_features }
    }
}

/// Where a file must come from.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Origin<'a> {
    /// From anywhere: the digest in it finds accidents, and nothing else is asked.
    Any,
    /// It must be the artifact with this digest. Its signatures do not matter, as
    /// long as they are not damaged.
    Digest(Digest),
    /// It must have a signature by at least one of these keys. Others do not matter.
    Keys(&'a [PublicKey]),
}

/// A file whose bytes match the digest in its header, or of which the caller of [`check_unhashed`]
/// knows that they do.
///
/// Says nothing about who made it, unless [`check_from`] was asked to find that out.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    file: &'a [u8],
    header: &'a Header,
}

impl<'a> Checked<'a> {
    /// The header.
    #[must_use]
    pub fn header(&self) -> &'a Header {
        self.header
    }

    /// The whole file.
    #[must_use]
    pub fn file(&self) -> &'a [u8] {
        self.file
    }

    /// The root digest.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest(self.header.root)
    }
}

/// The length that the file with this front claims to have, as long as it is
/// of this format. Read it before the rest, in order not to read a file of
/// any other kind.
pub fn claimed_length(front: &[u8]) -> Result<u64, Problem> {
    let not_an_artifact = || Problem::NotAnArtifact(Resemblance::of(front));
    if !front.starts_with(b"\x7fELF") {
        return Err(not_an_artifact());
    }
    let start = crate::header::HEADER_OFFSET;
    match front.get(start..start + MAGIC.len()) {
        None => Err(Problem::Truncated { length: front.len() as u64, wanted: TREE_OFFSET as u64 }),
        Some(magic) if *magic != MAGIC => Err(not_an_artifact()),
        Some(_) => Header::of(front).map_or_else(
            || Err(Problem::Truncated { length: front.len() as u64, wanted: TREE_OFFSET as u64 }),
            |header| Ok(header.file_length.get()),
        ),
    }
}

/// Checks a file of any origin for a host, or for none in particular: then whom it was made
/// for does not matter.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check<'a>(file: &'a [u8], host: Option<&Host>) -> Result<Checked<'a>, Report> {
    check_from(file, host, Origin::Any)
}

/// Checks a file for a host, or for none in particular, and that it comes from `origin`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn check_from<'a>(
    file: &'a [u8],
    host: Option<&Host>,
    origin: Origin<'_>,
) -> Result<Checked<'a>, Report> {
    let wrong = |expected: Vec<Expected>| digest::wrong_chunks(file, &expected);
    check_deferring(file, host, origin, &Deferred::NOTHING, wrong)
}

/// Checks a file as [`check_from`] does, but for the leaves of what is [`Deferred`]. Whoever asks for this does not run, or read,
/// a byte of such a chunk before it has the leaf that it must, and does not read a leaf that is deferred before its branch
/// is as the file says. `wrong` says which chunks have other leaves than they must:
/// [`digest::wrong_chunks`], or something that gives the same faster.
///
/// # Errors
/// Everything that is wrong with the rest.
pub fn check_deferring<'a>(
    file: &'a [u8],
    host: Option<&Host>,
    origin: Origin<'_>,
    deferred: &Deferred,
    wrong: impl FnOnce(Vec<Expected>) -> Vec<Range<usize>>,
) -> Result<Checked<'a>, Report> {
    let claimed = claimed_length(file)?;
    let Some(header) = Header::of(file) else {
        return Err(
            Problem::Truncated { length: file.len() as u64, wanted: TREE_OFFSET as u64 }.into()
        );
    };
    let mut problems = Vec::new();
    let other_format = check_format(header, &mut problems);
    if let Some(host) = host {
        check_host(header, host, other_format, &mut problems);
    }
    // Beyond the prefix, only a header of this format can be understood.
    if !other_format {
        let front_intact = check_integrity(file, header, claimed, deferred, wrong, &mut problems);
        check_origin(file, header, origin, front_intact, &mut problems);
    }
    match Report::new(problems) {
        Some(report) => Err(report),
        None => Ok(Checked { file, header }),
    }
}

/// What a chunk of a file holds, for a loader that leaves what it can for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Something that is needed to instantiate the module.
    Now,
    /// Code, and nothing else that a loader reads.
    Code,
    /// Metadata that only traps, exceptions and backtraces need ([`LATE`]), and nothing else that a loader reads.
    Late,
    /// What memories begin with ([`Section::ImageBytes`]), perhaps together with what is [`Part::Late`], and nothing else that a loader reads.
    Image,
    /// What is for debuggers and linkers, and the space between sections.
    Unused,
}

/// The sections that are not needed to instantiate a module and to call it. Of the strings, names of imports and exports
/// are: see [`crate::module::Module::deferring`].
pub const LATE: [Section; 5] =
    [Section::Functions, Section::Sites, Section::Inlined, Section::Handlers, Section::Strings];

/// Which chunks of a file can be left for later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deferred {
    /// A part per chunk. What is not listed is needed now.
    parts: Vec<Part>,
}

/// Leaves are computed two at a time, so one more than an odd number of chunks costs little. Code just before what is needed
/// now is a good guess: linkers put libraries last, which are what every program calls.
fn read_ahead(parts: &mut [Part]) {
    let now = parts.iter().filter(|part| **part == Part::Now).count();
    let first = parts.iter().position(|part| *part == Part::Now);
    if now % 2 == 1
        && let Some(before) = first.and_then(|first| parts.get_mut(first.checked_sub(1)?))
        && *before == Part::Code
    {
        *before = Part::Now;
    }
}

impl Deferred {
    /// Nothing is left for later.
    pub const NOTHING: Self = Self { parts: Vec::new() };

    /// What can be left for later, as the header says, which need not be checked yet. Nothing, if the file
    /// is not of this format, or if another section has a part of the code.
    ///
    /// Takes memory in proportion to the length that the header states; compare that with the file's first.
    #[must_use]
    pub fn of(header: &Header) -> Self {
        let range = |section| {
            let place = header.section(section);
            let start = place.offset.get();
            start..start.saturating_add(place.length.get())
        };
        let text = range(Section::Text);
        let shared = |section| {
            let other = range(section);
            !other.is_empty() && other.start < text.end && text.start < other.end
        };
        let known =
            header.prefix.magic == MAGIC && header.prefix.format_version.get() == FORMAT_VERSION;
        if !known || Section::ALL.into_iter().any(|it| it != Section::Text && shared(it)) {
            return Self::NOTHING;
        }
        let Some(tree) = header.tree() else { return Self::NOTHING };
        let count = tree.chunk_count(claimed_usize(header.file_length.get()));
        let mut parts = vec![Part::Unused; count];
        let chunk = tree.chunk_size() as u64;
        let number = |chunks: u64| usize::try_from(chunks).unwrap_or(usize::MAX).min(count);
        for section in Section::ALL {
            let range = range(section);
            if range.is_empty() {
                continue;
            }
            let kind = match section {
                Section::Text => Part::Code,
                section if LATE.contains(&section) => Part::Late,
                // Code that compares addresses itself runs where memories may move, and so may not wait for their pages.
                Section::ImageBytes if header.settings.get() & settings::EXPLICIT_CHECKS == 0 => {
                    Part::Image
                }
                _ => Part::Now,
            };
            for part in &mut parts[number(range.start / chunk)..number(range.end.div_ceil(chunk))] {
                *part = match (*part, kind) {
                    (Part::Unused, kind) => kind,
                    (Part::Late | Part::Image, Part::Image) | (Part::Image, Part::Late) => {
                        Part::Image
                    }
                    (known, kind) if known == kind => kind,
                    // A chunk is either loaded as code, or as something else.
                    _ => Part::Now,
                };
            }
        }
        // The front is there from the beginning, on pages that code cannot share.
        let front = number((tree.body_offset() as u64).div_ceil(chunk));
        for part in &mut parts[..front] {
            if matches!(*part, Part::Late | Part::Image) {
                *part = Part::Now;
            }
        }
        read_ahead(&mut parts);
        Self { parts }
    }

    /// What the chunk with this number holds.
    #[must_use]
    pub fn part(&self, chunk: usize) -> Part {
        self.parts.get(chunk).copied().unwrap_or(Part::Now)
    }

    /// What each chunk holds, from the first to the last of which that is known.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether the leaves that this branch covers are needed only together with chunks that are left for later.
    #[must_use]
    pub fn has_branch(&self, number: usize) -> bool {
        let parts = self.parts.chunks(LEAVES_PER_BRANCH).nth(number);
        parts.is_some_and(|parts| !parts.contains(&Part::Now))
    }
}

/// Checks everything about a file but its bytes: what it is, how long it is, and for which
/// host it was made. The digest is not computed, and signatures are not looked at.
///
/// For files of which the caller knows that they are intact. Metadata are validated all the
/// same by [`crate::module::Module::new`].
///
/// # Errors
/// Everything that is wrong with it, as far as that is looked at.
pub fn check_unhashed<'a>(file: &'a [u8], host: Option<&Host>) -> Result<Checked<'a>, Report> {
    let claimed = claimed_length(file)?;
    let length = file.len() as u64;
    let Some(header) = Header::of(file) else {
        return Err(Problem::Truncated { length, wanted: TREE_OFFSET as u64 }.into());
    };
    let mut problems = Vec::new();
    let other_format = check_format(header, &mut problems);
    if let Some(host) = host {
        check_host(header, host, other_format, &mut problems);
    }
    if !other_format {
        check_length(length, claimed, &mut problems);
        if header.body_offset() > file.len() {
            problems.push(Problem::CorruptFront);
        }
    }
    match Report::new(problems) {
        Some(report) => Err(report),
        None => Ok(Checked { file, header }),
    }
}

/// Is it of another format?
fn check_format(header: &Header, problems: &mut Vec<Problem>) -> bool {
    let found = header.prefix.format_version.get();
    if found != FORMAT_VERSION {
        let compiler = padded_text(&header.prefix.compiler);
        problems.push(Problem::FormatVersion { found, wanted: FORMAT_VERSION, compiler });
    }
    found != FORMAT_VERSION
}

/// Does it end where it should?
fn check_length(length: u64, claimed: u64, problems: &mut Vec<Problem>) {
    if length < claimed {
        problems.push(Problem::Truncated { length, wanted: claimed });
    } else if length > claimed {
        problems.push(Problem::TrailingBytes { length, wanted: claimed });
    }
}

/// Was it made for this host?
fn check_host(header: &Header, host: &Host, other_format: bool, problems: &mut Vec<Problem>) {
    let found = Fingerprint(header.prefix.abi);
    if found != host.abi {
        problems.push(Problem::Abi {
            found,
            wanted: host.abi,
            compiler: padded_text(&header.prefix.compiler),
        });
    }
    let target = padded_text(&header.prefix.target);
    let other_target = target != host.target;
    if other_target {
        problems.push(Problem::OtherTarget { found: target, wanted: host.target.clone() });
    }
    if other_format {
        return;
    }
    // The feature bits of another architecture mean other things.
    let needed = CpuFeatures::from_bits(header.cpu_features.get());
    if !other_target && !host.cpu_features.contains(needed) {
        problems
            .push(Problem::MissingCpuFeatures { missing: needed.difference(host.cpu_features) });
    }
    let unknown = header.settings.get() & !settings::KNOWN;
    if unknown != 0 {
        problems.push(Problem::UnknownSettings { bits: unknown });
    }
}

/// Does it come from where it should?
fn check_origin(
    file: &[u8],
    header: &Header,
    origin: Origin<'_>,
    front_intact: bool,
    problems: &mut Vec<Problem>,
) {
    if let Origin::Digest(wanted) = origin {
        let found = Digest(header.root);
        if found != wanted {
            problems.push(Problem::Untrusted { found, wanted });
        }
    }
    match (Signatures::of(file), origin) {
        // Of a file that ends here, more is missing than signatures.
        _ if file.len() < TREE_OFFSET => {}
        (Err(problem), _) => problems.push(problem),
        (Ok(signatures), Origin::Keys(trusted)) => {
            signatures.check(file, trusted, front_intact, problems);
        }
        (Ok(_), _) => {}
    }
}

/// Are the bytes those that were sealed? Returns whether the front is.
fn check_integrity(
    file: &[u8],
    header: &Header,
    claimed: u64,
    deferred: &Deferred,
    wrong: impl FnOnce(Vec<Expected>) -> Vec<Range<usize>>,
    problems: &mut Vec<Problem>,
) -> bool {
    let length = file.len() as u64;
    check_length(length, claimed, problems);
    let Some(tree) = header.tree().filter(|tree| is_front_intact(file, header, *tree, deferred))
    else {
        // With a cut file, the cut is the problem to report.
        if length >= claimed || header.body_offset() <= file.len() {
            problems.push(Problem::CorruptFront);
        }
        return false;
    };
    let count = header.leaf_count.get() as usize;
    let chunk = |leaf| tree.chunk(leaf, claimed_usize(claimed));
    let there = (0..count).take_while(|leaf| chunk(*leaf).end <= file.len());
    let expected: Vec<Expected> = there
        .filter(|number| deferred.part(*number) == Part::Now)
        .map(|number| {
            let mut leaf = [0; 32];
            leaf.copy_from_slice(&file[tree.leaf(number)]);
            Expected { chunk: chunk(number), leaf }
        })
        .collect();
    for range in wrong(expected) {
        let range = range.start as u64..range.end as u64;
        let sections = Section::ALL
            .into_iter()
            .filter(|section| {
                let place = header.section(*section);
                let end = place.offset.get().saturating_add(place.length.get());
                place.offset.get() < range.end && range.start < end
            })
            .map(Section::name)
            .collect();
        problems.push(Problem::CorruptChunk { range, sections });
    }
    true
}

/// Are the header, the branches, and the leaves that are not deferred those that were sealed?
fn is_front_intact(file: &[u8], header: &Header, tree: Tree, deferred: &Deferred) -> bool {
    let count = tree.chunk_count(claimed_usize(header.file_length.get()));
    let is_branch_intact =
        |number| file[tree.branch(number)] == digest::branch(&file[tree.leaves_of(number)]);
    header.prefix.header_size.get() as usize == HEADER_SIZE
        && header.leaf_count.get() as usize == count
        && header.leaf_count <= header.leaf_capacity
        && tree.body_offset() <= file.len()
        && digest::root(file, &file[tree.branches()]) == Digest(header.root)
        && (0..tree.branch_count())
            .filter(|number| !deferred.has_branch(*number))
            .all(is_branch_intact)
}

fn claimed_usize(claimed: u64) -> usize {
    usize::try_from(claimed).unwrap_or(usize::MAX)
}
