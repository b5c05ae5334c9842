#![allow(clippy::unwrap_used, reason = "tests")]

use std::{borrow::Cow, net::Ipv6Addr, time::Instant};

use proptest::prelude::*;

use super::*;

const PEER: &str = "12D3KooWBVEAmRUWhTq3prwgwMFRThjTS6k1dQ2o7zvBvHtiWa2R";

fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn parse(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// Text and binary forms as go-multiaddr has them, and texts that it refuses.
#[test]
fn agrees_with_go_multiaddr() {
    let (mut accepted, mut refused) = (0, 0);
    for line in include_str!("../../testdata/multiaddrs.txt").lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        match fields[..] {
            ["ok", text, binary, canonical] => {
                let address: Multiaddr = text
                    .parse()
                    .unwrap_or_else(|error| panic!("{text}: {error}"));
                assert_eq!(address.as_bytes(), hex(binary), "{text}");
                assert_eq!(address.to_string(), canonical);
                assert_eq!(Multiaddr::from_bytes(&hex(binary)), Ok(address));
                accepted += 1;
            }
            ["bad", text] => {
                assert!(text.parse::<Multiaddr>().is_err(), "{text}");
                refused += 1;
            }
            _ => assert!(line.starts_with('#'), "{line}"),
        }
    }
    assert!(accepted >= 45 && refused >= 45, "{accepted} {refused}");
}

#[test]
fn the_table_is_sorted_and_every_component_is_in_the_enum() {
    assert!(component::TABLE.is_sorted_by(|a, b| a.code < b.code));
    for row in &component::TABLE {
        let value = sample(row.kind);
        let component = Component { row, value: &value };
        component.check().unwrap();
        let protocol = Protocol::from_component(&component).unwrap();
        assert_eq!((protocol.code(), protocol.name()), (row.code, row.name));
        assert_eq!(protocol.to_string(), component.to_string());
        let mut bytes = Vec::new();
        component.write(&mut bytes);
        let address = Multiaddr::from_bytes(&bytes).unwrap();
        assert_eq!(parse(&address.to_string()), address);
        assert_eq!(Multiaddr::empty().with(protocol.into_owned()), Ok(address));
        // Every shorter form is refused.
        for end in 0..bytes.len() {
            assert!(
                Multiaddr::from_bytes(&bytes[..end]).is_err(),
                "{} {end}",
                row.name
            );
        }
    }
}

/// A valid value of each kind.
fn sample(kind: Kind) -> Vec<u8> {
    match kind {
        Kind::Flag => vec![],
        Kind::Ip4 => vec![192, 0, 2, 1],
        Kind::Ip6 => Ipv6Addr::LOCALHOST.octets().to_vec(),
        Kind::Port => vec![0x0f, 0xa1],
        Kind::U8 => vec![24],
        Kind::U64 => 7u64.to_be_bytes().to_vec(),
        Kind::Name => b"example.com".to_vec(),
        Kind::Path => b"/run/socket".to_vec(),
        Kind::Escaped => b"/a path?%".to_vec(),
        Kind::Peer => PEER.parse::<PeerId>().unwrap().as_bytes().to_vec(),
        Kind::Hash => [&[0x12, 0x20][..], &[7; 32]].concat(),
        Kind::Onion => vec![1; 12],
        Kind::Onion3 => vec![1; 37],
        Kind::Garlic64 => vec![9; 391],
        Kind::Garlic32 => vec![9; 32],
    }
}

