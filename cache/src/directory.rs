//! Where the cache is, and whether code may be run from there: only if nobody but
//! this user (and root, who can do anything anyway) could have put it there.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// `$XDG_CACHE_HOME/cwasm`, or `~/.cache/cwasm`.
pub(crate) fn default_dir() -> Result<PathBuf, Error> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    variable("XDG_CACHE_HOME")
        .or_else(|| Some(variable("HOME")?.join(".cache")))
        .map(|caches| caches.join("cwasm"))
        .ok_or(Error::NoDirectory)
}

/// Makes the directory if it is not there, for this user only, and checks it.
/// Returns its real path.
pub(crate) fn create(path: &Path) -> Result<PathBuf, Error> {
    private(path).map_err(Error::io("make the cache directory", path))?;
    check(path)
}

/// Makes a directory and what is missing above it, for this user only.
pub(crate) fn private(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Refuses a directory into which somebody else could put code. Returns its real path.
pub(crate) fn check(path: &Path) -> Result<PathBuf, Error> {
    let real = path.canonicalize().map_err(Error::io("open the cache directory", path))?;
    let refuse = |reason| Error::Unsafe { path: path.to_owned(), reason };
    for (depth, directory) in real.ancestors().enumerate() {
        let metadata =
            fs::symlink_metadata(directory).map_err(Error::io("look at", directory))?;
        if let Some(reason) = writable_by_others(directory, &metadata, depth == 0) {
            return Err(refuse(reason));
        }
    }
    Ok(real)
}

/// Why others could change what is in a directory, or exchange it.
fn writable_by_others(path: &Path, metadata: &Metadata, is_cache: bool) -> Option<String> {
    let path = path.display();
    if !metadata.is_dir() {
        return Some(format!("{path} is not a directory"));
    }
    let (owner, me) = (metadata.uid(), rustix::process::geteuid().as_raw());
    if owner != me && owner != 0 {
        return Some(format!(
            "{path} belongs to user {owner}, and this process is user {me}: name a directory of your own"
        ));
    }
    let mode = metadata.mode() & 0o7777;
    // In a sticky directory, nobody can exchange what belongs to others.
    let sticky = mode & 0o1000 != 0 && !is_cache;
    if mode & 0o022 != 0 && !sticky {
        return Some(format!(
            "others can write to {path} (mode {mode:04o}): `chmod go-w {path}`, or name another directory"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn directories_that_others_can_write_to_are_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let (above, inside) = (folder.path().join("a"), folder.path().join("a/b"));
        create(&inside).unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().mode() & 0o777, 0o700);
        for directory in [&inside, &above] {
            for mode in [0o770, 0o707] {
                fs::set_permissions(directory, fs::Permissions::from_mode(mode)).unwrap();
                let message = create(&inside).unwrap_err().to_string();
                assert!(message.contains("others can write to"), "{message}");
                assert!(message.contains(&format!("(mode 0{mode:o})")), "{message}");
            }
            fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
        }
        // The cache itself may not even be sticky.
        fs::set_permissions(&inside, fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(create(&inside).is_err());
    }

    #[test]
    fn a_file_is_no_directory() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(create(file.path()), Err(Error::Io { .. } | Error::Unsafe { .. })));
    }
}
