//! Asking a rendezvous point.

use barewire_peer_cli::{Failure, RendezvousCommand, emit_line};
use futures::StreamExt;
use libp2p::{
    Swarm, identity,
    multiaddr::Protocol,
    rendezvous::{Namespace, client},
    swarm::SwarmEvent,
};
use serde_json::json;

use crate::node::{Behaviour, BehaviourEvent, dial_opts, explain, new_swarm};

pub(crate) async fn run(command: &RendezvousCommand) -> Result<(), Failure> {
    let options = command.options();
    let key = match &options.stack.key {
        Some(path) => identity::Keypair::from_protobuf_encoding(&std::fs::read(path)?)?,
        None => return Err("--key is needed: the identity signs the record".into()),
    };
    let addrs = ["/ip4/127.0.0.1/tcp/0".to_owned(), options.addr.clone()];
    let mut swarm = new_swarm(&options.stack, &addrs, true, None, None)?;
    swarm.behaviour_mut().rendezvous = Some(client::Behaviour::new(key)).into();
    swarm.listen_on(addrs[0].parse()?)?;
    let to: libp2p::Multiaddr = options.addr.parse()?;
    let Some(Protocol::P2p(point)) = to.iter().last() else {
        return Err("the address needs a /p2p/ id at its end".into());
    };
    swarm.dial(dial_opts(to))?;
    let (mut listening, mut connected) = (false, false);
    while !(listening && connected) {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                swarm.add_external_address(address);
                listening = true;
            }
            SwarmEvent::ConnectionEstablished { .. } => connected = true,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(explain(error).into()),
            _ => {}
        }
    }
    let ns = Namespace::new(options.ns.clone())?;
    match command {
        RendezvousCommand::Register(_) => {
            client(&mut swarm)?.register(ns, point, options.ttl)?;
            match answer(&mut swarm).await? {
                client::Event::Registered { ttl, namespace, .. } => emit_line(&json!({
                    "event": "registered", "ns": namespace.to_string(), "ttl": ttl,
                })),
                other => return Err(format!("{other:?}").into()),
            }
        }
        RendezvousCommand::Discover(_) => {
            let (mut cookie, mut pages, mut count) = (None, 0, 0);
            loop {
                client(&mut swarm)?.discover(Some(ns.clone()), cookie, options.limit, point);
                let client::Event::Discovered {
                    registrations,
                    cookie: next,
                    ..
                } = answer(&mut swarm).await?
                else {
                    return Err("the point refused".into());
                };
                pages += 1;
                for registration in &registrations {
                    count += 1;
                    emit_line(&json!({
                        "event": "registration", "peer": registration.record.peer_id().to_string(),
                        "ns": registration.namespace.to_string(), "ttl": registration.ttl,
                        "addrs": registration.record.addresses().iter().map(ToString::to_string)
                            .collect::<Vec<_>>(),
                    }));
                }
                if registrations.is_empty() || options.limit.is_none() {
                    break;
                }
                cookie = Some(next);
            }
            emit_line(&json!({ "event": "discovered", "count": count, "pages": pages }));
        }
        RendezvousCommand::Unregister(_) => {
            client(&mut swarm)?.unregister(ns, point);
            // Nothing answers, and the request has to be on its way before the end of the connection:
            // what is asked after it is answered after it.
            let nobody = Namespace::from_static("nobody");
            client(&mut swarm)?.discover(Some(nobody), None, Some(1), point);
            answer(&mut swarm).await?;
            emit_line(&json!({ "event": "unregistered", "ns": options.ns }));
        }
    }
    Ok(())
}

fn client(swarm: &mut Swarm<Behaviour>) -> Result<&mut client::Behaviour, Failure> {
    let behaviour = swarm.behaviour_mut().rendezvous.as_mut();
    behaviour.ok_or_else(|| "no rendezvous".into())
}

async fn answer(swarm: &mut Swarm<Behaviour>) -> Result<client::Event, Failure> {
    loop {
        if let SwarmEvent::Behaviour(BehaviourEvent::Rendezvous(event)) =
            swarm.select_next_some().await
        {
            match event {
                client::Event::RegisterFailed { error, .. } => {
                    return Err(format!("register failed: {error:?}").into());
                }
                client::Event::DiscoverFailed { error, .. } => {
                    return Err(format!("discover failed: {error:?}").into());
                }
                client::Event::Expired { .. } => {}
                event => return Ok(event),
            }
        }
    }
}
