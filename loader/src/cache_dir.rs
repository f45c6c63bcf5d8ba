//! A directory that only this user, or root, can write to, as a reason to trust what is in it.
//!
//! [`CacheDir::open`] walks from the root of the file system to the directory, descriptor by
//! descriptor, and examines every step; it keeps the descriptor of the last one. Files
//! are opened relative to that, through no link, and examined after they were opened. So at no
//! time is a name looked up that somebody else could have changed since it was examined.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::error::LoadError;
use crate::source::{Handle, Opened, Source, not_special};
use crate::sys::{Dir, Facts, Kind, effective_user};

/// How many links may lead to a directory.
const MAX_LINKS: usize = 40;

/// Permission of a group or of others to write.
const WRITABLE: u32 = 0o022;

/// How many bytes are made room for before it is known that a file has them.
const READ_AT_ONCE: usize = 4096;

/// In a sticky directory, only its owner may rename or remove what is in it.
const STICKY: u32 = 0o1000;

/// A directory of this user that nobody else can write to: its files are trusted for being
/// in it, with [`crate::Trust::cache`].
///
/// It belongs to the user that this process acts as, or to root, who could change anything anyway; and neither group nor
/// others may write to it. Every directory on the way to it, and every link, belongs to root or to this user; others can write to a directory
/// on the way only if it is sticky, as `/tmp` is. (An access control list that lets others write shows as
/// permission of the group, and is refused with it.)
///
/// What is checked is what the file system says about itself. A directory on a network file system, or one that
/// somebody else mounted, is as good as whoever serves it.
#[derive(Clone)]
pub struct CacheDir {
    inner: Arc<Inner>,
}

struct Inner {
    dir: Dir,
    path: PathBuf,
    /// The user that everything in it must belong to, if not to root.
    user: u32,
}

/// Why something can be changed by others than this user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exposure {
    /// It belongs to somebody else.
    Owner {
        /// The user that it belongs to.
        found: u32,
        /// The user that it must belong to, if not to root.
        wanted: u32,
    },
    /// It is on the way to the directory, and belongs neither to this user nor to root.
    Ancestor {
        /// The user that it belongs to.
        found: u32,
        /// The user that it may belong to, beside root.
        wanted: u32,
    },
    /// Its group, or others, may write to it.
    Writable {
        /// Its permission bits.
        mode: u32,
    },
    /// It is a link, which may lead anywhere.
    Link,
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Owner { found, wanted } | Self::Ancestor { found, wanted } => {
                write!(f, "it belongs to the user {found}, and must belong to {wanted} or to root")
            }
            Self::Writable { mode } => write!(
                f,
                "others than its owner may write to it (mode {mode:04o}); take that away with `chmod go-w`"
            ),
            Self::Link => f.write_str("it is a symbolic link"),
        }
    }
}

/// Why a directory does not make files trusted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheDirError {
    /// It cannot be examined.
    #[error("cannot examine {}", path.display())]
    Open {
        /// The directory, or one on the way to it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It, or something on the way to it, is no directory.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// What is none.
        path: PathBuf,
    },
    /// Others than this user can change what it holds.
    #[error(
        "the directory {} does not make its files trusted, because of {}: {exposure}",
        directory.display(), path.display()
    )]
    Exposed {
        /// The directory.
        directory: PathBuf,
        /// The directory, or what is wrong on the way to it.
        path: PathBuf,
        /// What is wrong.
        exposure: Exposure,
    },
}

impl CacheDir {
    /// Examines a directory, which must exist.
    ///
    /// # Errors
    /// If it cannot be examined, or if others than this user could write to it or replace it.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CacheDirError> {
        let path = path.as_ref();
        let user = effective_user();
        let dir = walk(path, user)?;
        Ok(Self { inner: Arc::new(Inner { dir, path: path.to_owned(), user }) })
    }

    /// The path that it was opened with.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The contents of a small file in it that only this user, or root, can have written.
    ///
    /// For what belongs to a cache besides its artifacts. The path is that of the file, or relative to the directory.
    ///
    /// # Errors
    /// If the file cannot be read, has more than `limit` bytes, or is not in the directory; and if others can write to it or to a
    /// directory on the way.
    pub fn read(&self, path: impl AsRef<Path>, limit: usize) -> Result<Vec<u8>, LoadError> {
        let source = Source::from(path.as_ref());
        let Opened::File { file, name, .. } = self.open_entry(source)? else {
            return Err(LoadError::NotInCache { directory: self.inner.path.clone() });
        };
        let bound = u64::try_from(limit).unwrap_or(u64::MAX);
        let mut bytes = Vec::with_capacity(limit.min(READ_AT_ONCE));
        file.get()
            .take(bound.saturating_add(1))
            .read_to_end(&mut bytes)
            .and_then(|length| match length <= limit {
                true => Ok(bytes),
                false => Err(io::ErrorKind::FileTooLarge.into()),
            })
            .map_err(|source| LoadError::Read { path: name, source })
    }

    /// Opens a file in it that only this user, or root, can write to.
    pub(crate) fn open_entry<'a>(&self, source: Source<'a>) -> Result<Opened<'a>, LoadError> {
        let not_in_cache = || LoadError::NotInCache { directory: self.inner.path.clone() };
        let Source::Path(path) = source else { return Err(not_in_cache()) };
        let inside = if path.is_absolute() {
            path.strip_prefix(&self.inner.path).map_err(|_| not_in_cache())?
        } else {
            &path
        };
        let names: Option<Vec<&OsStr>> = inside
            .components()
            .map(|component| match component {
                Component::Normal(name) => Some(name),
                _ => None,
            })
            .collect();
        let names = names.ok_or_else(not_in_cache)?;
        let (file, directories) = names.split_last().ok_or_else(not_in_cache)?;

        let mut here = None;
        let mut path = self.inner.path.clone();
        for name in directories {
            path.push(name);
            let read = |source| LoadError::Read { path: path.clone(), source };
            let next = here.as_ref().unwrap_or(&self.inner.dir).look(name).map_err(read)?;
            let facts = next.facts().map_err(read)?;
            match facts.kind {
                Kind::Directory | Kind::Link => self.only_ours(&path, facts)?,
                Kind::File | Kind::Other => {
                    return Err(read(io::ErrorKind::NotADirectory.into()));
                }
            }
            here = Some(next);
        }
        path.push(file);
        let read = |source| LoadError::Read { path: path.clone(), source };
        let opened = here.as_ref().unwrap_or(&self.inner.dir).open_file(file).map_err(read)?;
        let Some((file, facts)) = opened else {
            return Err(LoadError::CacheEntry { path, exposure: Exposure::Link });
        };
        let metadata = file.metadata().map_err(read)?;
        not_special(&path, metadata.file_type())?;
        self.only_ours(&path, facts)?;
        Ok(Opened::File { file: Handle::Ours(file), name: path, length: metadata.len() })
    }

    fn only_ours(&self, path: &Path, facts: Facts) -> Result<(), LoadError> {
        match exposure(facts, self.inner.user) {
            None => Ok(()),
            Some(exposure) => Err(LoadError::CacheEntry { path: path.to_owned(), exposure }),
        }
    }
}

