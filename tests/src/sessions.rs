//! The log of sessions, read by a JSON parser that isn't ours.

use std::path::Path;

use serde_json::Value;

use crate::process::until;

/// What `sslcollector --log` has written so far; each line is one object.
///
/// # Panics
/// If it can't be read, or a line is something else.
pub fn read(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(&text)
}

/// The same of a text.
///
/// # Panics
/// As above.
pub fn parse(text: &str) -> Vec<Value> {
    let whole = text.is_empty() || text.ends_with('\n');
    assert!(whole, "it ends within a line: {text}");
    let is_plain = |byte: u8| byte == b'\n' || (b' '..=b'~').contains(&byte);
    assert!(text.bytes().all(is_plain), "it can drive a terminal");
    let lines = text.lines().map(|line| {
        let value: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(value.is_object(), "{line}");
        value
    });
    lines.collect()
}

/// The same, once there are so many lines.
///
/// # Panics
/// If these don't come, or there are more.
pub fn await_lines(path: &Path, count: usize) -> Vec<Value> {
    until(&format!("{count} lines in {}", path.display()), || {
        // A line that is being written isn't one yet.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = parse(&text[..whole]);
        assert!(lines.len() <= count, "{lines:?}");
        (lines.len() == count).then_some(lines)
    })
}

/// The line of the session from this client's port.
///
/// # Panics
/// If there isn't exactly one.
pub fn of_port(lines: &[Value], port: u16) -> &Value {
    let mut found = lines.iter().filter(|line| line["src_port"] == port);
    let line = found.next();
    let line = line.unwrap_or_else(|| panic!("no session from port {port}: {lines:?}"));
    assert!(found.next().is_none(), "two sessions from port {port}");
    line
}
