//! Identify and push messages: arbitrary bytes in arbitrary pieces, and arbitrary nodes that
//! describe themselves.
#![no_main]

use std::sync::{Arc, LazyLock};

use arbitrary::Arbitrary;
use barewire_base::{Keypair, Multiaddr, peer_record::PeerRecord};
use barewire_node::protocols::identify::{
    MAX_ADDRESSES, MAX_PROTOCOLS, MAX_SENT, MAX_TOTAL, MessageError, Outgoing, PeerInfo, Reader,
    encode,
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static KEYPAIR: LazyLock<Keypair> = LazyLock::new(|| Keypair::from_seed(&[7; 32]));

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// A stream as a peer might send it, and where it is cut.
    Raw { bytes: &'a [u8], cuts: [u8; 4] },
    /// A push over what is known already.
    Push { answer: &'a [u8], push: &'a [u8] },
    /// A node's own description.
    Own {
        addrs: Vec<&'a [u8]>,
        protocols: Vec<&'a str>,
        agent: &'a str,
        observed: Option<&'a [u8]>,
        record: bool,
    },
}

fn read(bytes: &[u8], cuts: &[u8]) -> Result<PeerInfo, MessageError> {
    let mut reader = Reader::default();
    let mut rest = Bytes::copy_from_slice(bytes);
    for cut in cuts {
        reader.push(rest.split_to(rest.len().min(usize::from(*cut))))?;
    }
    reader.push(rest)?;
    reader.finish(KEYPAIR.public())
}

fn check(info: &PeerInfo) {
    assert_eq!(info.peer_id, KEYPAIR.peer_id());
    assert!(info.protocols.len() <= MAX_PROTOCOLS);
    assert!(info.listen_addrs.len() <= MAX_ADDRESSES);
    // What is kept of a peer is not much more than what it sent.
    let kept = info.agent_version.len()
        + info.protocol_version.len()
        + info.protocols.iter().map(|p| p.len()).sum::<usize>()
        + info
            .listen_addrs
            .iter()
            .map(|a| a.as_bytes().len())
            .sum::<usize>();
    assert!(kept <= 2 * MAX_TOTAL);
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw { bytes, cuts } => {
        let whole = read(bytes, &[]);
        if bytes.len() > MAX_TOTAL {
            assert!(whole.is_err());
        }
        if let Ok(info) = &whole {
            check(info);
        }
        // Where a stream is cut decides nothing but which of several errors is met first.
        assert_eq!(read(bytes, &cuts).ok(), whole.ok());
    }
    Input::Push { answer, push } => {
        let Ok(known) = read(answer, &[]) else { return };
        let mut reader = Reader::default();
        if reader.push(Bytes::copy_from_slice(push)).is_err() {
            return;
        }
        if let Ok(info) = reader.finish_push(KEYPAIR.public(), &known) {
            check(&info);
        }
    }
    Input::Own {
        addrs,
        protocols,
        agent,
        observed,
        record,
    } => {
        let listen_addrs: Vec<_> = addrs
            .iter()
            .take(300)
            .filter_map(|bytes| Multiaddr::from_bytes(bytes).ok())
            .filter(|addr| addr.peer_id().is_none())
            .collect();
        let protocols: Vec<Arc<str>> = protocols.iter().take(20).map(|p| Arc::from(*p)).collect();
        let observed = observed.and_then(|bytes| Multiaddr::from_bytes(bytes).ok());
        let size = agent.len() + protocols.iter().map(|p| p.len() + 3).sum::<usize>();
        // The router and the configuration bound these for a real node.
        if size > MAX_SENT - 1024 || observed.as_ref().is_some_and(|a| a.as_bytes().len() > 512) {
            return;
        }
        let signed_record = record.then(|| {
            let record = PeerRecord {
                peer_id: KEYPAIR.peer_id(),
                seq: 1,
                addrs: listen_addrs.clone(),
            };
            Bytes::from(record.sign(&KEYPAIR).expect("own record"))
        });
        let outgoing = Outgoing {
            public_key: KEYPAIR.public(),
            listen_addrs: &listen_addrs,
            protocols: &protocols,
            protocol_version: "barewire/1",
            agent_version: agent,
            legacy_record: signed_record.clone(),
            signed_record,
        };
        let info = read(&encode(&outgoing, observed.as_ref()), &[]).expect("what we send, we read");
        check(&info);
        assert_eq!(info.protocols, protocols);
        assert_eq!(info.agent_version, agent);
        assert_eq!(info.observed_addr, observed);
        if !record {
            assert!(
                info.listen_addrs
                    .iter()
                    .eq(listen_addrs.iter().take(info.listen_addrs.len()))
            );
        }
    }
});
