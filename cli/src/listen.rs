//! `barewire id` and `barewire listen`.

use std::time::Duration;

use barewire_base::Keypair;
use barewire_node::{
    Config, Endpoint, Router, keyfile,
    pnet::Psk,
    protocols::{echo, perf},
    ws::{Certificate, Roots},
};
use serde_json::json;
use tokio::{
    io::AsyncReadExt,
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use crate::{
    allocator,
    announce::Announcer,
    args::{IdArgs, ListenArgs, NodeArgs, Security},
    autonat,
    failure::Failure,
    gossip, metrics, output, port_mapping, relay, watch,
};

/// How long running transfers may take after the end was asked for.
const DRAIN: Duration = Duration::from_secs(10);

const STOPPED: &str = "stopped by a second signal before running transfers ended";

/// Makes or shows an identity.
pub(crate) fn id(args: &IdArgs) -> Result<(), Failure> {
    let (keypair, created) = match &args.key {
        Some(path) => keyfile::load_or_create(path)?,
        None => (Keypair::generate(&mut rand::rng()), true),
    };
    let peer = keypair.peer_id();
    let file = args.key.as_ref().map(|path| path.display().to_string());
    let value = json!({
        "event": "id", "peer": peer.to_string(), "cid": peer.to_cid_string(), "key": file,
        "created": created,
    });
    output::event(args.json, &value, || {
        let key = match (&file, created) {
            (Some(file), true) => format!("{file} (new)"),
            (Some(file), false) => file.clone(),
            (None, _) => "not kept; --key FILE keeps one".into(),
        };
        format!(
            "peer id  {peer}\nas CID   {}\nkey      {key}",
            peer.to_cid_string()
        )
    });
    Ok(())
}

/// The endpoint that the common options describe.
pub(crate) async fn endpoint(args: &NodeArgs) -> Result<Endpoint, Failure> {
    endpoint_of(identity(args)?, args).await
}

fn identity(args: &NodeArgs) -> Result<Keypair, Failure> {
    Ok(match &args.key {
        Some(path) => keyfile::load_or_create(path)?.0,
        None => Keypair::generate(&mut rand::rng()),
    })
}

/// The same for a given identity.
pub(crate) async fn endpoint_of(keypair: Keypair, args: &NodeArgs) -> Result<Endpoint, Failure> {
    let config = config(args, &[Security::Noise])?;
    Ok(Endpoint::builder(keypair).config(config).bind().await?)
}

/// What the common options configure. `security` is what is spoken unless the options say.
fn config(args: &NodeArgs, security: &[Security]) -> Result<Config, Failure> {
    let mut config = match args.memory_limit {
        Some(bytes) => Config::from_memory(bytes),
        None => Config::default(),
    };
    let security = match args.security.as_slice() {
        [] => security,
        named => named,
    };
    if let Some((_, again)) = security
        .iter()
        .enumerate()
        .find(|(at, one)| security[..*at].contains(one))
    {
        return Err(format!("--security names {} twice", again.name()).into());
    }
    config.security = security.iter().copied().map(Into::into).collect();
    config.log_tls_keys = true;
    config.reclaim = Some(allocator::give_back);
    config.muxer = args.muxer.into();
    config.quic.max_mtu = args.quic_mtu;
    config.quic.congestion = args.quic_congestion.into();
    let qlog = args.qlog.clone();
    config.quic.qlog = qlog.or_else(|| {
        std::env::var_os("QLOGDIR")
            .filter(|dir| !dir.is_empty())
            .map(Into::into)
    });
    config.idle_timeout = args.idle_timeout.0;
    if let Some(file) = &args.psk {
        config.psk = Some(Psk::from_file(file)?);
    }
    if let Some(file) = &args.ws_ca {
        config.ws.roots = Roots::from_pem_file(file)?;
    }
    config.peer_book.path.clone_from(&args.peer_book);
    config.dns.servers.clone_from(&args.dns_server);
    config.dial.private_names = args.private_names;
    Ok(config)
}

/// Serves until told to stop.
pub(crate) async fn listen(args: ListenArgs) -> Result<(), Failure> {
    // Before anybody can know that this node is there to be stopped.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Whoever dials speaks one of the two.
    let mut config = config(&args.node, &[Security::Noise, Security::Tls])?;
    if let (Some(chain), Some(key)) = (&args.ws_cert, &args.ws_key) {
        config.ws.certificate = Some(Certificate::from_pem_files(chain, key)?);
    }
    if !args.ws_origin.is_empty() {
        config.ws.origins = Some(args.ws_origin);
    }
    if let Some(inbound) = args.max_connections {
        config.limits.set_connections(usize::try_from(inbound)?);
    }
    if let Some(per_ip) = args.max_per_ip {
        config.limits.set_per_ip(usize::try_from(per_ip)?);
    }
    let endpoint = Endpoint::builder(identity(&args.node)?)
        .config(config)
        .bind()
        .await?;
    let mut told = JoinSet::new();
    if args.events {
        told.spawn(watch::connections(endpoint.clone(), args.node.json));
    }
    let mut router = Router::builder(endpoint.clone())
        .accept(perf::PROTOCOL, perf::Perf)
        .accept(echo::PROTOCOL, echo::Echo);
    for protocol in &args.echo_protocol {
        router = router.accept(protocol.as_str(), echo::Echo);
    }
    let gossip = if args.topic.is_empty() {
        None
    } else {
        Some(gossip::spawn(&endpoint, &args.gossip)?)
    };
    if let Some(gossip) = &gossip {
        router = gossip.register(router);
    }
    if let Some(point) = args.discovery.point(&endpoint).await? {
        router = point.register(router);
    }
    let (router, relayed) = relay::register(&endpoint, router, &args.relay)?;
    let (router, tested) = autonat::register(&endpoint, router, &args.autonat).await?;
    let router = router.spawn()?;
    if let Some(gossip) = &gossip {
        for topic in &args.topic {
            let printed = !args.gossip.quiet;
            told.spawn(gossip::relay(gossip, topic, printed, args.node.json).await?);
        }
    }
    let mut announcer = Announcer::new(endpoint.peer_id(), args.node.json, endpoint.state());
    for addr in args.listen {
        let bound = endpoint.listen(addr).await?;
        announcer.update();
        if !endpoint.addresses().contains(&bound) {
            announcer.bound(&bound);
        }
    }
    told.spawn(announcer.follow());
    if let Some(client) = tested {
        told.spawn(autonat::follow(client, endpoint.state(), args.node.json));
    }
    if let Some(client) = relayed {
        told.spawn(relay::follow(client, endpoint.peer_id(), args.node.json));
    }
    let mapper = port_mapping::start(&endpoint, &args.mapping);
    if let Some(mapper) = &mapper {
        told.spawn(port_mapping::follow(mapper.clone(), args.node.json));
    }
    if let Some(addr) = args.metrics {
        let server = metrics::bind(addr, args.node.json).await?;
        told.spawn(metrics::serve(server, endpoint.clone()));
    }
    let _finding = args.discovery.start(&endpoint, args.node.json, &mut told)?;
    for addr in args.keep {
        let kept = endpoint.keep_connected([addr.clone()]);
        told.spawn(watch::kept(kept, addr, args.node.json));
    }
    // A second signal ends the wait. A first one that comes together with the end of stdin, as a
    // supervisor may send both, is not a second one.
    let mut more_signals = tokio::select! {
        () = stdin_closed() => 2,
        _ = terminate.recv() => 1,
        _ = interrupt.recv() => 1,
    };
    let impatience = async {
        while more_signals > 0 {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            more_signals -= 1;
        }
    };
    let ending = async {
        if let Some(mapper) = &mapper {
            mapper.release().await;
        }
        router.shutdown(DRAIN).await
    };
    let report = tokio::select! {
        report = ending => report,
        () = impatience => return Err(STOPPED.into()),
    };
    if report.is_clean() {
        return Ok(());
    }
    Err(format!(
        "{} connection(s) with {} running handler(s) and {} unsent bytes were cut off after {} s",
        report.connections_cut,
        report.handlers_cut,
        report.bytes_cut,
        DRAIN.as_secs()
    )
    .into())
}

/// Waits until stdin is closed; what is typed is ignored.
pub(crate) async fn stdin_closed() {
    let mut stdin = tokio::io::stdin();
    let mut scratch = [0; 256];
    while stdin.read(&mut scratch).await.is_ok_and(|n| n > 0) {}
}
