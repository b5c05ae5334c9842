//! Datagrams and hellos that make no sense.

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use barewire_tests::{
    attack::{
        net::next_source,
        rig::{Rig, Target},
    },
    full,
};
use rand::{Rng, RngExt};

use crate::client::{ChangeHello, Client, DATAGRAM, PATIENCE};

/// The longest datagram of Ethernet.
const LONGEST: usize = 1_472;

/// A long header as an Initial of `version` with connection ids of these lengths, whatever they claim, and random
/// bytes behind.
fn long_header(first: u8, version: u32, dcid: u8, scid: u8) -> Vec<u8> {
    let mut datagram = vec![0; DATAGRAM.into()];
    rand::rng().fill_bytes(&mut datagram);
    datagram[0] = first;
    datagram[1..5].copy_from_slice(&version.to_be_bytes());
    datagram[5] = dcid;
    let behind = 6 + usize::from(dcid);
    datagram[behind] = scid;
    // An empty token, and a length that fits.
    let token = behind + 1 + usize::from(scid);
    let rest = usize::from(DATAGRAM) - token - 3;
    let rest = 0x4000 | u16::try_from(rest).unwrap();
    datagram[token] = 0;
    datagram[token + 1..token + 3].copy_from_slice(&rest.to_be_bytes());
    datagram
}

const INITIAL: u8 = 0xc3;
const HANDSHAKE: u8 = 0xe3;
const RETRY: u8 = 0xf0;
const VERSION_1: u32 = 1;

/// Datagrams by name.
fn kinds(each: usize) -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let many = |make: &dyn Fn(usize) -> Vec<u8>| (0..each).map(make).collect();
    let random = |length: usize| {
        let mut datagram = vec![0; length];
        rand::rng().fill_bytes(&mut datagram);
        datagram
    };
    vec![
        (
            "single bytes",
            (0..=u8::MAX).map(|byte| vec![byte]).collect(),
        ),
        ("no bytes", vec![Vec::new(); 16]),
        (
            "random bytes of all lengths",
            many(&|nth| random(1 + nth % LONGEST)),
        ),
        (
            "short headers for nobody",
            many(&|_| {
                let mut datagram = random(rand::rng().random_range(20..LONGEST));
                datagram[0] = 0x40 | datagram[0] & 0x3f;
                datagram
            }),
        ),
        (
            "unknown versions",
            many(&|nth| long_header(INITIAL, 0xbaba_0000 + nth as u32, 8, 8)),
        ),
        (
            "version negotiation at a server",
            many(&|_| long_header(INITIAL, 0, 8, 8)),
        ),
        (
            "connection ids that are too long",
            many(&|nth| long_header(INITIAL, VERSION_1, 21 + (nth % 200) as u8, 8)),
        ),
        (
            "connection ids that are too short",
            many(&|nth| long_header(INITIAL, VERSION_1, (nth % 8) as u8, 0)),
        ),
        (
            "Initials that nobody sealed",
            many(&|_| long_header(INITIAL, VERSION_1, 8, 8)),
        ),
        (
            "Initials below 1,200 bytes",
            many(&|nth| {
                let mut datagram = long_header(INITIAL, VERSION_1, 8, 8);
                datagram.truncate(40 + nth % 1_100);
                datagram
            }),
        ),
        (
            "handshake packets for nobody",
            many(&|_| long_header(HANDSHAKE, VERSION_1, 8, 8)),
        ),
        (
            "Retry at a server",
            many(&|_| long_header(RETRY, VERSION_1, 8, 8)),
        ),
    ]
}

