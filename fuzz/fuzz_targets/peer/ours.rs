//! What is told in HTTP/1.1, read by httparse.

use std::collections::HashMap;

use agent::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side, WallTime};
use agent::transform::{Http1, PartKind};

use super::{Message, Understood};

/// The sessions' flows in HTTP/1.1, read by httparse: the client's messages and the server's.
pub(super) fn told(said: &[(Side, &[u8])], info: &FlowInfo) -> [Understood; 2] {
    let (mut http1, mut flows) = (Http1::new(), Texts::default());
    let mut at = 0;
    let mut event = |change: FlowChange<'_>, flows: &mut Texts| {
        at += 1;
        let event = FlowEvent {
            flow: 1,
            at: WallTime(at),
            change,
        };
        http1.flow_event(event, flows);
    };
    event(FlowChange::Begin(info), &mut flows);
    for (from, text) in said {
        let mut offset = 0;
        for bytes in text.chunks(16_384) {
            let change = FlowChange::Data {
                from: *from,
                offset,
                bytes,
            };
            offset += bytes.len() as u64;
            event(change, &mut flows);
        }
    }
    let mut understood = <[Understood; 2]>::default();
    for flow in flows.0.values() {
        let [asked, answered] = &mut understood;
        let (is_raw, is_over) = (flow.is_raw, flow.is_over);
        asked.is_partial |= is_raw || is_over;
        answered.is_partial |= is_raw || is_over;
        if !is_raw {
            flow.read(asked, answered);
        }
    }
    understood
}

/// What each side of a flow says.
#[derive(Debug, Default)]
struct Text {
    said: [Vec<u8>; 2],
    is_raw: bool,
    is_over: bool,
}

#[derive(Debug, Default)]
struct Texts(HashMap<u64, Text>);

impl FlowSink for Texts {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let flow = self.0.entry(event.flow).or_default();
        match event.change {
            FlowChange::Begin(info) => {
                let kind = info.http1.map(|part| part.kind);
                flow.is_raw = matches!(kind, Some(PartKind::Raw { .. }));
            }
            FlowChange::Data { from, bytes, .. } => {
                flow.said[from as usize].extend_from_slice(bytes);
            }
            FlowChange::Hole { .. } => panic!("nothing was lost"),
            FlowChange::Finish { .. } | FlowChange::Reset { .. } => flow.is_over = true,
        }
    }
}

impl Text {
    fn read(&self, asked: &mut Understood, answered: &mut Understood) {
        let mut heads = Vec::new();
        let mut rest = &self.said[0][..];
        while !rest.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut head = httparse::Request::new(&mut headers);
            let Ok(httparse::Status::Complete(length)) = head.parse(rest) else {
                asked.is_partial |= is_odd(rest);
                assert!(asked.is_partial, "no request: {}", rest.escape_ascii());
                return;
            };
            let (method, path) = (head.method.expect("a method"), head.path.expect("a target"));
            heads.push(method.to_owned());
            // `http` leaves out a fragment, which nobody sends.
            let path = path.split('#').next().unwrap_or_default();
            let mut message = Message::new(format!("{method} {path}"), head.headers);
            rest = &rest[length..];
            if method == "CONNECT" || message.fields.contains_key("upgrade") {
                // What follows isn't HTTP, and h2 has it otherwise.
                (asked.is_partial, answered.is_partial) = (true, true);
                return;
            }
            if !message.take_content(head.headers, false, &mut rest) {
                asked.is_partial = true;
                return;
            }
            asked.messages.push(message);
        }
        let (mut rest, mut heads) = (&self.said[1][..], heads.into_iter());
        while !rest.is_empty() {
            let mut headers = [httparse::EMPTY_HEADER; 100];
            let mut head = httparse::Response::new(&mut headers);
            let Ok(httparse::Status::Complete(length)) = head.parse(rest) else {
                answered.is_partial |= is_odd(rest);
                assert!(answered.is_partial, "no response: {}", rest.escape_ascii());
                return;
            };
            let status = head.code.expect("a status");
            let mut message = Message::new(status.to_string(), head.headers);
            rest = &rest[length..];
            if status < 200 {
                continue;
            }
            let method = heads.next().expect("a request in front of its response");
            let is_empty = method == "HEAD" || status == 204 || status == 304;
            if !message.take_content(head.headers, is_empty, &mut rest) {
                answered.is_partial = true;
                return;
            }
            answered.messages.push(message);
        }
    }
}

/// What HTTP/2 permits in a head (RFC 9113 section 8.2.1), and httparse doesn't read.
fn is_odd(rest: &[u8]) -> bool {
    let end = rest.windows(4).position(|bytes| bytes == b"\r\n\r\n");
    let head = &rest[..end.expect("the end of a head")];
    let odd = |byte: &u8| !byte.is_ascii() || byte.is_ascii_control() && !b"\r\n\t".contains(byte);
    head.iter().any(odd)
}

impl Message {
    /// Takes the content from the front of what is said. False: httparse can't read what is behind it.
    fn take_content(
        &mut self,
        headers: &[httparse::Header<'_>],
        is_empty: bool,
        rest: &mut &[u8],
    ) -> bool {
        let framing = |name: &str| {
            let mut headers = headers.iter();
            headers.find(|header| header.name.eq_ignore_ascii_case(name))
        };
        if is_empty {
            self.is_whole = true;
        } else if framing("transfer-encoding").is_some() {
            return self.take_chunks(rest);
        } else {
            let length = framing("content-length").map_or("0", |header| {
                str::from_utf8(header.value).expect("a length")
            });
            let length: usize = length.parse().expect("a length");
            let (taken, left) = rest.split_at(length.min(rest.len()));
            self.content = taken.to_vec();
            self.is_whole = taken.len() == length;
            *rest = left;
        }
        true
    }

    fn take_chunks(&mut self, rest: &mut &[u8]) -> bool {
        while !rest.is_empty() {
            let Ok(httparse::Status::Complete((head, length))) = httparse::parse_chunk_size(rest)
            else {
                panic!("no chunk: {}", rest.escape_ascii());
            };
            *rest = &rest[head..];
            let length = usize::try_from(length).expect("no large chunks");
            if length == 0 {
                let mut headers = [httparse::EMPTY_HEADER; 100];
                let Ok(httparse::Status::Complete((length, headers))) =
                    httparse::parse_headers(rest, &mut headers)
                else {
                    assert!(is_odd(rest), "no trailers: {}", rest.escape_ascii());
                    return false;
                };
                for header in headers {
                    let values = self.trailers.entry(header.name.to_ascii_lowercase());
                    values.or_default().push(header.value.to_vec());
                }
                *rest = &rest[length..];
                self.is_whole = true;
                return true;
            }
            self.content.extend_from_slice(&rest[..length]);
            assert_eq!(&rest[length..length + 2], b"\r\n");
            *rest = &rest[length + 2..];
        }
        true
    }
}
