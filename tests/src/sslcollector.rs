//! The program under test: found where cargo and `make openssl` put it, and started.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
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

/// Another program of this workspace, of the same profile as the running test.
///
/// # Panics
/// If it isn't there.
pub fn beside(program: &str) -> PathBuf {
    let path = profile_dir().join(program);
    assert!(
        path.is_file(),
        "{} isn't there: run `cargo build --workspace`, or `make test` which does",
        path.display()
    );
    path
}

/// Directory of the patched library: `$SSLCOLLECTOR_LIBRARY_DIR`, else the one that `sslcollector` itself
/// chooses of those that `make openssl` puts beside it: for the machine's OpenSSL.
///
/// # Panics
/// If there is none.
pub fn library_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(LIBRARY_DIR) {
        return dir.into();
    }
    let told = Command::new(binary()).arg("library-dir").output();
    let told = told.expect("sslcollector runs");
    assert!(
        told.status.success(),
        "run `make openssl`, or set {LIBRARY_DIR}: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    let mut path = told.stdout;
    path.truncate(path.trim_ascii_end().len());
    OsString::from_vec(path).into()
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
    let mut command = serve_at(socket);
    command.arg("-w").arg(capture);
    command
}

/// The same without an output.
pub fn serve_at(socket: &Path) -> Command {
    let mut command = Command::new(binary());
    command.arg("--socket").arg(socket);
    command
}

/// `target/PROFILE`, two above `target/PROFILE/deps/TEST`.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().expect("path of this test");
    let dir = test.parent().and_then(Path::parent);
    dir.expect("a test lies in target/PROFILE/deps").to_owned()
}
