//! Why was no TLS seen? Looks at the program's file for the TLS library that it uses.
//!
//! Called by `run` when a program has ended without a session. The dynamic loader itself is asked
//! which libraries it would load; a program without a loader is searched for the marks that statically
//! linked libraries leave.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use memchr::memmem;
use object::Object;

use crate::config::Program;
use crate::launch::library_path;
use crate::library::{LIBRARY_NAMES, library_in};
use crate::program;

/// What a program's file says of its TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Diagnosis {
    /// It would load the patched library, of this name.
    Patched(&'static str),
    /// It loads a libssl.so.3 from elsewhere, in spite of LD_LIBRARY_PATH.
    OtherCopy(String),
    /// It uses a libssl of another version than the patched one, from this file.
    OtherVersion(String),
    /// It has the hook in it.
    MirrorsItself,
    /// It has rustls in it, without the hook.
    Rustls,
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
            Self::Patched(name) => write!(f, "it links {name}, but no handshake was completed"),
            Self::OtherCopy(path) => write!(
                f,
                "it loads {path}, not the patched copy: a RPATH or a privilege (setuid, file \
                 capabilities) keeps LD_LIBRARY_PATH from it"
            ),
            Self::OtherVersion(path) => write!(
                f,
                "it loads {path}, and the patched library is of another version: \
                 see `sslcollector library-dir PROGRAM`"
            ),
            Self::MirrorsItself => write!(
                f,
                "it mirrors by itself (rustls-mirror, or the hook's C interface), but no handshake was \
                 completed on a connection that it mirrors"
            ),
            Self::Rustls => write!(
                f,
                "it uses rustls: to be mirrored it has to be built with rustls-mirror, which changes one line"
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
    (b"GnuTLS", "GnuTLS, linked statically"),
    (b"mbed TLS", "Mbed TLS, linked statically"),
    (b"wolfSSL", "wolfSSL, linked statically"),
];

/// Looks at the file of `program`.
pub(crate) fn diagnose(program: &Program) -> Diagnosis {
    let Some(path) = program.words.first().and_then(|name| program::find(name)) else {
        return Diagnosis::Unknown("its file isn't to be found".into());
    };
    let (path, bytes) = match program::read(&path) {
        Ok(program) => program,
        Err(error) => return Diagnosis::Unknown(error),
    };
    let file = match object::File::parse(bytes.as_slice()) {
        Ok(file) => file,
        Err(error) => return Diagnosis::Unknown(format!("{}: {error}", path.display())),
    };
    if program::has_hook(&file) {
        return Diagnosis::MirrorsItself;
    }
    let dir = program.library_dir.as_deref();
    let searched: Option<OsString> = dir.map(library_path);
    let diagnosis = program::loader(&file)
        .and_then(|loader| program::list(&loader, &path, searched.as_deref()))
        .zip(dir)
        .and_then(|(listing, dir)| classify_listing(&listing, dir));
    if let Some(diagnosis) = diagnosis {
        return diagnosis;
    }
    if file.section_by_name(".go.buildinfo").is_some() {
        return Diagnosis::Other("Go's own TLS (crypto/tls)");
    }
    let has = |mark: &[u8]| memmem::find(&bytes, mark).is_some();
    match STATIC.iter().find(|(mark, _)| has(mark)) {
        Some((_, name)) => Diagnosis::Other(name),
        None if has(b"rustls") => Diagnosis::Rustls,
        None => Diagnosis::Nothing,
    }
}

/// What the dynamic loader would load tells, if it tells anything.
fn classify_listing(listing: &str, library_dir: &Path) -> Option<Diagnosis> {
    let mut other = None;
    for (name, path) in program::parse_listing(listing) {
        if let Some(ssl) = LIBRARY_NAMES.into_iter().find(|ssl| *ssl == name) {
            return Some(if Path::new(path).starts_with(library_dir) {
                Diagnosis::Patched(ssl)
            } else if library_in(library_dir).is_some_and(|ours| ours != ssl) {
                Diagnosis::OtherVersion(path.to_owned())
            } else {
                Diagnosis::OtherCopy(path.to_owned())
            });
        }
        let known = DYNAMIC.iter().find(|(prefix, _)| name.starts_with(prefix));
        other = other.or(known.map(|(_, known)| Diagnosis::Other(known)));
    }
    other
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listings_are_understood() {
        let dir = Path::new("/opt/ours");
        let classify = |text| classify_listing(text, dir);
        let ours = "\tlinux-vdso.so.1 (0x7ffd)\n\tlibssl.so.3 => /opt/ours/libssl.so.3 (0x7f)\n";
        assert_eq!(classify(ours), Some(Diagnosis::Patched("libssl.so.3")));
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
    fn another_version_is_told_from_another_copy() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("libssl.so.4"), "x").unwrap();
        let listing = "\tlibssl.so.3 => /usr/lib/libssl.so.3 (0x7f)\n";
        assert_eq!(
            classify_listing(listing, dir.path()),
            Some(Diagnosis::OtherVersion("/usr/lib/libssl.so.3".into()))
        );
    }

    /// These tests themselves are a program with the hook linked in.
    #[test]
    fn a_program_that_mirrors_by_itself() {
        let program = Program {
            words: vec![std::env::current_exe().unwrap().into()],
            library_dir: None,
        };
        assert_eq!(diagnose(&program), Diagnosis::MirrorsItself);
    }

    #[test]
    fn a_program_without_tls() {
        let program = Program {
            words: vec!["true".into()],
            library_dir: Some("/nonexistent".into()),
        };
        assert_eq!(diagnose(&program), Diagnosis::Nothing);
    }
}
