//! What one address may do: how much it holds and how often it asks.

use std::{collections::HashMap, net::IpAddr};

use crate::Limits;

/// Accounts looked through at the least before those that say nothing any more are dropped.
const SWEEP: usize = 1_024;
const MICROS: u64 = 1_000_000;

/// Whom a quota by address counts as one: an IPv4 address or an IPv6 /56.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Network {
    V4(u32),
    V6(u64),
}

impl Network {
    /// `None` for whom no quota counts: loopback, and what has no IP.
    pub(crate) fn of(ip: Option<IpAddr>) -> Option<Self> {
        match ip?.to_canonical() {
            ip if ip.is_loopback() => None,
            IpAddr::V4(ip) => Some(Self::V4(ip.to_bits())),
            IpAddr::V6(ip) => Some(Self::V6((ip.to_bits() >> 72) as u64)),
        }
    }
}

#[derive(Debug, Default)]
struct Account {
    held: usize,
    /// When all that was asked for would have been asked for, at the rate allowed in the long run.
    paid_until: u64,
}

/// One account for each network that holds something, or has asked lately.
#[derive(Debug)]
pub(crate) struct Networks {
    accounts: HashMap<Network, Account>,
    max_held: usize,
    /// Microseconds that a request costs, and how far ahead may be asked.
    cost: u64,
    ahead: u64,
    sweep_at: usize,
}

impl Networks {
    pub(crate) fn new(limits: &Limits) -> Self {
        let cost = MICROS / u64::from(limits.registers_per_second.max(1));
        Self {
            accounts: HashMap::new(),
            max_held: limits.max_per_address,
            cost,
            ahead: cost * u64::from(limits.register_burst.saturating_sub(1)),
            sweep_at: SWEEP,
        }
    }

    /// Whether a request is within the rate; if so it is paid for. `now` in microseconds.
    pub(crate) fn ask(&mut self, network: Option<Network>, now: u64) -> bool {
        let Some(network) = network else { return true };
        if self.accounts.len() >= self.sweep_at {
            self.accounts
                .retain(|_, account| account.held > 0 || account.paid_until > now);
            self.sweep_at = SWEEP.max(self.accounts.len() * 2);
        }
        let account = self.accounts.entry(network).or_default();
        let paid_until = account.paid_until.max(now);
        if paid_until - now > self.ahead {
            return false;
        }
        account.paid_until = paid_until + self.cost;
        true
    }

    pub(crate) fn has_room(&self, network: Option<Network>) -> bool {
        let account = network.and_then(|network| self.accounts.get(&network));
        account.is_none_or(|account| account.held < self.max_held)
    }

    pub(crate) fn hold(&mut self, network: Option<Network>) {
        if let Some(network) = network {
            self.accounts.entry(network).or_default().held += 1;
        }
    }

    pub(crate) fn release(&mut self, network: Option<Network>) {
        let account = network.and_then(|network| self.accounts.get_mut(&network));
        if let Some(account) = account {
            account.held = account.held.saturating_sub(1);
        }
    }
}