#[test]
fn values_that_text_could_not_carry_are_refused_in_binary() {
    for (bytes, error) in [
        (&b""[..], MultiaddrError::Empty),
        (b"\x04\x7f\x00\x00", MultiaddrError::Truncated),
        (b"\x35\x00", MultiaddrError::InvalidValue("dns")),
        (b"\x35\x03a/b", MultiaddrError::InvalidValue("dns")),
        (b"\x35\x03a\x1bb", MultiaddrError::InvalidValue("dns")),
        (b"\x35\x01\xff", MultiaddrError::InvalidValue("dns")),
        (
            b"\x35\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            MultiaddrError::Truncated,
        ),
        (
            b"\x35\x80\x00",
            MultiaddrError::Varint(VarintError::NotMinimal),
        ),
        (b"\x90\x03\x01/", MultiaddrError::InvalidValue("unix")),
        (b"\x90\x03\x02ab", MultiaddrError::InvalidValue("unix")),
        (b"\x90\x03\x03/a/", MultiaddrError::InvalidValue("unix")),
        (
            b"\x90\x03\x02/a\x06\x00\x01",
            MultiaddrError::NotLast("unix"),
        ),
        (b"\xa5\x03\x00", MultiaddrError::InvalidValue("p2p")),
        (b"\xa5\x03\x02\x12\x20", MultiaddrError::InvalidValue("p2p")),
        (b"\xe1\x03\x00", MultiaddrError::InvalidValue("http-path")),
        (
            b"\xd2\x03\x01\x12",
            MultiaddrError::InvalidValue("certhash"),
        ),
        (
            b"\xbc\x03aaaaaaaaaa\x00\x00",
            MultiaddrError::InvalidValue("onion"),
        ),
        (b"\xbe\x03\x01a", MultiaddrError::InvalidValue("garlic64")),
        (b"\xbf\x03\x01a", MultiaddrError::InvalidValue("garlic32")),
        (b"\xff\x7f", MultiaddrError::UnknownCode(0x3fff)),
        (
            b"\x80\x80\x80\x80\x08",
            MultiaddrError::UnknownCode(1 << 31),
        ),
        (
            b"\x84\x00\x7f\x00\x00\x01",
            MultiaddrError::Varint(VarintError::NotMinimal),
        ),
        (&[0xff; 20], MultiaddrError::Varint(VarintError::TooLong)),
    ] {
        assert_eq!(Multiaddr::from_bytes(bytes), Err(error), "{bytes:?}");
    }
}

#[test]
fn limits() {
    let flags = |count: usize| "/ws".repeat(count);
    assert!(flags(MAX_COMPONENTS).parse::<Multiaddr>().is_ok());
    assert_eq!(
        flags(17).parse::<Multiaddr>(),
        Err(MultiaddrError::TooManyComponents)
    );
    let binary = b"\xdd\x03".repeat(17);
    assert_eq!(
        Multiaddr::from_bytes(&binary),
        Err(MultiaddrError::TooManyComponents)
    );
    let longest = format!("/dns/{}", "a".repeat(MAX_LEN - 3));
    let address = parse(&longest);
    assert_eq!(address.as_bytes().len(), MAX_LEN);
    assert_eq!(
        address.clone().with(Protocol::Ws),
        Err(MultiaddrError::TooLong)
    );
    assert_eq!(
        format!("{longest}a").parse::<Multiaddr>(),
        Err(MultiaddrError::TooLong)
    );
    let bytes = [address.as_bytes(), b"\xdd\x03"].concat();
    assert_eq!(Multiaddr::from_bytes(&bytes), Err(MultiaddrError::TooLong));
    assert_eq!(
        "/".repeat(9000).parse::<Multiaddr>(),
        Err(MultiaddrError::TooLong)
    );
    let full = parse(&flags(MAX_COMPONENTS));
    let peer: PeerId = PEER.parse().unwrap();
    assert_eq!(full.with_peer(peer), Err(MultiaddrError::TooManyComponents));
}