/// Throws datagrams; the bytes thrown and the answers.
fn throw(target: Target, datagrams: &[Vec<u8>]) -> (usize, Vec<Vec<u8>>) {
    let socket = UdpSocket::bind((next_source(), 0)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let (mut thrown, mut answers) = (0, Vec::new());
    let mut buffer = [0; 2_048];
    for some in datagrams.chunks(100) {
        for datagram in some {
            socket.send_to(datagram, target.socket).ok();
            thrown += datagram.len();
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            answers.push(buffer[..length].to_vec());
        }
    }
    (thrown, answers)
}

/// The versions that a version negotiation offers.
fn offered(datagram: &[u8]) -> Option<Vec<u32>> {
    let ids = datagram.get(5..)?;
    let dcid = usize::from(*ids.first()?);
    let scid = usize::from(*ids.get(1 + dcid)?);
    let versions = ids.get(2 + dcid + scid..)?;
    let is_one = datagram[0] & 0x80 != 0 && datagram[1..5] == [0; 4];
    let number = |four: &[u8]| u32::from_be_bytes(four.try_into().unwrap());
    is_one.then(|| versions.chunks_exact(4).map(number).collect())
}

/// Row 21: datagrams that are no QUIC.
#[test]
fn datagrams_that_make_no_sense() {
    let each = if full() { 50_000 } else { 1_000 };
    let rig = Rig::quic("row 21", "garbage");
    rig.victim.reset_peak();
    for (name, datagrams) in kinds(each) {
        let (thrown, answers) = rig.strike(|target| throw(target, &datagrams));
        let back: usize = answers.iter().map(Vec::len).sum();
        println!(
            "row 21: {} datagrams, {name}: {thrown} bytes, {} answers of {back} bytes",
            datagrams.len(),
            answers.len()
        );
        assert!(back <= thrown * 3, "{name}");
        if name == "unknown versions" {
            let versions = answers.iter().find_map(|answer| offered(answer));
            let versions = versions.expect("the version that is spoken is named");
            assert!(versions.contains(&VERSION_1), "{versions:x?}");
            assert!(answers.iter().all(|answer| offered(answer).is_some()));
        }
    }
    let grown = rig.victim.peak_kib() - rig.before().rss_kib;
    println!("row 21: at most {grown} KiB more");
    let some = kinds(100);
    rig.standard(|target| {
        for (_, datagrams) in &some {
            throw(target, datagrams);
        }
    });
    rig.finish(None);
}

/// The extension of QUIC's transport parameters.
const PARAMETERS: u16 = 0x39;

/// Changes the transport parameters in a hello; `None` takes the extension out.
fn change_parameters(hello: &mut Vec<u8>, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
    // Type and length, version, random.
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    at += 1 + usize::from(hello[at]);
    let extensions = at;
    at += 2;
    loop {
        let kind = u16::from_be_bytes([hello[at], hello[at + 1]]);
        let length = usize::from(u16::from_be_bytes([hello[at + 2], hello[at + 3]]));
        let end = at + 4 + length;
        if kind == PARAMETERS {
            let mut new = Vec::new();
            if let Some(value) = change(hello[at + 4..end].to_vec()) {
                new.extend(PARAMETERS.to_be_bytes());
                new.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
                new.extend(value);
            }
            hello.splice(at..end, new);
            break;
        }
        at = end;
    }
    let length = u16::try_from(hello.len() - extensions - 2).unwrap();
    hello[extensions..extensions + 2].copy_from_slice(&length.to_be_bytes());
    let length = u32::try_from(hello.len() - 4).unwrap();
    hello[1..4].copy_from_slice(&length.to_be_bytes()[1..]);
}

/// A parameter of an id below 64 and a value below 64 bytes.
fn parameter(id: u8, value: &[u8]) -> Vec<u8> {
    [&[id, u8::try_from(value.len()).unwrap()], value].concat()
}

/// The parameters without `id`.
fn without(parameters: &[u8], id: u8) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut rest = parameters;
    while !rest.is_empty() {
        let (key, key_length) = varint(rest);
        let (length, length_length) = varint(&rest[key_length..]);
        let (this, next) = rest.split_at(key_length + length_length + length as usize);
        if key != u64::from(id) {
            kept.extend_from_slice(this);
        }
        rest = next;
    }
    kept
}

fn varint(bytes: &[u8]) -> (u64, usize) {
    let length = 1 << (bytes[0] >> 6);
    let rest = bytes[1..length].iter();
    let value = rest.fold(u64::from(bytes[0] & 0x3f), |sum, byte| {
        sum << 8 | u64::from(*byte)
    });
    (value, length)
}

const TRANSPORT_PARAMETER_ERROR: u64 = 8;
/// The alert `missing_extension`, as RFC 9001 has it.
const MISSING_EXTENSION: u64 = 0x100 + 109;

type Change = fn(Vec<u8>) -> Option<Vec<u8>>;

