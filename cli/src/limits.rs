//! `barewire limits`: what a node on this machine allows, and why.

use barewire_node::manager::{Limits, Machine};
use serde_json::json;

use crate::{args::LimitsArgs, output};

/// Prints each derived limit with its source.
pub(crate) fn limits(args: &LimitsArgs) {
    let machine = Machine::get();
    let all = Limits::explain(machine, args.memory_limit);
    if args.json {
        for limit in all {
            let value = json!({
                "event": "limit", "name": limit.name, "value": limit.value, "unit": limit.unit,
                "source": limit.source,
            });
            output::event(true, &value, String::new);
        }
        return;
    }
    for limit in all {
        let (name, value) = (limit.name, limit.value);
        output::say(&format!(
            "{name:<20} {value:>12} {:<14} {}",
            limit.unit, limit.source
        ));
    }
}
