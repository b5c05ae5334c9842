#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
use super::*;

fn addr(text: &str) -> Multiaddr {
    text.parse().unwrap()
}

/// Runs a dial in virtual time with nobody answering; says when what was started.
fn timeline(addrs: &[&str]) -> Vec<(u128, String)> {
    let mut planner = Planner::new(DialLimits::default());
    let mut plan = Plan::new(None, true);
    let start = Instant::now();
    let addrs = addrs.iter().map(|text| addr(text));
    assert!(plan.add(start, planner.limits(), addrs).is_empty());
    let mut now = start;
    let mut started = Vec::new();
    loop {
        match planner.next(now, &mut plan) {
            Step::Start(_, addr) => {
                started.push(((now - start).as_millis(), addr.to_string()));
            }
            Step::Wait(until) => now = until,
            Step::Running => return started,
            other => panic!("{other:?}"),
        }
    }
}

fn expect(addrs: &[&str], expected: &[(u128, &str)]) {
    let expected: Vec<_> = expected
        .iter()
        .map(|(at, addr)| (*at, (*addr).to_owned()))
        .collect();
    assert_eq!(timeline(addrs), expected);
}

#[test]
fn quic_then_tcp_then_websocket_then_relays() {
    let relay =
        "/ip4/8.8.4.4/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA/p2p-circuit";
    expect(
        &[
            "/ip4/8.8.8.8/tcp/1/ws",
            relay,
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.8.8/udp/1/quic-v1",
            "/ip6/2001:db8::1/udp/1/quic-v1",
        ],
        &[
            (0, "/ip6/2001:db8::1/udp/1/quic-v1"),
            (250, "/ip4/8.8.8.8/udp/1/quic-v1"),
            (250, "/ip4/8.8.8.8/tcp/1"),
            (500, "/ip4/8.8.8.8/tcp/1/ws"),
            (1_000, relay),
        ],
    );
    expect(
        &["/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/udp/1/quic-v1"],
        &[
            (0, "/ip4/10.0.0.1/udp/1/quic-v1"),
            (30, "/ip4/10.0.0.1/tcp/1"),
        ],
    );
    expect(
        &[
            "/ip4/8.8.8.8/tcp/1",
            "/ip4/8.8.8.8/tcp/2",
            "/ip6/2001:db8::1/tcp/1",
            "/ip6/2001:db8::1/tcp/2",
        ],
        &[
            (0, "/ip6/2001:db8::1/tcp/1"),
            (250, "/ip4/8.8.8.8/tcp/1"),
            (500, "/ip6/2001:db8::1/tcp/2"),
            (750, "/ip4/8.8.8.8/tcp/2"),
        ],
    );
}

#[test]
fn a_failure_lets_the_next_start_at_once() {
    let mut planner = Planner::new(DialLimits::default());
    let mut plan = Plan::new(None, true);
    let now = Instant::now();
    let addrs = [
        "/ip4/8.8.8.8/tcp/1",
        "/ip4/8.8.8.8/tcp/2",
        "/ip4/8.8.8.8/tcp/3",
    ]
    .map(addr);
    plan.add(now, &planner.limits().clone(), addrs);
    let Step::Start(id, _) = planner.next(now, &mut plan) else {
        panic!()
    };
    let later = now + Duration::from_millis(20);
    assert_eq!(planner.next(later, &mut plan), Step::Wait(now + PUBLIC_GAP));
    planner.failed(later, 0.0, &mut plan, id, Outcome::Unreachable);
    assert!(matches!(planner.next(later, &mut plan), Step::Start(1, _)));
    assert_eq!(
        planner.next(later, &mut plan),
        Step::Wait(later + PUBLIC_GAP)
    );
}

#[test]
fn a_long_list_is_cut_so_that_each_kind_has_a_chance() {
    let mut planner = Planner::new(DialLimits::default());
    let mut plan = Plan::new(None, true);
    let now = Instant::now();
    let mut list: Vec<_> = (0..10_000u32)
        .map(|n| Multiaddr::quic((std::net::Ipv4Addr::from(0x0808_0000 + n), 1).into()))
        .collect();
    list.push(addr("/ip4/8.8.8.8/tcp/1"));
    list.push(addr("/ip6/2001:db8::1/tcp/1/ws"));
    let began = Instant::now();
    let over = plan.add(now, &planner.limits().clone(), list);
    let took = began.elapsed();
    assert_eq!(over.len(), 10_002 - 16);
    let mut kinds = HashMap::<_, usize>::new();
    let mut most = 0;
    let mut clock = now;
    loop {
        match planner.next(clock, &mut plan) {
            Step::Start(_, addr) => {
                *kinds.entry(kind(&addr)).or_default() += 1;
                most = most.max(plan.running());
            }
            Step::Wait(until) => clock = until,
            Step::Running => {
                let id = plan.running.first().unwrap().id;
                planner.failed(clock, 0.0, &mut plan, id, Outcome::Unreachable);
            }
            Step::Done => break,
            other => panic!("{other:?}"),
        }
    }
    println!("10,002 addresses planned in {took:?}, at most {most} at once: {kinds:?}");
    assert_eq!(
        (kinds[&Kind::Quic], kinds[&Kind::Tcp], kinds[&Kind::Ws]),
        (14, 1, 1)
    );
    assert_eq!(most, 8);
    assert_eq!(planner.running(), 0);
}

