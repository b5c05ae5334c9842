#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Instant;

use proptest::prelude::*;

use super::*;

fn arc(id: &str) -> Arc<str> {
    Arc::from(id)
}

fn line(text: &str) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_line(text, &mut out);
    out.to_vec()
}

fn supports<'a>(ids: &'a [&'a str]) -> impl FnMut(&str) -> Option<Arc<str>> + 'a {
    |proposed| ids.iter().find(|id| **id == proposed).map(|id| arc(id))
}

fn sent(mut poll: impl FnMut(&mut BytesMut) -> bool) -> Vec<u8> {
    let mut out = BytesMut::new();
    while poll(&mut out) {}
    out.to_vec()
}

#[test]
fn the_bytes_are_those_of_the_specification() {
    assert_eq!(line("/multistream/1.0.0"), HEADER);
    assert_eq!(line("na"), NOT_AVAILABLE);
    assert_eq!(
        &optimistic_proposal("/yamux/1.0.0")[..],
        b"\x13/multistream/1.0.0\n\x0d/yamux/1.0.0\n"
    );
    let mut dialer = Dialer::optimistic(arc("/yamux/1.0.0"));
    assert_eq!(
        sent(|out| dialer.poll_transmit(out)),
        &optimistic_proposal("/yamux/1.0.0")[..]
    );
    let long = format!("/{}", "x".repeat(300));
    assert_eq!(&line(&long)[..2], &[0xae, 0x02]);
}

#[test]
fn header_and_proposal_go_out_together_and_consumption_is_exact() {
    let mut dialer = Dialer::new(vec![arc("/a"), arc("/b")]);
    let mut listener = Listener::new();
    let first = sent(|out| dialer.poll_transmit(out));
    assert_eq!(first, [HEADER, b"\x03/a\n"].concat());
    assert_eq!(
        listener.handle_input(&first, &mut supports(&["/b"])),
        Ok(first.len())
    );
    let answer = sent(|out| listener.poll_transmit(out));
    assert_eq!(answer, [HEADER, b"\x03na\n"].concat());
    assert_eq!(dialer.handle_input(&answer), Ok(answer.len()));
    let second = sent(|out| dialer.poll_transmit(out));
    assert_eq!(second, b"\x03/b\n");
    let with_data = [&second[..], b"application data"].concat();
    assert_eq!(
        listener.handle_input(&with_data, &mut supports(&["/b"])),
        Ok(second.len())
    );
    assert_eq!(listener.outcome(), Some(&arc("/b")));
    assert_eq!(
        listener.handle_input(b"more data", &mut supports(&["/b"])),
        Ok(0)
    );
    let echo = sent(|out| listener.poll_transmit(out));
    assert_eq!(echo, b"\x03/b\n");
    assert_eq!(dialer.handle_input(&[&echo[..], b"reply"].concat()), Ok(4));
    assert_eq!(dialer.outcome(), Some(&arc("/b")));
    assert_eq!(dialer.handle_input(b"reply"), Ok(0));
    assert!(!dialer.poll_transmit(&mut BytesMut::new()));
}

#[test]
fn optimistic_data_is_left_to_the_protocol() {
    let mut listener = Listener::new();
    let input = [&optimistic_proposal("/echo")[..], b"hello"].concat();
    assert_eq!(
        listener.handle_input(&input, &mut supports(&["/echo"])),
        Ok(input.len() - 5)
    );
    let answer = sent(|out| listener.poll_transmit(out));
    assert_eq!(answer, optimistic_proposal("/echo"));
    let mut dialer = Dialer::proposed(arc("/echo"));
    assert!(!dialer.poll_transmit(&mut BytesMut::new()));
    assert_eq!(dialer.handle_input(&answer), Ok(answer.len()));
    assert_eq!(dialer.outcome(), Some(&arc("/echo")));
}

#[test]
fn a_refusal_goes_out_also_when_what_follows_is_no_line() {
    let mut listener = Listener::new();
    let input = [&optimistic_proposal("/none")[..], b"\xff\xffbytes of /none"].concat();
    assert_eq!(
        listener.handle_input(&input, &mut supports(&["/echo"])),
        Err(NegotiationError::LineTooLong)
    );
    let answer = sent(|out| listener.poll_transmit(out));
    assert_eq!(answer, [HEADER, NOT_AVAILABLE].concat());
    assert!(!listener.poll_transmit(&mut BytesMut::new()), "said once");
    let mut dialer = Dialer::proposed(arc("/none"));
    assert_eq!(
        dialer.handle_input(&answer),
        Err(NegotiationError::NoneAccepted)
    );
    // Garbage without a proposal gets no answer.
    let mut listener = Listener::new();
    let input = [HEADER, b"\xff\xff"].concat();
    assert!(listener.handle_input(&input, &mut supports(&[])).is_err());
    assert!(!listener.poll_transmit(&mut BytesMut::new()));
}

#[test]
fn a_listener_sends_its_header_without_waiting() {
    let mut listener = Listener::new();
    assert_eq!(sent(|out| listener.poll_transmit(out)), HEADER);
    let input = optimistic_proposal("/a");
    assert_eq!(
        listener.handle_input(&input, &mut supports(&["/a"])),
        Ok(input.len())
    );
    assert_eq!(sent(|out| listener.poll_transmit(out)), b"\x03/a\n");
}

#[test]
fn the_dialer_ends_when_all_are_refused() {
    let mut dialer = Dialer::new(vec![arc("/a")]);
    sent(|out| dialer.poll_transmit(out));
    let answer = [HEADER, NOT_AVAILABLE].concat();
    assert_eq!(
        dialer.handle_input(&answer),
        Err(NegotiationError::NoneAccepted)
    );
    assert_eq!(
        dialer.handle_input(b""),
        Err(NegotiationError::NoneAccepted)
    );
    assert!(!dialer.poll_transmit(&mut BytesMut::new()));
    assert_eq!(NegotiationError::NoneAccepted.fault(), Fault::Local);
}

#[test]
fn ids_that_cannot_be_proposed_are_left_out() {
    let long = format!("/{}", "x".repeat(MAX_LINE - 1));
    for id in ["", "no-slash", "/new\nline", &long] {
        assert_eq!(check_protocol(id), Err(NegotiationError::InvalidProtocol));
        let mut dialer = Dialer::new(vec![arc(id)]);
        assert!(!dialer.poll_transmit(&mut BytesMut::new()));
        assert_eq!(
            dialer.handle_input(HEADER),
            Err(NegotiationError::InvalidProtocol)
        );
    }
    let longest = format!("/{}", "x".repeat(MAX_LINE - 2));
    assert_eq!(check_protocol(&longest), Ok(()));
    let mut listener = Listener::new();
    let input = optimistic_proposal(&longest);
    assert_eq!(
        listener.handle_input(&input, &mut supports(&[&longest])),
        Ok(input.len())
    );
}

#[test]
fn a_dialer_refuses_wrong_answers() {
    for (answer, error) in [
        (
            &b"\x13/multistream/2.0.0\n"[..],
            NegotiationError::NotMultistream,
        ),
        (b"\x03na\n", NegotiationError::NotMultistream),
        (
            b"\x13/multistream/1.0.0\n\x03/b\n",
            NegotiationError::UnexpectedAnswer,
        ),
        (
            b"\x13/multistream/1.0.0\n\x13/multistream/1.0.0\n",
            NegotiationError::UnexpectedAnswer,
        ),
        // Refusing a proposal that has not been made yet.
        (
            b"\x13/multistream/1.0.0\n\x03na\n\x03na\n",
            NegotiationError::UnexpectedAnswer,
        ),
    ] {
        let mut dialer = Dialer::new(vec![arc("/a"), arc("/b")]);
        sent(|out| dialer.poll_transmit(out));
        assert_eq!(dialer.handle_input(answer), Err(error), "{answer:?}");
        assert_eq!(error.fault(), Fault::Peer);
    }
}

#[test]
fn words_that_are_no_protocols_are_refused_politely() {
    let mut listener = Listener::new();
    let mut asked = Vec::new();
    let input = [
        HEADER,
        &line("ls"),
        &line("/libp2p/simultaneous-connect"),
        &line("select:1"),
    ]
    .concat();
    let used = listener.handle_input(&input, &mut |id| {
        asked.push(id.to_owned());
        None
    });
    assert_eq!(used, Ok(input.len()));
    assert_eq!(asked, ["/libp2p/simultaneous-connect"]);
    assert_eq!(
        sent(|out| listener.poll_transmit(out)),
        [HEADER, &NOT_AVAILABLE.repeat(3)].concat()
    );
}

/// A listener fed `input` in one piece and byte by byte, with the same outcome.
fn listen(input: &[u8]) -> Result<usize, NegotiationError> {
    let mut whole = Listener::new();
    let outcome = whole.handle_input(input, &mut |_| None);
    let mut piecewise = Listener::new();
    let single = input.iter().try_fold(0, |used, byte| {
        Ok(used + piecewise.handle_input(&[*byte], &mut |_| None)?)
    });
    assert_eq!(outcome, single);
    outcome
}

/// Proposals that are only meant to cost the listener something: 64 KiB lengths, empty lines,
/// lines without end, thousands of proposals, endless `ls` and simultaneous-open loops.
#[test]
fn hostile_lines_end_the_negotiation_at_once() {
    let with_header = |tail: &[u8]| [HEADER, tail].concat();
    for (name, input, error) in [
        (
            "64 KiB line",
            with_header(b"\x80\x80\x04"),
            NegotiationError::LineTooLong,
        ),
        (
            "1025-byte line",
            with_header(b"\x81\x08"),
            NegotiationError::LineTooLong,
        ),
        (
            "endless varint",
            with_header(&[0xff; 12]),
            NegotiationError::LineTooLong,
        ),
        (
            "non-minimal varint",
            with_header(b"\x83\x00"),
            VarintError::NotMinimal.into(),
        ),
        (
            "empty line",
            with_header(b"\x00"),
            NegotiationError::NoNewline,
        ),
        (
            "no newline",
            with_header(b"\x03/aa"),
            NegotiationError::NoNewline,
        ),
        (
            "not UTF-8",
            with_header(b"\x04/\xff\xfe\n"),
            NegotiationError::NotUtf8,
        ),
        (
            "TLS",
            b"\x16\x03\x01\x02".to_vec(),
            NegotiationError::NotMultistream,
        ),
        ("HTTP", b"GET /".to_vec(), NegotiationError::NotMultistream),
        (
            "long header",
            b"\x93\x00/multistream".to_vec(),
            NegotiationError::NotMultistream,
        ),
        (
            "1,000 proposals",
            with_header(&line("/x").repeat(1000)),
            NegotiationError::TooManyProposals,
        ),
        (
            "ls bomb",
            with_header(&line("ls").repeat(1000)),
            NegotiationError::TooManyProposals,
        ),
        (
            "simultaneous open",
            with_header(&line("/libp2p/simultaneous-connect").repeat(1000)),
            NegotiationError::TooManyProposals,
        ),
    ] {
        assert_eq!(listen(&input), Err(error), "{name}");
    }
}

#[test]
fn a_thousand_hostile_negotiations_are_cheap() {
    let input = [HEADER, &line("ls").repeat(1000)].concat();
    let start = Instant::now();
    let mut answered = 0;
    for _ in 0..1000 {
        let mut listener = Listener::new();
        let mut out = BytesMut::new();
        let mut rest = &input[..];
        let error = loop {
            let (piece, tail) = rest.split_at(rest.len().min(64));
            match listener.handle_input(piece, &mut |_| None) {
                Ok(used) => assert_eq!(used, piece.len()),
                Err(error) => break error,
            }
            listener.poll_transmit(&mut out);
            rest = tail;
        };
        assert_eq!(error, NegotiationError::TooManyProposals);
        answered = answered.max(out.len());
        assert!(listener.incoming.lines.partial.capacity() <= 1100);
    }
    let each = start.elapsed() / 1000;
    println!("attack row 3: {each:?} CPU and {answered} bytes answered per hostile negotiation");
    assert!(answered <= HEADER.len() + MAX_PROPOSALS * NOT_AVAILABLE.len());
}

#[test]
fn whole_lines_are_read_without_allocating() {
    let mut listener = Listener::new();
    let input = optimistic_proposal("/ipfs/ping/1.0.0");
    let protocol = arc("/ipfs/ping/1.0.0");
    listener
        .handle_input(&input, &mut |_| Some(protocol.clone()))
        .unwrap();
    assert_eq!(listener.incoming.lines.partial.capacity(), 0);
    let mut dialer = Dialer::proposed(protocol);
    dialer.handle_input(&input).unwrap();
    assert_eq!(dialer.incoming.lines.partial.capacity(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fragmentation_agrees_on_the_first_common_protocol(
        offered in proptest::collection::vec("/[a-d]{1,2}", 1..8),
        supported in proptest::collection::vec("/[a-d]{1,2}", 0..8),
        data in proptest::collection::vec(any::<u8>(), 0..20),
        cuts in proptest::collection::vec(1usize..30, 1..20),
    ) {
        let expected = offered.iter().find(|id| supported.contains(id)).map(|id| arc(id));
        let mut dialer = Dialer::new(offered.iter().map(|id| arc(id)).collect());
        let mut listener = Listener::new();
        let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
        let mut lookup = |id: &str| supported.iter().find(|own| *own == id).map(|id| arc(id));
        let mut cuts = cuts.iter().cycle();
        let mut data_sent = false;
        for _ in 0..2000 {
            dialer.poll_transmit(&mut up);
            listener.poll_transmit(&mut down);
            if dialer.outcome().is_some() && !data_sent {
                up.extend_from_slice(&data);
                data_sent = true;
            }
            let piece = up.len().min(*cuts.next().unwrap());
            let used = listener.handle_input(&up[..piece], &mut lookup).unwrap();
            let _ = up.split_to(used);
            let piece = down.len().min(*cuts.next().unwrap());
            match dialer.handle_input(&down[..piece]) {
                Ok(used) => drop(down.split_to(used)),
                Err(error) => {
                    prop_assert_eq!(error, NegotiationError::NoneAccepted);
                    prop_assert_eq!(&expected, &None);
                    return Ok(());
                }
            }
        }
        prop_assert_eq!(dialer.outcome(), expected.as_ref());
        prop_assert_eq!(listener.outcome(), expected.as_ref());
        prop_assert_eq!(&up[..], &data[..]);
    }
}
