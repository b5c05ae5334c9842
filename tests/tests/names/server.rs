//! A small name server.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
    task::JoinSet,
};

/// What the server says to a question.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Addresses; those of the family asked for are given.
    Ips(Vec<IpAddr>),
    /// Texts, each cut into strings of 255 bytes.
    Txt(Vec<String>),
    /// NXDOMAIN.
    NoSuchName,
    /// Truncated, over TCP too.
    Truncated,
    /// After a while.
    Late(Duration),
}

type Answers = dyn Fn(&str, RecordType) -> Reply + Send + Sync;

/// Serves until dropped.
pub struct Server {
    pub addr: SocketAddr,
    /// Another address that says and counts the same.
    pub second: SocketAddr,
    queries: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Server {
    pub async fn start(
        answers: impl Fn(&str, RecordType) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let answers: Arc<Answers> = Arc::new(answers);
        let queries = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let addr = serve("127.0.0.1", &answers, &queries, &mut tasks).await;
        let second = serve("127.0.0.2", &answers, &queries, &mut tasks).await;
        Self {
            addr,
            second,
            queries,
            _tasks: tasks,
        }
    }

    /// Queries so far, over both transports.
    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }
}

/// Serves on a port of `ip`.
async fn serve(
    ip: &str,
    answers: &Arc<Answers>,
    queries: &Arc<AtomicUsize>,
    tasks: &mut JoinSet<()>,
) -> SocketAddr {
    // Both transports on one port.
    let (tcp, udp) = loop {
        let tcp = TcpListener::bind((ip, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            break (tcp, udp);
        }
    };
    let addr = tcp.local_addr().unwrap();
    tasks.spawn({
        let (answers, queries, udp) = (Arc::clone(answers), Arc::clone(queries), Arc::new(udp));
        async move {
            let mut packet = vec![0; 4096];
            let mut replies = JoinSet::new();
            while let Ok((len, from)) = udp.recv_from(&mut packet).await {
                let Some((message, late)) = reply(&*answers, &queries, &packet[..len]) else {
                    continue;
                };
                let udp = Arc::clone(&udp);
                replies.spawn(async move {
                    tokio::time::sleep(late).await;
                    let mut bytes = message.to_vec().unwrap();
                    if bytes.len() > 1232 {
                        bytes = message.truncate().to_vec().unwrap();
                    }
                    let _ = udp.send_to(&bytes, from).await;
                });
            }
        }
    });
    tasks.spawn({
        let (answers, queries) = (Arc::clone(answers), Arc::clone(queries));
        async move {
            let mut clients = JoinSet::new();
            while let Ok((mut socket, _)) = tcp.accept().await {
                let (answers, queries) = (Arc::clone(&answers), Arc::clone(&queries));
                clients.spawn(async move {
                    while let Ok(len) = socket.read_u16().await {
                        let mut packet = vec![0; usize::from(len)];
                        if socket.read_exact(&mut packet).await.is_err() {
                            return;
                        }
                        let Some((message, late)) = reply(&*answers, &queries, &packet) else {
                            return;
                        };
                        tokio::time::sleep(late).await;
                        let bytes = message.to_vec().unwrap();
                        // What does not fit a message is cut off with it.
                        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                        let _ = socket.write_u16(len).await;
                        let _ = socket.write_all(&bytes[..usize::from(len)]).await;
                    }
                });
            }
        }
    });
    addr
}

fn reply(answers: &Answers, queries: &AtomicUsize, packet: &[u8]) -> Option<(Message, Duration)> {
    let asked = Message::from_vec(packet).ok()?;
    let question = asked.queries.first()?.clone();
    queries.fetch_add(1, Ordering::SeqCst);
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.metadata.recursion_available = true;
    message.add_query(question.clone());
    let name = question.name().to_string();
    let kind = question.query_type();
    let mut late = Duration::ZERO;
    let owner: Name = question.name().clone();
    let record = |data| Record::from_rdata(owner.clone(), 3600, data);
    match answers(name.trim_end_matches('.'), kind) {
        Reply::Ips(ips) => {
            for ip in ips {
                match ip {
                    IpAddr::V4(ip) if kind == RecordType::A => {
                        message.add_answer(record(RData::A(A(ip))));
                    }
                    IpAddr::V6(ip) if kind == RecordType::AAAA => {
                        message.add_answer(record(RData::AAAA(AAAA(ip))));
                    }
                    _ => {}
                }
            }
        }
        Reply::Txt(texts) => {
            let mut size = 0;
            for text in texts {
                // As much as a message holds.
                size += text.len() + 16;
                if size > 60_000 {
                    break;
                }
                let chunks = text.as_bytes().chunks(255);
                let chunks = chunks.map(|chunk| String::from_utf8(chunk.to_vec()).unwrap());
                message.add_answer(record(RData::TXT(TXT::new(chunks.collect()))));
            }
        }
        Reply::NoSuchName => message.metadata.response_code = ResponseCode::NXDomain,
        Reply::Truncated => message.metadata.truncation = true,
        Reply::Late(wait) => late = wait,
    }
    Some((message, late))
}
