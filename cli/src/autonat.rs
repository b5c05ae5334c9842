//! What `barewire listen` does to find out whether others can reach it, and for those that want to know that of themselves.

use barewire_node::{
    Endpoint, RouterBuilder, State,
    protocols::autonat::{
        AutonatClient, AutonatClientConfig, AutonatServer, AutonatServerConfig, Reachability,
        TestedAddr,
    },
};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{failure::Failure, output};

/// Options of reachability.
#[derive(Debug, clap::Args)]
pub(crate) struct AutonatArgs {
    /// Dial peers that want to know whether they can be reached (AutoNAT, versions 1 and 2).
    #[arg(long)]
    autonat_server: bool,
    /// Networks of servers that have to agree on whether an address of this node can be reached.
    #[arg(long, value_name = "N", default_value_t = 3)]
    autonat_confirmations: usize,
    /// Test, and dial for others, private addresses and those of this machine too.
    #[arg(long)]
    autonat_private: bool,
    /// Do not ask others whether this node can be reached.
    #[arg(long)]
    no_autonat: bool,
}

/// Registers what the options ask for. The client has to be kept.
pub(crate) async fn register(
    endpoint: &Endpoint,
    mut router: RouterBuilder,
    args: &AutonatArgs,
) -> Result<(RouterBuilder, Option<AutonatClient>), Failure> {
    if args.autonat_server {
        let mut config = AutonatServerConfig::default();
        config.private = args.autonat_private;
        router = AutonatServer::bind(endpoint, config)
            .await?
            .register(router);
    }
    if args.no_autonat {
        return Ok((router, None));
    }
    let mut config = AutonatClientConfig::default();
    config.private = args.autonat_private;
    config.client.confirmations = args.autonat_confirmations;
    let client = AutonatClient::new(endpoint, config);
    Ok((client.register(router), Some(client)))
}

/// Prints what is known of the addresses of a node, each time that changes, until it is gone.
pub(crate) async fn follow(client: AutonatClient, mut states: watch::Receiver<State>, json: bool) {
    let mut told = Value::Null;
    while states.changed().await.is_ok() {
        let value = {
            let state = states.borrow_and_update();
            let addrs: Vec<_> = state.tested_addrs.iter().map(tested).collect();
            let known = state.reachability != Reachability::Unknown
                || state
                    .tested_addrs
                    .iter()
                    .any(|tested| tested.reachability != Reachability::Unknown);
            if !known && told.is_null() {
                continue;
            }
            json!({"event": "reachability", "reachability": state.reachability.to_string(), "addrs": addrs})
        };
        if value != told {
            output::event(json, &value, || sentence(&value));
            told = value;
        }
    }
    drop(client);
}

/// What is known of one address.
pub(crate) fn tested(of: &TestedAddr) -> Value {
    json!({
        "addr": of.addr.to_string(), "reachability": of.reachability.to_string(),
        "reached": of.reached, "failed": of.failed,
    })
}

fn sentence(value: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let addrs = value["addrs"].as_array().into_iter().flatten();
    let addrs: Vec<_> = addrs
        .map(|of| format!("{} {}", text(&of["addr"]), text(&of["reachability"])))
        .collect();
    format!(
        "reachability: {} ({})",
        text(&value["reachability"]),
        addrs.join(", ")
    )
}
