//! Both backends pass one suite, with themselves and with each other.

use std::time::Instant;

use barewire_base::Budget;
use barewire_mux::Role;
use barewire_mux::conformance::Backend;
use barewire_mux::yamux::{Config, Session};
use barewire_mux::yamux_crate::CrateSession;

fn session(role: Role, now: Instant) -> Session {
    Session::new(role, Config::default(), Budget::unlimited(), now)
}

struct Ours;

impl Backend for Ours {
    type Client = Session;
    type Server = Session;
    const CODES: bool = true;
    fn client(now: Instant) -> Session {
        session(Role::Client, now)
    }
    fn server(now: Instant) -> Session {
        session(Role::Server, now)
    }
}

struct Crates;

impl Backend for Crates {
    type Client = CrateSession;
    type Server = CrateSession;
    const CODES: bool = false;
    fn client(_: Instant) -> CrateSession {
        CrateSession::new(Role::Client)
    }
    fn server(_: Instant) -> CrateSession {
        CrateSession::new(Role::Server)
    }
}

struct OursToCrate;

impl Backend for OursToCrate {
    type Client = Session;
    type Server = CrateSession;
    const CODES: bool = false;
    fn client(now: Instant) -> Session {
        session(Role::Client, now)
    }
    fn server(_: Instant) -> CrateSession {
        CrateSession::new(Role::Server)
    }
}

struct CrateToOurs;

impl Backend for CrateToOurs {
    type Client = CrateSession;
    type Server = Session;
    const CODES: bool = false;
    fn client(_: Instant) -> CrateSession {
        CrateSession::new(Role::Client)
    }
    fn server(now: Instant) -> Session {
        session(Role::Server, now)
    }
}

mod ours {
    barewire_mux::conformance_tests!(super::Ours);
}

mod yamux_crate {
    barewire_mux::conformance_tests!(super::Crates);
}

mod ours_to_crate {
    barewire_mux::conformance_tests!(super::OursToCrate);
}

mod crate_to_ours {
    barewire_mux::conformance_tests!(super::CrateToOurs);
}
