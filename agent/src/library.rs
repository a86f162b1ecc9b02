//! Which patched library a program takes: that of the OpenSSL whose libcrypto it would load.
//!
//! A libssl needs the libcrypto of its own version or a newer one, and programs may need what their
//! version's libssl has and an older one lacks. So the libcrypto decides: the dynamic loader says which one
//! the program would load, its file says which version that is, and nothing of it is run. Below `lib/sslcollector`
//! each version has a directory, made by `openssl-compat/build.sh VERSION`.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use memchr::memmem;

use crate::program;

/// What patched libraries may be called: the soname of OpenSSL 3 and that of 4.
pub(crate) const LIBRARY_NAMES: [&str; 2] = ["libssl.so.3", "libssl.so.4"];
/// OpenSSL's versions for which there is a patch, newest first.
const SERIES: [Series; 3] = [Series(4, 0), Series(3, 5), Series(3, 0)];
/// Largest libcrypto that is read; real ones have 5 to 8 MiB.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// Where libraries are when the loader's cache can't be asked.
const DIRECTORIES: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Major and minor number of a release: all releases of a series have one patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Series(u32, u32);

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

impl Series {
    /// The newest with a patch that a libcrypto of this series can carry.
    fn patched(self) -> Option<Self> {
        SERIES
            .into_iter()
            .find(|patched| patched.0 == self.0 && *patched <= self)
    }

    fn directory(self, root: &Path) -> PathBuf {
        root.join(format!("openssl-{self}"))
    }
}

/// The directory with the patched library for the program `name`, which needn't use OpenSSL itself: what it
/// starts may.
///
/// # Errors
/// The fitting one isn't built, or there is no patch for it; says what to do.
pub(crate) fn directory_for(name: Option<&OsStr>) -> anyhow::Result<PathBuf> {
    let exe = std::env::current_exe().context("can't tell where sslcollector itself lies")?;
    // `bin/sslcollector` has `lib/sslcollector/` beside it, and so has `target/release/sslcollector`.
    let root = exe
        .parent()
        .and_then(Path::parent)
        .map(|prefix| prefix.join("lib/sslcollector"))
        .with_context(|| format!("{} lies in no directory", exe.display()))?;
    choose(&root, libcrypto_of(name))
}

/// As [`directory_for`] the program that is to be run. One that mirrors by itself needs no library: there `None` is
/// what would have been an error.
///
/// # Errors
/// As above.
pub(crate) fn directory_to_run(name: Option<&OsStr>) -> anyhow::Result<Option<PathBuf>> {
    let mirrors_itself = || {
        let (_, bytes) = program::read(&program::find(name?)?).ok()?;
        let file = object::File::parse(bytes.as_slice()).ok()?;
        Some(program::has_hook(&file))
    };
    match directory_for(name) {
        Err(_) if mirrors_itself() == Some(true) => Ok(None),
        found => found.map(Some),
    }
}

fn choose(root: &Path, libcrypto: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let Some(libcrypto) = libcrypto else {
        // Nothing here uses OpenSSL: whichever there is does no harm.
        let built = SERIES.map(|series| series.directory(root));
        let found = built.into_iter().find(|dir| library_in(dir).is_some());
        return checked(found.unwrap_or_else(|| SERIES[2].directory(root)));
    };
    let Some(series) = series_of(&libcrypto)? else {
        bail!(
            "{} doesn't say which version of OpenSSL it is: say with --library-dir where the patched library is",
            libcrypto.display()
        );
    };
    let Some(patched) = series.patched() else {
        bail!(
            "{} is OpenSSL {series}, for which there is no patched library",
            libcrypto.display()
        );
    };
    let dir = patched.directory(root);
    if library_in(&dir).is_none() {
        bail!(
            "{} is OpenSSL {series}, and no patched libssl for it is in {}: build it with \
             `openssl-compat/build.sh {patched}`, or say where it is with --library-dir",
            libcrypto.display(),
            dir.display()
        );
    }
    checked(dir)
}

/// The name of the patched library in `dir`, if there is one.
pub(crate) fn library_in(dir: &Path) -> Option<&'static str> {
    LIBRARY_NAMES
        .into_iter()
        .find(|name| dir.join(name).is_file())
}

