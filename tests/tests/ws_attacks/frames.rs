//! Frames that break the protocol, and floods of such as do not.

use std::time::{Duration, Instant};

use crate::{
    client::{Client, Got, MASK, frame},
    victim::Victim,
};

/// What a case must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    /// A close frame with this code.
    Close(u16),
    /// A close frame without a code.
    CloseWithoutCode,
    /// The connection goes on: a ping is answered.
    Alive,
}
use Want::{Alive, Close, CloseWithoutCode};

/// The first line of multistream-select, so that the layer above has nothing to complain about.
const LINE: &[u8] = b"\x13/multistream/1.0.0\n";

/// A header with an explicit length form and no payload behind it.
fn header(first: u8, form: u8, len: u64) -> Vec<u8> {
    let mut out = vec![first, 0x80 | form];
    match form {
        126 => out.extend((len as u16).to_be_bytes()),
        127 => out.extend(len.to_be_bytes()),
        _ => {}
    }
    out.extend(MASK);
    out
}

fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// As the Autobahn suite orders them: framing, pings, reserved bits, opcodes, fragments, closes.
fn table() -> Vec<(String, Vec<u8>, Want)> {
    let mut all: Vec<(String, Vec<u8>, Want)> = Vec::new();
    let mut case = |name: &str, bytes: Vec<u8>, want: Want| all.push((name.into(), bytes, want));
    case("binary", frame(0x82, LINE), Alive);
    case("empty binary", frame(0x82, b""), Alive);
    case("text", frame(0x81, b"hello"), Close(1003));
    case("empty text", frame(0x81, b""), Close(1003));
    case("text fragment", frame(0x01, b"hello"), Close(1003));
    case("length 2^63", header(0x82, 127, 1 << 63), Close(1002));
    case("length 2^64-1", header(0x82, 127, u64::MAX), Close(1002));
    case("length 2^62", header(0x82, 127, 1 << 62), Close(1009));
    case(
        "length 256 MiB + 1",
        header(0x82, 127, (256 << 20) + 1),
        Close(1009),
    );
    case("length 5 in 16 bits", header(0x82, 126, 5), Close(1002));
    case("length 125 in 64 bits", header(0x82, 127, 125), Close(1002));
    case(
        "length 65535 in 64 bits",
        header(0x82, 127, 65_535),
        Close(1002),
    );
    case(
        "unmasked",
        [&[0x82, LINE.len() as u8], LINE].concat(),
        Close(1002),
    );
    case("unmasked ping", vec![0x89, 0], Close(1002));
    case("unmasked close", vec![0x88, 2, 3, 232], Close(1002));
    case("ping", frame(0x89, b"abc"), Alive);
    case("empty ping", frame(0x89, b""), Alive);
    case("ping of 125", frame(0x89, &[0xfe; 125]), Alive);
    case("ping of 126", frame(0x89, &[0xfe; 126]), Close(1002));
    case("ping of 65536", frame(0x89, &[0xfe; 65_536]), Close(1002));
    case("fragmented ping", frame(0x09, b"abc"), Close(1002));
    case("unasked pong", frame(0x8a, b"abc"), Alive);
    case("pong of 126", frame(0x8a, &[1; 126]), Close(1002));
    case("fragmented pong", frame(0x0a, b""), Close(1002));
    for rsv in 1..=7u8 {
        case(
            &format!("reserved bits {rsv:03b}"),
            frame(0x82 | rsv << 4, LINE),
            Close(1002),
        );
    }
    case("reserved bit on a ping", frame(0xc9, b""), Close(1002));
    case(
        "reserved bit on a close",
        frame(0xc8, &[3, 232]),
        Close(1002),
    );
    for opcode in (3..=7).chain(11..=15) {
        case(
            &format!("opcode {opcode}"),
            frame(0x80 | opcode, b""),
            Close(1002),
        );
    }
    let (one, two) = LINE.split_at(7);
    let fragments = [frame(0x02, one), frame(0x80, two)];
    case("two fragments", fragments.concat(), Alive);
    let bytes: Vec<u8> = LINE
        .iter()
        .enumerate()
        .flat_map(|(i, byte)| frame(u8::from(i == 0) * 2, &[*byte]))
        .collect();
    case("fragments of a byte", bytes, Alive);
    let with_ping = [frame(0x02, one), frame(0x89, b"x"), frame(0x80, two)];
    case("ping between fragments", with_ping.concat(), Alive);
    let with_pong = [frame(0x02, one), frame(0x8a, b"x"), frame(0x80, two)];
    case("pong between fragments", with_pong.concat(), Alive);
    case("continuation of nothing", frame(0x80, one), Close(1002));
    case(
        "unfinished continuation of nothing",
        frame(0x00, one),
        Close(1002),
    );
    let after = [frame(0x82, LINE), frame(0x80, b"")];
    case(
        "continuation after a whole message",
        after.concat(),
        Close(1002),
    );
    let inside = [frame(0x02, one), frame(0x82, two)];
    case("message inside a message", inside.concat(), Close(1002));
    let inside = [frame(0x02, one), frame(0x81, two)];
    case("text inside a message", inside.concat(), Close(1003));
    let inside = [frame(0x02, one), close(1000, b"")];
    case("close inside a message", inside.concat(), Close(1000));
    case("close 1000", close(1000, b""), Close(1000));
    case("close 1000 with a reason", close(1000, b"bye"), Close(1000));
    case("close without a code", frame(0x88, b""), CloseWithoutCode);
    case("close with one byte", frame(0x88, &[3]), Close(1002));
    case(
        "close with 123 bytes of reason",
        close(1000, &[b'a'; 123]),
        Close(1000),
    );
    case(
        "close with 124 bytes of reason",
        close(1000, &[b'a'; 124]),
        Close(1002),
    );
    case(
        "close with a reason in no UTF-8",
        close(1000, &[0xce, 0xba, 0xff]),
        Close(1007),
    );
    for code in [1001, 1002, 1003, 1007, 1011, 3000, 3999, 4000, 4999] {
        case(&format!("close {code}"), close(code, b""), Close(code));
    }
    for code in [
        0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65_535,
    ] {
        case(&format!("close {code}"), close(code, b""), Close(1002));
    }
    all
}

