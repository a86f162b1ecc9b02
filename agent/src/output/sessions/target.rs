//! The file that a log is written to, or the pipe.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};

/// Opens the file anew: by the same path, whatever is there now.
type Reopen = Box<dyn FnMut() -> io::Result<File> + Send>;

/// Where the lines go. A regular file ends with a whole line whenever nobody writes to it.
pub struct LogTarget {
    file: File,
    is_file: bool,
    reopen: Option<Reopen>,
    /// It ends within a line that can't be cut off.
    torn: bool,
}

impl LogTarget {
    /// A file that was opened by [`LogTarget::open`], and how it is opened again: when somebody has moved it and says
    /// so, or has removed it.
    pub fn file(file: File, reopen: impl FnMut() -> io::Result<File> + Send + 'static) -> Self {
        Self::new(file, Some(Box::new(reopen)))
    }

    /// Standard output, or another file that stays as it is.
    pub fn stream(file: File) -> Self {
        Self::new(file, None)
    }

    fn new(file: File, reopen: Option<Reopen>) -> Self {
        let kind = file.metadata().map(|file| file.file_type());
        let is_file = kind.as_ref().is_ok_and(|kind| kind.is_file());
        // A pipe stays the one that it is.
        let is_pipe = kind.is_ok_and(|kind| kind.is_fifo());
        Self {
            torn: is_file && is_torn(&file),
            is_file,
            file,
            reopen: reopen.filter(|_| !is_pipe),
        }
    }

    /// Opens the file at this path to be written at its end. It is made for its owner alone: who talks to whom is nobody
    /// else's business. A FIFO waits for its reader.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open(path: &Path) -> io::Result<File> {
        let is_special = path.metadata().is_ok_and(|file| !file.is_file());
        // How it ends is looked at.
        options().read(!is_special).open(path)
    }

    /// The same of a regular file, in place of another. Whoever opens it has other things to do: what else may have come
    /// to this path isn't waited for.
    ///
    /// # Errors
    /// The kernel's, or it is no regular file.
    pub fn open_next(path: &Path) -> io::Result<File> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let file = options().read(true).custom_flags(flags).open(path)?;
        match file.metadata()?.is_file() {
            true => Ok(file),
            false => Err(io::Error::other("it isn't a file any more")),
        }
    }

    /// It is on a disk.
    pub(super) fn is_file(&self) -> bool {
        self.is_file
    }

    /// Goes on in the file that the path leads to now.
    ///
    /// # Errors
    /// It can't be opened: goes on in the one before.
    pub(super) fn turn_over(&mut self) -> io::Result<()> {
        if let Some(reopen) = &mut self.reopen {
            let file = reopen()?;
            let reopen = self.reopen.take();
            *self = Self::new(file, reopen);
        }
        Ok(())
    }

    /// Writes these lines. Returns how many bytes of them were written, whole lines, and why it isn't all.
    pub(super) fn write(&mut self, lines: &[u8]) -> (usize, Option<io::Error>) {
        // Who has removed it gets another one. Where that can't be, nobody would ever read what is written to this one.
        let is_removed = |file: &File| file.metadata().is_ok_and(|file| file.nlink() == 0);
        if self.is_file
            && is_removed(&self.file)
            && let Err(error) = self.turn_over()
        {
            return (0, Some(error));
        }
        if self.torn {
            match self.write_bytes(b"\n") {
                (1, None) => self.torn = false,
                (_, error) => return (0, error),
            }
        }
        let before = self.file.metadata().map(|file| file.len());
        let (written, error) = self.write_bytes(lines);
        if error.is_none() {
            return (written, None);
        }
        (self.keep_whole(before, lines, written), error)
    }

    /// Of these lines so many bytes were written to a file of that length: keeps the whole ones. Returns their bytes.
    fn keep_whole(&mut self, before: io::Result<u64>, lines: &[u8], written: usize) -> usize {
        let end = lines[..written].iter().rposition(|byte| *byte == b'\n');
        let whole = end.map_or(0, |end| end + 1);
        if written > whole {
            self.torn = !before.is_ok_and(|before| self.cut(before, written, whole).is_ok());
        }
        whole
    }

    fn write_bytes(&mut self, bytes: &[u8]) -> (usize, Option<io::Error>) {
        let mut written = 0;
        while written < bytes.len() {
            match self.file.write(&bytes[written..]) {
                Ok(0) => return (written, Some(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Somebody has made the pipe non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ends = [PollFd::new(&self.file, PollFlags::OUT)];
                    if let Err(error) = poll(&mut ends, None) {
                        return (written, Some(error.into()));
                    }
                }
                Err(error) => return (written, Some(error)),
            }
        }
        (written, None)
    }

    /// Cuts off what was written of a line.
    fn cut(&mut self, before: u64, written: usize, whole: usize) -> io::Result<()> {
        // What somebody else has written there isn't ours to cut.
        if !self.is_file || self.file.metadata()?.len() != before + written as u64 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        let end = before + whole as u64;
        self.file.set_len(end)?;
        self.file.seek(SeekFrom::Start(end)).map(drop)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600);
    options
}

