//! Bundles: several artifacts in one file, with the bytes that they share stored once.
//!
//! `FORMAT.md`, "Bundles", is the specification. A bundle is no reason to trust anything, and needs none: what is picked from
//! it is an artifact, with its digest and its signatures, and is checked like any other. Here,
//! only what could lead a reader astray is checked: every offset, count and length, before it is used.

use core::ops::Range;
use std::collections::{BTreeSet, HashMap};

use sha2::{Digest as _, Sha256};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::check::{Host, check};
use crate::choice::{Needs, best};
use crate::digest::Digest;
use crate::header::Section;
use crate::report::Report;

/// The first eight bytes of a bundle.
pub const MAGIC: [u8; 8] = *b"\x7fCWASMB\n";
/// The version of the layout of bundles that this crate writes and reads.
pub const VERSION: u32 = 1;
/// How many bytes say how long the front is.
pub const HEAD_SIZE: usize = size_of::<Head>();
/// Longer names are refused.
const MAX_NAME: usize = 255;
/// Longer fronts are refused: it would take artifacts of many gigabytes.
const MAX_FRONT: u64 = 256 << 20;

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    version: U32,
    entries: U32,
    pieces: U32,
    uses: U32,
    names: U32,
    reserved: U32,
    file_length: U64,
    padding: [u8; 24],
    /// SHA-256 of the front, without this field. Finds accidents only.
    checksum: [u8; 32],
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryRecord {
    name_offset: U32,
    name_length: U32,
    first_use: U32,
    use_count: U32,
    length: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct PieceRecord {
    offset: U64,
    length: U64,
}

/// Why a file cannot be used as a bundle, or why nothing can be picked from it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It is something else.
    #[error("it is not a bundle of artifacts")]
    NotABundle,
    /// It is of another version.
    #[error(
        "it is a bundle of version {found}, and this cwasm reads version {VERSION}: bundle the artifacts again"
    )]
    Version {
        /// The version.
        found: u32,
    },
    /// It is shorter or longer than it says.
    #[error("it has {found} bytes, and says that it has {wanted}: copy it again")]
    Length {
        /// How many bytes there are.
        found: u64,
        /// How many there should be.
        wanted: u64,
    },
    /// Its front is damaged.
    #[error("its front is damaged ({what}): copy it again, or bundle the artifacts again")]
    Corrupt {
        /// What was noticed.
        what: &'static str,
    },
    /// There is no artifact of that name in it.
    #[error("it has no artifact with the name {name:?}; it has {}", names.join(", "))]
    NoSuchName {
        /// What was asked for.
        name: String,
        /// What there is.
        names: Vec<String>,
    },
    /// Of the artifacts with that name, none runs on the host.
    #[error("of {name:?} it has nothing for {host}; it has {}", there.join(", "))]
    NothingForHost {
        /// What was asked for.
        name: String,
        /// The host.
        host: String,
        /// What there is.
        there: Vec<String>,
    },
    /// An artifact cannot be put into a bundle.
    #[error("{name:?} cannot be bundled")]
    Refused {
        /// Its name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: Report,
    },
    /// It cannot be told from another one.
    #[error("{name:?} is given twice for {needs}: give one of them another name")]
    Twice {
        /// The name.
        name: String,
        /// For what it is.
        needs: String,
    },
    /// Not a name.
    #[error("{name:?} cannot be a name: it must have 1 to 255 bytes, and no control characters")]
    Name {
        /// The text.
        name: String,
    },
}

fn corrupt(what: &'static str) -> BundleError {
    BundleError::Corrupt { what }
}

/// One artifact of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEntry {
    /// Its name; those for other targets and CPUs have the same one.
    pub name: String,
    /// Its length in bytes.
    pub length: u64,
    pieces: Vec<Range<u64>>,
}

impl BundleEntry {
    /// The ranges of the bundle that are its bytes, one after the other. They lie in the file, and together they are as
    /// long as the artifact, which is not longer than the bundle.
    #[must_use]
    pub fn pieces(&self) -> &[Range<u64>] {
        &self.pieces
    }
}

/// What is in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleIndex {
    entries: Vec<BundleEntry>,
}

/// How long the front of a bundle is, from its first [`HEAD_SIZE`] bytes and its length.
///
/// # Errors
/// If it is no bundle, or none of this version and length.
pub fn front_length(head: &[u8], file_length: u64) -> Result<u64, BundleError> {
    if !head.starts_with(&MAGIC) {
        return Err(BundleError::NotABundle);
    }
    let head = match Head::ref_from_prefix(head) {
        Ok((head, _)) => head,
        Err(_) => {
            return Err(BundleError::Length { found: file_length, wanted: HEAD_SIZE as u64 });
        }
    };
    if head.version != VERSION {
        return Err(BundleError::Version { found: head.version.get() });
    }
    let wanted = head.file_length.get();
    if wanted != file_length {
        return Err(BundleError::Length { found: file_length, wanted });
    }
    let length = front_size(head);
    if length > file_length || length > MAX_FRONT {
        return Err(corrupt("it is longer than the file"));
    }
    Ok(length)
}

