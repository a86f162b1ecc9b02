//! Why was no TLS seen? Looks at the program's file for the TLS library that it uses.
//!
//! Called by `run` when a program has ended without a session. The dynamic loader itself is asked
//! which libraries it would load (`ld.so --list`, which starts nothing), so that RUNPATH and the
//! loader's cache count as they do in earnest; a program without a loader is searched for the marks
//! that statically linked libraries leave.

use std::ffi::OsStr;
use std::fmt;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use memchr::memmem;
use object::{Object, ObjectSection};

use crate::config::{LIBRARY_NAME, Program};
use crate::launch::library_path;

/// Largest executable that is searched; larger ones are said to be unknown.
const MAX_FILE_BYTES: u64 = 512 * 1024 * 1024;
/// A script's interpreter may be a script; the kernel follows four (exec(2) BINPRM limits).
const MAX_INTERPRETERS: usize = 4;

/// What a program's file says of its TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// It would load the patched library.
    Patched,
    /// It loads a libssl.so.3 from elsewhere, in spite of LD_LIBRARY_PATH.
    OtherCopy(String),
    /// It uses another library: its name.
    Other(&'static str),
    /// No TLS library to be seen in it.
    Nothing,
    /// It can't be examined: why.
    Unknown(String),
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Patched => write!(f, "it links {LIBRARY_NAME}, but no handshake was completed"),
            Self::OtherCopy(path) => write!(
                f,
                "it loads {path}, not the patched copy: a RPATH or a privilege (setuid, file \
                 capabilities) keeps LD_LIBRARY_PATH from it"
            ),
            Self::Other(name) => {
                write!(f, "it uses {name}, which can't be mirrored by this library")
            }
            Self::Nothing => write!(
                f,
                "it links no TLS library; if it starts other programs or loads libraries later, \
                 run those"
            ),
            Self::Unknown(why) => write!(f, "its TLS library can't be told: {why}"),
        }
    }
}

/// File names of dynamic libraries, and what they are.
const DYNAMIC: &[(&str, &str)] = &[
    ("libgnutls.so", "GnuTLS (libgnutls)"),
    ("libssl.so.1", "OpenSSL 1.x (libssl.so.1)"),
    ("libssl3.so", "NSS (libssl3)"),
    ("libnss3.so", "NSS (libnss3)"),
    ("libmbedtls.so", "Mbed TLS (libmbedtls)"),
    ("libwolfssl.so", "wolfSSL (libwolfssl)"),
    ("libtls.so", "LibreSSL (libtls)"),
    ("libjli.so", "Java's own TLS (JSSE)"),
    ("libjvm.so", "Java's own TLS (JSSE)"),
];

/// Marks that libraries leave in programs into which they were linked.
const STATIC: &[(&[u8], &str)] = &[
    (b"BoringSSL", "BoringSSL, linked statically"),
    (b"OpenSSL 3.", "OpenSSL 3, linked statically"),
    (b"OpenSSL 1.", "OpenSSL 1, linked statically"),
    // What names the version may have been left out; this source file (BoringSSL's ends in .cc) is where
    // errors come from.
    (b"ssl/ssl_lib.c\0", "OpenSSL, linked statically"),
    (b"rustls", "rustls, linked statically"),
    (b"GnuTLS", "GnuTLS, linked statically"),
    (b"mbed TLS", "Mbed TLS, linked statically"),
    (b"wolfSSL", "wolfSSL, linked statically"),
];

/// Looks at the file of `program`.
pub(crate) fn diagnose(program: &Program) -> Diagnosis {
    let Some(path) = program.words.first().and_then(|name| find_program(name)) else {
        return Diagnosis::Unknown("its file isn't to be found".into());
    };
    examine(&path, &program.library_dir, 0)
}