impl AsFd for CacheDir {
    /// The directory that was examined: open files relative to it when you write to it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.dir.as_fd()
    }
}

impl fmt::Debug for CacheDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CacheDir({})", self.inner.path.display())
    }
}

impl PartialEq for CacheDir {
    /// Whether they were opened at the same time: two that were not may differ by now.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for CacheDir {}

/// How others than `user` and root could change something.
fn exposure(facts: Facts, user: u32) -> Option<Exposure> {
    if facts.kind == Kind::Link {
        Some(Exposure::Link)
    } else if facts.owner != user && facts.owner != 0 {
        Some(Exposure::Owner { found: facts.owner, wanted: user })
    } else if facts.mode & WRITABLE != 0 {
        Some(Exposure::Writable { mode: facts.mode })
    } else {
        None
    }
}

/// How others than `user` and root could change where a step leads to.
fn step_exposure(facts: Facts, user: u32) -> Option<Exposure> {
    if facts.owner != 0 && facts.owner != user {
        return Some(Exposure::Ancestor { found: facts.owner, wanted: user });
    }
    // The permissions of a link mean nothing: who can write to its directory can replace it.
    let writable =
        facts.kind == Kind::Directory && facts.mode & WRITABLE != 0 && facts.mode & STICKY == 0;
    writable.then_some(Exposure::Writable { mode: facts.mode })
}

/// Goes to a directory, and examines every step.
fn walk(path: &Path, user: u32) -> Result<Dir, CacheDirError> {
    let failed = |at: &Path| {
        let path = at.to_owned();
        move |source| CacheDirError::Open { path, source }
    };
    let exposed = |at: &Path, exposure| CacheDirError::Exposed {
        directory: path.to_owned(),
        path: at.to_owned(),
        exposure,
    };
    let absolute = std::path::absolute(path).map_err(failed(path))?;
    let mut ahead = Vec::new();
    push_steps(&mut ahead, &absolute);
    let mut links = 0;
    let mut at = PathBuf::from("/");
    let mut here = Dir::root().map_err(failed(&at))?;
    let mut facts = here.facts().map_err(failed(&at))?;
    loop {
        if let Some(exposure) = step_exposure(facts, user) {
            return Err(exposed(&at, exposure));
        }
        let Some(step) = ahead.pop() else { break };
        if step == "/" {
            at = PathBuf::from("/");
            here = Dir::root().map_err(failed(&at))?;
            facts = here.facts().map_err(failed(&at))?;
            continue;
        }
        let next_at =
            if step == ".." { at.parent().unwrap_or(&at).to_owned() } else { at.join(&step) };
        let next = here.look(&step).map_err(failed(&next_at))?;
        let next_facts = next.facts().map_err(failed(&next_at))?;
        match next_facts.kind {
            Kind::Directory => (here, at, facts) = (next, next_at, next_facts),
            Kind::Link => {
                if let Some(exposure) = step_exposure(next_facts, user) {
                    return Err(exposed(&next_at, exposure));
                }
                links += 1;
                if links > MAX_LINKS {
                    return Err(failed(&next_at)(io::Error::from_raw_os_error(libc::ELOOP)));
                }
                let target = next.link_target().map_err(failed(&next_at))?;
                push_steps(&mut ahead, Path::new(&target));
            }
            Kind::File | Kind::Other => {
                return Err(CacheDirError::NotADirectory { path: next_at });
            }
        }
    }
    if let Some(exposure) = exposure(facts, user) {
        return Err(exposed(&at, exposure));
    }
    here.reopen().map_err(failed(&at))
}

/// Puts the steps of a path on a stack, the first on top.
fn push_steps(stack: &mut Vec<OsString>, path: &Path) {
    let steps = path.components().rev().filter(|step| *step != Component::CurDir);
    stack.extend(steps.map(|step| step.as_os_str().to_owned()));
}
