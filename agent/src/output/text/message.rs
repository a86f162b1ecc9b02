//! One message: what a side says until the other speaks, or until another head begins.

use std::fmt;

use super::TextLimits;
use crate::escape::Line;

/// Bytes of a line of a dump.
const DUMP_BYTES: usize = 16;
/// How much of a body decides whether it is text.
const PROBE_BYTES: usize = 512;

/// A message that is being shown line by line.
#[derive(Debug)]
pub(super) struct Message {
    limits: TextLimits,
    part: Part,
    /// The unfinished line: at most `line_bytes`, or [`DUMP_BYTES`] of a dump.
    line: Vec<u8>,
    /// Bytes of the unfinished line that aren't shown.
    cut: u64,
    /// Bytes behind what is shown.
    hidden: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Start line and header fields of HTTP/1.x.
    Head {
        lines_left: usize,
    },
    /// Its first bytes will tell what the body is.
    Body,
    Text {
        lines_left: usize,
        bytes_left: usize,
    },
    Binary {
        at: u64,
        bytes_left: usize,
    },
    /// The limits are reached.
    Hidden,
}

impl Message {
    /// A message that begins with `bytes`; they are still to be fed.
    pub(super) fn new(limits: TextLimits, bytes: &[u8]) -> Self {
        let part = if is_head(bytes) {
            Part::Head {
                lines_left: limits.head_lines,
            }
        } else {
            Part::Body
        };
        Self {
            limits,
            part,
            line: Vec::new(),
            cut: 0,
            hidden: 0,
        }
    }

    /// True if `bytes` begin another message of the same side.
    pub(super) fn is_another(&self, bytes: &[u8]) -> bool {
        !matches!(self.part, Part::Head { .. }) && is_head(bytes)
    }

