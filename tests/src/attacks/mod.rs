//! What a hostile peer says by HTTP/2 to break, to blind or to deceive who reads along.

mod messages;

use crate::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Field, HEADERS, PUSH_PROMISE, TABLE_SIZE, block,
    data, frame, get, headers, integer, literal, request, reset, settings,
};
use crate::told::Who;

/// Behind two requests, of which one has been answered.
#[derive(Clone, Debug)]
pub struct Attack {
    /// Which; its connection's SNI begins with it.
    pub name: String,
    /// What may be shown, turn by turn.
    pub shown: Vec<(Who, Vec<Vec<u8>>)>,
    /// The requests of that.
    pub requests: Vec<String>,
    /// How many of them are answered.
    pub answered: usize,
    /// Text that is there, too.
    pub shown_as: &'static [u8],
    /// What begins with a frame that can't be shown; why, in the word of the documentation.
    pub refused: Option<(Who, Vec<Vec<u8>>, &'static str)>,
}

/// Streams given up in [`Attack`] `resets`.
pub const RESETS: u32 = 100_000;
/// What is shown of them: 256 may be given up in a second.
const SHOWN_RESETS: u32 = 257;

impl Attack {
    fn by(who: Who, name: &str, refused: &[Vec<u8>], why: &'static str) -> Self {
        Self {
            name: name.into(),
            shown: Vec::new(),
            requests: Vec::new(),
            answered: 0,
            shown_as: b"",
            refused: Some((who, refused.to_vec(), why)),
        }
    }

    fn client(name: &str, refused: &[Vec<u8>], why: &'static str) -> Self {
        Self::by(Who::Client, name, refused, why)
    }

    fn server(name: &str, refused: &[Vec<u8>], why: &'static str) -> Self {
        Self::by(Who::Server, name, refused, why)
    }

    fn behind(mut self, who: Who, shown: &[Vec<u8>], requests: &[&str]) -> Self {
        self.shown.push((who, shown.to_vec()));
        let requests = requests.iter().map(|&line| line.into());
        self.requests.extend(requests);
        self
    }

    fn harmless(name: &str) -> Self {
        Self {
            refused: None,
            ..Self::client(name, &[], "")
        }
    }
}

/// All.
pub fn all() -> Vec<Attack> {
    let groups = [floods(), sizes(), frames(), messages::all(), harmless()];
    groups.concat()
}

/// Much for little.
fn floods() -> Vec<Attack> {
    let bomb = [literal(0x40, (b"a", &[b'x'; 4000])), vec![0xbe; 10_000]].concat();
    let begun = frame(HEADERS, END_STREAM, 5, &block(&request("/never")));
    let small = |stream| {
        // GET https /, authority `a`.
        frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            stream,
            &[0x82, 0x87, 0x84, 1, 1, b'a'],
        )
    };
    let mut resets: Vec<_> = (0..RESETS)
        .flat_map(|number| [small(5 + 2 * number), reset(5 + 2 * number)])
        .collect();
    // The one too many is told, too: its request has been shown.
    let refused = resets.split_off(2 * SHOWN_RESETS as usize - 1);
    let gets: Vec<_> = (0..256).map(|number| get(5 + 2 * number, "/s")).collect();
    vec![
        Attack::client("bomb", &[frame(HEADERS, 5, 5, &bomb)], "size"),
        Attack::client(
            "continuations",
            &[
                begun.clone(),
                frame(CONTINUATION, 0, 5, b"").repeat(100_000),
            ],
            "size",
        ),
        Attack::client(
            "large-continuations",
            &[begun, frame(CONTINUATION, 0, 5, &[0; 16_384]).repeat(64)],
            "size",
        ),
        Attack::client("resets", &refused, "resets").behind(
            Who::Client,
            &resets,
            &["GET /"; SHOWN_RESETS as usize],
        ),
        Attack::client("streams", &gets[255..], "streams").behind(
            Who::Client,
            &gets[..255],
            &["GET /s"; 255],
        ),
    ]
}