/// Ten thousand components, nested circuits and megabytes of text cost nothing.
#[test]
fn hostile_addresses_are_refused_cheaply() {
    let circuit = format!("/p2p/{PEER}/p2p-circuit");
    let mut nested = Multiaddr::empty();
    for protocol in parse(&circuit).iter().cycle().take(16) {
        nested.push(protocol).unwrap();
    }
    let hostile: Vec<(&str, Vec<u8>)> = vec![
        ("10^4 components", b"\xdd\x03".repeat(10_000)),
        ("10^4 circuits", b"\xa2\x02".repeat(10_000)),
        ("nested relays", [nested.as_bytes(), b"\xa2\x02"].concat()),
        ("4 GiB name", b"\x35\xff\xff\xff\xff\x0f".to_vec()),
        ("1 MiB of zeros", vec![0; 1 << 20]),
        ("unknown code", b"\xff\xff\x03".to_vec()),
    ];
    for (name, bytes) in &hostile {
        let start = Instant::now();
        for _ in 0..100 {
            assert!(Multiaddr::from_bytes(bytes).is_err(), "{name}");
        }
        println!("attack row 7: {name}: {:?}", start.elapsed() / 100);
    }
    let texts = [
        ("text of 10^4 components", "/ws".repeat(10_000)),
        ("1 MiB of base58", format!("/p2p/1{}", "z".repeat(1 << 20))),
        (
            "8 KiB of base36",
            format!("/certhash/k{}", "z".repeat(8000)),
        ),
        (
            "8 KiB of base58",
            format!("/certhash/z{}", "z".repeat(8000)),
        ),
    ];
    for (name, text) in &texts {
        let start = Instant::now();
        assert!(text.parse::<Multiaddr>().is_err(), "{name}");
        println!("attack row 7: {name}: {:?}", start.elapsed());
    }
}

#[test]
fn socket_addresses() {
    for text in ["192.0.2.1:4001", "[2001:db8::1]:0"] {
        let socket: SocketAddr = text.parse().unwrap();
        let address = Multiaddr::tcp(socket);
        assert_eq!(
            Multiaddr::from_bytes(address.as_bytes()).as_ref(),
            Ok(&address)
        );
        assert_eq!(address.to_tcp(), Some((socket, None)));
        let peer: PeerId = PEER.parse().unwrap();
        let with_peer = address.clone().with_peer(peer).unwrap();
        assert_eq!(with_peer.to_tcp(), Some((socket, Some(peer))));
        assert_eq!(with_peer.without_peer(), address);
    }
    for text in [
        "/ip4/192.0.2.1",
        "/ip4/192.0.2.1/udp/1",
        "/dns/a/tcp/1",
        "/ip4/192.0.2.1/tcp/1/ws",
        &format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit"),
        &format!("/p2p/{PEER}"),
    ] {
        assert_eq!(parse(text).to_tcp(), None, "{text}");
    }
}

#[test]
fn quic_addresses_are_socket_addresses() {
    for text in [
        "/ip4/192.0.2.1/udp/4001/quic-v1",
        "/ip6/2001:db8::1/udp/1/quic-v1",
    ] {
        let address = parse(text);
        let (socket, None) = address.to_quic().unwrap() else {
            panic!("{text} names no peer");
        };
        assert_eq!(Multiaddr::quic(socket), address);
        assert_eq!(address.to_tcp(), None);
        assert_eq!(address.ip(), Some(socket.ip()));
        let peer: PeerId = PEER.parse().unwrap();
        let with_peer = address.with_peer(peer).unwrap();
        assert_eq!(with_peer.to_quic(), Some((socket, Some(peer))));
    }
    for text in [
        "/ip4/192.0.2.1/udp/1",
        "/ip4/192.0.2.1/udp/1/quic",
        "/ip4/192.0.2.1/tcp/1",
        "/ip4/192.0.2.1/udp/1/quic-v1/webtransport",
        "/dns/a/udp/1/quic-v1",
    ] {
        assert_eq!(parse(text).to_quic(), None, "{text}");
    }
}

#[test]
fn the_leading_ip_can_be_replaced_within_its_family() {
    let address = parse("/ip4/0.0.0.0/udp/1/quic-v1");
    let v4 = "192.0.2.7".parse().unwrap();
    let v6 = "2001:db8::7".parse().unwrap();
    assert_eq!(
        address.with_ip(v4),
        Some(parse("/ip4/192.0.2.7/udp/1/quic-v1"))
    );
    assert_eq!(address.with_ip(v6), None);
    let address = parse("/ip6/::/tcp/9");
    assert_eq!(address.with_ip(v6), Some(parse("/ip6/2001:db8::7/tcp/9")));
    assert_eq!(address.with_ip(v4), None);
    assert_eq!(parse("/dns/a/tcp/1").with_ip(v4), None);
}