/// Cannot overflow: it adds up products of 32-bit numbers.
fn front_size(head: &Head) -> u64 {
    let table = |count: U32, size: usize| u64::from(count.get()) * size as u64;
    HEAD_SIZE as u64
        + table(head.entries, size_of::<EntryRecord>())
        + table(head.pieces, size_of::<PieceRecord>())
        + table(head.uses, size_of::<U32>())
        + table(head.names, 1)
}

fn checksum(front: &[u8]) -> [u8; 32] {
    const FIELD: Range<usize> = core::mem::offset_of!(Head, checksum)..HEAD_SIZE;
    Sha256::new()
        .chain_update(&front[..FIELD.start])
        .chain_update(&front[FIELD.end..])
        .finalize()
        .into()
}

impl BundleIndex {
    /// Reads the front of a bundle: as many bytes as [`front_length`] says.
    ///
    /// # Errors
    /// Whatever is wrong with it first.
    pub fn read(front: &[u8], file_length: u64) -> Result<Self, BundleError> {
        let length = front_length(front, file_length)?;
        let found = front.len() as u64;
        if found != length {
            return Err(BundleError::Length { found, wanted: length });
        }
        let damaged = || corrupt("it does not add up");
        let (head, rest) = Head::ref_from_prefix(front).map_err(|_| damaged())?;
        if checksum(front) != head.checksum {
            return Err(corrupt("its checksum is wrong"));
        }
        let count = |number: U32| number.get() as usize;
        let (entries, rest) =
            <[EntryRecord]>::ref_from_prefix_with_elems(rest, count(head.entries))
                .map_err(|_| damaged())?;
        let (pieces, rest) = <[PieceRecord]>::ref_from_prefix_with_elems(rest, count(head.pieces))
            .map_err(|_| damaged())?;
        let (uses, names) =
            <[U32]>::ref_from_prefix_with_elems(rest, count(head.uses)).map_err(|_| damaged())?;
        // Each use belongs to one entry, so that reading takes no more than the front has.
        let mut next_use = 0;
        let mut seen = vec![u32::MAX; pieces.len()];
        let entries = entries.iter().enumerate().map(|(index, entry)| {
            if count(entry.first_use) != next_use {
                return Err(corrupt("the pieces of artifacts overlap"));
            }
            next_use += count(entry.use_count);
            let uses = uses.get(count(entry.first_use)..next_use).ok_or_else(damaged)?;
            let mut total = 0u64;
            let mut ranges = Vec::with_capacity(uses.len());
            for piece in uses {
                let index = u32::try_from(index).map_err(|_| damaged())?;
                let last = seen.get_mut(count(*piece)).ok_or_else(damaged)?;
                if core::mem::replace(last, index) == index {
                    return Err(corrupt("an artifact uses a piece twice"));
                }
                let piece = &pieces[count(*piece)];
                let start = piece.offset.get();
                let end = start.checked_add(piece.length.get()).ok_or_else(damaged)?;
                if start < length || end > file_length || start == end {
                    return Err(corrupt("a piece is not in the file"));
                }
                total = total.checked_add(end - start).ok_or_else(damaged)?;
                ranges.push(start..end);
            }
            if total != entry.length.get() || total > file_length {
                return Err(corrupt("an artifact is not as long as its pieces"));
            }
            let start = count(entry.name_offset);
            let name = start.checked_add(count(entry.name_length));
            let name = name.and_then(|end| names.get(start..end)).ok_or_else(damaged)?;
            let name = core::str::from_utf8(name).map_err(|_| corrupt("a name is not text"))?;
            if !is_name(name) {
                return Err(corrupt("a name is not text"));
            }
            Ok(BundleEntry { name: name.to_owned(), length: total, pieces: ranges })
        });
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        Ok(Self { entries })
    }

    /// The artifacts, in the order in which they were given.
    #[must_use]
    pub fn entries(&self) -> &[BundleEntry] {
        &self.entries
    }

