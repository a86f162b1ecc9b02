//! Programs in C, compiled as a user would: warnings are errors.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::output_of;
use crate::sslcollector::library_dir;

/// What a source is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// C99.
    C,
    /// C++11.
    Cpp,
}

/// A path in the repository.
pub fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compiles `sources` into `program`, which may use mirror_hook.h. `options` come last: libraries.
///
/// # Panics
/// If the compiler objects.
pub fn compile(language: Language, sources: &[PathBuf], program: &Path, options: &[&str]) {
    let mut compiler = match language {
        Language::C => Command::new("cc"),
        Language::Cpp => Command::new("c++"),
    };
    compiler.args(match language {
        Language::C => ["-x", "c", "-std=c99"],
        Language::Cpp => ["-x", "c++", "-std=c++11"],
    });
    compiler.args(["-O1", "-g", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]);
    compiler.arg("-I").arg(source("include"));
    compiler
        .args(sources)
        .args(["-x", "none", "-o"])
        .arg(program);
    output_of(compiler.args(options));
}

/// Compiles a test's own program in C, which may use what Linux has beside the standards.
///
/// # Panics
/// If the compiler objects.
pub fn compile_gnu(sources: &[PathBuf], program: &Path, options: &[&str]) {
    let mut compiler = Command::new("cc");
    compiler.args(["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror"]);
    compiler.arg("-I").arg(source("include")).args(sources);
    output_of(compiler.arg("-o").arg(program).args(options));
}

/// The hook as a static library, as `make openssl` leaves it.
///
/// # Panics
/// If it isn't there.
pub fn hook_archive() -> String {
    let archive = library_dir().join("../../../release/libmirror_hook.a");
    assert!(
        archive.is_file(),
        "{} isn't there: run `make openssl`",
        archive.display()
    );
    archive.display().to_string()
}