impl fmt::Debug for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, torn, .. } = self;
        write!(f, "LogTarget {{ file: {file:?}, torn: {torn} }}")
    }
}

/// Whether it ends within a line: whoever wrote it was killed.
fn is_torn(file: &File) -> bool {
    let mut last = [b'\n'];
    let length = file.metadata().map_or(0, |file| file.len());
    // One that can't be read isn't ours.
    length > 0 && file.read_exact_at(&mut last, length - 1).is_ok() && last != [b'\n']
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn opened(path: &Path) -> LogTarget {
        let again = path.to_owned();
        let file = LogTarget::open(path).unwrap();
        LogTarget::file(file, move || LogTarget::open_next(&again))
    }

    #[test]
    fn it_is_its_owners_and_goes_on_where_it_ends() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        assert_eq!(opened(&path).write(b"one\n").0, 4);
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(opened(&path).write(b"two\n").0, 4);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntwo\n");
        // Somebody was killed.
        fs::write(&path, "one\ntw").unwrap();
        assert_eq!(opened(&path).write(b"three\n").0, 6);
        assert_eq!(fs::read(&path).unwrap(), b"one\ntw\nthree\n");
    }

    #[test]
    fn moved_and_removed_files_are_followed_by_others() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let moved = directory.path().join("log.1");
        let mut target = opened(&path);
        target.write(b"one\n");
        fs::rename(&path, &moved).unwrap();
        target.write(b"two\n");
        assert_eq!(fs::read(&moved).unwrap(), b"one\ntwo\n");
        target.turn_over().unwrap();
        target.write(b"three\n");
        assert_eq!(fs::read(&path).unwrap(), b"three\n");
        fs::remove_file(&path).unwrap();
        target.write(b"four\n");
        assert_eq!(fs::read(&path).unwrap(), b"four\n");
        // While there can be no other, nothing is written to where nobody finds it.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(target.turn_over().is_err());
        assert!(matches!(target.write(b"five\n"), (0, Some(_))));
        fs::remove_dir(&path).unwrap();
        assert_eq!(target.write(b"five\n").0, 5);
        assert_eq!(fs::read(&path).unwrap(), b"five\n");
    }

    /// Nobody reads at the other end, and the helper would wait for that.
    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let mut target = opened(&path);
        target.write(b"one\n");
        fs::remove_file(&path).unwrap();
        let mode = rustix::fs::Mode::RWXU;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        let error = target.turn_over().unwrap_err();
        assert_eq!(error.to_string(), "it isn't a file any more");
        assert!(matches!(target.write(b"two\n"), (0, Some(_))));
        // One that was a pipe from the beginning stays what it is.
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
        let reader = rustix::fs::open(&path, flags, rustix::fs::Mode::empty()).unwrap();
        let pipe = LogTarget::open(&path).unwrap();
        let mut pipe = LogTarget::file(pipe, || panic!("opened again"));
        assert!(pipe.turn_over().is_ok());
        drop(reader);
    }

    #[test]
    fn what_is_written_of_a_line_is_cut_off() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let lines = b"one\ntwo\nthree\n";
        for written in 0..=lines.len() {
            fs::write(&path, "old\n").unwrap();
            let mut target = opened(&path);
            assert_eq!(target.write_bytes(&lines[..written]).0, written);
            let whole = target.keep_whole(Ok(4), lines, written);
            assert!(whole <= written && written - whole < 6 && !target.torn);
            let expected = [b"old\n", &lines[..whole]].concat();
            assert_eq!(fs::read(&path).unwrap(), expected);
            target.write(&lines[whole..]);
            assert_eq!(fs::read(&path).unwrap(), [b"old\n", &lines[..]].concat());
        }
        // Behind what somebody else has added it can't be: the line is told again, on one of its own.
        fs::write(&path, "").unwrap();
        let mut target = opened(&path);
        target.write_bytes(b"one\ntw");
        fs::write(&path, "one\ntw, says somebody else").unwrap();
        assert_eq!(target.keep_whole(Ok(0), lines, 6), 4);
        target.write(&lines[4..]);
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, "one\ntw, says somebody else\ntwo\nthree\n");
    }
}
