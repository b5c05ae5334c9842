use barewire_base::{Budget, Keypair, Multiaddr};
use barewire_security::noise;
use barewire_transport::*;
use bytes::Bytes;
use std::{sync::Arc, time::Instant};
fn config(seed: u8) -> UpgradeConfig {
    let noise = noise::Config::new(
        &Keypair::from_seed(&[seed; 32]),
        vec!["/yamux/1.0.0".into()],
        &mut rand::rng(),
    )
    .unwrap();
    UpgradeConfig::new(Arc::new(noise), Budget::unlimited())
}
struct Ping;
impl InlineHandler for Ping {
    fn on_data(&mut self, c: Bytes) -> Result<Option<Bytes>, u32> {
        Ok(Some(c))
    }
    fn on_finish(&mut self) -> Result<(), u32> {
        Ok(())
    }
}
async fn handle(inb: InboundStream) {
    let Ok(mut s) = inb.negotiate(|p| Some(p.into())).await else {
        return;
    };
    match &**s.protocol() {
        "/ping" => s.serve_inline(Box::new(Ping)),
        "/sink" => {
            while let Ok(Some(_)) = s.read_chunk(usize::MAX).await {}
            s.finish().ok();
        }
        "/source" => {
            let b = Bytes::from(vec![0u8; 1 << 20]);
            for _ in 0..4096 {
                if s.write_chunk(b.clone()).await.is_err() {
                    return;
                }
            }
            s.finish().ok();
            while let Ok(Some(_)) = s.read_chunk(10).await {}
        }
        _ => {
            while let Ok(Some(c)) = s.read_chunk(usize::MAX).await {
                s.write_chunk(c).await.ok();
            }
            s.finish().ok();
            while let Ok(Some(_)) = s.read_chunk(10).await {}
        }
    }
}
async fn serve(port: u16) {
    let cfg = Arc::new(config(2));
    let mut l = listen(
        &format!("/ip4/127.0.0.1/tcp/{port}")
            .parse::<Multiaddr>()
            .unwrap(),
        &tcp::TcpConfig::default(),
    )
    .unwrap();
    loop {
        let raw = l.accept().await.unwrap();
        let cfg = cfg.clone();
        tokio::spawn(async move {
            let Ok((_c, mut s)) = upgrade_halves(raw, Role::Server, &cfg, None).await else {
                return;
            };
            while let Some(i) = s.accept().await {
                tokio::spawn(handle(i));
            }
        });
    }
}
async fn dialer(port: u16, cfg: &UpgradeConfig) -> (Connection, InboundStreams) {
    let raw = dial(
        &format!("/ip4/127.0.0.1/tcp/{port}")
            .parse::<Multiaddr>()
            .unwrap(),
        &tcp::TcpConfig::default(),
    )
    .await
    .unwrap();
    upgrade_halves(raw, Role::Client, cfg, None).await.unwrap()
}
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let port: u16 = a[2].parse().unwrap();
    let rt = if std::env::var("MT").is_ok() {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    }
    .unwrap();
    let (mode, n) = (
        a[1].clone(),
        a.get(3).map_or(0, |s| s.parse::<u64>().unwrap()),
    );
    if mode == "listen" {
        rt.block_on(serve(port));
        return;
    }
    rt.block_on(async move {
        tokio::spawn(async move {
            let cfg = config(1);
            if mode == "hs" {
                let t = Instant::now();
                for _ in 0..n {
                    let (c, _s) = dialer(port, &cfg).await;
                    let mut s = c.open_stream("/ping").await.unwrap();
                    s.write_chunk(Bytes::from_static(&[7; 32])).await.unwrap();
                    s.read_chunk(32).await.unwrap();
                    c.close(0);
                }
                println!("handshakes {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
                return;
            }
            let (c, _s) = dialer(port, &cfg).await;
            match &*mode {
                "ping" => {
                    let mut s = c.open_stream("/ping").await.unwrap();
                    let b = Bytes::from_static(&[7; 32]);
                    let mut v = vec![];
                    for _ in 0..n {
                        let t = Instant::now();
                        s.write_chunk(b.clone()).await.unwrap();
                        s.read_chunk(32).await.unwrap();
                        v.push(t.elapsed().as_nanos());
                    }
                    v.sort();
                    println!(
                        "ping p50 {} us p99 {}",
                        v[v.len() / 2] as f64 / 1e3,
                        v[v.len() * 99 / 100] as f64 / 1e3
                    );
                }
                "up" => {
                    let mut s = c.open_stream("/sink").await.unwrap();
                    let b = Bytes::from(vec![0u8; 1 << 20]);
                    let t = Instant::now();
                    for _ in 0..n {
                        s.write_chunk(b.clone()).await.unwrap();
                    }
                    s.finish().unwrap();
                    while let Some(_) = s.read_chunk(10).await.unwrap() {}
                    println!(
                        "up {:.0} MiB/s moved {:?}",
                        n as f64 / t.elapsed().as_secs_f64(),
                        c.stats()
                    );
                }
                "down" => {
                    let mut s = c.open_stream("/source").await.unwrap();
                    s.finish().unwrap();
                    let t = Instant::now();
                    let mut total = 0u64;
                    while let Some(b) = s.read_chunk(usize::MAX).await.unwrap() {
                        total += b.len() as u64;
                    }
                    println!(
                        "down {:.0} MiB/s moved {:?}",
                        total as f64 / 1048576.0 / t.elapsed().as_secs_f64(),
                        c.stats()
                    );
                }
                "streams" => {
                    let t = Instant::now();
                    let mut js = tokio::task::JoinSet::new();
                    let b = Bytes::from_static(&[7; 100]);
                    for _ in 0..16 {
                        let c = c.clone();
                        let b = b.clone();
                        js.spawn(async move {
                            for _ in 0..n / 16 {
                                let mut s = c.open_stream("/echo").await.unwrap();
                                s.write_last(b.clone()).await.unwrap();
                                let mut got = 0;
                                while let Some(x) = s.read_chunk(1000).await.unwrap() {
                                    got += x.len();
                                }
                                assert_eq!(got, 100);
                            }
                        });
                    }
                    while let Some(r) = js.join_next().await {
                        r.unwrap();
                    }
                    println!("streams {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
                }
                _ => {}
            }
        })
        .await
        .unwrap()
    });
}
