//! Capture files one after the other: `out.00001.pcapng`, `out.00002.pcapng` …
//!
//! Each stands alone. Numbers go on where the files that are there already end, so a new agent overwrites nothing
//! of an earlier one.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent::helper::Helper;
use rustix::process::{Resource, getrlimit};

/// When a file is followed by another, and how many stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RotationChoice {
    /// A file has about so many bytes at most.
    pub(crate) bytes: Option<u64>,
    /// A file is written for so long at most.
    pub(crate) time: Option<Duration>,
    /// So many are kept, the one that is written included.
    pub(crate) keep: Option<usize>,
}

impl RotationChoice {
    fn is_wanted(self) -> bool {
        self != Self::default()
    }
}

/// The file that is written.
#[derive(Debug)]
pub(crate) struct CaptureFile {
    base: PathBuf,
    choice: RotationChoice,
    /// Opens the next ones where this process may not, and by which number it knows the output.
    helper: Option<(Helper, u32)>,
    opened: Instant,
    /// Bytes of all files before this one.
    before: u64,
    /// So many it may have at most, as far as is known (RLIMIT_FSIZE).
    limit: Option<u64>,
}

impl CaptureFile {
    /// Opens the first file. Without rotation it is `base` itself. Where there is a `helper`, it opens those that
    /// follow.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn open(
        base: &Path,
        choice: RotationChoice,
        helper: Option<(Helper, u32)>,
    ) -> io::Result<(Self, File)> {
        let this = Self {
            base: base.to_owned(),
            choice,
            helper,
            opened: Instant::now(),
            before: 0,
            limit: size_limit(),
        };
        let file = match choice.is_wanted() {
            true => open_next(base, choice.keep)?,
            false => options().truncate(true).create(true).open(base)?,
        };
        Ok((this, file))
    }

    /// Whether it is time for another.
    pub(crate) fn is_old(&self) -> bool {
        let most = self.choice.time;
        most.is_some_and(|most| self.opened.elapsed() >= most)
    }

    /// Whether others follow it without anybody's asking.
    pub(crate) fn is_rotated(&self) -> bool {
        self.choice.is_wanted()
    }

    /// Whether it has as much as it may have. `bytes` tells how many are in all files so far, about.
    pub(crate) fn is_full(&self, bytes: impl FnOnce() -> u64) -> bool {
        // Before the limit is met: what doesn't fit is lost.
        let limit = self.limit.filter(|_| self.is_rotated());
        let limit = limit.map(|bytes| bytes - bytes / 4);
        let most = self.choice.bytes.into_iter().chain(limit).min();
        most.is_some_and(|most| bytes().saturating_sub(self.before) >= most)
    }

    /// Whether nobody is there any more who could open another: all goes into this one.
    pub(crate) fn is_last(&self) -> bool {
        let gone = |(helper, _): &(Helper, u32)| helper.is_gone();
        self.helper.as_ref().is_some_and(gone)
    }

    /// Opens the next file, and removes the oldest ones if there are too many. [`CaptureFile::began`] follows.
    ///
    /// # Errors
    /// It can't be written.
    pub(crate) fn next(&self) -> io::Result<File> {
        match &self.helper {
            Some((helper, output)) => helper.next_file(*output),
            None => open_next(&self.base, self.choice.keep),
        }
    }

    /// The next file is written from now on. `bytes` are in those before it.
    pub(crate) fn began(&mut self, bytes: u64) {
        self.opened = Instant::now();
        self.before = bytes;
        self.limit = size_limit();
    }
}

/// Opens the file behind the last one with a number, and removes the oldest ones if there are more than `keep`.
///
/// # Errors
/// It can't be written.
pub(crate) fn open_next(base: &Path, keep: Option<usize>) -> io::Result<File> {
    let last = numbered(base).last().map_or(0, |(number, _)| *number);
    let file = options().create_new(true).open(name(base, last + 1))?;
    if let Some(keep) = keep {
        let files = numbered(base);
        let old = files.len().saturating_sub(keep);
        for (_, path) in &files[..old] {
            // Somebody else may have removed it.
            let _ = fs::remove_file(path);
        }
    }
    Ok(file)
}

/// How large a file may be that this process writes.
fn size_limit() -> Option<u64> {
    getrlimit(Resource::Fsize).current
}

/// A capture holds clear text: nobody but its owner may read it.
fn options() -> OpenOptions {
    let mut options = File::options();
    options.write(true).mode(0o600);
    options
}

/// `out.pcapng` with a number: `out.00007.pcapng`.
fn name(base: &Path, number: u64) -> PathBuf {
    let mut end = OsString::from(format!("{number:05}"));
    if let Some(extension) = base.extension() {
        end.push(".");
        end.push(extension);
    }
    base.with_extension(end)
}

/// The files that are there, in the order of their numbers.
fn numbered(base: &Path) -> Vec<(u64, PathBuf)> {
    let directory = base.parent().filter(|parent| *parent != Path::new(""));
    let entries = fs::read_dir(directory.unwrap_or(Path::new(".")));
    let paths = entries.into_iter().flatten().flatten();
    let number = |path: &Path| {
        // Behind the stem: `.00007.pcapng`.
        let stem = base.file_stem()?.to_str()?;
        let rest = path
            .file_name()?
            .to_str()?
            .strip_prefix(stem)?
            .strip_prefix('.')?;
        let digits = match base.extension() {
            Some(extension) => rest.strip_suffix(extension.to_str()?)?.strip_suffix('.')?,
            None => rest,
        };
        let all_digits = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        all_digits.then(|| digits.parse().ok()).flatten()
    };
    let mut found: Vec<_> = paths
        .filter_map(|entry| {
            let path = entry.path();
            number(&path).map(|number| (number, name(base, number)))
        })
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn numbers_go_on_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("out.pcapng");
        // None of these is ours to count or to remove.
        for name in [
            "out.pcapng",
            "out.7.pcapng",
            "out.00009.txt",
            "other.00009.pcapng",
            "out.00000x.pcapng",
        ] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        let others = names(directory.path());
        let choice = RotationChoice {
            bytes: Some(10),
            keep: Some(2),
            ..RotationChoice::default()
        };
        let mine = || -> Vec<String> {
            let mut names = names(directory.path());
            names.retain(|name| !others.contains(name));
            names
        };
        let (mut file, _) = CaptureFile::open(&base, choice, None).unwrap();
        assert_eq!(mine(), ["out.00001.pcapng"]);
        for before in [0, 15, 27] {
            assert!(!file.is_full(|| before + 9) && file.is_full(|| before + 10));
            file.next().unwrap();
            // One record more than it may have.
            file.began(before + 15 - before / 5);
        }
        assert_eq!(mine(), ["out.00003.pcapng", "out.00004.pcapng"]);
        CaptureFile::open(&base, choice, None).unwrap();
        assert_eq!(mine(), ["out.00004.pcapng", "out.00005.pcapng"]);
        let there = names(directory.path());
        assert!(others.iter().all(|name| there.contains(name)));
    }

    #[test]
    fn without_rotation_the_file_is_the_one_that_was_named() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("bare");
        let (file, _) = CaptureFile::open(&base, RotationChoice::default(), None).unwrap();
        assert!(!file.is_full(|| u64::MAX) && !file.is_old());
        // Asked to, it goes on in a numbered one.
        file.next().unwrap();
        assert_eq!(names(directory.path()), ["bare", "bare.00001"]);
    }
}
