#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The committed C header is the one that the code generates, and every entry point is guarded.
//! `UPDATE_HEADER=1` writes the header instead of comparing it.

use std::fs;
use std::path::Path;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

#[test]
fn the_header_is_up_to_date() {
    let config = cbindgen::Config::from_file(root().join("cbindgen.toml")).unwrap();
    let mut generated = Vec::new();
    cbindgen::Builder::new()
        .with_config(config)
        .with_src(root().join("mirror-hook/src/capi.rs"))
        .generate()
        .unwrap()
        .write(&mut generated);
    // rustdoc's headings mean nothing in C.
    let generated = String::from_utf8(generated)
        .unwrap()
        .replace("// # Safety\n", "// Pointers:\n");
    let path = root().join("include/mirror_hook.h");
    if std::env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &generated).unwrap();
    }
    assert_eq!(
        fs::read_to_string(&path).unwrap(),
        generated,
        "run `UPDATE_HEADER=1 cargo test -p mirror-hook --test header` and commit the header"
    );
}

#[test]
fn every_entry_point_is_guarded() {
    let source = fs::read_to_string(root().join("mirror-hook/src/capi.rs")).unwrap();
    let exported = source.split("#[unsafe(no_mangle)]").skip(1);
    let bodies: Vec<&str> = exported.filter(|body| !is_static(body)).collect();
    assert_eq!(bodies.len(), 12);
    for body in bodies {
        let end = body.find("\n}\n").unwrap();
        assert_eq!(
            body[..end].matches("entry!(").count(),
            1,
            "{}",
            &body[..end]
        );
    }
}

/// It is no function that is exported here.
fn is_static(body: &str) -> bool {
    let mut lines = body.lines().filter(|line| line.starts_with("pub "));
    lines
        .next()
        .is_some_and(|line| line.starts_with("pub static "))
}