    /// Shows the lines that `bytes` complete.
    pub(super) fn feed(&mut self, mut bytes: &[u8], print: &mut impl FnMut(fmt::Arguments<'_>)) {
        while !bytes.is_empty() {
            bytes = match self.part {
                Part::Head { lines_left } => self.head(bytes, lines_left, print),
                Part::Body => {
                    self.part = if is_text(bytes) {
                        let TextLimits {
                            body_lines,
                            body_bytes,
                            ..
                        } = self.limits;
                        Part::Text {
                            lines_left: body_lines,
                            bytes_left: body_bytes,
                        }
                    } else {
                        Part::Binary {
                            at: 0,
                            bytes_left: self.limits.body_bytes / 32,
                        }
                    };
                    bytes
                }
                Part::Text {
                    lines_left,
                    bytes_left,
                } => self.text(bytes, lines_left, bytes_left, print),
                Part::Binary { at, bytes_left } => self.binary(bytes, at, bytes_left, print),
                Part::Hidden => {
                    self.hidden += bytes.len() as u64;
                    &[]
                }
            };
        }
    }

    /// Shows the unfinished line, and how much was hidden.
    pub(super) fn close(&mut self, print: &mut impl FnMut(fmt::Arguments<'_>)) {
        match self.part {
            Part::Binary { at, .. } => self.print_dump(at, print),
            _ if !self.line.is_empty() => self.print_line(print),
            _ => {}
        }
        if self.hidden > 0 {
            print(format_args!("… {} more bytes", self.hidden));
            self.hidden = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn line_capacity(&self) -> usize {
        self.line.capacity()
    }

    fn head<'a>(
        &mut self,
        bytes: &'a [u8],
        lines_left: usize,
        print: &mut impl FnMut(fmt::Arguments<'_>),
    ) -> &'a [u8] {
        let (part, rest, ended) = split_line(bytes);
        self.keep(part);
        if ended {
            let empty = self.line.iter().all(|byte| *byte == b'\r');
            self.print_line(print);
            self.part = match lines_left.saturating_sub(1) {
                lines_left if lines_left > 0 && !empty => Part::Head { lines_left },
                _ => Part::Body,
            };
        }
        rest
    }

    fn text<'a>(
        &mut self,
        bytes: &'a [u8],
        lines_left: usize,
        bytes_left: usize,
        print: &mut impl FnMut(fmt::Arguments<'_>),
    ) -> &'a [u8] {
        let shown = &bytes[..bytes.len().min(bytes_left)];
        let (part, _, ended) = split_line(shown);
        self.keep(part);
        let taken = part.len() + usize::from(ended);
        let (mut lines_left, bytes_left) = (lines_left, bytes_left - taken);
        if ended {
            self.print_line(print);
            lines_left = lines_left.saturating_sub(1);
        }
        self.part = if lines_left == 0 || bytes_left == 0 {
            if !ended {
                self.print_line(print);
            }
            Part::Hidden
        } else {
            Part::Text {
                lines_left,
                bytes_left,
            }
        };
        &bytes[taken..]
    }

    fn binary<'a>(
        &mut self,
        bytes: &'a [u8],
        at: u64,
        bytes_left: usize,
        print: &mut impl FnMut(fmt::Arguments<'_>),
    ) -> &'a [u8] {
        let taken = bytes
            .len()
            .min(bytes_left)
            .min(DUMP_BYTES - self.line.len());
        self.line.extend_from_slice(&bytes[..taken]);
        let bytes_left = bytes_left - taken;
        let mut next = at;
        if self.line.len() == DUMP_BYTES || bytes_left == 0 {
            next += self.line.len() as u64;
            self.print_dump(at, print);
        }
        self.part = if bytes_left == 0 {
            Part::Hidden
        } else {
            Part::Binary {
                at: next,
                bytes_left,
            }
        };
        &bytes[taken..]
    }

    /// Adds to the unfinished line as much as one line shows.
    fn keep(&mut self, part: &[u8]) {
        let kept = part.len().min(self.limits.line_bytes - self.line.len());
        self.line.extend_from_slice(&part[..kept]);
        self.cut += (part.len() - kept) as u64;
    }

    fn print_line(&mut self, print: &mut impl FnMut(fmt::Arguments<'_>)) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        match self.cut {
            0 => print(format_args!("{}", Line(line))),
            cut => print(format_args!("{} … {cut} more bytes", Line(line))),
        }
        self.line.clear();
        self.cut = 0;
    }

    fn print_dump(&mut self, at: u64, print: &mut impl FnMut(fmt::Arguments<'_>)) {
        if !self.line.is_empty() {
            print(format_args!("{at:06x}  {}", Dump(&self.line)));
        }
        self.line.clear();
    }
}

/// Up to 16 bytes, hexadecimal and as ASCII.
struct Dump<'a>(&'a [u8]);

impl fmt::Display for Dump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x} "))?;
        write!(f, "{:width$} ", "", width = 3 * (DUMP_BYTES - self.0.len()))?;
        self.0.iter().try_for_each(|byte| {
            let shown = if (b' '..=b'~').contains(byte) {
                char::from(*byte)
            } else {
                '.'
            };
            write!(f, "{shown}")
        })
    }
}

/// The bytes before the first line feed, those behind it, and whether there is one.
fn split_line(bytes: &[u8]) -> (&[u8], &[u8], bool) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&bytes[..end], &bytes[end + 1..], true),
        None => (bytes, &[], false),
    }
}

/// True if `bytes` begin with a status line or a request line of HTTP/1.x (RFC 9112 sections 3 and 4).
fn is_head(bytes: &[u8]) -> bool {
    if bytes.starts_with(b"HTTP/1.") {
        return true;
    }
    let (line, _, ended) = split_line(bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = line
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase())
        .count();
    let version = line.len().saturating_sub(9);
    ended
        && method > 0
        && line[method..].starts_with(b" ")
        && line[version..].starts_with(b" HTTP/1.")
}

/// True if a body that begins with `bytes` is to be shown as text.
fn is_text(bytes: &[u8]) -> bool {
    let probe = &bytes[..bytes.len().min(PROBE_BYTES)];
    let control =
        |byte: &u8| byte.is_ascii_control() && !matches!(byte, b'\t' | b'\r' | b'\n' | 0x1b);
    // A letter may be cut at the end.
    let utf8 = str::from_utf8(probe).map_or_else(|error| error.error_len().is_none(), |_| true);
    utf8 && !probe.iter().any(control)
}
