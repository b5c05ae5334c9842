//! HTTP heads of the WebSocket handshake, as a server and as a client reads them.
#![no_main]

use barewire_transport::ws::head::{MAX_HEAD, accept, check_answer, find_end};
use libfuzzer_sys::fuzz_target;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fuzz_target!(|input: &[u8]| {
    // Looking in pieces finds the same end.
    let whole = find_end(input, 0);
    let mut searched = 0;
    let mut found = Ok(None);
    for end in (0..=input.len()).step_by(7).chain([input.len()]) {
        found = find_end(&input[..end], searched);
        searched = end;
        if found != Ok(None) {
            break;
        }
    }
    match (&whole, &found) {
        (Ok(Some(end)), Ok(Some(same))) => assert_eq!(end, same),
        (Ok(None), found) => assert_eq!(*found, Ok(None)),
        // With the end beyond the limit either may notice first.
        (Err(_), Err(_)) => {}
        (a, b) => panic!("{a:?} and {b:?}"),
    }
    let head = match whole {
        Ok(Some(end)) => {
            assert!(end <= MAX_HEAD);
            &input[..end]
        }
        _ => input,
    };
    let origins = ["https://a.example".to_owned()];
    match accept(head, None) {
        Ok(answer) => {
            assert!(answer.starts_with(b"HTTP/1.1 101 "));
            assert!(answer.ends_with(b"\r\n\r\n"));
            let text = String::from_utf8_lossy(&answer).to_lowercase();
            assert!(!text.contains("sec-websocket-extensions"));
            // Only an origin can make a difference.
            let _ = accept(head, Some(&origins));
        }
        Err(error) => {
            assert!(error.answer().is_some());
            assert!(accept(head, Some(&origins)).is_err());
        }
    }
    let _ = check_answer(head, KEY);
});
