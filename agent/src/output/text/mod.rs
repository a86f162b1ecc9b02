//! The decrypted exchange as text for people.
//!
//! ```text
//! -- flow 1: 127.0.0.1:50000 -> 127.0.0.1:443, curl[4711] is the client, sni localhost, alpn http/1.1, TLSv1.3 ...
//! > GET /index.html HTTP/1.1
//! > Host: localhost
//! >
//! < HTTP/1.1 200 OK
//! < Content-Length: 100000
//! <
//! < <html>
//! < … 97952 more bytes
//! > ends
//! < ends
//! -- flow 1 ended: 74 bytes from the client, 100123 from the server
//! ```
//!
//! Lines of the client begin with `>`, those of the server with `<`. Where lines of several flows mix, a line with the
//! flow's number stands before each change. Nothing that came over the network reaches the terminal unescaped, and a
//! flow takes a few hundred bytes of memory however much it says.

mod message;

use std::collections::HashMap;
use std::fmt::{self, Display};
use std::io::{self, Write};

use mirror_hook::event::{Announcement, EarlyData, Transport};

use crate::cipher::{CipherName, VersionName};
use crate::escape::Word;
use crate::event::{Binding, FlowChange, FlowEvent, FlowInfo, FlowSink, Side};
use message::Message;

/// How much of each message is shown.
#[derive(Clone, Copy, Debug)]
pub struct TextLimits {
    /// Lines of a body.
    pub body_lines: usize,
    /// Bytes of a body in these lines; a binary body shows a thirty-second of it.
    pub body_bytes: usize,
    /// Bytes of one line, the rest of it is cut.
    pub line_bytes: usize,
    /// Lines of a head; those behind count as body.
    pub head_lines: usize,
}

impl Default for TextLimits {
    fn default() -> Self {
        Self {
            body_lines: 24,
            body_bytes: 2048,
            line_bytes: 512,
            head_lines: 100,
        }
    }
}

/// Prints a summary of all flows, each line by one call of `write`.
///
/// The first error of the writer is kept for [`flush`](Self::flush), and nothing is printed any more after it.
#[derive(Debug)]
pub struct TextSummary<W> {
    limits: TextLimits,
    flows: HashMap<u64, Exchange>,
    begun: u64,
    printer: Printer<W>,
}

/// One flow.
#[derive(Debug)]
struct Exchange {
    /// Counted from 1 in order of appearance.
    number: u64,
    /// Who speaks, and what.
    current: Option<(Side, Message)>,
    client: Total,
    server: Total,
}

#[derive(Clone, Copy, Debug, Default)]
struct Total {
    bytes: u64,
    missing: u64,
    ended: bool,
}

#[derive(Debug)]
struct Printer<W> {
    writer: W,
    line: Vec<u8>,
    /// The flow that the last line was of.
    current: Option<u64>,
    error: Option<io::Error>,
    failed: bool,
}

impl<W: Write> TextSummary<W> {
    /// A summary on `writer`.
    pub fn new(writer: W) -> Self {
        Self::with_limits(TextLimits::default(), writer)
    }

    /// A summary that shows this much of each message.
    pub fn with_limits(limits: TextLimits, writer: W) -> Self {
        let printer = Printer {
            writer,
            line: Vec::new(),
            current: None,
            error: None,
            failed: false,
        };
        Self {
            limits,
            flows: HashMap::new(),
            begun: 0,
            printer,
        }
    }

    /// How many flows have begun.
    pub fn flows(&self) -> u64 {
        self.begun
    }

    /// Flushes the writer.
    ///
    /// # Errors
    /// The first error of the writer since it was asked for last, or that of flushing.
    pub fn flush(&mut self) -> io::Result<()> {
        self.printer.error.take().map_or(Ok(()), Err)?;
        if self.printer.failed {
            Ok(())
        } else {
            self.printer.writer.flush()
        }
    }

    /// Prints what is kept of unfinished lines, and that the flows which are still live were cut here.
    pub fn finish(&mut self) {
        let mut live: Vec<_> = self.flows.drain().map(|(_, exchange)| exchange).collect();
        live.sort_unstable_by_key(|exchange| exchange.number);
        for mut exchange in live {
            exchange.close_message(&mut self.printer);
            exchange.print_end("cut here", &mut self.printer);
        }
    }

