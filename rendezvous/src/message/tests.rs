#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;

fn requests() -> [Request; 4] {
    let ns = Bytes::from_static(b"room");
    [
        Request::Register {
            ns: ns.clone(),
            record: Bytes::from_static(b"record"),
            ttl: 7200,
        },
        Request::Unregister { ns: ns.clone() },
        Request::Discover {
            ns,
            limit: 10,
            cookie: Bytes::from_static(b"cookie"),
        },
        Request::Discover {
            ns: Bytes::new(),
            limit: 0,
            cookie: Bytes::new(),
        },
    ]
}

#[test]
fn requests_come_back_as_they_were() {
    for request in requests() {
        assert_eq!(decode_request(&request.encode().into()), Ok(request));
    }
}

#[test]
fn answers_come_back_as_they_were() {
    for status in Status::ALL {
        let status = status.0;
        let text = "why".to_owned();
        let registered = Answer::Register {
            status,
            text: text.clone(),
            ttl: 7200,
        };
        assert_eq!(decode_answer(&registered.encode().into()), Ok(registered));
        let discovered = Answer::Discover {
            status,
            text,
            registrations: vec![Registration {
                ns: Bytes::from_static(b"room"),
                record: Bytes::from_static(b"record"),
                ttl: 1,
            }],
            cookie: Bytes::from_static(b"12345678room"),
        };
        assert_eq!(decode_answer(&discovered.encode().into()), Ok(discovered));
    }
}

#[test]
fn an_absent_type_is_register_and_zero_is_written() {
    let register = Request::Register {
        ns: Bytes::from_static(b"a"),
        record: Bytes::from_static(b"b"),
        ttl: 0,
    };
    let bytes = register.encode();
    assert_eq!(bytes, b"\x08\x00\x12\x08\x0a\x01a\x12\x01b\x18\x00");
    // As canvas-js writes it.
    let short = Bytes::from_static(b"\x12\x06\x0a\x01a\x12\x01b");
    assert_eq!(decode_request(&short), Ok(register));
}

#[test]
fn what_is_none_is_refused() {
    let table: &[(&[u8], MessageError)] = &[
        (b"", MessageError::Unexpected),
        (b"\x08\x03", MessageError::Unexpected),
        (b"\x08\x01\x1a\x00", MessageError::Unexpected),
        (b"\x08\x09\x12\x00", MessageError::Unexpected),
        (b"\x10\x01", MessageError::Malformed),
        (b"\x0a\x00", MessageError::Malformed),
        (
            b"\x12\xff\xff\xff\xff\x0f",
            MessageError::Protobuf(ScanError::Truncated),
        ),
        (b"\x0b\x0c\x0e", MessageError::Malformed),
    ];
    for (bytes, error) in table {
        assert_eq!(
            decode_request(&Bytes::from_static(bytes)),
            Err(*error),
            "{bytes:?}"
        );
    }
    let many = Bytes::from([0x20, 0x00].repeat(1000));
    assert!(decode_request(&many).is_err());
    let one = Registration {
        ns: Bytes::new(),
        record: Bytes::new(),
        ttl: 0,
    };
    let flood = Answer::Discover {
        status: Status::Ok,
        text: String::new(),
        registrations: vec![one; MAX_REGISTRATIONS + 1],
        cookie: Bytes::new(),
    };
    assert_eq!(
        decode_answer(&flood.encode().into()),
        Err(MessageError::TooMany)
    );
}

#[test]
fn an_answer_shares_the_bytes_it_came_in() {
    let request = requests()[0].encode();
    let bytes = Bytes::from(request);
    let Ok(Request::Register { record, .. }) = decode_request(&bytes) else {
        unreachable!("it is one")
    };
    let range = bytes.as_ptr_range();
    assert!(range.contains(&record.as_ptr()));
}
