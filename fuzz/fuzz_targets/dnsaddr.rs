//! Resolving names: a name server that answers anything.
#![no_main]

use arbitrary::Arbitrary;
use barewire_base::{Multiaddr, PeerId};
use barewire_transport::dns::{Answer, DnsLimits, LookupError, Walk, has_name};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    target: &'a str,
    expected: Option<&'a str>,
    answers: Vec<Reply<'a>>,
    order: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Reply<'a> {
    V4(Vec<[u8; 4]>),
    V6(Vec<[u8; 16]>),
    Txt(Vec<&'a [u8]>),
    /// Records that begin as they should.
    Dnsaddr(Vec<&'a str>),
    Fails,
    GiveUp,
}

fuzz_target!(|input: Input<'_>| {
    let Ok(target) = input.target.parse::<Multiaddr>() else {
        return;
    };
    let expected = input.expected.and_then(|text| text.parse::<PeerId>().ok());
    let limits = DnsLimits::default();
    let mut walk = Walk::new(&target, expected, limits.clone());
    let mut asked = Vec::new();
    let mut order = input.order.into_iter();
    for reply in input.answers {
        while let Some(question) = walk.question() {
            asked.push(question.id);
        }
        if asked.is_empty() {
            break;
        }
        let at = usize::from(order.next().unwrap_or(0)) % asked.len();
        let id = asked.swap_remove(at);
        let answer = match reply {
            Reply::V4(ips) => Ok(Answer::V4(ips.into_iter().map(Into::into).collect())),
            Reply::V6(ips) => Ok(Answer::V6(ips.into_iter().map(Into::into).collect())),
            Reply::Txt(texts) => Ok(Answer::Txt(texts.into_iter().map(Into::into).collect())),
            Reply::Dnsaddr(texts) => Ok(Answer::Txt(
                texts
                    .into_iter()
                    .map(|text| format!("dnsaddr={text}").into_bytes())
                    .collect(),
            )),
            Reply::Fails => Err(LookupError::Timeout),
            Reply::GiveUp => {
                walk.give_up();
                break;
            }
        };
        walk.answer(id, answer);
    }
    walk.give_up();
    assert!(walk.is_done() && walk.question().is_none());
    assert!(2 * walk.lookups() <= limits.max_queries);
    let wanted = expected.or_else(|| target.peer_id());
    let (found, dropped, _) = walk.finish();
    assert!(found.len() <= limits.max_addresses && dropped.len() <= 64);
    for addr in found {
        assert!(!has_name(&addr));
        assert!(addr.peer_id().is_none() || wanted.is_none() || addr.peer_id() == wanted);
    }
});