#[test]
fn one_host_is_dialled_eight_times_in_ten_seconds() {
    let mut planner = Planner::new(DialLimits::default());
    let start = Instant::now();
    let mut times = Vec::new();
    let mut now = start;
    // Many peers that all claim the same host.
    for peer in 0..10u16 {
        let mut plan = Plan::new(None, false);
        let addrs = (0..5).map(|n| addr(&format!("/ip4/203.0.113.9/tcp/{}", 1 + peer * 5 + n)));
        plan.add(now, &planner.limits().clone(), addrs);
        loop {
            match planner.next(now, &mut plan) {
                Step::Start(id, _) => {
                    times.push(now - start);
                    planner.failed(now, 0.5, &mut plan, id, Outcome::Unreachable);
                }
                Step::Wait(until) => now = until,
                Step::Skip(..) => {}
                Step::Done => break,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(times.len(), 50);
    let worst = times
        .iter()
        .map(|t| {
            times
                .iter()
                .filter(|u| **u >= *t && **u < *t + IP_WINDOW)
                .count()
        })
        .max();
    println!("row 27: 50 addresses at one host: at most {worst:?} dials in 10 s");
    assert_eq!(worst, Some(8));
}

#[test]
fn full_tables_still_take_what_is_new() {
    let mut planner = Planner::new(DialLimits::default());
    let limits = planner.limits().clone();
    let start = Instant::now();
    let mut now = start;
    // More hosts than are remembered fail within the window; then one is dialled too often.
    let filler = (0..5_000u32).map(|n| std::net::Ipv4Addr::from(0x0808_0000 + n).to_string());
    let mut refused = 0;
    for host in filler.chain(std::iter::repeat_n("203.0.113.9".to_owned(), 9)) {
        now += Duration::from_micros(500);
        let mut plan = Plan::new(None, false);
        plan.add(now, &limits, [addr(&format!("/ip4/{host}/tcp/1"))]);
        match planner.next(now, &mut plan) {
            Step::Start(id, _) => {
                planner.failed(now, 0.0, &mut plan, id, Outcome::Unreachable);
            }
            Step::Skip(addr, Skip::Backoff(_)) => {
                assert_eq!(addr.to_string(), "/ip4/203.0.113.9/tcp/1");
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(refused, 8, "all but the first");
    for port in 2..=9 {
        let mut plan = Plan::new(None, false);
        plan.add(
            now,
            &limits,
            [addr(&format!("/ip4/203.0.113.9/tcp/{port}"))],
        );
        let step = planner.next(now, &mut plan);
        let expected = port < 9;
        assert_eq!(
            matches!(step, Step::Start(..)),
            expected,
            "{port}: {step:?}"
        );
    }
    assert_eq!(
        (planner.hosts.len(), planner.backoffs.len()),
        (MAX_HOSTS, MAX_BACKOFFS)
    );
}

#[test]
fn what_the_user_names_and_what_is_here_waits_for_nothing() {
    let tcp = |ip: &str, port: u16| addr(&format!("/ip4/{ip}/tcp/{port}"));
    for (ip, by_user, limited) in [
        ("203.0.113.9", true, false),
        ("127.0.0.1", false, false),
        ("203.0.113.9", false, true),
    ] {
        let mut planner = Planner::new(DialLimits::default());
        let now = Instant::now();
        let mut waited = false;
        // A dozen dials of a host whose process is restarting.
        for port in 1..=12 {
            let mut plan = Plan::new(None, by_user);
            plan.add(now, &planner.limits().clone(), [tcp(ip, port)]);
            match planner.next(now, &mut plan) {
                Step::Start(id, _) => planner.failed(now, 0.0, &mut plan, id, Outcome::Unreachable),
                Step::Wait(_) => waited = true,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(waited, limited, "{ip}, by user: {by_user}");
    }
    // The user gave a name, but not what it leads to.
    let mut planner = Planner::new(DialLimits::default());
    let now = Instant::now();
    let mut plan = Plan::new(None, true);
    let found = (1..=12).map(|port| tcp("203.0.113.9", port));
    plan.add_resolved(now, &planner.limits().clone(), found);
    let mut clock = now;
    let mut started = 0;
    while clock < now + IP_WINDOW {
        match planner.next(clock, &mut plan) {
            Step::Start(id, _) => {
                started += 1;
                planner.failed(clock, 0.0, &mut plan, id, Outcome::Unreachable);
            }
            Step::Wait(until) => clock = until,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(started, 8);
}

#[test]
fn attempts_that_were_stopped_do_not_count_for_their_host() {
    let mut planner = Planner::new(DialLimits::default());
    let mut now = Instant::now();
    for round in 0..40 {
        let mut plan = Plan::new(None, false);
        let addrs = ["udp/1/quic-v1", "tcp/1"].map(|rest| addr(&format!("/ip4/10.0.0.9/{rest}")));
        plan.add(now, &planner.limits().clone(), addrs);
        assert!(matches!(planner.next(now, &mut plan), Step::Start(0, _)));
        now += PRIVATE_GAP;
        // The host is dialled again and again with success, by the second attempt of two.
        let step = planner.next(now, &mut plan);
        assert!(matches!(step, Step::Start(1, _)), "{round}: {step:?}");
        planner.succeeded(&mut plan, 1);
    }
}

#[test]
fn what_failed_is_left_alone_for_a_while_unless_the_user_asks() {
    let mut planner = Planner::new(DialLimits::default());
    let mut now = Instant::now();
    let mut pauses = Vec::new();
    while pauses.len() < 22 {
        let mut plan = Plan::new(None, false);
        plan.add(
            now,
            &planner.limits().clone(),
            [addr("/ip4/203.0.113.9/tcp/1")],
        );
        match planner.next(now, &mut plan) {
            Step::Start(id, _) => planner.failed(now, 0.0, &mut plan, id, Outcome::Unreachable),
            Step::Skip(_, Skip::Backoff(left)) => {
                let mut asked = Plan::new(None, true);
                asked.add(
                    now,
                    &planner.limits().clone(),
                    [addr("/ip4/203.0.113.9/tcp/1")],
                );
                assert!(matches!(planner.next(now, &mut asked), Step::Start(..)));
                planner.abandon(&mut asked);
                pauses.push(left.as_secs());
                now += left;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(pauses[..4], [5, 6, 9, 14]);
    assert_eq!(pauses[21], 300);
    assert_eq!(planner.running(), 0);
}

#[test]
fn who_answered_shows_that_packets_get_through() {
    for (outcome, state, backs_off) in [
        (Outcome::Unreachable, BlackHoleState::Blocked, true),
        (Outcome::Reached, BlackHoleState::Open, true),
        (Outcome::Local, BlackHoleState::Unknown, false),
    ] {
        let mut planner = Planner::new(DialLimits::default());
        let limits = planner.limits().clone();
        let mut now = Instant::now();
        for _ in 0..100 {
            now += BACKOFF_MAX;
            let mut plan = Plan::new(None, true);
            plan.add(now, &limits, [addr("/ip6/2001:db8::1/udp/1/quic-v1")]);
            let Step::Start(id, _) = planner.next(now, &mut plan) else {
                panic!()
            };
            planner.failed(now, 0.0, &mut plan, id, outcome);
        }
        assert_eq!(planner.black_holes(), (state, state), "{outcome:?}");
        assert_eq!(planner.backoffs.is_empty(), !backs_off);
    }
}

#[test]
fn all_dials_together_run_a_hundred_attempts() {
    let mut planner = Planner::new(DialLimits::default());
    let now = Instant::now();
    let mut plans: Vec<_> = (0..120u8)
        .map(|n| {
            let mut plan = Plan::new(None, false);
            plan.add(
                now,
                &planner.limits().clone(),
                [addr(&format!("/ip4/8.8.8.{n}/tcp/1"))],
            );
            plan
        })
        .collect();
    let mut started = 0;
    for plan in &mut plans {
        started += usize::from(matches!(planner.next(now, plan), Step::Start(..)));
    }
    assert_eq!((started, planner.running()), (100, 100));
    assert_eq!(planner.next(now, plans.last_mut().unwrap()), Step::Full);
    for plan in &mut plans {
        planner.abandon(plan);
    }
    assert_eq!(planner.running(), 0);
}

#[test]
fn quic_that_never_wins_is_not_tried_any_more() {
    let mut planner = Planner::new(DialLimits::default());
    let mut now = Instant::now();
    for round in 0..110u8 {
        now += Duration::from_secs(1);
        let mut plan = Plan::new(None, false);
        let ip = format!("/ip4/8.8.8.{round}");
        let addrs = [format!("{ip}/udp/1/quic-v1"), format!("{ip}/tcp/1")];
        plan.add(
            now,
            &planner.limits().clone(),
            addrs.map(|text| addr(&text)),
        );
        loop {
            match planner.next(now, &mut plan) {
                Step::Start(id, addr) if kind(&addr) == Kind::Tcp => {
                    planner.succeeded(&mut plan, id);
                    break;
                }
                Step::Start(..) => assert!(round < 100),
                Step::Skip(_, skip) => assert!(round >= 100 && skip == Skip::NoUdp),
                Step::Wait(until) => now = until,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(planner.black_holes().0, BlackHoleState::Blocked);
}
