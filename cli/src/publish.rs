//! Writing a file so that nobody ever sees a part of it.
//!
//! The bytes go to a temporary file beside the target, to the disk, and then under
//! the target's name in one step. Who has the old file open or mapped keeps
//! the old bytes; on any error the old file stays and nothing new is left.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Refuses a target that could not be replaced, before time is spent on what to
/// put there. Returns the path to replace: that of the file, if it is a link.
pub(crate) fn target(path: &Path) -> anyhow::Result<PathBuf> {
    let Ok(metadata) = std::fs::metadata(path) else {
        // A link to nowhere is replaced like a file.
        let directory = directory_of(path);
        return match std::fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => Ok(path.to_owned()),
            Ok(_) => {
                bail!("cannot write {}: {} is not a directory", path.display(), directory.display())
            }
            Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
        };
    };
    if metadata.is_dir() {
        bail!("cannot write {}: it is a directory", path.display());
    }
    if !metadata.is_file() {
        bail!("cannot write {}: it is not a regular file", path.display());
    }
    path.canonicalize().with_context(|| format!("cannot write {}", path.display()))
}

/// Puts `bytes` into the file `path`. A file that holds them already is left as it is,
/// so that a build tool sees that nothing changed.
pub(crate) fn publish(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if holds(path, bytes) {
        return Ok(());
    }
    // The umask takes away what it takes away from other files.
    write(path, bytes, Permissions::from_mode(0o666))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn holds(path: &Path, bytes: &[u8]) -> bool {
    let same_length = std::fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes.len() as u64);
    same_length && std::fs::read(path).is_ok_and(|old| old == bytes)
}

/// Puts `bytes` into the file `path`, which exists, and keeps its permissions.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    std::fs::metadata(path)
        .and_then(|metadata| write(path, bytes, metadata.permissions()))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn write(path: &Path, bytes: &[u8], permissions: Permissions) -> std::io::Result<()> {
    let directory = directory_of(path);
    let mut file = tempfile::Builder::new()
        .prefix(".cwasm-")
        .suffix(".tmp")
        .permissions(permissions)
        .tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The new name is on the disk when its directory is.
    File::open(directory)?.sync_all()
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_and_what_was_open_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        publish(&path, b"old").unwrap();
        let mut old = File::open(&path).unwrap();
        publish(&path, b"new").unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut old, &mut text).unwrap();
        assert_eq!(text, "old");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_stays_a_link() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, b"old").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        publish(&target(&link).unwrap(), b"new").unwrap();
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
    }

    #[test]
    fn what_cannot_be_replaced_is_refused_before() {
        let refusal = |path: &str| format!("{:#}", target(Path::new(path)).unwrap_err());
        assert_eq!(refusal("/dev"), "cannot write /dev: it is a directory");
        assert_eq!(refusal("/dev/null"), "cannot write /dev/null: it is not a regular file");
        assert!(refusal("/no/such/out").starts_with("cannot write /no/such/out: No such file"));
    }
}
