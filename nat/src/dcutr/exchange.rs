//! What both sides say before an attempt, and what follows from it.

use std::time::{Duration, Instant};

use barewire_base::{Fault, Multiaddr, Protocol};

use super::PunchMessage;

/// Most addresses of a peer that are dialled (own choice: packets to a stranger's address are what an attacker could gain).
pub const MAX_ADDRS: usize = 8;
/// A round trip through the relay counts no longer than this, however slow the peer answers (own choice).
const MAX_RTT: Duration = Duration::from_secs(10);

/// What a node is on the connection that comes of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It begins the handshakes: over TCP as who dialled, over QUIC it dials.
    Client,
    /// It answers them: over TCP as who accepted, over QUIC it sends packets that open its router and waits for the dial.
    Server,
}

/// The initiator's side of attempt `number`, from 1: server, but client in the third, for peers that have the sides the other way
/// round (go-libp2p before 0.41). The responder is always the client.
#[must_use]
pub const fn initiator_side(number: u32) -> Side {
    if number == 3 {
        Side::Client
    } else {
        Side::Server
    }
}

/// Dial these addresses, all at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Punch {
    /// When.
    pub at: Instant,
    /// Where. At least one.
    pub addrs: Vec<Multiaddr>,
    /// The round trip through the relay, if it was measured.
    pub rtt: Option<Duration>,
}

/// What to do after a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this and wait for the next message.
    Send(PunchMessage),
    /// Send this if there is something, end the stream, and dial.
    Punch(Option<PunchMessage>, Punch),
}

/// Why there is no attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ExchangeError {
    /// Another message was due.
    #[error("the peer said something unexpected")]
    Unexpected,
    /// The peer has no address that may be dialled.
    #[error("the peer names no address that may be dialled")]
    NoAddress,
    /// This node has no address to name.
    #[error("this node knows no direct address of its own")]
    NoOwnAddress,
}

