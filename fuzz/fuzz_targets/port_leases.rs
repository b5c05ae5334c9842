//! Mappings of a router as a list of operations: nothing is due that sleeps, no port is asked for twice at once, what is not wanted is given
//! back, and nothing counts after its end.
#![no_main]

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use barewire_nat::mapping::{Action, Leases, LeasesConfig, MAX_PORTS, Port, Transport};
use libfuzzer_sys::fuzz_target;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

#[derive(Arbitrary, Clone, Debug)]
enum Op {
    Wait(u16),
    Ports(Vec<(bool, u8)>),
    /// Of the ports that are asked for, that one.
    Mapped {
        which: u8,
        lifetime: u32,
    },
    Failed {
        which: u8,
    },
    Reset,
}

fuzz_target!(|ops: Vec<Op>| {
    let config = LeasesConfig::default();
    let mut leases = Leases::new(config.clone());
    let mut now = *START;
    let mut wanted = BTreeSet::new();
    let mut asked = Vec::<Port>::new();
    for op in ops.into_iter().take(256) {
        match op {
            Op::Wait(seconds) => now += Duration::from_secs(seconds.into()),
            Op::Ports(ports) => {
                let ports: Vec<_> = ports
                    .iter()
                    .map(|(udp, number)| port(*udp, *number))
                    .collect();
                leases.set_ports(now, &ports);
                wanted.clear();
                for port in ports {
                    if port.number != 0 && wanted.len() < MAX_PORTS {
                        wanted.insert(port);
                    }
                }
            }
            Op::Mapped { which, lifetime } if !asked.is_empty() => {
                let port = asked.swap_remove(usize::from(which) % asked.len());
                let lifetime = Duration::from_secs(lifetime.into());
                leases.mapped(
                    now,
                    port,
                    SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
                    lifetime,
                );
            }
            Op::Failed { which } if !asked.is_empty() => {
                let port = asked.swap_remove(usize::from(which) % asked.len());
                leases.failed(now, port);
            }
            Op::Reset => {
                leases.reset(now);
                asked.clear();
            }
            _ => {}
        }
        while let Some(action) = leases.poll(now) {
            match action {
                Action::Map(port) => {
                    assert!(wanted.contains(&port), "{port:?} is not wanted");
                    // One that was given up and wanted again may still be asked for.
                    if !asked.contains(&port) {
                        asked.push(port);
                    }
                }
                Action::Unmap(port) => assert!(!wanted.contains(&port), "{port:?} is wanted"),
            }
        }
        let due = leases.poll_timeout();
        assert!(due.is_none_or(|at| at > now), "something is due");
        for (port, _) in leases.held() {
            assert!(wanted.contains(&port));
        }
    }
    now += 3 * config.lease;
    leases.poll(now);
    assert_eq!(leases.held().count(), 0, "held after its end");
});

fn port(udp: bool, number: u8) -> Port {
    let transport = if udp { Transport::Udp } else { Transport::Tcp };
    let number = number.into();
    Port { transport, number }
}
