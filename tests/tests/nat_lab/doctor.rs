//! `barewire doctor` tells the kinds of routers apart.

use std::time::Duration;

use barewire_tests::{
    nat::{self, Nat, PUBLIC, World},
    peers,
    process::Process,
};
use futures::future::join_all;

const DEADLINE: Duration = Duration::from_secs(60);

/// What the doctor is to say of TCP and of QUIC.
const EXPECTED: [(Nat, &str, &str); 5] = [
    (Nat::Open, "none", "none"),
    (
        Nat::PortRestricted,
        "endpoint-independent",
        "endpoint-independent",
    ),
    (Nat::Double, "endpoint-independent", "endpoint-independent"),
    (Nat::Symmetric, "endpoint-dependent", "endpoint-dependent"),
    (Nat::UdpBlocked, "endpoint-independent", "blocked"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_doctor_tells_the_kinds_of_routers_apart() {
    if let Err(reason) = nat::available() {
        barewire_tests::skip(&reason);
        return;
    }
    let ours = peers::barewire().expect("barewire builds");
    let world = World::new(Duration::ZERO).unwrap();
    let mut servers = Vec::new();
    let mut addrs = Vec::new();
    for ip in &PUBLIC[..2] {
        let mut command = world.namespace().command(&ours);
        command.args(["listen", "--json", "--relay-server", "--autonat-server"]);
        command.args(["--listen", &format!("/ip4/{ip}/tcp/4001")]);
        command.args(["--listen", &format!("/ip4/{ip}/udp/4001/quic-v1")]);
        let mut server = Process::spawn(command).unwrap();
        addrs.push(server.listening(DEADLINE).await.unwrap());
        servers.push(server);
    }
    let (world, ours, addrs) = (&world, &ours, &addrs);
    let said = EXPECTED.iter().zip(1..).map(async |(expected, number)| {
        let home = world.home(number, expected.0).unwrap();
        let mut command = home.command(ours);
        command.args(["doctor", "--json", "--timeout", "3"]);
        for addr in addrs {
            command.args(["--server", addr]);
        }
        // Nobody listens there.
        command.args(["--relay", &addrs[0], "/ip4/5.5.0.1/tcp/9"]);
        let mut doctor = Process::spawn(command).unwrap();
        let report = doctor.expect("doctor", DEADLINE).await.unwrap();
        (expected, report)
    });
    for ((nat, tcp, quic), report) in join_all(said).await {
        println!("{}: {report}", nat.name());
        let network = &report["network"];
        assert_eq!(network["tcp"]["mapping"], *tcp, "{}", nat.name());
        assert_eq!(network["quic"]["mapping"], *quic, "{}", nat.name());
        // A server in the world dials; through a router nobody comes.
        let reached = [&network["tcp"]["reached"], &network["quic"]["reached"]];
        let reached = reached.into_iter().any(|reached| *reached == true);
        assert_eq!(reached, *nat == Nat::Open, "{}", nat.name());
        assert_eq!(report["relays"][0]["reserved"], true, "{}", nat.name());
        assert!(report["port_mapping"]["protocol"].is_null());
        let cause = report["target"]["error"].as_str().unwrap();
        assert!(cause.contains("refused"), "{cause}");
        let advised = |word: &str| {
            let advice = report["advice"].as_array().unwrap().iter();
            let todo = advice.filter_map(|one| one["todo"].as_str());
            let mut todo = todo.filter(|todo| todo.contains(word));
            todo.next().is_some()
        };
        assert_eq!(advised("allow it through the firewall"), *quic == "blocked");
        assert_eq!(
            advised("forward a port by hand"),
            *tcp == "endpoint-dependent"
        );
        assert_eq!(report["advice"].as_array().map(Vec::is_empty), Some(false));
    }
}
