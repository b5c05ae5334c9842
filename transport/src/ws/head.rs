//! The HTTP/1.1 heads of the opening handshake (RFC 6455 section 4), without I/O.
//!
//! A head is parsed once, when its end has arrived: parsing again at each byte is what
//! CVE-2023-43669 was about. Syntax, key and answer are tungstenite's.

use barewire_base::Fault;
use tokio_tungstenite::tungstenite::{
    handshake::{
        client, derive_accept_key,
        machine::TryParse,
        server::{self, create_response, write_response},
    },
    http::{HeaderMap, header},
};

/// Longest head, in bytes.
pub const MAX_HEAD: usize = 8 * 1024;
/// Most header lines of a head.
pub const MAX_HEADERS: usize = 64;

const END: &[u8] = b"\r\n\r\n";

/// Why the opening handshake failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The head has more than [`MAX_HEAD`] bytes.
    #[error("the HTTP head is longer than {MAX_HEAD} bytes")]
    TooLong,
    /// The head has more than [`MAX_HEADERS`] header lines.
    #[error("the HTTP head has more than {MAX_HEADERS} header lines")]
    TooManyHeaders,
    /// Not an HTTP/1.1 head.
    #[error("what came is not an HTTP/1.1 head")]
    NotHttp,
    /// An HTTP request that asks for something else than a WebSocket.
    #[error("an HTTP request asks for no WebSocket")]
    NoUpgrade,
    /// A WebSocket request that lacks what the specification demands.
    #[error("a WebSocket request is malformed")]
    BadRequest,
    /// Bytes behind the request, before the answer to it.
    #[error("the remote sent more than a request before it was answered")]
    EarlyData,
    /// A page of a web site that is not on the list.
    #[error("a web page of an origin that is not allowed asks for a WebSocket")]
    ForeignOrigin,
    /// The server answered with another status than 101.
    #[error("the server refuses the WebSocket with HTTP status {0}")]
    Refused(u16),
    /// The server's answer does not fit the request, or agrees to what nobody asked for.
    #[error("the server's answer to the WebSocket request is malformed")]
    BadAnswer,
    /// No end of the handshake in time.
    #[error("no WebSocket handshake in time; is the remote a WebSocket server?")]
    Timeout,
    /// The byte stream below failed or ended.
    #[error("the remote closed the connection during the WebSocket handshake ({0})")]
    Io(std::io::ErrorKind),
    /// The server's certificate is not trusted, not valid, or of another name.
    #[error("the certificate of the WebSocket server is refused: {0}")]
    Certificate(String),
    /// TLS below the WebSocket failed.
    #[error("TLS below the WebSocket failed: {0}")]
    Tls(String),
    /// No certificates to check a server's with were found on this system.
    #[error("no trusted certificates are found on this system; name a file with some")]
    NoRoots,
    /// The name to check the certificate against is none.
    #[error("`{0}` is not a host name a certificate could have")]
    BadName(String),
}

impl HandshakeError {
    /// Who is at fault.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match self {
            Self::Io(_) => Fault::Network,
            Self::NoRoots | Self::BadName(_) => Fault::Local,
            _ => Fault::Peer,
        }
    }

    /// What a server answers, `None` when nobody speaks HTTP.
    #[must_use]
    pub fn answer(&self) -> Option<&'static [u8]> {
        Some(match self {
            Self::NoUpgrade => {
                b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::ForeignOrigin => {
                b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            Self::TooLong
            | Self::TooManyHeaders
            | Self::NotHttp
            | Self::BadRequest
            | Self::EarlyData => {
                b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
            }
            _ => return None,
        })
    }
}

/// Where the head at the front of `buf` ends, once it is whole. `searched` bytes have been looked at
/// before.
///
/// # Errors
/// [`HandshakeError::TooLong`] when there is no end within [`MAX_HEAD`] bytes.
pub fn find_end(buf: &[u8], searched: usize) -> Result<Option<usize>, HandshakeError> {
    let from = searched.saturating_sub(END.len() - 1).min(buf.len());
    let found = buf[from..]
        .windows(END.len())
        .position(|window| window == END);
    match found.map(|at| from + at + END.len()) {
        Some(end) if end <= MAX_HEAD => Ok(Some(end)),
        None if buf.len() < MAX_HEAD => Ok(None),
        _ => Err(HandshakeError::TooLong),
    }
}

