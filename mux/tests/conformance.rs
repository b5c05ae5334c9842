//! Both backends pass one suite.

mod session {
    use std::time::Instant;

    use barewire_base::Budget;
    use barewire_mux::Role;
    use barewire_mux::conformance::Backend;
    use barewire_mux::yamux::{Config, Session};

    struct Ours;

    impl Backend for Ours {
        type Muxer = Session;
        const CODES: bool = true;
        fn make(role: Role, now: Instant) -> Session {
            Session::new(role, Config::default(), Budget::unlimited(), now)
        }
    }

    barewire_mux::conformance_tests!(Ours);
}
