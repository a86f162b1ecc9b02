//! The examples of RFC 7541 appendix C, another decoder of the same blocks, and blocks that nobody should write.

use loona_hpack as other;
use proptest::prelude::*;

use super::{Decoder, FieldList, HpackError, huffman};

const MAX_LIST: usize = 64 << 10;
const MAX_TABLE: usize = 64 << 10;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| str::from_utf8(pair).unwrap());
    pairs
        .map(|pair| u8::from_str_radix(pair, 16).unwrap())
        .collect()
}

/// Name and value.
#[derive(Debug, PartialEq)]
struct Pair(Vec<u8>, Vec<u8>);

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<Pair>, HpackError> {
    let mut list = FieldList::new(MAX_LIST);
    decoder.decode(block, &mut list)?;
    let fields = list.iter();
    Ok(fields
        .map(|field| Pair(field.name.to_vec(), field.value.to_vec()))
        .collect())
}

/// Blocks of one direction, what they say, and the size of the table behind each.
fn check(mut decoder: Decoder, blocks: &[(&str, &str, usize)]) {
    for (block, meant, table_bytes) in blocks {
        let told = decode(&mut decoder, &hex(block)).unwrap();
        let told = told.iter().map(|Pair(name, value)| {
            format!(
                "{}: {}\n",
                str::from_utf8(name).unwrap(),
                str::from_utf8(value).unwrap()
            )
        });
        assert_eq!(told.collect::<String>(), *meant);
        assert_eq!(decoder.table_bytes(), *table_bytes);
    }
}

fn requests() -> [&'static str; 3] {
    [
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\n",
        ":method: GET\n:scheme: http\n:path: /\n:authority: www.example.com\ncache-control: no-cache\n",
        ":method: GET\n:scheme: https\n:path: /index.html\n:authority: www.example.com\ncustom-key: custom-value\n",
    ]
}

/// Appendix C.2 to C.4.
#[test]
fn requests_of_the_rfc() {
    let single = |block, meant, table_bytes| {
        check(Decoder::new(MAX_TABLE), &[(block, meant, table_bytes)]);
    };
    single(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        "custom-key: custom-header\n",
        55,
    );
    single(
        "040c 2f73 616d 706c 652f 7061 7468",
        ":path: /sample/path\n",
        0,
    );
    single(
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        "password: secret\n",
        0,
    );
    single("82", ":method: GET\n", 0);
    let [first, second, third] = requests();
    check(
        Decoder::new(MAX_TABLE),
        &[
            (
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                first,
                57,
            ),
            ("8286 84be 5808 6e6f 2d63 6163 6865", second, 110),
            (
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
                third,
                164,
            ),
        ],
    );
    check(
        Decoder::new(MAX_TABLE),
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", first, 57),
            ("8286 84be 5886 a8eb 1064 9cbf", second, 110),
            (
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
                third,
                164,
            ),
        ],
    );
}

/// Appendix C.5 and C.6: a table of 256 bytes, from which entries fall.
#[test]
fn responses_of_the_rfc() {
    let date = "date: Mon, 21 Oct 2013 20:13:21 GMT\n";
    let place = "location: https://www.example.com\n";
    let first = format!(":status: 302\ncache-control: private\n{date}{place}");
    let second = format!(":status: 307\ncache-control: private\n{date}{place}");
    let third = ":status: 200\ncache-control: private\ndate: Mon, 21 Oct 2013 20:13:22 GMT\n\
        location: https://www.example.com\ncontent-encoding: gzip\n\
        set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\n";
    // The example's connection has such a table from its begin; here it is asked for.
    let small = || {
        let mut decoder = Decoder::new(MAX_TABLE);
        assert!(decode(&mut decoder, &hex("3fe1 01")).unwrap().is_empty());
        decoder
    };
    check(
        small(),
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
                 6c65 2e63 6f6d",
                &first,
                222,
            ),
            ("4803 3330 37c1 c0bf", &second, 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e \
                 3d31",
                third,
                215,
            ),
        ],
    );
    check(
        small(),
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first,
                222,
            ),
            ("4883 640e ffc1 c0bf", &second, 222),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                third,
                215,
            ),
        ],
    );
}