/// Answers a client's whole head with the head to send back. With `origins`, a request that names
/// another origin is refused; one without an origin does not come from a web page and passes.
///
/// # Errors
/// [`HandshakeError::answer`] is what to send then.
pub fn accept(head: &[u8], origins: Option<&[String]>) -> Result<Vec<u8>, HandshakeError> {
    let request = match server::Request::try_parse(head) {
        Ok(Some((len, request))) if len == head.len() => request,
        // The parser refuses other methods and versions by the same error as garbage.
        Ok(_) | Err(_) if is_request(head) => return Err(HandshakeError::NoUpgrade),
        Ok(_) | Err(_) => return Err(HandshakeError::NotHttp),
    };
    let headers = request.headers();
    if headers.len() > MAX_HEADERS {
        return Err(HandshakeError::TooManyHeaders);
    }
    if !has(headers, &header::UPGRADE, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if let Some(allowed) = origins
        && headers.get_all(header::ORIGIN).iter().any(|origin| {
            !allowed
                .iter()
                .any(|one| one.as_bytes() == origin.as_bytes())
        })
    {
        return Err(HandshakeError::ForeignOrigin);
    }
    // Extensions and subprotocols a client offers are declined by not being in the answer.
    let response = create_response(&request).map_err(|_| HandshakeError::BadRequest)?;
    let mut out = Vec::with_capacity(160);
    write_response(&mut out, &response).map_err(|_| HandshakeError::BadRequest)?;
    Ok(out)
}

/// A request line of HTTP/1: three words, the last of which names the version.
fn is_request(head: &[u8]) -> bool {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let version = words.nth(1).unwrap_or_default();
    !method.is_empty()
        && method.iter().all(u8::is_ascii_uppercase)
        && version.starts_with(b"HTTP/1.")
        && words.next().is_none()
        && head
            .split(|byte| *byte == b'\n')
            .skip(1)
            .all(|line| line.len() <= 1 || line.contains(&b':'))
}

/// The head with which a client asks for a WebSocket. `key` is
/// [`generate_key`](tokio_tungstenite::tungstenite::handshake::client::generate_key)'s.
#[must_use]
pub fn request(host: &str, key: &str) -> Vec<u8> {
    format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    .into_bytes()
}

/// Checks a server's whole head against the `key` of the request.
///
/// # Errors
/// [`HandshakeError::Refused`] for another status than 101, else what is wrong with it.
pub fn check_answer(head: &[u8], key: &str) -> Result<(), HandshakeError> {
    let response = match client::Response::try_parse(head) {
        Ok(Some((len, response))) if len == head.len() => response,
        _ => return Err(HandshakeError::NotHttp),
    };
    let headers = response.headers();
    if headers.len() > MAX_HEADERS {
        return Err(HandshakeError::TooManyHeaders);
    }
    match response.status().as_u16() {
        101 => {}
        status => return Err(HandshakeError::Refused(status)),
    }
    let accepted = headers
        .get(header::SEC_WEBSOCKET_ACCEPT)
        .is_some_and(|accept| accept.as_bytes() == derive_accept_key(key.as_bytes()).as_bytes());
    // Nothing was offered, so nothing can have been agreed on.
    let unasked = headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS)
        || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL);
    let upgraded =
        has(headers, &header::UPGRADE, "websocket") && has(headers, &header::CONNECTION, "upgrade");
    if accepted && upgraded && !unasked {
        Ok(())
    } else {
        Err(HandshakeError::BadAnswer)
    }
}

