//! A directory for one scenario: files to be served, a certificate, what the peers store.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::process::output_of;

/// Sizes of the files that are there: around nothing, around one TLS record, and bulk.
pub const SIZES: [usize; 7] = [0, 1, 16_384, 16_385, 20_000, 1 << 20, 20 << 20];

/// The name that the certificate is for and that clients ask for.
pub const HOST: &str = "mirror.test";
/// Who stands in front of it, where the hello that names it is encrypted.
pub const FRONT: &str = "front.test";

/// Writes a file that nobody else can read.
///
/// # Panics
/// If it can't be written.
pub fn write_secret(path: &Path, text: &str) {
    fs::write(path, "").expect("a file for a secret");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its mode");
    fs::write(path, text).expect("a secret");
}

/// The directory; goes when this is dropped, unless `MIRROR_TESTS_KEEP` is set.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    _guard: Option<TempDir>,
}

impl Place {
    /// With a file of each of `sizes` below `www/`, and a self-signed certificate.
    ///
    /// # Panics
    /// If the disk is full, or there is no openssl.
    pub fn new(sizes: &[usize]) -> Self {
        let temporary = TempDir::with_prefix("mirror").expect("a temporary directory");
        let (directory, guard) = if std::env::var_os("MIRROR_TESTS_KEEP").is_some() {
            (temporary.keep(), None)
        } else {
            (temporary.path().to_owned(), Some(temporary))
        };
        let place = Self {
            directory,
            _guard: guard,
        };
        for name in ["www", "out", "bodies", "proxy", "put", "judge", "objects"] {
            fs::create_dir(place.path(name)).expect("make a directory");
        }
        for &size in sizes {
            fs::write(place.path(&format!("www/{size}")), content(size)).expect("write a file");
        }
        place.make_certificate();
        place
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Itself.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Content of a file in it.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Content of a text file in it.
    ///
    /// # Panics
    /// If it can't be read.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&self.read(name)).into_owned()
    }

    fn make_certificate(&self) {
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:P-256"]);
        openssl.args(["-subj", &format!("/CN={HOST}")]);
        openssl.args(["-addext", &format!("subjectAltName=DNS:{HOST},DNS:{FRONT}")]);
        // It is nobody's issuer: rustls takes no issuer for a server.
        openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
        openssl.arg("-keyout").arg(self.path("key.pem"));
        openssl.arg("-out").arg(self.path("cert.pem"));
        output_of(&mut openssl);
    }
}

/// Bytes that tell where they belong: no 8 of them come twice, in no file of another size either.
pub fn content(size: usize) -> Vec<u8> {
    let mut state = size as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64 (Marsaglia 2003): all states before one comes again.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// A port that nobody listens on at this moment, on IPv4 and on IPv6.
///
/// # Panics
/// If the kernel has none.
pub fn free_port() -> u16 {
    // Whoever takes it meanwhile makes the server's start fail, which starts it again with another.
    let (v4, v6) = ("127.0.0.1", "::1");
    (0..100)
        .find_map(|_| {
            let first = std::net::TcpListener::bind((v4, 0)).ok()?;
            let port = first.local_addr().ok()?.port();
            std::net::TcpListener::bind((v6, port)).ok().map(|_| port)
        })
        .expect("a free port")
}