/// `dir` as an absolute path, if it holds a library and the dynamic loader can search there.
///
/// # Errors
/// It can't be used; says why.
pub(crate) fn checked(dir: PathBuf) -> anyhow::Result<PathBuf> {
    if library_in(&dir).is_none() {
        bail!(
            "no patched {} in {}: build it with `make openssl`, \
             or say where it is with --library-dir",
            LIBRARY_NAMES[0],
            dir.display()
        );
    }
    // The dynamic loader splits LD_LIBRARY_PATH at these, and has no way to quote them.
    if dir
        .as_os_str()
        .as_bytes()
        .iter()
        .any(|byte| matches!(byte, b':' | b';'))
    {
        bail!(
            "{} contains ':' or ';': the dynamic loader can't search there",
            dir.display()
        );
    }
    std::path::absolute(&dir).with_context(|| format!("{} has no absolute form", dir.display()))
}

/// The libcrypto that the program would load; where its file names none, since it is a shell or loads its TLS
/// later, the one that the loader finds by name. OpenSSL 3's comes first: where both are, few programs use 4's.
fn libcrypto_of(name: Option<&OsStr>) -> Option<PathBuf> {
    let searched = std::env::var_os("LD_LIBRARY_PATH");
    let own = name
        .and_then(program::find)
        .and_then(|path| program::libraries(&path, searched.as_deref()));
    own.and_then(|listing| libcrypto_in(&listing))
        .or_else(|| found_by_name(searched.as_deref()))
}

/// Reads the loader's lines, such as `libcrypto.so.3 => /lib/libcrypto.so.3 (0x00007f…)`.
fn libcrypto_in(listing: &str) -> Option<PathBuf> {
    program::parse_listing(listing)
        .find(|(name, path)| is_libcrypto(name) && path.starts_with('/'))
        .map(|(_, path)| PathBuf::from(path))
}

fn is_libcrypto(name: &str) -> bool {
    matches!(name, "libcrypto.so.3" | "libcrypto.so.4")
}

fn found_by_name(searched: Option<&OsStr>) -> Option<PathBuf> {
    let cache = ["/sbin/ldconfig", "/usr/sbin/ldconfig"]
        .iter()
        .find_map(|ldconfig| {
            let mut command = Command::new(ldconfig);
            let output = command.arg("-p").stdin(Stdio::null()).output().ok()?;
            String::from_utf8(output.stdout).ok()
        });
    ["libcrypto.so.3", "libcrypto.so.4"]
        .into_iter()
        .find_map(|name| {
            std::env::split_paths(searched.unwrap_or_default())
                .map(|dir| dir.join(name))
                .find(|path| path.is_file())
                .or_else(|| in_cache(cache.as_deref()?, name))
                .or_else(|| {
                    DIRECTORIES
                        .iter()
                        .map(|dir| Path::new(dir).join(name))
                        .find(|path| path.is_file())
                })
        })
}

/// Reads what `ldconfig -p` prints, such as `libcrypto.so.3 (libc6,x86-64) => /lib/libcrypto.so.3`.
/// Libraries of this machine's foreign architectures have another mark there.
fn in_cache(cache: &str, name: &str) -> Option<PathBuf> {
    let native = match std::env::consts::ARCH {
        "x86_64" => "x86-64)",
        "aarch64" => "AArch64)",
        _ => ")",
    };
    cache.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let is_it = words.next() == Some(name) && words.next()?.contains(native);
        is_it.then(|| words.nth(1).map(PathBuf::from)).flatten()
    })
}

/// The series that a libcrypto's file says it is: `OpenSSL 3.5.7 9 Jun 2026` stands in each.
fn series_of(libcrypto: &Path) -> anyhow::Result<Option<Series>> {
    let mut bytes = Vec::new();
    File::open(libcrypto)
        .and_then(|file| file.take(MAX_FILE_BYTES).read_to_end(&mut bytes))
        .with_context(|| format!("can't read {}", libcrypto.display()))?;
    Ok(version_in(&bytes))
}

