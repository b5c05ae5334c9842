//! `barewire interop hole-punch`: the contract of the public harness for hole punching. A relay, a listener behind one router and a
//! dialler behind another meet through Redis; the dialler says after how long it had a direct connection.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use barewire_base::Multiaddr;
use barewire_node::{
    Endpoint, PeerId, Router,
    dial::DialTarget,
    protocols::{
        dcutr::{HolePunchConfig, HolePuncher},
        relay::{HOP_PROTOCOL, RelayClient, RelayClientConfig, RelayServer, RelayServerConfig},
    },
};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    failure::Failure,
    interop::{POLL, TIMEOUT, boolean, listen_addr, node_args, required, var, with_redis},
    listen::endpoint,
};

/// What the environment asks for.
struct Plan {
    transport: String,
    redis: String,
    /// Where the relay says where it is, and the listener who it is.
    relay_key: String,
    listener_key: String,
}

/// Plays the part the environment names: relay, dialler, or else listener.
pub(crate) async fn run() -> Result<(), Failure> {
    let test = required("TEST_KEY")?;
    let plan = Plan {
        transport: required("TRANSPORT")?,
        redis: required("REDIS_ADDR")?,
        relay_key: format!("{test}_relay_multiaddr"),
        listener_key: format!("{test}_listener_peer_id"),
    };
    let is = |name: &str| var(name).map_or(Ok(false), |value| boolean(name, &value));
    let standalone = plan.transport == "quic-v1";
    let security = var("SECURE_CHANNEL").filter(|_| !standalone);
    let endpoint = endpoint(&node_args(security.as_deref())?).await?;
    if is("IS_RELAY")? {
        relay(&plan, endpoint).await
    } else if is("IS_DIALER")? {
        let dialled = tokio::time::timeout(TIMEOUT, dial(&plan, endpoint)).await;
        dialled.map_err(|_| Failure::from("no direct connection in time"))?
    } else {
        listen(&plan, endpoint).await
    }
}

async fn relay(plan: &Plan, endpoint: Endpoint) -> Result<(), Failure> {
    let server = RelayServer::new(&endpoint, RelayServerConfig::default());
    let router = Router::builder(endpoint.clone()).accept(HOP_PROTOCOL, server);
    let router = router.spawn()?;
    let bound = endpoint.listen(listen_addr(
        required("RELAY_IP")?.parse()?,
        &plan.transport,
    )?);
    let addr = bound.await?.with_peer(endpoint.peer_id())?;
    put(plan, &plan.relay_key, addr.to_string()).await?;
    eprintln!("relaying at {addr}");
    until_told(router).await
}

async fn listen(plan: &Plan, endpoint: Endpoint) -> Result<(), Failure> {
    let relay: Multiaddr = get(plan, &plan.relay_key).await?.parse()?;
    let mut config = RelayClientConfig::default();
    let puncher = puncher(&endpoint);
    config.puncher = Some(puncher.clone());
    let client = RelayClient::new(&endpoint, vec![relay], config)?;
    let router = client.register(puncher.register(Router::builder(endpoint.clone())));
    let router = router.spawn()?;
    endpoint
        .listen(listen_addr(IpAddr::from([0; 4]), &plan.transport)?)
        .await?;
    client.start();
    let mut state = client.state();
    let reserved = async {
        let reserved = state.wait_for(|state| !state.reserved.is_empty());
        reserved.await.is_ok()
    };
    if tokio::time::timeout(TIMEOUT, reserved).await != Ok(true) {
        return Err("the relay gives no reservation".into());
    }
    put(plan, &plan.listener_key, endpoint.peer_id().to_string()).await?;
    eprintln!("reached through the relay as {}", endpoint.peer_id());
    until_told(router).await
}

async fn dial(plan: &Plan, endpoint: Endpoint) -> Result<(), Failure> {
    let relay = get(plan, &plan.relay_key).await?;
    let peer = get(plan, &plan.listener_key).await?;
    let peer: PeerId = peer
        .parse()
        .map_err(|_| Failure(format!("the listener's peer id, `{peer}`, is none")))?;
    let router = puncher(&endpoint).register(Router::builder(endpoint.clone()));
    let router = router.spawn()?;
    endpoint
        .listen(listen_addr(IpAddr::from([0; 4]), &plan.transport)?)
        .await?;
    let way: Multiaddr = format!("{relay}/p2p-circuit/p2p/{peer}").parse()?;
    eprintln!("dialling {way}");
    let begun = Instant::now();
    let relayed = endpoint.connect(DialTarget::from(way)).await?;
    let direct = || {
        let all = endpoint.connections();
        let mut all = all.iter();
        all.any(|one| one.peer_id() == peer && !one.info().is_relayed())
    };
    while !direct() {
        if relayed.close_reason().is_some() {
            return Err("the relayed connection ended before there was a direct one".into());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!(
        "handshakeTime: {:.3}\nunit: ms",
        begun.elapsed().as_secs_f64() * 1e3
    );
    router.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

/// The networks of the harness are private ones.
fn puncher(endpoint: &Endpoint) -> HolePuncher {
    let mut config = HolePunchConfig::default();
    config.private = true;
    HolePuncher::new(endpoint, config)
}

async fn until_told(router: Router) -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    router.shutdown(Duration::from_secs(1)).await;
    Ok(())
}

async fn put(plan: &Plan, key: &str, value: String) -> Result<(), Failure> {
    let key = key.to_owned();
    with_redis(&plan.redis, TIMEOUT, move |redis| {
        redis::cmd("SET").arg(&key).arg(&value).exec(redis)
    })
    .await
}

/// What another part has put there, once it has.
async fn get(plan: &Plan, key: &str) -> Result<String, Failure> {
    let begun = Instant::now();
    while begun.elapsed() < TIMEOUT {
        let name = key.to_owned();
        let get = move |redis: &mut redis::Connection| redis::cmd("GET").arg(&name).query(redis);
        match with_redis(&plan.redis, TIMEOUT, get).await? {
            Some(value) => return Ok(value),
            None => tokio::time::sleep(POLL).await,
        }
    }
    Err(format!("nobody has put {key} into Redis in time").into())
}