#[test]
fn the_last_peer_counts() {
    let relay: PeerId = PEER.parse().unwrap();
    let target: PeerId = "QmcgpsyWgH8Y8ajJz1Cu72KnS5uo2Aa2LpzU7kinSupNKC"
        .parse()
        .unwrap();
    let circuit = parse(&format!("/ip4/192.0.2.1/tcp/1/p2p/{relay}/p2p-circuit"));
    assert_eq!(circuit.peer_id(), None);
    assert_eq!(circuit.clone().without_peer(), circuit);
    let full = circuit.clone().with_peer(target).unwrap();
    assert_eq!(full.peer_id(), Some(target));
    assert_eq!(full.clone().with_peer(target).as_ref(), Ok(&full));
    assert_eq!(
        full.clone().with_peer(relay),
        Err(MultiaddrError::OtherPeer)
    );
    assert_eq!(full.without_peer(), circuit);
}

#[test]
fn push_checks_and_pop_undoes() {
    let mut address = Multiaddr::empty();
    assert!(address.is_empty());
    assert_eq!(address.to_string(), "/");
    assert_eq!(address.pop(), None);
    for bad in [
        Protocol::Dns(Cow::Borrowed("")),
        Protocol::Sni(Cow::Borrowed("a/b")),
        Protocol::Unix(Cow::Borrowed("relative")),
        Protocol::Onion([1; 10], 0),
        Protocol::Certhash(Cow::Borrowed(b"x")),
        Protocol::Garlic32(Cow::Borrowed(b"x")),
    ] {
        let name = bad.name();
        assert_eq!(address.push(bad), Err(MultiaddrError::InvalidValue(name)));
    }
    assert!(address.is_empty());
    address
        .push(Protocol::Dns4(Cow::Borrowed("example.com")))
        .unwrap();
    address.push(Protocol::Tcp(443)).unwrap();
    address.push(Protocol::Wss).unwrap();
    assert_eq!(address.to_string(), "/dns4/example.com/tcp/443/wss");
    assert_eq!(address.pop(), Some(Protocol::Wss));
    assert_eq!(address.pop(), Some(Protocol::Tcp(443)));
    assert_eq!(
        address.pop(),
        Some(Protocol::Dns4(Cow::Borrowed("example.com")))
    );
    assert_eq!(address, Multiaddr::empty());
    let mut unix = parse("/unix/a");
    assert_eq!(
        unix.push(Protocol::Ws),
        Err(MultiaddrError::NotLast("unix"))
    );
}

#[test]
fn errors_name_what_is_wrong() {
    for (text, error) in [
        ("ip4/1.2.3.4", MultiaddrError::NoLeadingSlash),
        ("/ip4", MultiaddrError::MissingValue("ip4")),
        ("/ip4/x", MultiaddrError::InvalidValue("ip4")),
        (
            "/ip4/1.2.3.4//tcp/1",
            MultiaddrError::UnknownName(String::new()),
        ),
        ("/what/1", MultiaddrError::UnknownName("what".into())),
        ("/", MultiaddrError::Empty),
    ] {
        assert_eq!(text.parse::<Multiaddr>(), Err(error), "{text}");
    }
    let long = format!("/{}", "é".repeat(1000));
    assert_eq!(
        long.parse::<Multiaddr>(),
        Err(MultiaddrError::UnknownName("é".repeat(32)))
    );
}

