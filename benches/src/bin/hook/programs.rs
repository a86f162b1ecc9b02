//! The programs in C that call libssl and the hook: compiled here, told by lines what to do.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;
pub(crate) use mirror_benches::caller::{Caller, clean, run};

/// Where everything of one run is.
#[derive(Debug)]
pub(crate) struct Place {
    directory: tempfile::TempDir,
    /// The checkout.
    root: PathBuf,
    /// Directory of the unpatched libssl, of the patched one's version and flags.
    pub(crate) stock: PathBuf,
    /// Directory of the patched one.
    pub(crate) patched: PathBuf,
    /// Cargo's directory of this build.
    release: PathBuf,
}

impl Place {
    /// Finds what is to be measured, and compiles the programs that do it.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let library = |variable: &str| {
            let path = std::env::var_os(variable).map(PathBuf::from);
            let directory = path.as_deref().and_then(Path::parent).map(Path::to_owned);
            directory.with_context(|| format!("{variable} isn't set: run `make bench-hook`"))
        };
        let executable = std::env::current_exe()?;
        let place = Self {
            directory: tempfile::tempdir()?,
            stock: library("STOCK_LIBSSL")?,
            patched: library("PATCHED_LIBSSL")?,
            release: executable.parent().context("a path")?.to_owned(),
            root,
        };
        run(Command::new("openssl")
            .args([
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
            ])
            .args(["-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout"])
            .arg(place.path("key.pem"))
            .arg("-out")
            .arg(place.path("cert.pem")))?;
        place.compile("tls_calls", &["-lssl", "-lcrypto"])?;
        Ok(place)
    }

    /// A file of this run.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Something that cargo has built.
    pub(crate) fn release(&self, name: &str) -> PathBuf {
        self.release.join(name)
    }

    fn compile(&self, name: &str, libraries: &[&str]) -> anyhow::Result<()> {
        run(Command::new("gcc")
            .args(["-O2", "-Wall", "-Wextra", "-Werror", "-I"])
            .arg(self.root.join("include"))
            .arg("-o")
            .arg(self.path(name))
            .arg(self.root.join("benches/c").join(name).with_extension("c"))
            .args(libraries))?;
        Ok(())
    }

    /// `tls_calls` with the libssl in `library`.
    pub(crate) fn tls_calls(&self, library: &Path, mode: &str) -> Command {
        let mut command = Command::new(self.path("tls_calls"));
        command
            .arg(mode)
            .args([self.path("cert.pem"), self.path("key.pem")]);
        clean(&mut command).env("LD_LIBRARY_PATH", library);
        command
    }

    /// `hook_calls` with that many threads.
    pub(crate) fn hook_calls(&self, threads: usize) -> anyhow::Result<Command> {
        self.calls("hook_calls", threads)
    }

    /// `look_calls` with that many connections.
    pub(crate) fn look_calls(&self, connections: usize) -> anyhow::Result<Command> {
        self.calls("look_calls", connections)
    }

    /// A program that calls the hook without a library.
    fn calls(&self, name: &str, count: usize) -> anyhow::Result<Command> {
        let program = self.path(name);
        if !program.exists() {
            let archive = self.release("libmirror_hook.a").display().to_string();
            self.compile(name, &[&archive, "-lpthread"])?;
        }
        let mut command = Command::new(program);
        command.arg(count.to_string());
        clean(&mut command);
        Ok(command)
    }
}
