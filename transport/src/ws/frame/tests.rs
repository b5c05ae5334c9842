#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    max_frame: 1 << 20,
    max_idle_frames_per_second: 128,
};
const MASK: [u8; 4] = [0xa1, 0x02, 0xf3, 0x44];

fn frame(opcode: Opcode, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    let mut out = Header::new(opcode, payload.len(), mask).as_slice().to_vec();
    push_masked(payload, mask.unwrap_or_default(), &mut out);
    out
}

fn decode(decoder: &mut Decoder, bytes: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut buf = bytes.to_vec();
    let kept = decoder.decode(Instant::now(), &mut buf)?;
    buf.truncate(kept);
    Ok(buf)
}

#[test]
fn the_examples_of_the_specification() {
    // RFC 6455 section 5.7, with the opcode for text changed to binary.
    let mut client = Decoder::new(Role::Client, LIMITS);
    let fragments = [
        0x02, 0x03, 0x48, 0x65, 0x6c, // not final
        0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f, // a ping in between
        0x80, 0x02, 0x6c, 0x6f,
    ];
    assert_eq!(decode(&mut client, &fragments).unwrap(), b"Hello");
    assert_eq!(client.take_pong().unwrap().as_slice(), b"Hello");
    assert!(client.take_pong().is_none());
    let mut server = Decoder::new(Role::Server, LIMITS);
    let masked = [
        0x82, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58,
    ];
    assert_eq!(decode(&mut server, &masked).unwrap(), b"Hello");
    assert_eq!(
        Header::new(Opcode::Binary, 256, None).as_slice(),
        [0x82, 0x7e, 0x01, 0x00]
    );
    assert_eq!(
        Header::new(Opcode::Binary, 65_536, None).as_slice(),
        [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]
    );
}

#[test]
fn only_the_last_ping_is_answered() {
    let mut client = Decoder::new(Role::Client, LIMITS);
    let mut pings = frame(Opcode::Ping, b"one", None);
    pings.extend(frame(Opcode::Ping, &[7; MAX_CONTROL], None));
    assert!(decode(&mut client, &pings).unwrap().is_empty());
    assert_eq!(client.take_pong().unwrap().as_slice(), [7; MAX_CONTROL]);
    assert!(client.take_pong().is_none());
}

#[test]
fn what_follows_a_close_is_ignored() {
    let mut client = Decoder::new(Role::Client, LIMITS);
    let mut bytes = frame(Opcode::Binary, b"last", None);
    bytes.extend(frame(Opcode::Close, Control::close(1000).as_slice(), None));
    bytes.extend([0xff; 40]);
    assert_eq!(decode(&mut client, &bytes).unwrap(), b"last");
    assert_eq!(client.closed(), Some(1000));
    assert!(decode(&mut client, &[0xff; 40]).unwrap().is_empty());
}

#[test]
fn idle_frames_are_counted_by_the_second() {
    let mut decoder = Decoder::new(Role::Client, LIMITS);
    let start = Instant::now();
    let mut empty = [0x02, 0x00];
    decoder.decode(start, &mut empty).unwrap();
    for round in 0..5 {
        let now = start + Duration::from_secs(round + 1);
        for _ in 0..128 {
            decoder.decode(now, &mut [0x00, 0x00]).unwrap();
        }
    }
    let now = start + Duration::from_millis(5_999);
    assert_eq!(
        decoder.decode(now, &mut [0x00, 0x00]),
        Err(FrameError::Flood)
    );
}

#[test]
fn a_long_frame_is_streamed_without_a_move() {
    let mut decoder = Decoder::new(Role::Server, LIMITS);
    let bytes = frame(Opcode::Binary, &[9; 300_000], Some(MASK));
    let mut rest = &bytes[..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let n = decoder.read_limit(1).min(100_000).min(rest.len() as u64) as usize;
        let mut read = rest[..n].to_vec();
        rest = &rest[n..];
        let kept = decoder.decode(Instant::now(), &mut read).unwrap();
        out.extend_from_slice(&read[..kept]);
    }
    assert_eq!(out, [9; 300_000]);
    // The first frame is not known to be long before its header is there.
    assert!(decoder.moved() <= 100_000, "{}", decoder.moved());
    let moved = decoder.moved();
    let n = decoder.read_limit(1) as usize;
    assert_eq!(n, MAX_HEADER);
    decoder
        .decode(Instant::now(), &mut bytes.clone()[..n])
        .unwrap();
    assert_eq!(decoder.moved(), moved);
}

proptest! {
    /// However the stream is cut, the same bytes come out.
    #[test]
    fn cuts_do_not_matter(
        parts in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..400), 0u8..4), 1..20),
        cuts in proptest::collection::vec(1usize..50, 1..40),
        mask in any::<[u8; 4]>(),
        server in any::<bool>(),
    ) {
        let (role, mask) = if server { (Role::Server, Some(mask)) } else { (Role::Client, None) };
        let (mut bytes, mut expected, mut open) = (Vec::new(), Vec::new(), false);
        for (payload, kind) in &parts {
            if *kind == 3 {
                bytes.extend(frame(Opcode::Ping, &payload[..payload.len().min(MAX_CONTROL)], mask));
                continue;
            }
            let opcode = if open { Opcode::Continuation } else { Opcode::Binary };
            let mut one = frame(opcode, payload, mask);
            open = *kind == 0;
            if open {
                one[0] &= !FIN;
            }
            bytes.extend(one);
            expected.extend_from_slice(payload);
        }
        let mut decoder = Decoder::new(role, LIMITS);
        let mut out = Vec::new();
        let mut rest = &bytes[..];
        for cut in cuts.iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            out.extend(decode(&mut decoder, now).unwrap());
            rest = later;
        }
        prop_assert_eq!(out, expected);
    }

    /// Nothing makes it panic or keep more than it was given.
    #[test]
    fn survives_anything(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), server in any::<bool>()) {
        let role = if server { Role::Server } else { Role::Client };
        let len = bytes.len();
        if let Ok(kept) = Decoder::new(role, LIMITS).decode(Instant::now(), &mut bytes) {
            prop_assert!(kept <= len);
        }
    }
}
