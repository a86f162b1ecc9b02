//! Whatever is asked and answered: what comes out is read by another's parser as the same messages.

use proptest::prelude::*;

use super::*;

/// A message's fields and its content in pieces.
#[derive(Clone, Debug)]
struct Message {
    fields: Vec<(String, Vec<u8>)>,
    content: Vec<Vec<u8>>,
    says_length: bool,
}

fn message() -> impl Strategy<Value = Message> {
    let value = prop::collection::vec(
        prop_oneof![0x21..0x7f_u8, 0x80..=0xff_u8, Just(b'x')],
        0..30,
    );
    let name = "x-[a-z0-9!#$%&'*+.^_`|~-]{0,12}".prop_map(|name| name);
    let content = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..4);
    (
        prop::collection::vec((name, value), 0..6),
        content,
        any::<bool>(),
    )
        .prop_map(|(fields, content, says_length)| Message {
            fields,
            content,
            says_length,
        })
}

impl Message {
    fn frames(&self, stream: u32, pseudo: &str) -> Vec<u8> {
        let mut block = block(pseudo);
        for (name, value) in &self.fields {
            field(name.as_bytes(), value, &mut block);
        }
        let bytes: usize = self.content.iter().map(Vec::len).sum();
        if self.says_length {
            field(b"content-length", bytes.to_string().as_bytes(), &mut block);
        }
        let last = self.content.is_empty();
        let mut all = frame(1, END_HEADERS | u8::from(last), stream, &block);
        for (number, piece) in self.content.iter().enumerate() {
            all.extend(data(stream, number + 1 == self.content.len(), piece));
        }
        all
    }

    /// Is this one's, behind its first line's fields of ours.
    fn check(&self, headers: &[httparse::Header<'_>], content: &[u8]) -> Result<(), TestCaseError> {
        let told = headers
            .iter()
            .filter(|header| header.name.to_ascii_lowercase().starts_with("x-"));
        let told: Vec<_> = told
            .map(|header| (header.name.to_ascii_lowercase(), header.value.to_vec()))
            .collect();
        prop_assert_eq!(&told, &self.fields);
        prop_assert_eq!(content, self.content.concat());
        Ok(())
    }
}

/// Takes the content of a message from the front of `text`.
fn content(headers: &[httparse::Header<'_>], text: &mut &[u8]) -> Vec<u8> {
    let mut named = headers.iter();
    let framing = named.find(|header| {
        ["content-length", "transfer-encoding"].contains(&header.name.to_ascii_lowercase().as_str())
    });
    let mut take = |length: usize| {
        let (taken, rest) = text.split_at(length);
        *text = rest;
        taken.to_vec()
    };
    match framing {
        None => Vec::new(),
        Some(header) if header.value == b"chunked" => {
            let mut all = Vec::new();
            loop {
                let Ok(httparse::Status::Complete((head, length))) =
                    httparse::parse_chunk_size(text)
                else {
                    panic!("no chunk: {}", text.escape_ascii());
                };
                *text = &text[head..];
                let length = usize::try_from(length).unwrap();
                all.extend_from_slice(&text[..length]);
                assert_eq!(&text[length..length + 2], b"\r\n");
                *text = &text[length + 2..];
                if length == 0 {
                    return all;
                }
            }
        }
        Some(header) => take(str::from_utf8(header.value).unwrap().parse().unwrap()),
    }
}

proptest! {
    #[test]
    fn another_parser_reads_the_same(
        exchanges in prop::collection::vec((message(), message()), 1..5),
        cut in 1..60_usize,
    ) {
        let mut scene = Scene::new();
        let pseudo = ":method: POST\n:scheme: https\n:authority: a.example\n:path: /";
        for ((asked, answered), stream) in exchanges.iter().zip((1..).step_by(2)) {
            for piece in asked.frames(stream, pseudo).chunks(cut) {
                scene.say(Side::Client, piece);
            }
            for piece in answered.frames(stream, ":status: 200").chunks(cut) {
                scene.say(Side::Server, piece);
            }
        }
        prop_assert!(scene.others().is_empty());
        let [mut asked, mut answered] = [0, 1].map(|side| &scene.own().said[side][..]);
        for (request, response) in &exchanges {
            let mut headers = [httparse::EMPTY_HEADER; 20];
            let mut head = httparse::Request::new(&mut headers);
            let read = head.parse(asked).unwrap();
            prop_assert_eq!((head.method, head.path), (Some("POST"), Some("/")));
            asked = &asked[read.unwrap()..];
            let body = content(head.headers, &mut asked);
            request.check(head.headers, &body)?;
            let mut headers = [httparse::EMPTY_HEADER; 20];
            let mut head = httparse::Response::new(&mut headers);
            let read = head.parse(answered).unwrap();
            prop_assert_eq!(head.code, Some(200));
            answered = &answered[read.unwrap()..];
            let body = content(head.headers, &mut answered);
            response.check(head.headers, &body)?;
        }
        prop_assert!(asked.is_empty() && answered.is_empty());
    }

    /// Whatever is said: nothing is lost behind the place at which it isn't understood any more, and it doesn't depend on how
    /// it is cut.
    #[test]
    fn nothing_is_lost(
        frames in prop::collection::vec(
            (0..10_u8, any::<u8>(), 0..8_u32, prop::collection::vec(any::<u8>(), 0..20), any::<bool>()),
            0..20,
        ),
        cut in 1..40_usize,
    ) {
        let told = |cut: usize| {
            let mut scene = Scene::new();
            scene.client(&[get(1, "/1"), get(3, "/3")]);
            let mut all: [Vec<u8>; 2] = Default::default();
            let begins = [Side::Client, Side::Server].map(|from| scene.position(from));
            for (kind, flags, stream, payload, is_client) in &frames {
                let from = if *is_client { Side::Client } else { Side::Server };
                let frame = frame(*kind, *flags, *stream, payload);
                all[from as usize].extend_from_slice(&frame);
                for piece in frame.chunks(cut) {
                    scene.say(from, piece);
                }
            }
            scene.finish(Side::Client);
            scene.finish(Side::Server);
            let raw = scene.flows.0.values().find_map(|told| match told.kind() {
                Some(PartKind::Raw { client, server, .. }) => Some((told, [client, server])),
                _ => None,
            });
            if let Some((raw, from)) = raw {
                for side in 0..2 {
                    let skipped = usize::try_from(from[side] - begins[side]).unwrap();
                    assert_eq!(raw.said[side], all[side][skipped..]);
                }
            }
            let flows = scene.flows.0.values();
            let flows = flows.map(|told| (told.kind(), told.said.clone(), told.end));
            (flows.collect::<Vec<_>>(), scene.stats().stopped)
        };
        let whole = told(usize::MAX);
        let pieces = told(cut);
        prop_assert_eq!(whole.1, pieces.1);
        prop_assert_eq!(whole.0.len(), pieces.0.len());
        for (whole, pieces) in whole.0.iter().zip(&pieces.0) {
            prop_assert_eq!(whole.2, pieces.2);
        }
    }
}