#[test]
fn blocks_that_are_none() {
    let fails = |block: &str| decode(&mut Decoder::new(MAX_TABLE), &hex(block)).unwrap_err();
    assert_eq!(fails("80"), HpackError::Index(0));
    assert_eq!(fails("be"), HpackError::Index(62));
    assert_eq!(fails("7e 01 61"), HpackError::Index(62));
    assert_eq!(fails("40 03 61"), HpackError::Truncated);
    assert_eq!(fails("40 01 61"), HpackError::Truncated);
    assert_eq!(fails("82 20"), HpackError::LateTableSize);
    // 4,096 are agreed on where nobody has said more.
    assert!(decode(&mut Decoder::new(MAX_TABLE), &hex("3f e1 1f")).is_ok());
    assert_eq!(fails("3f e2 1f"), HpackError::TableSize(4097));
}

#[test]
fn what_was_ever_permitted_is_let_through() {
    let block = hex("3f e1 3f");
    let mut decoder = Decoder::new(MAX_TABLE);
    decoder.permit(8192);
    decoder.permit(0);
    assert!(decode(&mut decoder, &block).is_ok());
    let mut decoder = Decoder::new(8191);
    decoder.permit(usize::MAX);
    let refused = decode(&mut decoder, &block).unwrap_err();
    assert_eq!(refused, HpackError::TableSize(8192));
}

/// 16 KB that say 64 MB: one entry of 4,000 bytes, named again and again.
#[test]
fn a_bomb_stops_at_the_limit() {
    let mut block = hex("40 01 61 7f a1 1e");
    block.extend([b'x'; 4000]);
    block.extend([0xbe; 16_000]);
    let mut decoder = Decoder::new(MAX_TABLE);
    let mut list = FieldList::new(MAX_LIST);
    assert_eq!(decoder.decode(&block, &mut list), Err(HpackError::TooLarge));
    let told: usize = list
        .iter()
        .map(|field| field.name.len() + field.value.len() + 32)
        .sum();
    assert_eq!(told, 16 * 4033);
}

#[test]
fn a_field_larger_than_the_table_empties_it() {
    let mut decoder = Decoder::new(MAX_TABLE);
    let mut block = hex("3f 09 40 01 61 01 62");
    assert!(decode(&mut decoder, &block).is_ok());
    assert_eq!(decoder.table_bytes(), 34);
    block = hex("40 01 61 06 62 62 62 62 62 62 62");
    block.pop();
    assert!(decode(&mut decoder, &block).is_ok());
    assert_eq!(decoder.table_bytes(), 39);
    assert!(decode(&mut decoder, &hex("40 01 61 08 62 62 62 62 62 62 62 62")).is_ok());
    assert_eq!(decoder.table_bytes(), 0);
    assert_eq!(
        decode(&mut decoder, &[0xbe]).unwrap_err(),
        HpackError::Index(62)
    );
}

/// How a field is written.
#[derive(Clone, Debug)]
enum Written {
    Indexed(usize),
    /// The pattern in front (0x40 with indexing, 0x10 never, 0 without), the name's number or the name, the value.
    Literal(u8, Result<usize, String>, String, bool),
    Resize(usize),
}

