//! Makes text from strangers safe to show.
//!
//! Server names, process names and clear text are chosen by other parties. Shown as they are, they could
//! drive a terminal, break a line in two or pretend to be another field.

use std::fmt::{self, Display, Write as _};

/// Shows a value as one word: letters, digits and ASCII punctuation but `\` as they are, all else (white
/// space, controls, anything not ASCII) as `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a>(pub &'a str);

impl Display for Word<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|character| match character {
            '\\' => f.write_str("\\\\"),
            '!'..='~' => f.write_char(character),
            other => write!(f, "{}", other.escape_unicode()),
        })
    }
}

/// Shows bytes as part of one line: printable ASCII and tabs as they are, valid UTF-8 letters and digits too,
/// all else as `\xNN` or `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a>(pub &'a [u8]);

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            chunk
                .valid()
                .chars()
                .try_for_each(|character| match character {
                    '\\' => f.write_str("\\\\"),
                    '\t' | ' '..='~' => f.write_char(character),
                    // Not format characters such as U+202E, which turns the line around.
                    other if other.is_alphanumeric() => f.write_char(other),
                    other => write!(f, "{}", other.escape_unicode()),
                })?;
            chunk
                .invalid()
                .iter()
                .try_for_each(|byte| write!(f, "\\x{byte:02x}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_stays_a_word() {
        assert_eq!(Word("a.example").to_string(), "a.example");
        assert_eq!(
            Word("x\ny z\u{1b}[2J\u{202e}\\é").to_string(),
            "x\\u{a}y\\u{20}z\\u{1b}[2J\\u{202e}\\\\\\u{e9}"
        );
    }

    #[test]
    fn a_line_stays_a_line() {
        assert_eq!(Line(b"GET /\ta b").to_string(), "GET /\ta b");
        assert_eq!(
            Line(b"\x1b]0;x\x07\r\n\xff\\ \xc3\xa9\xe2\x80\xae\xc2\x9b").to_string(),
            "\\u{1b}]0;x\\u{7}\\u{d}\\u{a}\\xff\\\\ é\\u{202e}\\u{9b}"
        );
    }
}
