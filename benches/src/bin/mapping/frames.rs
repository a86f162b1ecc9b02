//! Handshakes, as frames.

/// A SYN, a ClientHello of the size of curl's, and a ServerHello; the random tells the number.
pub(crate) fn handshake(number: u32) -> [Vec<u8>; 3] {
    let [_, b, c, d] = number.to_be_bytes();
    let client = [10, b, c, d];
    let server = [192, 0, 2, 1];
    let mut random = [7; 32];
    random[..4].copy_from_slice(&number.to_be_bytes());
    let hello = |kind: u8, body: usize| {
        let mut message = vec![kind, 0];
        message.extend(u16_bytes(body));
        message.extend([3, 3]);
        message.extend(random);
        message
    };
    // An empty session id, 30 cipher suites, no compression, and one extension of padding.
    let mut asks = hello(1, 508);
    asks.extend([0, 0, 60]);
    asks.extend((0..30u8).flat_map(|n| [0xc0, n]));
    asks.extend([1, 0]);
    let rest = 508 + 4 - asks.len() - 2;
    asks.extend(u16_bytes(rest));
    asks.extend([0, 21]);
    asks.extend(u16_bytes(rest - 4));
    asks.resize(512, 0);
    let mut answers = hello(2, 118);
    answers.resize(122, 0);
    let record = |message: Vec<u8>| [&[22, 3, 1][..], &u16_bytes(message.len()), &message].concat();
    [
        frame(client, server, (40_000, 443), (0, 2), &[]),
        frame(client, server, (40_000, 443), (1, 0x18), &record(asks)),
        frame(server, client, (443, 40_000), (1, 0x18), &record(answers)),
    ]
}

fn u16_bytes(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn frame(
    from: [u8; 4],
    to: [u8; 4],
    ports: (u16, u16),
    (sequence, flags): (u32, u8),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0]);
    frame.extend(u16_bytes(40 + payload.len()));
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 0, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}