    /// Gives the writer back.
    pub fn into_inner(self) -> W {
        self.printer.writer
    }

    fn begin(&mut self, flow: u64, info: &FlowInfo) {
        self.begun += 1;
        let number = self.begun;
        self.printer
            .headline(number, format_args!("-- flow {number}: {}", Headline(info)));
        let exchange = Exchange {
            number,
            current: None,
            client: Total::default(),
            server: Total::default(),
        };
        self.flows.insert(flow, exchange);
    }
}

impl<W: Write> FlowSink for TextSummary<W> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            return self.begin(event.flow, info);
        }
        let Some(exchange) = self.flows.get_mut(&event.flow) else {
            return;
        };
        let printer = &mut self.printer;
        let over = match event.change {
            FlowChange::Begin(_) => false,
            FlowChange::Data { from, bytes, .. } => {
                exchange.say(from, bytes, self.limits, printer);
                false
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                exchange.close_message(printer);
                exchange.total(from).missing += bytes;
                exchange.print(
                    from,
                    format_args!("… {bytes} bytes missing at offset {offset}"),
                    printer,
                );
                false
            }
            FlowChange::Finish { from } => {
                exchange.close_message(printer);
                exchange.total(from).ended = true;
                exchange.print(from, format_args!("ends"), printer);
                exchange.client.ended && exchange.server.ended
            }
            FlowChange::Reset { by, .. } => {
                exchange.close_message(printer);
                exchange.print(by, format_args!("breaks off"), printer);
                true
            }
        };
        if over {
            exchange.print_end("ended", printer);
            self.flows.remove(&event.flow);
        }
    }
}

impl Exchange {
    fn say<W: Write>(
        &mut self,
        from: Side,
        bytes: &[u8],
        limits: TextLimits,
        printer: &mut Printer<W>,
    ) {
        self.total(from).bytes += bytes.len() as u64;
        let goes_on = self
            .current
            .as_ref()
            .is_some_and(|(speaker, message)| *speaker == from && !message.is_another(bytes));
        if !goes_on {
            self.close_message(printer);
        }
        let number = self.number;
        let (_, message) = self
            .current
            .get_or_insert_with(|| (from, Message::new(limits, bytes)));
        message.feed(bytes, &mut |line| printer.line(number, Some(from), line));
    }

    fn close_message<W: Write>(&mut self, printer: &mut Printer<W>) {
        if let Some((speaker, mut message)) = self.current.take() {
            message.close(&mut |line| printer.line(self.number, Some(speaker), line));
        }
    }

    fn print<W: Write>(&self, from: Side, line: fmt::Arguments<'_>, printer: &mut Printer<W>) {
        printer.line(self.number, Some(from), line);
    }

    fn print_end<W: Write>(&self, how: &str, printer: &mut Printer<W>) {
        let Self {
            number,
            client,
            server,
            ..
        } = self;
        printer.line(
            *number,
            None,
            format_args!(
                "-- flow {number} {how}: {client} from the client, {server} from the server"
            ),
        );
        printer.current = None;
    }

    fn total(&mut self, side: Side) -> &mut Total {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

impl Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.bytes)?;
        if self.missing > 0 {
            write!(f, " ({} more are missing)", self.missing)?;
        }
        Ok(())
    }
}

impl<W: Write> Printer<W> {
    fn headline(&mut self, flow: u64, line: fmt::Arguments<'_>) {
        self.current = Some(flow);
        self.line(flow, None, line);
    }

    /// Prints a line of a flow, and before it, if the last line was another's, whose it is.
    fn line(&mut self, flow: u64, from: Option<Side>, text: fmt::Arguments<'_>) {
        if self.failed {
            return;
        }
        self.line.clear();
        if from.is_some() && self.current != Some(flow) {
            // Writing to a Vec can't fail.
            let _ = writeln!(self.line, "-- flow {flow}:");
        }
        self.current = Some(flow);
        self.line.extend_from_slice(match from {
            Some(Side::Client) => b"> ",
            Some(Side::Server) => b"< ",
            None => b"",
        });
        let _ = write!(self.line, "{text}");
        // An empty line of a head is the prefix alone.
        self.line.truncate(self.line.trim_ascii_end().len());
        self.line.push(b'\n');
        if let Err(error) = self.writer.write_all(&self.line) {
            self.error = Some(error);
            self.failed = true;
        }
    }
}