fn version_in(bytes: &[u8]) -> Option<Series> {
    const MARK: &[u8] = b"OpenSSL ";
    memmem::find_iter(bytes, MARK).find_map(|at| {
        let text = bytes.get(at + MARK.len()..)?;
        let end = text
            .iter()
            .position(|byte| !byte.is_ascii_digit() && *byte != b'.')?;
        let mut numbers = std::str::from_utf8(text.get(..end)?).ok()?.split('.');
        let series = Series(numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        // A release has three numbers; "OpenSSL 3.0" is spoken of in messages too.
        numbers.next()?.parse::<u32>().ok()?;
        Some(series)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory tree with such libraries built, and a libcrypto that says it is `version`.
    fn place(built: &[(&str, &str)], version: &str) -> (tempfile::TempDir, PathBuf) {
        let place = tempfile::tempdir().unwrap();
        for (dir, name) in built {
            std::fs::create_dir_all(place.path().join(dir)).unwrap();
            std::fs::write(place.path().join(dir).join(name), "x").unwrap();
        }
        let libcrypto = place.path().join("libcrypto.so.3");
        let file =
            format!("\x7fELF…needs OpenSSL 3.x\0OpenSSL {version} 1 Jan 2026\0OpenSSL 1.1\0");
        std::fs::write(&libcrypto, file).unwrap();
        (place, libcrypto)
    }

    fn chosen(built: &[(&str, &str)], version: &str) -> Result<String, String> {
        let (place, libcrypto) = place(built, version);
        choose(place.path(), Some(libcrypto))
            .map(|dir| dir.file_name().unwrap().to_string_lossy().into_owned())
            .map_err(|error| error.to_string())
    }

    const BOTH: &[(&str, &str)] = &[
        ("openssl-3.0", "libssl.so.3"),
        ("openssl-3.5", "libssl.so.3"),
    ];

    #[test]
    fn the_libcrypto_decides() {
        assert_eq!(chosen(BOTH, "3.0.19"), Ok("openssl-3.0".into()));
        assert_eq!(chosen(BOTH, "3.5.7"), Ok("openssl-3.5".into()));
        let all = [BOTH, &[("openssl-4.0", "libssl.so.4")]].concat();
        assert_eq!(chosen(&all, "4.0.2"), Ok("openssl-4.0".into()));
    }

    /// A release between two that have patches carries the older one's libssl.
    #[test]
    fn a_newer_libcrypto_carries_an_older_libssl() {
        assert_eq!(chosen(BOTH, "3.2.1"), Ok("openssl-3.0".into()));
        assert_eq!(chosen(BOTH, "3.6.5"), Ok("openssl-3.5".into()));
        assert_eq!(chosen(BOTH, "3.12.0"), Ok("openssl-3.5".into()));
    }

    #[test]
    fn what_is_not_built_is_said_with_its_command() {
        let error = chosen(&BOTH[..1], "3.5.7").unwrap_err();
        assert!(error.contains("openssl-compat/build.sh 3.5"), "{error}");
        assert!(error.contains("is OpenSSL 3.5"), "{error}");
        let error = chosen(BOTH, "4.0.2").unwrap_err();
        assert!(error.contains("openssl-compat/build.sh 4.0"), "{error}");
        let error = chosen(BOTH, "2.9.9").unwrap_err();
        assert!(error.contains("no patched library"), "{error}");
    }

    #[test]
    fn without_openssl_any_library_will_do() {
        let (place, _) = place(BOTH, "3.0.1");
        assert!(choose(place.path(), None).unwrap().ends_with("openssl-3.5"));
        let (empty, _) = self::place(&[], "3.0.1");
        let error = choose(empty.path(), None).unwrap_err().to_string();
        assert!(error.contains("make openssl"), "{error}");
    }

    #[test]
    fn versions_are_read_from_the_file() {
        assert_eq!(
            version_in(b"\0OpenSSL 3.0.19 27 Jan 2026\0"),
            Some(Series(3, 0))
        );
        assert_eq!(
            version_in(b"OpenSSL 3.0-style\0OpenSSL 3.5.0-beta1\0"),
            Some(Series(3, 5))
        );
        assert_eq!(version_in(b"OpenSSL PKCS12\0OpenSSL 3"), None);
        assert_eq!(version_in(b""), None);
    }

    #[test]
    fn the_loaders_answers_are_understood() {
        let listing = "\tlibssl.so.3 => /usr/lib/libssl.so.3 (0x7f)\n\
                       \tlibcrypto.so.3 => /opt/x/libcrypto.so.3 (0x7f)\n";
        assert_eq!(libcrypto_in(listing), Some("/opt/x/libcrypto.so.3".into()));
        assert_eq!(libcrypto_in("\tlibcrypto.so.3 => not found\n"), None);
        let cache = "12 libs found\n\tlibcrypto.so.3 (libc6) => /lib32/libcrypto.so.3\n\
                     \tlibcrypto.so.3 (libc6,x86-64) => /lib/libcrypto.so.3\n\
                     \tlibcrypto.so.3 (libc6,AArch64) => /lib/libcrypto.so.3\n";
        assert_eq!(
            in_cache(cache, "libcrypto.so.3"),
            Some("/lib/libcrypto.so.3".into())
        );
        assert_eq!(in_cache(cache, "libcrypto.so.4"), None);
    }

    /// The machine's own: whatever it has can be told.
    #[test]
    fn the_installed_libcrypto_has_a_version() {
        if let Some(path) = libcrypto_of(Some(OsStr::new("curl"))) {
            assert!(series_of(&path).unwrap().is_some(), "{}", path.display());
        }
    }
}
