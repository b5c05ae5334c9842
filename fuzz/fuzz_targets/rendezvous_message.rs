//! Rendezvous messages: arbitrary bytes never panic, and what was read is written and read as the same.
#![no_main]

use barewire_rendezvous::{decode_answer, decode_request};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok(request) = decode_request(&bytes) {
        assert_eq!(decode_request(&request.encode().into()), Ok(request));
    }
    if let Ok(answer) = decode_answer(&bytes) {
        // Only a text that was not UTF-8, or was cut, is longer than what came.
        let again = decode_answer(&answer.encode().into());
        assert!(again.is_ok());
    }
});