/// A flow in one line.
struct Headline<'a>(&'a FlowInfo);

impl Display for Headline<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        write!(f, "{} -> {}, ", info.tuple.client, info.tuple.server)?;
        let process = &info.process;
        let name = if process.name.is_empty() {
            "process"
        } else {
            &process.name
        };
        let role = info.role_word();
        write!(f, "{}[{}] is the {role}", Word(name), process.pid)?;
        if let Some(sni) = &info.sni {
            write!(f, ", sni {}", Word(sni))?;
        }
        if let Some(alpn) = &info.alpn {
            write!(f, ", alpn {}", Word(alpn))?;
        }
        if let Some(version) = info.tls_version {
            write!(f, ", {}", VersionName(version))?;
        }
        if let Some(cipher) = info.cipher {
            write!(f, " {}", CipherName(cipher))?;
        }
        f.write_str(match info.transport {
            Transport::Tcp => "",
            Transport::Dtls => ", DTLS",
            Transport::Quic => ", QUIC",
        })?;
        if info.resumed {
            f.write_str(", resumed")?;
        }
        f.write_str(match info.early {
            EarlyData::None => "",
            EarlyData::Pending => ", early data pending",
            EarlyData::Accepted => ", early data accepted",
            EarlyData::Rejected => ", early data rejected",
        })?;
        f.write_str(match info.announcement {
            Announcement::New => "",
            Announcement::Midstream => ", seen from its middle on",
            Announcement::Inherited => ", inherited from the parent process",
        })?;
        if let Some(bytes) = info.clear_prefix.filter(|bytes| *bytes > 0) {
            write!(f, ", behind {bytes} clear bytes of the client (STARTTLS)")?;
        }
        f.write_str(match info.binding {
            Binding::Socket => ", addresses of the socket",
            Binding::Told => ", addresses as the program says",
            Binding::Wire => ", addresses seen on the wire",
            Binding::WireAmbiguous => ", addresses seen on the wire among others",
            Binding::Counters => ", addresses found by byte counts",
            Binding::Placeholder => ", addresses unknown (these are placeholders)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::WallTime;
    use crate::forge::testing;
    use Side::{Client, Server};

    fn summary(events: &[(u64, FlowChange<'_>)]) -> String {
        let mut summary = TextSummary::new(Vec::new());
        for (flow, change) in events {
            summary.flow_event(FlowEvent {
                flow: *flow,
                at: WallTime(0),
                change: *change,
            });
        }
        summary.finish();
        String::from_utf8(summary.into_inner()).unwrap()
    }

    fn data(from: Side, bytes: &[u8]) -> FlowChange<'_> {
        FlowChange::Data {
            from,
            offset: 0,
            bytes,
        }
    }

    #[test]
    fn shows_an_exchange() {
        let mut info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        info.sni = Some("localhost".into());
        info.tls_version = Some(0x0304);
        info.cipher = Some(0x1301);
        let body = "line\n".repeat(1000);
        let shown = summary(&[
            (9, FlowChange::Begin(&info)),
            (9, data(Client, b"GET / HTTP/1.1\r\nHost: local")),
            (9, data(Client, b"host\r\n\r\n")),
            (
                9,
                data(
                    Server,
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nfirst",
                ),
            ),
            (9, data(Server, body.as_bytes())),
            (9, FlowChange::Finish { from: Server }),
            (9, FlowChange::Finish { from: Client }),
        ]);
        let lines: Vec<_> = shown.lines().collect();
        assert_eq!(
            lines[..9],
            [
                "-- flow 1: 127.0.0.1:50000 -> 127.0.0.1:443, curl[4711] is the client, sni localhost, \
                 TLSv1.3 TLS_AES_128_GCM_SHA256, addresses of the socket",
                "> GET / HTTP/1.1",
                "> Host: localhost",
                ">",
                "< HTTP/1.1 200 OK",
                "< Content-Length: 5000",
                "<",
                "< firstline",
                "< line",
            ]
        );
        assert_eq!(
            lines[lines.len() - 5..],
            [
                "< line",
                "< … 4880 more bytes",
                "< ends",
                "> ends",
                "-- flow 1 ended: 35 bytes from the client, 5046 bytes from the server",
            ]
        );
        let body_lines = lines.iter().filter(|line| line.ends_with("line")).count();
        assert_eq!(body_lines, TextLimits::default().body_lines);
    }

    #[test]
    fn a_stranger_cannot_drive_the_terminal() {
        let mut info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        info.sni = Some("\u{1b}[2J\n-- flow 7: fake".into());
        let shown = summary(&[
            (1, FlowChange::Begin(&info)),
            (1, data(Client, b"\x1b]0;title\x07 \xe2\x80\xae\r > x\n")),
            (1, data(Server, b"text \x1b[31m \xc2\x9b1m\rover\n")),
            (1, data(Client, "\u{85}\u{2028}é\n".as_bytes())),
        ]);
        let harmless = |c: char| {
            c == '\n' || c == '\t' || c == '…' || c.is_alphanumeric() || (' '..='~').contains(&c)
        };
        assert!(shown.chars().all(harmless), "{shown:?}");
        assert!(
            shown.contains("\n< text \\u{1b}[31m \\u{9b}1m\\u{d}over\n"),
            "{shown}"
        );
        assert!(shown.contains("\n> \\u{85}\\u{2028}é\n"), "{shown}");
        assert_eq!(shown.matches("\n-- flow").count(), 1, "{shown}");
    }

    #[test]
    fn binary_is_dumped_and_cut() {
        let info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        let mut bytes: Vec<u8> = (0..=255).collect();
        bytes[16..32].copy_from_slice(b"0123456789abcdef");
        let shown = summary(&[
            (1, FlowChange::Begin(&info)),
            (1, data(Client, &bytes[..20])),
            (1, data(Client, &bytes[20..])),
            (1, data(Server, &[0, 1, b'x'])),
        ]);
        let lines: Vec<_> = shown.lines().skip(1).collect();
        assert_eq!(
            lines[0],
            "> 000000  00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f  ................"
        );
        assert_eq!(
            lines[1],
            "> 000010  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  0123456789abcdef"
        );
        assert_eq!(lines[4], "> … 192 more bytes");
        assert_eq!(
            lines[5],
            format!("< 000000  00 01 78 {}  ..x", " ".repeat(38))
        );
    }

    #[test]
    fn holes_resets_and_mixed_flows_are_told() {
        let info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        let hole = FlowChange::Hole {
            from: Server,
            offset: 3,
            bytes: 70,
        };
        let reset = FlowChange::Reset {
            by: Client,
            cause: crate::event::ResetCause::Abort,
        };
        let shown = summary(&[
            (1, FlowChange::Begin(&info)),
            (2, FlowChange::Begin(&info)),
            (1, data(Server, b"abc")),
            (1, hole),
            (2, data(Client, b"x")),
            (1, reset),
        ]);
        let lines: Vec<_> = shown.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "-- flow 1:",
                "< abc",
                "< … 70 bytes missing at offset 3",
                "> breaks off",
                "-- flow 1 ended: 0 bytes from the client, 3 bytes (70 more are missing) from the server",
                "-- flow 2:",
                "> x",
                "-- flow 2 cut here: 1 bytes from the client, 0 bytes from the server",
            ]
        );
    }

    #[test]
    fn memory_of_a_flow_is_bounded() {
        let info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        let mut summary = TextSummary::new(io::sink());
        let mut take = |change| {
            summary.flow_event(FlowEvent {
                flow: 1,
                at: WallTime(0),
                change,
            })
        };
        take(FlowChange::Begin(&info));
        take(data(Client, b"GET / HTTP/1.1\r\nX: "));
        (0..100).for_each(|_| take(data(Client, &[b'x'; 16_384])));
        let exchange = &summary.flows[&1];
        let (_, message) = exchange.current.as_ref().unwrap();
        assert!(message.line_capacity() <= 2 * TextLimits::default().line_bytes);
    }

    #[test]
    fn a_second_head_begins_a_message() {
        let info = testing::info("127.0.0.1:50000", "127.0.0.1:443");
        let shown = summary(&[
            (1, FlowChange::Begin(&info)),
            (1, data(Client, b"POST /1 HTTP/1.1\r\n\r\n")),
            (1, data(Client, &[0; 100])),
            (1, data(Client, b"GET /2 HTTP/1.1\r\n\r\n")),
        ]);
        assert!(
            shown.contains("> … 36 more bytes\n> GET /2 HTTP/1.1\n>\n"),
            "{shown}"
        );
    }
}