    /// The names, each once.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        let names: BTreeSet<&str> = self.entries.iter().map(|entry| entry.name.as_str()).collect();
        names.into_iter().collect()
    }

    /// The best artifact of a name for a host. `needs` tells what an entry needs, as its front says; nothing, if it
    /// has no front that can be read.
    ///
    /// # Errors
    /// If there is none.
    pub fn pick(
        &self,
        name: &str,
        host: &Host,
        mut needs: impl FnMut(&BundleEntry) -> Option<Needs>,
    ) -> Result<&BundleEntry, BundleError> {
        let mut candidates = Vec::new();
        for entry in self.entries.iter().filter(|entry| entry.name == name) {
            if let Some(needs) = needs(entry) {
                candidates.push((entry, needs));
            }
        }
        if !self.entries.iter().any(|entry| entry.name == name) {
            let names = self.names().into_iter().map(str::to_owned).collect();
            return Err(BundleError::NoSuchName { name: name.to_owned(), names });
        }
        best(host, candidates.iter().cloned()).ok_or_else(|| BundleError::NothingForHost {
            name: name.to_owned(),
            host: format!("{} with the CPU features {}", host.target, host.cpu_features),
            there: candidates.iter().map(|(_, needs)| needs.to_string()).collect(),
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len()) && !name.chars().any(char::is_control)
}

/// Puts artifacts into a bundle. They must be intact, for whatever machine.
///
/// # Errors
/// If one cannot be bundled.
pub fn build(artifacts: &[(&str, &[u8])]) -> Result<Vec<u8>, BundleError> {
    let mut seen: Vec<(&str, Needs)> = Vec::new();
    let mut entries = Vec::new();
    let mut pieces: Vec<&[u8]> = Vec::new();
    // What is stored, by its digest and how often it came before in the same artifact: one that has the same
    // bytes twice gets them twice, so that no artifact is longer than the bundle.
    let mut stored: HashMap<([u8; 32], u32), u32> = HashMap::new();
    let mut uses: Vec<U32> = Vec::new();
    let mut names = String::new();
    let number = |value: usize| u32::try_from(value).map_err(|_| corrupt("it would be too large"));
    for (name, bytes) in artifacts {
        if !is_name(name) {
            return Err(BundleError::Name { name: (*name).to_owned() });
        }
        let refused = |source| BundleError::Refused { name: (*name).to_owned(), source };
        let checked = check(bytes, None).map_err(refused)?;
        crate::module::Module::new(&checked).map_err(refused)?;
        if let Some(needs) = Needs::stated_in(bytes) {
            let one = (*name, needs);
            if seen.contains(&one) {
                let needs = one.1.to_string();
                return Err(BundleError::Twice { name: (*name).to_owned(), needs });
            }
            seen.push(one);
        }
        let first_use = uses.len();
        let mut times: HashMap<[u8; 32], u32> = HashMap::new();
        for range in cuts(checked.header(), bytes.len()) {
            let piece = &bytes[range];
            let digest: [u8; 32] = Sha256::digest(piece).into();
            let time = times.entry(digest).or_default();
            *time += 1;
            let next = number(pieces.len())?;
            let index = *stored.entry((digest, *time)).or_insert(next);
            if index == next {
                pieces.push(piece);
            }
            uses.push(index.into());
        }
        entries.push(EntryRecord {
            name_offset: number(names.len())?.into(),
            name_length: number(name.len())?.into(),
            first_use: number(first_use)?.into(),
            use_count: number(uses.len() - first_use)?.into(),
            length: (bytes.len() as u64).into(),
        });
        names.push_str(name);
    }
    let mut head = Head {
        magic: MAGIC,
        version: VERSION.into(),
        entries: number(entries.len())?.into(),
        pieces: number(pieces.len())?.into(),
        uses: number(uses.len())?.into(),
        names: number(names.len())?.into(),
        reserved: 0.into(),
        file_length: 0.into(),
        padding: [0; 24],
        checksum: [0; 32],
    };
    let mut offset = front_size(&head);
    let records: Vec<PieceRecord> = pieces
        .iter()
        .map(|piece| {
            let record = PieceRecord { offset: offset.into(), length: (piece.len() as u64).into() };
            offset += piece.len() as u64;
            record
        })
        .collect();
    head.file_length = offset.into();
    let mut file = Vec::new();
    for part in
        [head.as_bytes(), entries.as_bytes(), records.as_bytes(), uses.as_bytes(), names.as_bytes()]
    {
        file.extend_from_slice(part);
    }
    head.checksum = checksum(&file);
    file[..HEAD_SIZE].copy_from_slice(head.as_bytes());
    for piece in pieces {
        file.extend_from_slice(piece);
    }
    Ok(file)
}

/// The size of the largest piece in bytes. Smaller ones would find more that is equal, and be more to list.
const MAX_PIECE: usize = 65536;

/// Where an artifact is cut: at the edges of its sections, so that equal sections are found wherever they are, and at
/// multiples of a piece in them.
fn cuts(header: &crate::header::Header, length: usize) -> Vec<Range<usize>> {
    let mut edges = BTreeSet::from([0, length]);
    edges.insert(header.body_offset().min(length));
    for section in Section::ALL {
        if let Some(range) = header.section(section).within(length) {
            edges.extend([range.start, range.end]);
        }
    }
    let edges: Vec<usize> = edges.into_iter().collect();
    let mut cuts = Vec::new();
    for pair in edges.windows(2) {
        let mut start = pair[0];
        while start < pair[1] {
            let end = pair[1].min(start + MAX_PIECE);
            cuts.push(start..end);
            start = end;
        }
    }
    cuts
}

/// The bytes of an entry of a bundle in memory; `None` if it is of another bundle.
#[must_use]
pub fn assemble(bundle: &[u8], entry: &BundleEntry) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(entry.length).ok()?.min(bundle.len()));
    for piece in &entry.pieces {
        let range = usize::try_from(piece.start).ok()?..usize::try_from(piece.end).ok()?;
        bytes.extend_from_slice(bundle.get(range)?);
    }
    Some(bytes)
}

/// What an artifact is called and has, for who lists a bundle.
#[must_use]
pub fn described(artifact: &[u8]) -> Option<(Digest, Needs)> {
    Some((Digest::stated_in(artifact)?, Needs::stated_in(artifact)?))
}
