//! Listening, and the way of an inbound connection into the table.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use barewire_base::{Fault, Multiaddr};
use barewire_transport::{AcceptError, Incoming, Listener, LocalReason, UpgradeError};

use super::{Shared, pending::SlotId};
use crate::{
    codes,
    error::ListenError,
    events::Event,
    incidents::Incident,
    manager::{self, Gated, Visit},
};

/// First pause after an accept that failed for lack of resources; doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// Longest such pause: six failing calls a second cost nothing, and who waits is served soon after descriptors are free.
const MAX_PAUSE: Duration = Duration::from_millis(160);

pub(super) fn listen(shared: &Arc<Shared>, addr: &Multiaddr) -> Result<Multiaddr, ListenError> {
    if shared.stop.is_cancelled() {
        return Err(ListenError::ShuttingDown);
    }
    if let Some(peer) = addr.peer_id().filter(|peer| *peer != shared.peer_id) {
        return Err(ListenError::OtherPeer(peer));
    }
    let listener = shared.transports.listen(addr)?;
    let bound = listener.local_addr().clone();
    shared.change_addresses(|addresses| addresses.bind(bound.clone()));
    shared
        .tasks
        .spawn(accept_all(Arc::clone(shared), listener, bound.clone()));
    Ok(bound)
}

async fn accept_all(shared: Arc<Shared>, mut listener: Listener, addr: Multiaddr) {
    let mut pause = MIN_PAUSE;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(incoming) => {
                pause = MIN_PAUSE;
                admit(&shared, incoming);
            }
            Err(AcceptError::Io(error)) if concerns_one_connection(&error) => {
                tracing::debug!(%addr, %error, "a connection died before it was accepted");
            }
            Err(AcceptError::Io(error)) => {
                // Most often no descriptors are left. Accepting again at once would spin.
                tracing::warn!(%addr, %error, "cannot accept connections for the moment");
                shared.events.emit(|| Event::AcceptFailed {
                    addr: addr.clone(),
                    kind: error.kind(),
                });
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(AcceptError::Ended) => {
                tracing::warn!(%addr, "the listening socket broke");
                shared.events.emit(|| Event::AcceptFailed {
                    addr: addr.clone(),
                    kind: io::ErrorKind::NotConnected,
                });
                // It has the port.
                drop(listener);
                let Some(anew) = listen_anew(&shared, &addr).await else {
                    return;
                };
                listener = anew;
            }
        }
    }
}

/// Listens again where a socket broke, as soon as that is possible. `None` when the node stops.
async fn listen_anew(shared: &Shared, addr: &Multiaddr) -> Option<Listener> {
    let mut pause = MIN_PAUSE;
    loop {
        // First of all, because the next socket may break at once: when the runtime ends each does.
        tokio::select! {
            () = shared.stop.cancelled() => return None,
            () = tokio::time::sleep(pause) => {}
        }
        match shared.transports.listen(addr) {
            Ok(listener) => {
                tracing::info!(%addr, "listening anew");
                return Some(listener);
            }
            // The connections of a UDP socket hold its port until they have ended.
            Err(error) => tracing::debug!(%addr, %error, "cannot listen anew yet"),
        }
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

/// Errors that say nothing about the listener: the connection was reset or broke while it waited.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::NotConnected
            | Kind::InvalidInput
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    )
}

fn admit(shared: &Arc<Shared>, mut incoming: Incoming) {
    let remote = incoming.remote_addr().clone();
    let ip = manager::ip_of(&remote);
    let proven = incoming.is_validated();
    if !proven && (shared.pending.lock().is_crowded(ip) || shared.manager.wants_proof(ip)) {
        // A flood from invented addresses costs a packet each from here on, and no slot.
        match incoming.validate_address() {
            None => {
                let cause = "many attempts, so the remote has to prove its address";
                let kind = Incident::AddressUnproven;
                shared
                    .incidents
                    .record(kind, 1, Fault::Limit, &remote, &cause);
                return;
            }
            Some(proven) => incoming = proven,
        }
    }
    if let Err(Gated(why)) = shared.manager.on_accept(&remote) {
        shared.refused(&remote, None, Incident::Gated, LocalReason::Gated(why));
        incoming.ignore();
        return;
    }
    let visit = match shared.manager.visit(ip, proven) {
        Ok(visit) => visit,
        Err(refusal) => {
            let kind = Incident::of_refusal(refusal);
            let reason = LocalReason::Limit(refusal.name());
            shared.refused(&remote, None, kind, reason);
            return;
        }
    };
    let (slot, dropped) = shared.pending.lock().admit(ip);
    if let Some(oldest) = dropped {
        oldest.abort();
    }
    let upgrade = upgrade(Arc::clone(shared), incoming, remote, slot, visit);
    let handle = shared.tasks.spawn(upgrade).abort_handle();
    // Without its slot the upgrade is either over, and aborting it changes nothing, or another
    // listener has given the slot to a newer connection meanwhile.
    if let Some(lost) = shared.pending.lock().attach(slot, handle) {
        lost.abort();
    }
}

/// Tells of an upgrade that was dropped half way, because its slot went to a newer connection.
struct DroppedUpgrade<'a> {
    shared: &'a Shared,
    remote: &'a Multiaddr,
    armed: bool,
}

impl Drop for DroppedUpgrade<'_> {
    fn drop(&mut self) {
        if self.armed {
            let cause = "a pending connection was dropped for a newer one";
            let incidents = &self.shared.incidents;
            incidents.record(
                Incident::PendingDropped,
                1,
                Fault::Limit,
                self.remote,
                &cause,
            );
            self.shared.events.emit(|| Event::InboundFailed {
                remote: self.remote.clone(),
                error: None,
            });
        }
    }
}

async fn upgrade(
    shared: Arc<Shared>,
    incoming: Incoming,
    remote: Multiaddr,
    slot: SlotId,
    mut visit: Visit,
) {
    let mut dropped = DroppedUpgrade {
        shared: &shared,
        remote: &remote,
        armed: true,
    };
    let begun = Instant::now();
    let upgraded = tokio::select! {
        upgraded = incoming.upgrade() => upgraded,
        () = shared.stop.cancelled() => {
            shared.pending.lock().finish(slot);
            dropped.armed = false;
            return;
        }
    };
    if !shared.pending.lock().finish(slot) {
        return;
    }
    dropped.armed = false;
    if upgraded.is_ok() {
        visit.connected();
    }
    match upgraded {
        Ok((connection, _)) if connection.peer_id() == shared.peer_id => {
            shared.close_unentered(&connection, codes::CONNECTION_NORMAL);
        }
        Ok((connection, inbound)) => {
            shared.metrics.handshake(&connection, begun.elapsed());
            // It is told why it is refused.
            let _ = shared.establish(&connection, inbound, Some(visit), false);
        }
        Err(UpgradeError::Refused(reason)) => {
            shared.refused(&remote, None, Incident::Gated, reason);
        }
        Err(error) => {
            let kind = Incident::of_upgrade(&error);
            shared
                .incidents
                .record(kind, 1, error.fault(), &remote, &error);
            shared.events.emit(|| Event::InboundFailed {
                remote: remote.clone(),
                error: Some(error),
            });
        }
    }
}