/// Whether one of the comma-separated words of a header is `word`.
fn has(headers: &HeaderMap, name: &header::HeaderName, word: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|one| one.trim().eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn asks(more: &str) -> Vec<u8> {
        format!(
            "GET /any/path HTTP/1.1\r\nHost: a:1\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{more}\r\n"
        )
        .into_bytes()
    }

    #[test]
    fn the_example_of_the_specification() {
        let answer = accept(&asks(""), None).unwrap();
        let text = String::from_utf8(answer.clone()).unwrap();
        assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
        assert!(text.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{text}");
        assert_eq!(check_answer(&answer, KEY), Ok(()));
        assert_eq!(
            check_answer(&answer, "AAAAAAAAAAAAAAAAAAAAAA=="),
            Err(HandshakeError::BadAnswer)
        );
        assert!(accept(&request("a:1", KEY), None).is_ok());
    }

    #[test]
    fn offers_are_declined_by_omission() {
        let offer = asks(
            "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\nSec-WebSocket-Protocol: x\r\n",
        );
        let answer = String::from_utf8(accept(&offer, None).unwrap()).unwrap();
        assert!(!answer.contains("sec-websocket-extensions"), "{answer}");
        assert!(!answer.contains("sec-websocket-protocol"), "{answer}");
        let forced = answer.replace(
            "\r\n\r\n",
            "\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n",
        );
        assert_eq!(
            check_answer(forced.as_bytes(), KEY),
            Err(HandshakeError::BadAnswer)
        );
    }

    #[test]
    fn each_refusal_has_its_status() {
        let status = |head: &[u8]| {
            let error = accept(head, None).unwrap_err();
            let answer = error.answer().unwrap();
            (error.clone(), answer[9..12].to_vec())
        };
        for (head, error, code) in [
            (
                &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
                HandshakeError::NoUpgrade,
                b"404",
            ),
            (
                b"POST / HTTP/1.1\r\nHost: a\r\n\r\n",
                HandshakeError::NoUpgrade,
                b"404",
            ),
            (
                b"GET / HTTP/1.0\r\nUpgrade: websocket\r\n\r\n",
                HandshakeError::NoUpgrade,
                b"404",
            ),
            (
                b"\x13/multistream/1.0.0\n\r\n\r\n",
                HandshakeError::NotHttp,
                b"400",
            ),
            (b"GET /\r\n\r\n", HandshakeError::NotHttp, b"400"),
            (
                b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
                HandshakeError::NotHttp,
                b"400",
            ),
        ] {
            assert_eq!(status(head), (error, code.to_vec()));
        }
        for (from, to) in [
            (KEY, "short"),
            (KEY, "!!!!!!!!!!!!!!!!!!!!!!=="),
            ("Version: 13", "Version: 8"),
            ("Connection: keep-alive, Upgrade", "Connection: close"),
            ("Sec-WebSocket-Key", "X-Key"),
        ] {
            let head = String::from_utf8(asks("")).unwrap().replace(from, to);
            assert_eq!(
                status(head.as_bytes()),
                (HandshakeError::BadRequest, b"400".to_vec()),
                "{to}"
            );
        }
        let many = (0..60).fold(String::new(), |all, i| format!("{all}X-{i}: 1\r\n"));
        assert_eq!(
            status(&asks(&many)),
            (HandshakeError::TooManyHeaders, b"400".to_vec())
        );
    }

    #[test]
    fn origins_are_checked_when_there_is_a_list() {
        let list = ["https://here.example".to_owned()];
        assert!(accept(&asks("Origin: https://evil.example\r\n"), None).is_ok());
        assert!(accept(&asks(""), Some(&list)).is_ok());
        assert!(accept(&asks("Origin: https://here.example\r\n"), Some(&list)).is_ok());
        for origin in ["https://evil.example", "null", "https://here.example.evil"] {
            let asked = accept(&asks(&format!("Origin: {origin}\r\n")), Some(&list));
            assert_eq!(asked, Err(HandshakeError::ForeignOrigin));
        }
        let both = asks("Origin: https://here.example\r\nOrigin: https://evil.example\r\n");
        assert_eq!(
            accept(&both, Some(&list)),
            Err(HandshakeError::ForeignOrigin)
        );
    }

    #[test]
    fn heads_end_where_they_end() {
        assert_eq!(find_end(b"", 0), Ok(None));
        assert_eq!(find_end(b"a\r\n\r\nb", 0), Ok(Some(5)));
        assert_eq!(find_end(b"a\r\n\r\nb", 4), Ok(Some(5)));
        let long = vec![b'a'; MAX_HEAD];
        assert_eq!(find_end(&long[..MAX_HEAD - 1], 0), Ok(None));
        assert_eq!(find_end(&long, 0), Err(HandshakeError::TooLong));
    }

    #[test]
    fn other_answers_are_refused() {
        for (answer, error) in [
            (
                &b"HTTP/1.1 404 Not Found\r\n\r\n"[..],
                HandshakeError::Refused(404),
            ),
            (b"HTTP/1.1 200 OK\r\n\r\n", HandshakeError::Refused(200)),
            (
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
                HandshakeError::BadAnswer,
            ),
            (b"SSH-2.0-x\r\n\r\n", HandshakeError::NotHttp),
        ] {
            assert_eq!(check_answer(answer, KEY), Err(error));
        }
    }
}