async fn outcome(port: u16, bytes: &[u8], want: Want, cut: bool) -> Result<(), String> {
    let mut client = Client::open(port).await;
    if cut {
        for byte in bytes.chunks(1) {
            client.send(byte).await;
        }
    } else {
        client.send(bytes).await;
    }
    if want == Alive {
        client.send(&frame(0x89, b"still there?")).await;
    }
    loop {
        match (client.next().await, want) {
            (Got::Pong(text), Alive) if text == b"still there?" => return Ok(()),
            // Answers to what the case itself contains.
            (Got::Pong(_) | Got::Binary, _) => {}
            (Got::Close(None), CloseWithoutCode) => break,
            (Got::Close(Some(code)), Close(wanted)) if code == wanted => break,
            (got, _) => return Err(format!("wanted {want:?}, got {got:?}")),
        }
    }
    match client.next().await {
        Got::End => Ok(()),
        more => Err(format!("{more:?} behind the close")),
    }
}

#[tokio::test]
async fn every_frame_has_the_right_answer() {
    let victim = Victim::start(&[]).await;
    let table = table();
    let (mut right, mut wrong) = (0, Vec::new());
    for (name, bytes, want) in &table {
        for cut in [false, true] {
            // A long case in single bytes would only take time.
            if cut && bytes.len() > 1_000 {
                continue;
            }
            match outcome(victim.port, bytes, *want, cut).await {
                Ok(()) => right += 1,
                Err(cause) => wrong.push(format!("{name} (cut: {cut}): {cause}")),
            }
        }
    }
    println!(
        "row 17: {} cases, whole and in single bytes: {right} of {} answered right",
        table.len(),
        right + wrong.len()
    );
    victim.stop().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn an_announced_length_costs_nothing() {
    let victim = Victim::start(&[]).await;
    let mut held = Vec::new();
    // No more than may be in their upgrade at once.
    let count = 60;
    Client::open(victim.port).await;
    let before = victim.rss_kib();
    for _ in 0..count {
        let mut client = Client::open(victim.port).await;
        let mut bytes = header(0x82, 127, 256 << 20);
        bytes.extend(LINE.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
        client.send(&bytes).await;
        assert_eq!(client.next().await, Got::Binary);
        held.push(client);
    }
    let growth = victim.rss_kib() - before;
    println!(
        "row 17: {count} connections that announce 256 MiB each: {:.1} KiB per connection",
        growth as f64 / f64::from(count)
    );
    assert!(growth < i64::from(count) * 1024, "{growth} KiB");
    drop(held);
    victim.stop().await;
}

/// Sends `unit` over and over until the victim closes, and returns the close code, how many were
/// taken and the pongs that came back.
async fn flood(port: u16, opening: &[u8], unit: &[u8], limit: usize) -> (Got, usize, usize) {
    use tokio::io::AsyncWriteExt;
    let Client { socket } = Client::open(port).await;
    let (reader, mut writer) = socket.into_split();
    let batch = unit.repeat(1000);
    let opening = opening.to_vec();
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        drop(writer.write_all(&opening).await);
        while sent < limit && writer.write_all(&batch).await.is_ok() {
            sent += 1000;
        }
        (sent, writer)
    });
    let mut pongs = 0;
    let socket = reader;
    let mut reader = Frames(socket);
    let end = loop {
        match reader.next().await {
            Got::Pong(_) => pongs += 1,
            Got::Binary => {}
            end => break end,
        }
    };
    let (sent, _writer) = sending.await.unwrap();
    (end, sent, pongs)
}

