//! A WebSocket client that does as it is told.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const MASK: [u8; 4] = [0x1f, 0x80, 0x33, 0xe7];

/// A request with further header lines, each ended by CRLF.
pub(crate) fn request(more: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: victim.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
    )
}

/// What the victim sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Binary,
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The end of the byte stream, or a reset.
    End,
}

pub(crate) struct Client {
    pub(crate) socket: TcpStream,
}

impl Client {
    pub(crate) async fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        Self { socket }
    }

    /// Connects and opens the WebSocket.
    pub(crate) async fn open(port: u16) -> Self {
        let mut client = Self::connect(port).await;
        client.send(request("").as_bytes()).await;
        let head = client.read_head().await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        client
    }

    /// Sends; the victim may have closed already.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.socket.write_all(bytes).await.is_ok()
    }

    /// The head of the answer; empty when there is none.
    pub(crate) async fn read_head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(DEADLINE, self.socket.read_u8()).await.unwrap() {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
        String::from_utf8(head).unwrap()
    }

    /// The next frame. The victim's frames must be unmasked and whole.
    pub(crate) async fn next(&mut self) -> Got {
        timeout(DEADLINE, async {
            let Ok(first) = self.socket.read_u8().await else {
                return Got::End;
            };
            let Ok(second) = self.socket.read_u8().await else {
                return Got::End;
            };
            assert_eq!(first & 0xf0, 0x80, "fragmented or reserved bits");
            let len = match second {
                126 => usize::from(self.socket.read_u16().await.unwrap()),
                127 => usize::try_from(self.socket.read_u64().await.unwrap()).unwrap(),
                short => usize::from(short),
            };
            assert!(second < 128, "the server masks");
            let mut payload = vec![0; len];
            self.socket.read_exact(&mut payload).await.unwrap();
            match first & 0x0f {
                2 => Got::Binary,
                8 => Got::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
                10 => Got::Pong(payload),
                other => panic!("opcode {other}"),
            }
        })
        .await
        .expect("an answer in time")
    }
}

/// A masked frame by its first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..126 => out.push(0x80 | len as u8),
        len @ 126..65_536 => {
            out.push(0x80 | 126);
            out.extend((len as u16).to_be_bytes());
        }
        len => {
            out.push(0x80 | 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
    out
}
