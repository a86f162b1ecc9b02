//! Files of an identity: private, written as a whole or not at all.
//!
//! What root makes belongs to whoever has the directory: commands are root's, and the agent or collector that
//! reads the files may be another user. That user isn't trusted with root's rights: no link is followed.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, FlockOperation, Gid, Mode, OFlags, Uid};

use super::error::IdentityError;

/// Most bytes of a file here: a registry of 100,000 agents has less.
const MAX_FILE_BYTES: u64 = 64 << 20;

fn failed<'p>(
    action: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> IdentityError + 'p {
    move |source| IdentityError::File {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Makes a directory that nobody else can enter, and those above it.
pub(super) fn private_dir(path: &Path) -> Result<(), IdentityError> {
    let made = || -> io::Result<()> {
        let missing: Vec<&Path> = path
            .ancestors()
            .take_while(|dir| !dir.as_os_str().is_empty() && !dir.exists())
            .collect();
        for dir in missing.into_iter().rev() {
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            give(&rustix::fs::open(dir, flags, Mode::empty())?, dir)?;
        }
        Ok(())
    };
    made().map_err(failed("make", path))
}

/// Root's file becomes that of its directory's owner.
fn give(file: impl AsFd, path: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let found = rustix::fs::fstat(&file)?;
    let is_file = FileType::from_raw_mode(found.st_mode).is_file();
    if is_file && found.st_nlink != 1 {
        // The directory's owner may have put somebody else's file there by another name.
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let owner = fs::metadata(parent(path))?;
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
}

/// Writes a file with mode 0600: whoever reads it finds the old content or the new one, also after a crash.
///
/// # Errors
/// It can't be written; the old content is still there.
pub fn write(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let written = aside(path, content).and_then(|aside| {
        fs::rename(aside, path)?;
        sync_parent(path)
    });
    written.map_err(failed("write", path))
}

/// The same for a file that isn't there yet, in a directory that is made if it isn't either.
///
/// # Errors
/// There is one, which stays as it is; or it can't be written.
pub fn write_new(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    private_dir(parent(path))?;
    let written = aside(path, content).and_then(|aside| {
        // Unlike a rename, it replaces nothing.
        let linked = fs::hard_link(&aside, path);
        fs::remove_file(&aside)?;
        linked?;
        sync_parent(path)
    });
    written.map_err(failed("make", path))
}

/// The content on disk beside the file that it is for.
fn aside(path: &Path, content: &[u8]) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    let aside = PathBuf::from(aside);
    // What a crash left behind may have other permissions.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&aside)?;
    give(&file, &aside)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(aside)
}

/// The directory that a file is in.
fn parent(path: &Path) -> &Path {
    let parent = path.parent();
    let named = parent.filter(|parent| !parent.as_os_str().is_empty());
    named.unwrap_or(Path::new("."))
}

/// The name of a new or renamed file is on disk, too.
fn sync_parent(path: &Path) -> io::Result<()> {
    File::open(parent(path))?.sync_all()
}

/// A file's text; `None`: there is none.
pub(super) fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    match open(path)? {
        Some(file) => text(file, path).map(Some),
        None => Ok(None),
    }
}

fn open(path: &Path) -> Result<Option<File>, IdentityError> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    match OpenOptions::new()
        .read(true)
        .custom_flags(no_link)
        .open(path)
    {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

fn text(file: File, path: &Path) -> Result<String, IdentityError> {
    let mut text = String::new();
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .map_err(failed("read", path))?;
    Ok(text)
}

/// The text of a private key's file; `None`: there is none.
///
/// # Errors
/// Others may read it, too.
pub(super) fn read_secret(path: &Path) -> Result<Option<String>, IdentityError> {
    match open(path)? {
        Some(file) => private_text(file, path).map(Some),
        None => Ok(None),
    }
}

/// The text of a file with a secret in it that the operator names, behind links, too.
///
/// # Errors
/// It can't be read, or others can read it, too.
pub fn read_given_secret(path: &Path) -> Result<String, IdentityError> {
    let file = File::open(path).map_err(failed("read", path))?;
    private_text(file, path)
}

fn private_text(file: File, path: &Path) -> Result<String, IdentityError> {
    let found = file.metadata().map_err(failed("read", path))?;
    let mode = found.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(IdentityError::Exposed {
            path: path.to_owned(),
            mode: mode & 0o777,
        });
    }
    text(file, path)
}