impl ExchangeError {
    /// Who is at fault.
    #[must_use]
    pub const fn fault(&self) -> Fault {
        match self {
            Self::NoOwnAddress => Fault::Local,
            _ => Fault::Peer,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The initiator has sent its addresses.
    Asked(Instant),
    /// The responder has heard nothing.
    Idle(Vec<Multiaddr>),
    /// The responder knows these addresses and waits for the word to dial them.
    Told(Vec<Multiaddr>),
    /// Nothing more is due.
    Over,
}

/// One exchange, on one stream.
#[derive(Debug)]
pub struct Exchange {
    state: State,
}

impl Exchange {
    /// Of the initiator, whose addresses are `own`: the first message.
    ///
    /// # Errors
    /// [`ExchangeError::NoOwnAddress`].
    pub fn initiate(
        now: Instant,
        own: Vec<Multiaddr>,
    ) -> Result<(Self, PunchMessage), ExchangeError> {
        let connect = connect(own)?;
        let state = State::Asked(now);
        Ok((Self { state }, connect))
    }

    /// Of the responder, whose addresses are `own`.
    #[must_use]
    pub const fn respond(own: Vec<Multiaddr>) -> Self {
        Self {
            state: State::Idle(own),
        }
    }

    /// A message has come. `may_dial` says which addresses this node is willing to dial; those of relays, those without an IP and
    /// those beyond [`MAX_ADDRS`] are left out anyway.
    ///
    /// # Errors
    /// [`ExchangeError`]; the exchange is over then.
    pub fn handle(
        &mut self,
        now: Instant,
        message: PunchMessage,
        may_dial: impl Fn(&Multiaddr) -> bool,
    ) -> Result<Step, ExchangeError> {
        match (std::mem::replace(&mut self.state, State::Over), message) {
            (State::Asked(since), PunchMessage::Connect(addrs)) => {
                let rtt = now.saturating_duration_since(since).min(MAX_RTT);
                let punch = Punch {
                    // The word to begin is there by then.
                    at: now + rtt / 2,
                    addrs: dialable(addrs, may_dial)?,
                    rtt: Some(rtt),
                };
                Ok(Step::Punch(Some(PunchMessage::Sync), punch))
            }
            (State::Idle(own), PunchMessage::Connect(addrs)) => {
                let (addrs, answer) = (dialable(addrs, may_dial)?, connect(own)?);
                self.state = State::Told(addrs);
                Ok(Step::Send(answer))
            }
            (State::Told(addrs), PunchMessage::Sync) => {
                let punch = Punch {
                    at: now,
                    addrs,
                    rtt: None,
                };
                Ok(Step::Punch(None, punch))
            }
            _ => Err(ExchangeError::Unexpected),
        }
    }
}

fn connect(own: Vec<Multiaddr>) -> Result<PunchMessage, ExchangeError> {
    let own: Vec<_> = own.into_iter().filter(is_direct).collect();
    match own.is_empty() {
        true => Err(ExchangeError::NoOwnAddress),
        false => Ok(PunchMessage::Connect(own)),
    }
}

fn dialable(
    addrs: Vec<Multiaddr>,
    may_dial: impl Fn(&Multiaddr) -> bool,
) -> Result<Vec<Multiaddr>, ExchangeError> {
    let mut taken: Vec<Multiaddr> = Vec::new();
    for addr in addrs {
        let addr = addr.without_peer();
        let direct = is_direct(&addr) && addr.ip().is_some() && may_dial(&addr);
        if direct && taken.len() < MAX_ADDRS && !taken.contains(&addr) {
            taken.push(addr);
        }
    }
    match taken.is_empty() {
        true => Err(ExchangeError::NoAddress),
        false => Ok(taken),
    }
}

fn is_direct(addr: &Multiaddr) -> bool {
    !addr.iter().any(|part| part == Protocol::P2pCircuit)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn addrs(list: &[&str]) -> Vec<Multiaddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn both_dial_at_the_same_time() {
        let begun = Instant::now();
        let ms = |n| begun + Duration::from_millis(n);
        let [here, there] =
            ["/ip4/192.0.2.1/tcp/1", "/ip4/198.51.100.1/udp/2/quic-v1"].map(|at| addrs(&[at]));
        let any = |_: &Multiaddr| true;
        let (mut initiator, first) = Exchange::initiate(begun, here.clone()).unwrap();
        let mut responder = Exchange::respond(there.clone());
        // 50 ms each way.
        let Ok(Step::Send(answer)) = responder.handle(ms(50), first, any) else {
            unreachable!("it answers");
        };
        assert_eq!(PunchMessage::decode(&answer.encode()), Ok(answer.clone()));
        let Ok(Step::Punch(Some(sync), punch)) = initiator.handle(ms(100), answer, any) else {
            unreachable!("it begins");
        };
        assert_eq!((punch.at, punch.addrs), (ms(150), there));
        let step = responder.handle(ms(150), sync.clone(), any).unwrap();
        let punch = Punch {
            at: ms(150),
            addrs: here,
            rtt: None,
        };
        assert_eq!(step, Step::Punch(None, punch));
        let again = responder.handle(ms(151), sync, any);
        assert_eq!(again, Err(ExchangeError::Unexpected));
    }

    #[test]
    fn few_addresses_are_dialled_and_no_relays() {
        let now = Instant::now();
        let victims: Vec<_> = (0..100)
            .map(|n| format!("/ip4/203.0.113.{n}/tcp/80"))
            .collect();
        let mut many = addrs(&["/dns4/victim.example/tcp/1"]);
        many.extend(
            victims
                .iter()
                .map(|text| text.parse::<Multiaddr>().unwrap()),
        );
        let of = |addrs| {
            Exchange::respond(many.clone()).handle(now, PunchMessage::Connect(addrs), |_| true)
        };
        let mut exchange = Exchange::respond(many.clone());
        exchange
            .handle(now, PunchMessage::Connect(many.clone()), |_| true)
            .unwrap();
        let Ok(Step::Punch(_, punch)) = exchange.handle(now, PunchMessage::Sync, |_| true) else {
            unreachable!("it begins");
        };
        assert_eq!(punch.addrs.len(), MAX_ADDRS);
        let circuit = format!(
            "/ip4/192.0.2.1/tcp/1/p2p/{}/p2p-circuit",
            barewire_base::Keypair::from_seed(&[1; 32]).peer_id()
        );
        assert_eq!(of(addrs(&[&circuit])), Err(ExchangeError::NoAddress));
        let nobody = Exchange::initiate(now, addrs(&[&circuit]));
        assert_eq!(nobody.err(), Some(ExchangeError::NoOwnAddress));
        let early = Exchange::respond(many.clone()).handle(now, PunchMessage::Sync, |_| true);
        assert_eq!(early, Err(ExchangeError::Unexpected));
    }
}