/// The reading half of a [`Client`].
struct Frames(tokio::net::tcp::OwnedReadHalf);

impl Frames {
    async fn next(&mut self) -> Got {
        use tokio::io::AsyncReadExt;
        let mut head = [0; 2];
        if self.0.read_exact(&mut head).await.is_err() {
            return Got::End;
        }
        let mut payload = vec![0; usize::from(head[1])];
        if self.0.read_exact(&mut payload).await.is_err() {
            return Got::End;
        }
        match head[0] & 0x0f {
            8 => Got::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            10 => Got::Pong(payload),
            _ => Got::Binary,
        }
    }
}

#[tokio::test]
async fn floods_are_cut_off() {
    let victim = Victim::start(&[]).await;
    let (rss, cpu) = (victim.rss_kib(), victim.cpu());
    for (name, opening, unit) in [
        ("empty continuations", frame(0x02, b""), frame(0x00, b"")),
        ("empty messages", Vec::new(), frame(0x82, b"")),
        ("pings of 125 bytes", Vec::new(), frame(0x89, &[0xaa; 125])),
        ("pongs", Vec::new(), frame(0x8a, b"x")),
    ] {
        let begun = Instant::now();
        let (end, sent, pongs) = flood(victim.port, &opening, &unit, 1_000_000).await;
        println!(
            "row 18: {name}: {end:?} after {:?}, {sent} handed to the socket, {pongs} pongs back",
            begun.elapsed()
        );
        assert_eq!(end, Got::Close(Some(1008)), "{name}");
        assert!(pongs <= 128, "{pongs} pongs");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
    let grown = victim.rss_kib() - rss;
    println!(
        "row 18: four floods cost {:?} of processor time and {grown} KiB",
        victim.cpu() - cpu
    );
    assert!(grown < 16 * 1024, "{grown} KiB");
    victim.stop().await;
}
