//! HTTP/2 written by hand, frame by frame (RFC 9113, RFC 7541): what no library would say, too.

/// What a client says first (RFC 9113 section 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames (section 6).
pub const DATA: u8 = 0;
/// See above.
pub const HEADERS: u8 = 1;
/// See above.
pub const RST_STREAM: u8 = 3;
/// See above.
pub const SETTINGS: u8 = 4;
/// See above.
pub const PUSH_PROMISE: u8 = 5;
/// See above.
pub const PING: u8 = 6;
/// See above.
pub const CONTINUATION: u8 = 9;

/// A flag of DATA and HEADERS.
pub const END_STREAM: u8 = 0x1;
/// A flag of HEADERS and CONTINUATION.
pub const END_HEADERS: u8 = 0x4;

/// SETTINGS_HEADER_TABLE_SIZE.
pub const TABLE_SIZE: u16 = 1;

/// A field: name and value.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A frame.
///
/// # Panics
/// If it is longer than frames can be.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    assert_eq!(length[0], 0, "a frame");
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// DATA, the stream's last or not.
pub fn data(stream: u32, last: bool, text: &[u8]) -> Vec<u8> {
    frame(DATA, u8::from(last), stream, text)
}

/// RST_STREAM with CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8u32.to_be_bytes())
}

/// PING, which says nothing.
pub fn ping() -> Vec<u8> {
    frame(PING, 0, 0, b"whatever")
}

/// SETTINGS.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let values = values.iter();
    let values =
        values.flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(SETTINGS, 0, 0, &values.collect::<Vec<_>>())
}

/// HEADERS with these fields as literals that go into no table.
pub fn headers(stream: u32, last: bool, fields: &[Field<'_>]) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS | u8::from(last),
        stream,
        &block(fields),
    )
}

/// A header block of such.
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    fields.iter().flat_map(|field| literal(0, *field)).collect()
}

/// A literal field with a name of its own: 0 goes into no table, 0x40 into the dynamic one (RFC 7541 section 6.2).
pub fn literal(kind: u8, (name, value): Field<'_>) -> Vec<u8> {
    [&[kind], &string(name)[..], &string(value)].concat()
}

/// An integer whose prefix has `bits` bits, and before it those of `kind` (section 5.1).
///
/// # Panics
/// Never.
pub fn integer(kind: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1 << bits) - 1;
    let byte = |value: usize| u8::try_from(value & 0xff).expect("a byte");
    if value < most {
        return vec![kind | byte(value)];
    }
    let mut bytes = vec![kind | byte(most)];
    value -= most;
    while value >= 128 {
        bytes.push(byte(value) | 0x80);
        value >>= 7;
    }
    bytes.push(byte(value));
    bytes
}

fn string(text: &[u8]) -> Vec<u8> {
    [&integer(0, 7, text.len())[..], text].concat()
}

/// What each request here has in front.
pub fn request(path: &str) -> [Field<'_>; 4] {
    [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":authority", b"mirror.test"),
        (b":path", path.as_bytes()),
    ]
}

/// A request without content.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    headers(stream, true, &request(path))
}

/// The same with a further field.
pub fn get_with(stream: u32, path: &str, further: Field<'_>) -> Vec<u8> {
    headers(stream, true, &[&request(path)[..], &[further]].concat())
}

/// An answer with content of a length that it tells.
pub fn ok(stream: u32, text: &[u8]) -> Vec<u8> {
    let length = text.len().to_string();
    let fields: [Field<'_>; 2] = [(b":status", b"200"), (b"content-length", length.as_bytes())];
    [headers(stream, false, &fields), data(stream, true, text)].concat()
}