fn integer(pattern: u8, prefix_bits: u32, mut value: usize, out: &mut Vec<u8>) {
    let most = (1 << prefix_bits) - 1;
    if value < most {
        return out.push(pattern | u8::try_from(value).unwrap());
    }
    out.push(pattern | u8::try_from(most).unwrap());
    value -= most;
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn text(text: &str, is_huffman: bool, out: &mut Vec<u8>) {
    let (pattern, bytes) = match is_huffman {
        true => (0x80, huffman::encode(text.as_bytes())),
        false => (0, text.as_bytes().to_vec()),
    };
    integer(pattern, 7, bytes.len(), out);
    out.extend(bytes);
}

fn block(fields: &[Written]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        match field {
            Written::Indexed(index) => integer(0x80, 7, *index, &mut out),
            Written::Resize(size) => integer(0x20, 5, *size, &mut out),
            Written::Literal(pattern, name, value, is_huffman) => {
                let prefix_bits = if *pattern == 0x40 { 6 } else { 4 };
                integer(
                    *pattern,
                    prefix_bits,
                    *name.as_ref().unwrap_or(&0),
                    &mut out,
                );
                if let Err(name) = name {
                    text(name, *is_huffman, &mut out);
                }
                text(value, *is_huffman, &mut out);
            }
        }
    }
    out
}

fn field() -> impl Strategy<Value = Written> {
    let name = prop_oneof![(1..75_usize).prop_map(Ok), "[a-zA-Z:]{0,40}".prop_map(Err)];
    let literal = (
        prop::sample::select(vec![0x40_u8, 0x40, 0x10, 0]),
        name,
        "\\PC{0,60}",
        any::<bool>(),
    );
    prop_oneof![
        (1..75_usize).prop_map(Written::Indexed),
        literal.prop_map(|(pattern, name, value, is_huffman)| Written::Literal(
            pattern, name, value, is_huffman
        )),
    ]
}

fn blocks() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (
        prop::option::of(0..300_usize),
        prop::collection::vec(field(), 0..12),
    );
    let one = one.prop_map(|(size, fields)| {
        // The other one refuses a change of size with nothing behind it.
        let size = size.filter(|_| !fields.is_empty());
        let mut all: Vec<Written> = size.map(Written::Resize).into_iter().collect();
        all.extend(fields);
        block(&all)
    });
    prop::collection::vec(one, 1..8)
}

/// What small fields take is counted, and given back.
#[test]
fn memory_of_a_table() {
    const FIELDS: usize = 1985;
    let mut decoder = Decoder::new(64 << 10);
    decoder.permit(64 << 10);
    let mut list = FieldList::new(1 << 20);
    // A table of 64 KiB, and fields of one byte.
    let grow = [0x3f, 0xe1, 0xff, 0x03];
    let fill = [&grow[..], &[0x40, 1, b'a', 0].repeat(FIELDS)].concat();
    decoder.decode(&fill, &mut list).unwrap();
    assert_eq!(decoder.table_bytes(), 33 * FIELDS);
    assert!(decoder.memory_bytes() >= (33 + 24) * FIELDS);
    decoder.decode(&[0x20], &mut list).unwrap();
    assert!(decoder.memory_bytes() < 1000, "{}", decoder.memory_bytes());
}

proptest! {
    /// Another decoder reads the same, block by block, as long as it reads.
    #[test]
    fn another_decoder_reads_the_same(blocks in blocks()) {
        let mut ours = Decoder::new(MAX_TABLE);
        let mut theirs = other::Decoder::new();
        for block in &blocks {
            let meant = theirs.decode(block);
            let told = decode(&mut ours, block);
            prop_assert_eq!(told.is_ok(), meant.is_ok(), "{:?} {:?}", told, meant);
            let (Ok(told), Ok(meant)) = (told, meant) else {
                break;
            };
            let meant = meant.into_iter().map(|(name, value)| Pair(name, value));
            let meant: Vec<_> = meant.collect();
            prop_assert_eq!(told, meant);
        }
    }

    /// Whatever is written: no more than the limits, and no panic.
    #[test]
    fn limits_hold(blocks: Vec<Vec<u8>>) {
        let mut decoder = Decoder::new(MAX_TABLE);
        let mut list = FieldList::new(200);
        for block in &blocks {
            let _ = decoder.decode(block, &mut list);
            let size: usize = list.iter().map(|field| field.name.len() + field.value.len() + 32).sum();
            prop_assert!(size <= 200);
            prop_assert!(decoder.table_bytes() <= 4096);
        }
    }
}