/// Any one component with a valid value.
fn component() -> impl Strategy<Value = Protocol<'static>> {
    let name = "[a-zA-Z0-9._-]{1,30}|\\PC{1,10}"
        .prop_filter("a slash would end the name", |name| !name.contains('/'));
    let peer = prop_oneof![
        any::<[u8; 32]>().prop_map(|hash| [&[0x12, 0x20][..], &hash].concat()),
        proptest::collection::vec(any::<u8>(), 0..=42).prop_map(|key| [
            &[0, key.len() as u8][..],
            &key
        ]
        .concat()),
    ];
    prop_oneof![
        any::<[u8; 4]>().prop_map(|ip| Protocol::Ip4(ip.into())),
        any::<[u8; 16]>().prop_map(|ip| Protocol::Ip6(ip.into())),
        any::<u16>().prop_map(Protocol::Tcp),
        any::<u16>().prop_map(Protocol::Udp),
        any::<u8>().prop_map(Protocol::IpCidr),
        any::<u64>().prop_map(Protocol::Memory),
        (name, 0..6).prop_map(|(name, kind)| {
            let name = Cow::Owned(name);
            match kind {
                0 => Protocol::Dns(name),
                1 => Protocol::Dns4(name),
                2 => Protocol::Dns6(name),
                3 => Protocol::Dnsaddr(name),
                4 => Protocol::Sni(name),
                _ => Protocol::Ip6Zone(name),
            }
        }),
        peer.prop_map(|bytes| Protocol::P2p(PeerId::from_bytes(&bytes).unwrap())),
        ("\\PC{1,20}|[\\x00-\\x7f]{1,20}", 0..3).prop_map(|(path, kind)| match kind {
            0 => Protocol::HttpPath(Cow::Owned(path)),
            1 => Protocol::XParityWs(Cow::Owned(path)),
            _ => Protocol::XParityWss(Cow::Owned(path)),
        }),
        proptest::collection::vec(any::<u8>(), 0..=64).prop_map(|digest| {
            Protocol::Certhash(Cow::Owned(
                [&[0x13, digest.len() as u8][..], &digest].concat(),
            ))
        }),
        (any::<[u8; 10]>(), 1..=u16::MAX).prop_map(|(key, port)| Protocol::Onion(key, port)),
        (any::<[u8; 32]>(), 1..=u16::MAX).prop_map(|(key, port)| {
            let mut long = [7; 35];
            long[..32].copy_from_slice(&key);
            Protocol::Onion3(long, port)
        }),
        proptest::collection::vec(any::<u8>(), 35..60)
            .prop_map(|bytes| Protocol::Garlic32(Cow::Owned(bytes))),
        proptest::collection::vec(any::<u8>(), 386..400)
            .prop_map(|bytes| Protocol::Garlic64(Cow::Owned(bytes))),
        Just(Protocol::QuicV1),
        Just(Protocol::P2pCircuit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_and_binary_round_trip(
        protocols in proptest::collection::vec(component(), 1..6),
        unix in proptest::option::of("(/[a-z. é]{1,8}){1,4}"),
    ) {
        let unix = unix.map(|path| Protocol::Unix(Cow::Owned(path)));
        let mut address = Multiaddr::empty();
        let mut added = Vec::new();
        for protocol in protocols.into_iter().chain(unix) {
            match address.push(protocol.clone()) {
                Ok(()) => added.push(protocol),
                Err(error) => prop_assert_eq!(error, MultiaddrError::TooLong),
            }
        }
        prop_assert_eq!(address.iter().collect::<Vec<_>>(), added);
        prop_assert_eq!(&Multiaddr::from_bytes(address.as_bytes()).unwrap(), &address);
        let text = address.to_string();
        prop_assert_eq!(&text.parse::<Multiaddr>().unwrap(), &address, "{}", text);
    }

    #[test]
    fn arbitrary_bytes_never_lie(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(address) = Multiaddr::from_bytes(&bytes) {
            prop_assert_eq!(&address.to_string().parse::<Multiaddr>().unwrap(), &address);
        }
    }

    #[test]
    fn arbitrary_text_never_lies(text in "(/(ip4|tcp|dns|p2p|ws|memory|unix|x)|/[0-9a-z.]{0,6}|\\PC{0,3}){0,8}") {
        if let Ok(address) = text.parse::<Multiaddr>() {
            prop_assert_eq!(&Multiaddr::from_bytes(address.as_bytes()).unwrap(), &address);
            prop_assert_eq!(&address.to_string().parse::<Multiaddr>().unwrap(), &address);
        }
    }
}
