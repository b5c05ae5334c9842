#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
const OTHER: &str = "12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA";

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

fn txt(entry: &str) -> Vec<u8> {
    format!("dnsaddr={entry}").into_bytes()
}

fn resolve(
    text: &str,
    mut server: impl FnMut(&Question) -> Result<Answer, LookupError>,
) -> (Vec<String>, Vec<Dropped>, usize) {
    let mut walk = Walk::new(&addr(text), None, DnsLimits::default());
    while let Some(question) = walk.question() {
        let answer = server(&question);
        walk.answer(question.id, answer);
    }
    assert!(walk.is_done());
    let lookups = walk.lookups();
    let (found, dropped, _) = walk.finish();
    let found = found.iter().map(ToString::to_string).collect();
    (found, dropped, lookups)
}

fn ips(question: &Question) -> Result<Answer, LookupError> {
    Ok(match question.kind {
        RecordKind::A => Answer::V4(vec![[192, 0, 2, 1].into()]),
        RecordKind::Aaaa => Answer::V6(vec!["2001:db8::1".parse().unwrap()]),
        RecordKind::Txt => return Err(LookupError::NoRecords),
    })
}

#[test]
fn only_the_name_is_replaced() {
    for (text, expected) in [
        ("/dns4/a.example/tcp/1/ws", vec!["/ip4/192.0.2.1/tcp/1/ws"]),
        (
            "/dns6/a.example/udp/1/quic-v1",
            vec!["/ip6/2001:db8::1/udp/1/quic-v1"],
        ),
        (
            "/dns/a.example/tcp/1",
            vec!["/ip4/192.0.2.1/tcp/1", "/ip6/2001:db8::1/tcp/1"],
        ),
        (
            "/dns4/a.example/tcp/1/wss",
            vec!["/ip4/192.0.2.1/tcp/1/tls/sni/a.example/ws"],
        ),
        (
            "/dns4/a.example/tcp/1/tls/ws",
            vec!["/ip4/192.0.2.1/tcp/1/tls/sni/a.example/ws"],
        ),
        (
            "/dns4/a.example/tcp/1/tls/sni/b.example/ws",
            vec!["/ip4/192.0.2.1/tcp/1/tls/sni/b.example/ws"],
        ),
        ("/ip4/192.0.2.9/tcp/1", vec!["/ip4/192.0.2.9/tcp/1"]),
    ] {
        assert_eq!(resolve(text, ips).0, expected, "{text}");
    }
}

#[test]
fn entries_have_to_end_as_asked_for() {
    let question = format!("/dnsaddr/boot.example/p2p/{PEER}");
    let (found, dropped, lookups) = resolve(&question, |question| {
        assert_eq!(question.name, "_dnsaddr.boot.example");
        Ok(Answer::Txt(vec![
            txt(&format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}")),
            txt(&format!("/ip4/192.0.2.2/tcp/1/p2p/{OTHER}")),
            txt("/ip4/192.0.2.3/tcp/1"),
            txt("/not/an/address"),
            b"v=spf1 -all".to_vec(),
            b"DNSADDR=/ip4/192.0.2.4/tcp/1".to_vec(),
        ]))
    });
    assert_eq!(found, [format!("/ip4/192.0.2.1/tcp/1/p2p/{PEER}")]);
    assert_eq!(lookups, 1);
    let why: Vec<_> = dropped.into_iter().map(|dropped| dropped.why).collect();
    assert_eq!(why[..2], [DropReason::Suffix, DropReason::Suffix]);
    assert!(matches!(why[2..], [DropReason::NotAnAddress(_)]));
}

#[test]
fn another_peer_is_dropped_when_one_is_expected() {
    let mut walk = Walk::new(
        &addr("/dnsaddr/boot.example"),
        Some(PEER.parse().unwrap()),
        DnsLimits::default(),
    );
    let question = walk.question().unwrap();
    let records = vec![
        txt(&format!("/ip4/192.0.2.2/tcp/1/p2p/{OTHER}")),
        txt("/ip4/192.0.2.3/tcp/1"),
    ];
    walk.answer(question.id, Ok(Answer::Txt(records)));
    assert_eq!(walk.addresses(), [addr("/ip4/192.0.2.3/tcp/1")]);
}

#[test]
fn loops_and_fans_end() {
    let (found, dropped, lookups) = resolve("/dnsaddr/loop.example", |_| {
        Ok(Answer::Txt(vec![txt("/dnsaddr/loop.example")]))
    });
    assert_eq!((found.len(), lookups), (0, 1));
    assert_eq!(dropped[0].why, DropReason::Loop);

    let mut n = 0;
    let (_, dropped, lookups) = resolve("/dnsaddr/deep.example", |_| {
        n += 1;
        Ok(Answer::Txt(vec![txt(&format!("/dnsaddr/d{n}.example"))]))
    });
    assert_eq!(lookups, 4);
    assert_eq!(dropped[0].why, DropReason::TooDeep);

    let mut n = 0;
    let (_, dropped, lookups) = resolve("/dnsaddr/fan.example", |_| {
        let records = (0..100).map(|_| {
            n += 1;
            txt(&format!("/dnsaddr/f{n}.example"))
        });
        Ok(Answer::Txt(records.collect()))
    });
    assert_eq!(lookups, 16);
    assert!(dropped.len() <= MAX_DROPPED);

    let (found, _, lookups) = resolve("/dnsaddr/fan.example", |question| match question.kind {
        RecordKind::Txt => Ok(Answer::Txt(
            (0..100)
                .map(|n| txt(&format!("/dns/f{n}.example/tcp/1")))
                .collect(),
        )),
        _ => Ok(Answer::V4(
            (0..100).map(|n| [192, 0, 2, n].into()).collect(),
        )),
    });
    assert_eq!((found.len(), lookups), (16, 16));
}

#[test]
fn time_that_is_up_fails_what_is_open() {
    let mut walk = Walk::new(&addr("/dns/a.example/tcp/1"), None, DnsLimits::default());
    let asked = walk.question().unwrap();
    walk.give_up();
    assert!(walk.is_done());
    walk.answer(asked.id, Ok(Answer::V4(vec![[192, 0, 2, 1].into()])));
    let (found, dropped, _) = walk.finish();
    assert_eq!((found.len(), dropped.len()), (0, 2));
}
