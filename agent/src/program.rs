//! A program's file, and the libraries that the dynamic loader would give it. Nothing of the program is run:
//! the loader itself is asked (`ld.so --list`), so that RUNPATH and the loader's cache count as they do in earnest.

use std::ffi::OsStr;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use object::{Object, ObjectSection};

/// Largest executable that is read; larger ones are said to be unknown.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;
/// A script's interpreter may be a script; the kernel follows four (exec(2) BINPRM limits).
const MAX_INTERPRETERS: usize = 4;

/// The file that `name` stands for, found in PATH as a shell does.
pub(crate) fn find(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// What the loader lists for the program in `path`, or for the interpreter of the script there, with
/// `library_path` as LD_LIBRARY_PATH. `None` where it has no loader, or can't be read.
pub(crate) fn libraries(path: &Path, library_path: Option<&OsStr>) -> Option<String> {
    let (path, bytes) = read(path).ok()?;
    let file = object::File::parse(bytes.as_slice()).ok()?;
    list(&loader(&file)?, &path, library_path)
}

/// Whether the program has the hook linked in: then it mirrors by itself, as one with rustls-mirror does.
pub(crate) fn has_hook(file: &object::File<'_>) -> bool {
    file.section_by_name(mirror_hook::mark::SECTION).is_some()
}

/// The name and the path in each line of the loader's, such as `libssl.so.3 => /usr/lib/libssl.so.3 (0x00007f…)`.
pub(crate) fn parse_listing(listing: &str) -> impl Iterator<Item = (&str, &str)> {
    listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let path = words.nth(1).unwrap_or(name);
        Some((name.rsplit('/').next().unwrap_or(name), path))
    })
}

/// The program in `path`, and what is in it; of a script, its interpreter.
///
/// # Errors
/// Why it can't be read.
pub(crate) fn read(path: &Path) -> Result<(PathBuf, Vec<u8>), String> {
    let mut path = path.to_owned();
    for _ in 0..=MAX_INTERPRETERS {
        let bytes = read_bounded(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        match script_interpreter(&bytes) {
            Some(interpreter) => path = interpreter,
            None => return Ok((path, bytes)),
        }
    }
    Err("its interpreters never end".into())
}

/// The dynamic loader that an executable names.
pub(crate) fn loader(file: &object::File<'_>) -> Option<PathBuf> {
    let section = file.section_by_name(".interp")?;
    let name = section.data().ok()?;
    Some(PathBuf::from(OsStr::from_bytes(
        name.strip_suffix(b"\0").unwrap_or(name),
    )))
}

/// What `loader` would load for `program`.
pub(crate) fn list(loader: &Path, program: &Path, library_path: Option<&OsStr>) -> Option<String> {
    let mut command = Command::new(loader);
    command.arg("--list").arg(program);
    match library_path {
        Some(path) => command.env("LD_LIBRARY_PATH", path),
        None => command.env_remove("LD_LIBRARY_PATH"),
    };
    let listing = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    Some(String::from_utf8_lossy(&listing.stdout).into_owned())
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(MAX_FILE_BYTES)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The interpreter that `#!` names; of `#!/usr/bin/env NAME` the NAME.
fn script_interpreter(bytes: &[u8]) -> Option<PathBuf> {
    let line = bytes
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let mut words = line
        .split(|byte| byte.is_ascii_whitespace())
        .filter(|word| !word.is_empty());
    let first = OsStr::from_bytes(words.next()?);
    if Path::new(first).file_name() == Some(OsStr::new("env")) {
        return find(OsStr::from_bytes(words.next()?));
    }
    Some(PathBuf::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_judged_by_its_interpreter() {
        assert_eq!(
            script_interpreter(b"#!/bin/sh -e\nx"),
            Some("/bin/sh".into())
        );
        assert!(
            script_interpreter(b"#!/usr/bin/env sh\n")
                .unwrap()
                .ends_with("sh")
        );
        assert_eq!(script_interpreter(b"\x7fELF"), None);
    }

    #[test]
    fn the_loader_lists_a_programs_libraries() {
        let path = find(OsStr::new("sh")).unwrap();
        let listing = libraries(&path, None).unwrap();
        assert!(
            parse_listing(&listing).any(|(name, _)| name.starts_with("libc.")),
            "{listing}"
        );
    }
}
