//! What `/proc` tells of a process: its program, and where that runs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::kin;
use crate::container::cgroup_path;
use crate::event::MAX_PROCESS_NAME_BYTES;

/// Where ip-netns(8) keeps the names of namespaces, and so many are looked at.
const NETWORK_NAMES: &str = "/run/netns";
const MAX_NETWORK_NAMES: usize = 4096;
/// Of the file with a process's cgroups: a line for each hierarchy, of which there are 13 or fewer.
const MAX_CGROUP_BYTES: u64 = 64 << 10;

/// What `/proc` tells of a process. What can't be read (the process is gone, or another user's) is `None`. Any
/// bytes may stand in what has a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// When it was started, in the kernel's ticks; 0: unknown.
    pub(crate) started: u64,
    /// The whole path of its executable, as the process's own root has it.
    pub(crate) executable: Option<Vec<u8>>,
    /// What its first thread is called, with a newline.
    pub(crate) command: Option<Vec<u8>>,
    /// Its cgroup's path.
    pub(crate) cgroup: Option<Vec<u8>>,
    /// Inode of its network namespace.
    pub(crate) network_namespace: Option<u64>,
    /// What that is called on the host.
    pub(crate) network_name: Option<Vec<u8>>,
}

impl Seen {
    /// What this process may see of the one with this id.
    pub(crate) fn of(pid: u32) -> Self {
        if pid == 0 {
            return Self::default();
        }
        let executable = fs::read_link(format!("/proc/{pid}/exe")).ok();
        let network = fs::metadata(format!("/proc/{pid}/ns/net"));
        let network = network.map(|file| (file.dev(), file.ino())).ok();
        Self {
            started: kin::started(pid).unwrap_or(0),
            executable: executable.map(|path| {
                let path = path.into_os_string().into_vec();
                let kept = path.strip_suffix(b" (deleted)").map(<[u8]>::to_vec);
                kept.unwrap_or(path)
            }),
            command: fs::read(format!("/proc/{pid}/comm")).ok(),
            cgroup: cgroup(pid),
            network_namespace: network.map(|(_, inode)| inode),
            network_name: network.and_then(|it| network_name(Path::new(NETWORK_NAMES), it)),
        }
    }

    /// The file name of the executable, or where that may not be read, of the command.
    pub(super) fn name(&self) -> Option<String> {
        let path = self.executable.as_deref().map(OsStr::from_bytes);
        let file = path.and_then(|path| Path::new(path).file_name());
        let command = || {
            let command = self.command.as_deref()?;
            Some(String::from_utf8_lossy(command).trim_end().to_owned())
        };
        file.map(|name| name.to_string_lossy().into_owned())
            .or_else(command)
    }
}

/// These bytes as text for people and messages: of a long one the end, which says more of a path than its beginning.
pub(super) fn text(bytes: &[u8]) -> String {
    const MARK: char = '…';
    let text = String::from_utf8_lossy(bytes);
    if text.len() <= MAX_PROCESS_NAME_BYTES {
        return text.into_owned();
    }
    let mut from = text.len() + MARK.len_utf8() - MAX_PROCESS_NAME_BYTES;
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("{MARK}{}", &text[from..])
}

fn cgroup(pid: u32) -> Option<Vec<u8>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/cgroup")).ok()?;
    file.take(MAX_CGROUP_BYTES).read_to_end(&mut text).ok()?;
    cgroup_path(&text).map(<[u8]>::to_vec)
}

/// The name of the namespace with these numbers, of its file system and its own.
fn network_name(names: &Path, namespace: (u64, u64)) -> Option<Vec<u8>> {
    let entries = fs::read_dir(names).ok()?;
    let mut entries = entries.take(MAX_NETWORK_NAMES).flatten();
    let found = entries.find(|entry| {
        let file = fs::metadata(entry.path());
        file.is_ok_and(|file| (file.dev(), file.ino()) == namespace)
    });
    found.map(|entry| entry.file_name().into_vec())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn long_names_keep_their_end() {
        assert_eq!(text(b"/bin/sh"), "/bin/sh");
        assert_eq!(text(b"/bin/\xff\n"), "/bin/\u{fffd}\n");
        let whole = "/x".repeat(MAX_PROCESS_NAME_BYTES / 2);
        assert_eq!(text(whole.as_bytes()), whole);
        for name in ["é", "/x", "…"] {
            let long = name.repeat(MAX_PROCESS_NAME_BYTES);
            let short = text(long.as_bytes());
            let rest = short.strip_prefix('…').unwrap();
            assert!(long.ends_with(rest));
            assert!(short.len() <= MAX_PROCESS_NAME_BYTES);
            assert!(short.len() > MAX_PROCESS_NAME_BYTES - 4);
        }
    }

    #[test]
    fn this_process_is_where_the_kernel_says() {
        let seen = Seen::of(std::process::id());
        let link = fs::read_link("/proc/self/ns/net").unwrap();
        let inode = seen.network_namespace.unwrap();
        assert_eq!(link, OsString::from(format!("net:[{inode}]")));
        let path = seen.cgroup.unwrap();
        let lines = fs::read("/proc/self/cgroup").unwrap();
        let mut lines = lines.split(|byte| *byte == b'\n');
        assert!(lines.any(|line| line.ends_with(&[b":", &path[..]].concat())));
        let exe = std::env::current_exe().unwrap();
        assert_eq!(seen.executable.unwrap(), exe.as_os_str().as_bytes());
    }

    #[test]
    fn a_namespace_has_the_name_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = fs::metadata("/proc/self/ns/net").unwrap();
        let namespace = (file.dev(), file.ino());
        let name = || network_name(directory.path(), namespace);
        // What stays behind where a namespace was, and another kind of namespace.
        fs::write(directory.path().join("stale"), "").unwrap();
        symlink("/proc/self/ns/uts", directory.path().join("other")).unwrap();
        assert_eq!(name(), None);
        symlink("/proc/self/ns/net", directory.path().join("blue\n")).unwrap();
        assert_eq!(name(), Some(b"blue\n".to_vec()));
        assert_eq!(network_name(Path::new("/nonexistent"), namespace), None);
    }
}