/// As long as it lives no other process has it: the running collector and the commands change the same files.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for it; others have it for the length of a few writes.
    pub(super) fn take(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join("lock");
        let taken = || -> io::Result<File> {
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default())
                .open(&path)?;
            give(&file, &path)?;
            while let Err(error) = rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                if error != rustix::io::Errno::INTR {
                    return Err(error.into());
                }
            }
            Ok(file)
        };
        taken()
            .map(|file| Self { _file: file })
            .map_err(failed("lock", &path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_private_and_whole() {
        let above = tempfile::tempdir().unwrap();
        let dir = above.path().join("a/b");
        private_dir(&dir).unwrap();
        assert_eq!((mode(&dir), mode(&above.path().join("a"))), (0o700, 0o700));
        let path = dir.join("key");
        // Left behind by a crash, with other permissions.
        fs::write(dir.join("key.new"), "half").unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(read_secret(&path).unwrap().as_deref(), Some("two"));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert!(read_secret(&dir.join("other")).unwrap().is_none());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_secret(&path).unwrap_err();
        assert!(
            matches!(error, IdentityError::Exposed { mode: 0o640, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_secret_is_read_where_the_operator_says_unless_others_can() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["secret", "link"].map(|name| dir.path().join(name));
        write_new(&path, b"one").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(read_given_secret(&link).unwrap(), "one");
        for exposed in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(exposed)).unwrap();
            let error = read_given_secret(&link).unwrap_err().to_string();
            let chmod = format!("`chmod 600 {}`", link.display());
            let mode = format!("(mode {exposed:o})");
            assert!(error.contains(&mode) && error.contains(&chmod), "{error}");
        }
    }

    #[test]
    fn what_is_there_is_not_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/key");
        write_new(&path, b"one").unwrap();
        assert!(write_new(&path, b"two").is_err());
        assert_eq!(read_given_secret(&path).unwrap(), "one");
        let found = fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!((found.count(), mode(&path)), (1, 0o600));
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        // One without a directory is in the one where we are.
        assert_eq!(parent(Path::new("key")), Path::new("."));
    }

    #[test]
    fn links_lead_nowhere() {
        let dir = tempfile::tempdir().unwrap();
        let (secret, link) = (dir.path().join("secret"), dir.path().join("registry"));
        fs::write(&secret, "of root").unwrap();
        std::os::unix::fs::symlink(&secret, &link).unwrap();
        assert!(read(&link).is_err());
        write(&link, b"new").unwrap();
        assert_eq!(fs::read(&secret).unwrap(), b"of root");
        assert_eq!(read(&link).unwrap().as_deref(), Some("new"));
        std::os::unix::fs::symlink(&secret, dir.path().join("lock")).unwrap();
        assert!(Lock::take(dir.path()).is_err());
        if rustix::process::geteuid().is_root() {
            // Nor does another name of somebody else's file: it would be given away.
            fs::remove_file(dir.path().join("lock")).unwrap();
            fs::hard_link(&secret, dir.path().join("lock")).unwrap();
            assert!(Lock::take(dir.path()).is_err());
        }
    }

    #[test]
    fn what_root_makes_belongs_to_the_owner_of_the_directory() {
        let above = tempfile::tempdir().unwrap();
        // Only root can give it away; what others make is their own anyhow.
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::chown(above.path(), Some(4711), Some(4712)).unwrap();
        }
        let expected = fs::metadata(above.path()).unwrap();
        let dir = above.path().join("a/b");
        private_dir(&dir).unwrap();
        write(&dir.join("key"), b"x").unwrap();
        let _lock = Lock::take(&dir).unwrap();
        for path in [
            above.path().join("a"),
            dir.clone(),
            dir.join("key"),
            dir.join("lock"),
        ] {
            let owner = fs::metadata(&path).unwrap();
            assert_eq!(
                (owner.uid(), owner.gid()),
                (expected.uid(), expected.gid()),
                "{}",
                path.display()
            );
        }
    }

    #[test]
    fn one_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        let other = File::open(dir.path().join("lock")).unwrap();
        let attempt = rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(attempt, Err(rustix::io::Errno::WOULDBLOCK));
        drop(lock);
        rustix::fs::flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    }
}
