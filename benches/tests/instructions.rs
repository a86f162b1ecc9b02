//! What a call costs an application whose text nobody reads, in instructions: the same on every run, so that it may
//! be asserted.

use std::path::Path;
use std::process::Command;

/// Instructions of SSL_write more than the stock library's, at most. A few more than are counted now, since
/// compilers differ.
const MOST: [(&str, f64); 4] = [
    ("off_instructions", 12.0),
    ("no_agent_instructions", 16.0),
    // A copy of 64 bytes; an attempt to make one. Nothing is tried again.
    ("stopped_instructions", 720.0),
    ("full_instructions", 650.0),
];

#[test]
fn a_call_costs_few_instructions() {
    let stock = Path::new(&built("--unpatched")).join("libssl.so.3");
    let output = Command::new(env!("CARGO_BIN_EXE_hook"))
        .arg("counts")
        .env("PATCHED_LIBSSL", built("3.0"))
        .env("STOCK_LIBSSL", stock)
        .output()
        .expect("cargo has built it");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let figures = said.lines().last().unwrap_or_default();
    for (name, most) in MOST {
        let found = figure(figures, name);
        assert!(
            found.is_finite() && found <= most,
            "more than {most}: {said}"
        );
    }
}

/// A number of the line `FIGURES {"name":1.000,...}`.
fn figure(line: &str, name: &str) -> f64 {
    let quoted = format!("\"{name}\":");
    let (_, rest) = line.split_once(&quoted).expect(name);
    let end = rest.find([',', '}']).expect("an end");
    rest[..end].parse().expect("a number")
}

/// A libssl of OpenSSL 3.0, which may have to be built first.
fn built(which: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../openssl-compat/build.sh");
    let output = Command::new(script)
        .args(["3.0", which])
        .output()
        .expect("the script");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