fn examine(path: &Path, library_dir: &Path, depth: usize) -> Diagnosis {
    let bytes = match read_bounded(path) {
        Ok(bytes) => bytes,
        Err(error) => return Diagnosis::Unknown(format!("{}: {error}", path.display())),
    };
    if let Some(interpreter) = script_interpreter(&bytes) {
        if depth == MAX_INTERPRETERS {
            return Diagnosis::Unknown("its interpreters never end".into());
        }
        return examine(&interpreter, library_dir, depth + 1);
    }
    let file = match object::File::parse(bytes.as_slice()) {
        Ok(file) => file,
        Err(error) => return Diagnosis::Unknown(format!("{}: {error}", path.display())),
    };
    let loader = file.section_by_name(".interp").and_then(|section| {
        let name = section.data().ok()?;
        Some(PathBuf::from(OsStr::from_bytes(
            name.strip_suffix(b"\0").unwrap_or(name),
        )))
    });
    if let Some(diagnosis) = loader.and_then(|loader| examine_libraries(&loader, path, library_dir))
    {
        return diagnosis;
    }
    if file.section_by_name(".go.buildinfo").is_some() {
        return Diagnosis::Other("Go's own TLS (crypto/tls)");
    }
    STATIC
        .iter()
        .find(|(mark, _)| memmem::find(&bytes, mark).is_some())
        .map_or(Diagnosis::Nothing, |(_, name)| Diagnosis::Other(name))
}

/// What the dynamic loader would load tells, if it tells anything.
fn examine_libraries(loader: &Path, program: &Path, library_dir: &Path) -> Option<Diagnosis> {
    let listing = Command::new(loader)
        .arg("--list")
        .arg(program)
        .env("LD_LIBRARY_PATH", library_path(library_dir))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    classify_listing(&String::from_utf8_lossy(&listing.stdout), library_dir)
}

/// Reads lines such as `libssl.so.3 => /usr/lib/libssl.so.3 (0x00007f…)`.
fn classify_listing(listing: &str, library_dir: &Path) -> Option<Diagnosis> {
    let libraries = listing.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let path = words.nth(1).unwrap_or(name);
        Some((name.rsplit('/').next().unwrap_or(name), path))
    });
    let mut other = None;
    for (name, path) in libraries {
        if name == LIBRARY_NAME {
            return Some(if Path::new(path).starts_with(library_dir) {
                Diagnosis::Patched
            } else {
                Diagnosis::OtherCopy(path.to_owned())
            });
        }
        let known = DYNAMIC.iter().find(|(prefix, _)| name.starts_with(prefix));
        other = other.or(known.map(|(_, known)| Diagnosis::Other(known)));
    }
    other
}

fn find_program(name: &OsStr) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name));
    }
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
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
        return find_program(OsStr::from_bytes(words.next()?));
    }
    Some(PathBuf::from(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_understood() {
        let dir = Path::new("/opt/ours");
        let classify = |text| classify_listing(text, dir);
        let ours = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibssl.so.3 => /opt/ours/libssl.so.3 (0x7f)\n";
        assert_eq!(classify(ours), Some(Diagnosis::Patched));
        let theirs = "\tlibgnutls.so.30 => /usr/lib/libgnutls.so.30 (0x7f)\n\
                      \tlibssl.so.3 => /usr/lib/libssl.so.3 (0x7f)\n";
        assert_eq!(
            classify(theirs),
            Some(Diagnosis::OtherCopy("/usr/lib/libssl.so.3".into()))
        );
        let gnutls = "\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\tlibgnutls.so.30 => /x (0x7f)\n";
        assert_eq!(
            classify(gnutls),
            Some(Diagnosis::Other("GnuTLS (libgnutls)"))
        );
        assert_eq!(classify("\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n"), None);
    }

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
    fn a_program_without_tls() {
        let program = Program {
            words: vec!["true".into()],
            library_dir: "/nonexistent".into(),
        };
        assert_eq!(diagnose(&program), Diagnosis::Nothing);
    }
}
