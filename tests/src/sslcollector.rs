//! The program under test: found where cargo and `make openssl` put it, and started.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names the binary, where it isn't beside the tests.
const BINARY: &str = "SSLCOLLECTOR_BINARY";
/// Names the directory of the patched library, where it isn't beside the binary.
const LIBRARY_DIR: &str = "SSLCOLLECTOR_LIBRARY_DIR";

/// The binary: `$SSLCOLLECTOR_BINARY`, else that of the same profile as the running test.
///
/// # Panics
/// If it isn't there.
pub fn binary() -> PathBuf {
    let binary =
        std::env::var_os(BINARY).map_or_else(|| profile_dir().join("sslcollector"), PathBuf::from);
    assert!(
        binary.is_file(),
        "{} isn't there: run `cargo build`, or `make test` which does, or set {BINARY}",
        binary.display()
    );
    binary
}

/// Directory of the patched library: `$SSLCOLLECTOR_LIBRARY_DIR`, else where `make openssl` puts it.
///
/// # Panics
/// If there is none.
pub fn library_dir() -> PathBuf {
    let dir = std::env::var_os(LIBRARY_DIR).map_or_else(
        || profile_dir().join("../lib/sslcollector/openssl-3.0"),
        PathBuf::from,
    );
    assert!(
        dir.join("libssl.so.3").is_file(),
        "no patched libssl.so.3 in {}: run `make openssl`, or set {LIBRARY_DIR}",
        dir.display()
    );
    dir
}

/// `sslcollector run OPTIONS --library-dir … --`; the program and its arguments are to be added with
/// [`Command::args`].
pub fn run<S: AsRef<OsStr>>(options: &[S]) -> Command {
    let mut command = Command::new(binary());
    command.arg("run").args(options);
    command.arg("--library-dir").arg(library_dir()).arg("--");
    command
}

/// `sslcollector run -w CAPTURE OPTIONS --library-dir … --`.
pub fn run_to(capture: &Path, options: &[&str]) -> Command {
    let capture = [OsStr::new("-w"), capture.as_os_str()];
    run(&[
        &capture,
        &options.iter().map(OsStr::new).collect::<Vec<_>>()[..],
    ]
    .concat())
}

/// An agent for all programs that ask at `socket`.
pub fn serve(capture: &Path, socket: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("-w").arg(capture).arg("--socket").arg(socket);
    command
}

/// `target/PROFILE`, two above `target/PROFILE/deps/TEST`.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("a test lies in target/PROFILE/deps").to_owned()
}