/// Hellos by name, with the code each is refused with.
const HELLOS: [(&str, Change, u64); 18] = [
    ("no parameters", |_| None, MISSING_EXTENSION),
    ("empty", |_| Some(Vec::new()), TRANSPORT_PARAMETER_ERROR),
    (
        "one twice",
        |all| Some([without(&all, 4), parameter(4, &[1]), parameter(4, &[1])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "ack_delay_exponent of 21",
        |all| Some([without(&all, 0x0a), parameter(0x0a, &[21])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "max_ack_delay of 2^14",
        |all| Some([without(&all, 0x0b), parameter(0x0b, &[0x80, 0, 0x40, 0])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "max_udp_payload_size of 1,199",
        |all| Some([without(&all, 3), parameter(3, &[0x44, 0xaf])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "active_connection_id_limit of 1",
        |all| Some([without(&all, 0x0e), parameter(0x0e, &[1])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "initial_max_streams_bidi above 2^60",
        |all| {
            let much = [0xd0, 0, 0, 0, 0, 0, 0, 1];
            Some([without(&all, 8), parameter(8, &much)].concat())
        },
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "original_destination_connection_id of a client",
        |all| Some([all, parameter(0, &[7; 8])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "stateless_reset_token of a client",
        |all| Some([all, parameter(2, &[7; 16])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "preferred_address of a client",
        |all| {
            let mut address = vec![7; 4 + 2 + 16 + 2];
            address.push(8);
            address.extend([7; 8 + 16]);
            Some([all, parameter(0x0d, &address)].concat())
        },
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "retry_source_connection_id of a client",
        |all| Some([all, parameter(0x10, &[7; 8])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "initial_source_connection_id of another",
        |all| Some([without(&all, 0x0f), parameter(0x0f, &[7; 8])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "no initial_source_connection_id",
        |all| Some(without(&all, 0x0f)),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "a connection id of 21 bytes",
        |all| Some([without(&all, 0x0f), parameter(0x0f, &[7; 21])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "a length beyond the end",
        |all| Some([all, vec![0x3f, 0x3f, 1]].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "a number longer than its parameter",
        |all| Some([without(&all, 4), parameter(4, &[0xc0, 0, 0])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
    (
        "disable_active_migration with a value",
        |all| Some([without(&all, 0x0c), parameter(0x0c, &[1])].concat()),
        TRANSPORT_PARAMETER_ERROR,
    ),
];

fn refused_hello(target: Target, change: Change) -> Option<u64> {
    let change: ChangeHello = Box::new(move |hello| change_parameters(hello, change));
    let mut client = Client::begin(target, next_source(), Some(change));
    if target.sink {
        client.step();
        return None;
    }
    client.until(PATIENCE, |client| client.lost.is_some() || client.connected);
    assert!(!client.connected, "it was accepted");
    client.refusal()
}

/// Row 21: hellos whose transport parameters break the rules of RFC 9000, 18.
#[test]
fn bad_transport_parameters_are_refused() {
    let rounds = if full() { 20 } else { 1 };
    let rig = Rig::quic("row 21", "parameters");
    for (name, change, code) in HELLOS {
        let begun = Instant::now();
        for _ in 0..rounds {
            let refused = rig.strike(|target| refused_hello(target, change));
            assert_eq!(refused, Some(code), "{name}");
        }
        println!(
            "row 21: {name}: refused with {code:#x} after {:.1?}",
            begun.elapsed() / rounds
        );
    }
    rig.standard(|target| {
        for (_, change, _) in HELLOS {
            refused_hello(target, change);
        }
    });
    rig.finish(Some("upgrade_failed"));
}

/// The alert `protocol_version`, as RFC 9001 has it.
const PROTOCOL_VERSION: u64 = 0x100 + 70;

/// A hello that offers TLS 1.2 in the place of 1.3.
#[test]
fn older_tls_is_refused() {
    let rig = Rig::quic("row 14", "version");
    let refused = rig.strike(|target| {
        let change: ChangeHello = Box::new(|hello| {
            // The extension supported_versions with one version.
            let only = [0, 43, 0, 3, 2, 3, 4];
            let mut found = hello.windows(only.len());
            let at = found.position(|window| window == only).unwrap();
            hello[at + only.len() - 1] = 3;
        });
        let mut client = Client::begin(target, next_source(), Some(change));
        client.until(PATIENCE, |client| client.lost.is_some() || client.connected);
        client.refusal()
    });
    println!("row 14: a hello of TLS 1.2 over QUIC is refused with {refused:x?}");
    assert_eq!(refused, Some(PROTOCOL_VERSION));
    rig.finish(Some("upgrade_failed"));
}