/// Too large.
fn sizes() -> Vec<Attack> {
    let x: Field<'_> = (b"x", &[b'x'; 4000]);
    let large = [&request("/")[..], &[x; 16]].concat();
    let table = [integer(0x20, 5, 65_537), block(&request("/"))].concat();
    let post = [&[(&b":method"[..], &b"POST"[..])], &request("/post")[1..]].concat();
    let protocol = [
        &[
            (&b":method"[..], &b"CONNECT"[..]),
            (b":protocol", &[b'x'; 4000]),
        ],
        &request("/")[1..],
    ]
    .concat();
    let first = literal(0x40, (b"a", &[b'x'; 4000]));
    let first = [block(&request("/first")), first].concat();
    let list = [block(&request("/")), vec![0xbe; 17]].concat();
    vec![
        Attack::client("list", &[frame(HEADERS, 5, 7, &list)], "size").behind(
            Who::Client,
            &[frame(HEADERS, 5, 5, &first)],
            &["GET /first"],
        ),
        Attack::client("protocol", &[headers(5, false, &protocol)], "size"),
        Attack::client("frame", &[headers(5, true, &large)], "size"),
        Attack::client(
            "largest",
            &[vec![0xff, 0xff, 0xff, HEADERS, 5, 0, 0, 0, 5]],
            "size",
        ),
        Attack::client("content", &[data(5, true, &[0; 16_385])], "size").behind(
            Who::Client,
            &[headers(5, false, &post)],
            &["POST /post"],
        ),
        Attack::client("table", &[frame(HEADERS, 5, 5, &table)], "size").behind(
            Who::Server,
            &[settings(&[(TABLE_SIZE, u32::MAX)])],
            &[],
        ),
    ]
}

/// What no frames are, or none in this place.
fn frames() -> Vec<Attack> {
    let flags = END_STREAM | END_HEADERS;
    let of_client = [
        ("on-the-connection", get(0, "/"), "frames"),
        ("of-the-server", get(6, "/"), "frames"),
        ("never-begun", data(5, true, b"x"), "frames"),
        ("padding", frame(DATA, 8, 1, &[9, 0]), "frames"),
        (
            "continues-nothing",
            frame(CONTINUATION, 4, 5, b""),
            "frames",
        ),
        (
            "promise",
            frame(PUSH_PROMISE, 4, 1, &[0, 0, 0, 2]),
            "frames",
        ),
        (
            "no-entry",
            frame(HEADERS, flags, 5, &[0xff, 0x7f]),
            "header-block",
        ),
        (
            "integer",
            frame(HEADERS, flags, 5, &[0xff; 9]),
            "header-block",
        ),
        (
            "huffman",
            frame(HEADERS, flags, 5, &[0, 0x81, 0, 0]),
            "header-block",
        ),
        ("half", get(5, "/")[..20].to_vec(), "cut"),
    ];
    let of_client = of_client.into_iter();
    of_client
        .map(|(name, refused, why)| Attack::client(name, &[refused], why))
        .collect()
}

/// What looks as if, and is shown.
fn harmless() -> Vec<Attack> {
    let flips = [integer(0x20, 5, 0), integer(0x20, 5, 65_536)].concat();
    let flips = [flips.repeat(2000), block(&request("/flips"))].concat();
    let tables = [0, 65_536, 1, u32::MAX].map(|size| settings(&[(TABLE_SIZE, size)]));
    let upper: [Field<'_>; 2] = [(b"X-Bad-NAME", b"1"), (b"uSER-aGENT", b"a\x80\xff\tb")];
    let upper = [&request("/upper")[..], &upper].concat();
    let evil = "/x?HTTP/1.1%0d%0a%0d%0aGET%20/evil";
    vec![
        Attack::harmless("flips")
            .behind(Who::Server, &[tables.concat().repeat(2500)], &[])
            .behind(
                Who::Client,
                &[frame(HEADERS, 5, 5, &flips)],
                &["GET /flips"],
            ),
        Attack {
            shown_as: b"\r\nX-Bad-NAME: 1\r\nuSER-aGENT: a\x80\xff\tb\r\n",
            ..Attack::harmless("upper").behind(
                Who::Client,
                &[headers(5, true, &upper)],
                &["GET /upper"],
            )
        },
        Attack::harmless("quoted").behind(Who::Client, &[get(5, evil)], &[&format!("GET {evil}")]),
        Attack::harmless("settings").behind(
            Who::Client,
            &[settings(&[(TABLE_SIZE, 0)]).repeat(10_000)],
            &[],
        ),
    ]
}
