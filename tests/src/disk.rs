#![allow(unsafe_code, reason = "a thread's mount namespace has no safe call")]
//! A small disk of a test's own, which it fills and empties.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::process::output_of;

/// A file system in memory, in a mount namespace of this thread and of what it starts: the kernel removes it with the
/// last of them, however the test ends.
#[derive(Debug)]
pub struct Disk {
    directory: PathBuf,
}

impl Disk {
    /// One of so many MiB at this directory, which is made.
    ///
    /// # Panics
    /// If this isn't root.
    pub fn new(directory: &Path, mib: usize) -> Self {
        fs::create_dir(directory).expect("make a directory");
        // SAFETY: mounts, root and working directory become this thread's own; file descriptors and memory stay common.
        let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNS) };
        unshared.expect("a mount namespace (needs root)");
        output_of(Command::new("mount").args(["--make-rprivate", "/"]));
        let mut mount = Command::new("mount");
        mount.args([
            "-t",
            "tmpfs",
            "-o",
            &format!("size={mib}m,mode=755"),
            "tmpfs",
        ]);
        output_of(mount.arg(directory));
        Self {
            directory: directory.to_owned(),
        }
    }

    /// A path on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Takes all room that is left.
    ///
    /// # Panics
    /// If something else than the lack of room stops it.
    pub fn fill(&self) {
        let mut options = File::options();
        let ballast = options.create(true).append(true).open(self.path("ballast"));
        let mut ballast = ballast.expect("a file");
        for size in [1 << 20, 4096, 1] {
            let bytes = vec![0; size];
            let full = loop {
                if let Err(error) = ballast.write_all(&bytes) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives that room back.
    ///
    /// # Panics
    /// If it wasn't taken.
    pub fn empty(&self) {
        fs::remove_file(self.path("ballast")).expect("remove a file");
    }

    /// The captures on it, in the order of their names.
    ///
    /// # Panics
    /// If the disk is gone.
    pub fn captures(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.directory).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let is_capture = |path: &PathBuf| path.extension().is_some_and(|end| end == "pcapng");
        let mut captures: Vec<_> = paths.filter(is_capture).collect();
        captures.sort();
        captures
    }
}
