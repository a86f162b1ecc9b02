//! How large an envelope is in the stream, so that one that is full never drops an older one for it.
//!
//! nats-server before 2.10 compares header and payload with the room that a stream has left, and stores a record that is
//! larger by [`RECORD_BYTES`] and the subject: one that fits by less than these is taken, and the stream's oldest, which
//! was acknowledged to somebody, is removed for it in silence (`storeRawMsg` and `enforceBytesLimit` in its
//! `server/filestore.go`). Where all records, and the limit, are multiples of something larger than these, whatever
//! exceeds the limit does so by more, and is refused.

use async_nats::HeaderMap;

/// Of a record that is neither subject, header nor payload: its length (4 bytes), its number (8), its time (8), the lengths
/// of subject (2) and header (4), and a checksum (8).
const RECORD_BYTES: usize = 34;
/// What fills it up. Nobody reads it.
const PAD: &str = "Pad";

/// Of what all records with a subject of this length, and the stream's limit, are multiples: bytes.
pub(super) fn quantum(subject_bytes: usize) -> usize {
    (RECORD_BYTES + subject_bytes + 1)
        .next_power_of_two()
        .max(128)
}

/// A stream's limit at or below this one, bytes.
pub(super) fn limit(max_bytes: u64, subject_bytes: usize) -> u64 {
    let quantum = quantum(subject_bytes) as u64;
    (max_bytes / quantum).max(1) * quantum
}

/// These header fields, filled up for a payload of so many bytes.
pub(super) fn header(fields: &[(&str, &str)], subject: &str, payload_bytes: usize) -> HeaderMap {
    let quantum = quantum(subject.len());
    let line = |(name, value): &(&str, &str)| format!("{name}: {value}\r\n").len();
    let lines: usize = fields.iter().map(line).sum();
    let header_bytes = "NATS/1.0\r\n".len() + lines + line(&(PAD, "")) + "\r\n".len();
    let bytes = RECORD_BYTES + subject.len() + header_bytes + payload_bytes;
    let pad = "-".repeat(bytes.next_multiple_of(quantum) - bytes);
    let mut header = HeaderMap::new();
    for &(name, value) in fields.iter().chain(&[(PAD, pad.as_str())]) {
        header.insert(name, value);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What nats-server stores, and what it compares with the room.
    fn record(subject: &str, header: &HeaderMap, payload_bytes: usize) -> (usize, usize) {
        let lines = header.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values
                .iter()
                .map(move |value| name.len() + value.as_str().len() + 4)
        });
        let compared = "NATS/1.0\r\n\r\n".len() + lines.sum::<usize>() + payload_bytes;
        (34 + subject.len() + compared, compared)
    }

    #[test]
    fn what_exceeds_the_limit_is_refused() {
        for subject in ["a.events.07".to_owned(), "s".repeat(93), "s".repeat(94)] {
            let quantum = quantum(subject.len());
            assert_eq!(quantum, if subject.len() < 94 { 128 } else { 256 });
            let limit = usize::try_from(limit(1_000_000, subject.len())).unwrap();
            assert!(limit <= 1_000_000 && limit > 999_000);
            let fields = [("Nats-Msg-Id", "0123:7:8"), ("Other", "")];
            for payload in 0..1000 {
                let header = header(&fields, &subject, payload);
                let (stored, compared) = record(&subject, &header, payload);
                assert_eq!(stored % quantum, 0);
                // Whatever the stream has, of such records: what it takes in a copy's place fits.
                for has in (limit - 10 * quantum..=limit).step_by(quantum) {
                    let taken = has + compared < limit;
                    assert!(!taken || has + stored <= limit, "{payload} behind {has}");
                }
            }
        }
    }
}
