//! Parameters of scoring. The names of the counters P1 to P7 are those of the gossipsub v1.1 specification.

use std::{collections::BTreeMap, time::Duration};

use barewire_base::Fault;

/// Scores from which on a peer is treated differently. `graylist ≤ publish ≤ gossip ≤ 0 ≤ accept_px, opportunistic_graft`.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Thresholds {
    /// Below it no gossip is sent to the peer or accepted of it.
    pub gossip: f64,
    /// Below it own messages are not sent to the peer, unless it is in the mesh.
    pub publish: f64,
    /// Below it everything of the peer but its subscriptions is ignored.
    pub graylist: f64,
    /// From it on peers that the peer offers are dialled.
    pub accept_px: f64,
    /// Median of a mesh's scores below which better peers are grafted.
    pub opportunistic_graft: f64,
}

impl Default for Thresholds {
    /// rust's; go has no numbers of its own.
    fn default() -> Self {
        Self {
            gossip: -10.0,
            publish: -50.0,
            graylist: -80.0,
            accept_px: 10.0,
            opportunistic_graft: 20.0,
        }
    }
}

/// How peers are scored.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ScoreParams {
    /// What the score leads to.
    pub thresholds: Thresholds,
    /// What holds for topics without an entry in `topics`; `None` not to score them.
    pub topic_defaults: Option<TopicScoreParams>,
    /// What holds for a topic.
    pub topics: BTreeMap<String, TopicScoreParams>,
    /// Most that all topics together add. 3,600, rust's; 0 for no cap.
    pub topic_score_cap: f64,
    /// P5: weight of the score that the application gives. 1.
    pub app_weight: f64,
    /// P6: weight of the squared surplus of peers at one IP address, ≤ 0. −5, rust's.
    pub ip_colocation_weight: f64,
    /// P6: peers at one address that are not a surplus. 10, rust's.
    pub ip_colocation_threshold: u32,
    /// P7: weight of the squared surplus of misbehaviour, ≤ 0. −10, rust's.
    pub behaviour_weight: f64,
    /// P7: misbehaviour that is no surplus. 0.
    pub behaviour_threshold: f64,
    /// P7: factor of decay in an interval. 0.2 in rust, which forgives within seconds.
    pub behaviour_decay: f64,
    /// Weight of each message dropped because the peer reads slowly, ≤ 0. −0.2, rust's.
    pub slow_peer_weight: f64,
    /// Dropped messages that do not count. 0.
    pub slow_peer_threshold: f64,
    /// Factor of decay in an interval. 0.2, rust's.
    pub slow_peer_decay: f64,
    /// Time between decays. 1 s, the least.
    pub decay_interval: Duration,
    /// A counter below it is 0. 0.01.
    pub decay_to_zero: f64,
    /// Time for which the counters of a peer that left are kept, unless its score was positive. 1 h.
    pub retain_score: Duration,
    /// Peers that left and are remembered. 8,192.
    pub max_retained: usize,
}

/// How peers are scored in a topic.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TopicScoreParams {
    /// Weight of the topic, ≥ 0. 0.5, rust's.
    pub topic_weight: f64,
    /// P1: weight of the time in the mesh, ≥ 0.
    pub time_in_mesh_weight: f64,
    /// P1: its unit.
    pub time_in_mesh_quantum: Duration,
    /// P1: units that count.
    pub time_in_mesh_cap: f64,
    /// P2: weight of first deliveries, ≥ 0.
    pub first_deliveries_weight: f64,
    /// P2: factor of decay.
    pub first_deliveries_decay: f64,
    /// P2: deliveries that count.
    pub first_deliveries_cap: f64,
    /// P3: weight of the squared deficit of deliveries in the mesh, ≤ 0; 0 to disable it.
    pub mesh_deliveries_weight: f64,
    /// P3: factor of decay.
    pub mesh_deliveries_decay: f64,
    /// P3: deliveries that count.
    pub mesh_deliveries_cap: f64,
    /// P3: deliveries that are no deficit.
    pub mesh_deliveries_threshold: f64,
    /// P3, our own: if given, the threshold is at most this share of what the best peer of the mesh delivers, so that a quiet
    /// topic punishes nobody and no rate has to be known in advance. Messages long enough for IDONTWANT do not count then,
    /// since peers are told not to send them.
    pub mesh_deliveries_relative: Option<f64>,
    /// P3: time after validation during which a delivery still counts.
    pub mesh_deliveries_window: Duration,
    /// P3: time in the mesh before a deficit counts.
    pub mesh_deliveries_activation: Duration,
    /// P3b: weight of deficits at the time of pruning, ≤ 0.
    pub mesh_failure_weight: f64,
    /// P3b: factor of decay.
    pub mesh_failure_decay: f64,
    /// P4: weight of squared invalid messages, ≤ 0.
    pub invalid_weight: f64,
    /// P4: factor of decay.
    pub invalid_decay: f64,
}

/// The factor that lets a counter of 1 fall to 0.01 in `time`, at one decay a second.
#[must_use]
pub fn decay_in(time: Duration) -> f64 {
    0.01f64.powf(1.0 / time.as_secs_f64().max(1.0))
}

impl Default for TopicScoreParams {
    /// Time in the mesh and first deliveries are rewarded a little, invalid messages are punished, deficits are not.
    fn default() -> Self {
        Self {
            topic_weight: 0.5,
            time_in_mesh_weight: 0.01,
            time_in_mesh_quantum: Duration::from_secs(1),
            time_in_mesh_cap: 300.0,
            first_deliveries_weight: 0.5,
            first_deliveries_decay: decay_in(Duration::from_secs(120)),
            first_deliveries_cap: 100.0,
            mesh_deliveries_weight: 0.0,
            mesh_deliveries_decay: decay_in(Duration::from_secs(120)),
            mesh_deliveries_cap: 200.0,
            mesh_deliveries_threshold: 20.0,
            mesh_deliveries_relative: None,
            mesh_deliveries_window: Duration::from_secs(2),
            mesh_deliveries_activation: Duration::from_secs(30),
            mesh_failure_weight: 0.0,
            mesh_failure_decay: decay_in(Duration::from_secs(600)),
            invalid_weight: -2.0,
            invalid_decay: decay_in(Duration::from_secs(600)),
        }
    }
}

impl Default for ScoreParams {
    fn default() -> Self {
        Self {
            thresholds: Thresholds::default(),
            topic_defaults: Some(TopicScoreParams::default()),
            topics: BTreeMap::new(),
            topic_score_cap: 3600.0,
            app_weight: 1.0,
            ip_colocation_weight: -5.0,
            ip_colocation_threshold: 10,
            behaviour_weight: -10.0,
            behaviour_threshold: 0.0,
            behaviour_decay: 0.2,
            slow_peer_weight: -0.2,
            slow_peer_threshold: 0.0,
            slow_peer_decay: 0.2,
            decay_interval: Duration::from_secs(1),
            decay_to_zero: 0.01,
            retain_score: Duration::from_secs(3600),
            max_retained: 8_192,
        }
    }
}

impl ScoreParams {
    /// For peers that mean well: single broken promises and bursts are forgiven.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            thresholds: Thresholds {
                opportunistic_graft: 1.0,
                ..Thresholds::default()
            },
            behaviour_threshold: 6.0,
            behaviour_decay: decay_in(Duration::from_secs(120)),
            slow_peer_weight: -0.01,
            slow_peer_threshold: 1_000.0,
            ..Self::default()
        }
    }

    /// For networks under attack: deficits of deliveries count and stick, misbehaviour is remembered for ten minutes.
    #[must_use]
    pub fn adversarial() -> Self {
        Self {
            thresholds: Thresholds {
                opportunistic_graft: 5.0,
                ..Thresholds::default()
            },
            topic_defaults: Some(TopicScoreParams {
                mesh_deliveries_weight: -2.0,
                mesh_deliveries_relative: Some(0.1),
                mesh_failure_weight: -2.0,
                invalid_weight: -20.0,
                invalid_decay: decay_in(Duration::from_secs(3600)),
                ..TopicScoreParams::default()
            }),
            behaviour_weight: -15.0,
            behaviour_threshold: 3.0,
            behaviour_decay: decay_in(Duration::from_secs(600)),
            ip_colocation_weight: -15.0,
            ip_colocation_threshold: 4,
            ..Self::wan()
        }
    }

    /// What holds for `topic`.
    #[must_use]
    pub fn topic(&self, topic: &str) -> Option<&TopicScoreParams> {
        self.topics.get(topic).or(self.topic_defaults.as_ref())
    }

    /// Checks signs, ranges and order.
    ///
    /// # Errors
    /// [`ScoreParamsError`] naming the first parameter that cannot work.
    pub fn validate(&self) -> Result<(), ScoreParamsError> {
        let t = &self.thresholds;
        let order = [t.graylist, t.publish, t.gossip, 0.0];
        let finite = [t.accept_px, t.opportunistic_graft]
            .iter()
            .chain(&order)
            .all(|v| v.is_finite());
        if !finite || !order.is_sorted() || t.accept_px < 0.0 || t.opportunistic_graft < 0.0 {
            return Err(ScoreParamsError::Thresholds);
        }
        for (name, value) in [
            ("ip_colocation_weight", self.ip_colocation_weight),
            ("behaviour_weight", self.behaviour_weight),
            ("slow_peer_weight", self.slow_peer_weight),
        ] {
            not_positive(name, value)?;
        }
        for (name, value) in [
            ("topic_score_cap", self.topic_score_cap),
            ("behaviour_threshold", self.behaviour_threshold),
            ("slow_peer_threshold", self.slow_peer_threshold),
        ] {
            not_negative(name, value)?;
        }
        if !self.app_weight.is_finite() {
            return Err(ScoreParamsError::Number("app_weight"));
        }
        for (name, value) in [
            ("behaviour_decay", self.behaviour_decay),
            ("slow_peer_decay", self.slow_peer_decay),
            ("decay_to_zero", self.decay_to_zero),
        ] {
            factor(name, value)?;
        }
        if self.decay_interval < Duration::from_secs(1) {
            return Err(ScoreParamsError::DecayInterval(self.decay_interval));
        }
        if self.ip_colocation_weight != 0.0 && self.ip_colocation_threshold == 0 {
            return Err(ScoreParamsError::Number("ip_colocation_threshold"));
        }
        self.topics
            .values()
            .chain(&self.topic_defaults)
            .try_for_each(TopicScoreParams::validate)
    }
}

impl TopicScoreParams {
    /// Checks signs and ranges.
    ///
    /// # Errors
    /// [`ScoreParamsError`] naming the first parameter that cannot work.
    pub fn validate(&self) -> Result<(), ScoreParamsError> {
        for (name, value) in [
            ("topic_weight", self.topic_weight),
            ("time_in_mesh_weight", self.time_in_mesh_weight),
            ("time_in_mesh_cap", self.time_in_mesh_cap),
            ("first_deliveries_weight", self.first_deliveries_weight),
            ("first_deliveries_cap", self.first_deliveries_cap),
            ("mesh_deliveries_cap", self.mesh_deliveries_cap),
            ("mesh_deliveries_threshold", self.mesh_deliveries_threshold),
        ] {
            not_negative(name, value)?;
        }
        for (name, value) in [
            ("mesh_deliveries_weight", self.mesh_deliveries_weight),
            ("mesh_failure_weight", self.mesh_failure_weight),
            ("invalid_weight", self.invalid_weight),
        ] {
            not_positive(name, value)?;
        }
        for (name, value) in [
            ("first_deliveries_decay", self.first_deliveries_decay),
            ("mesh_deliveries_decay", self.mesh_deliveries_decay),
            ("mesh_failure_decay", self.mesh_failure_decay),
            ("invalid_decay", self.invalid_decay),
        ] {
            factor(name, value)?;
        }
        if let Some(share) = self.mesh_deliveries_relative {
            factor("mesh_deliveries_relative", share)?;
        }
        if self.time_in_mesh_quantum.is_zero() {
            return Err(ScoreParamsError::Number("time_in_mesh_quantum"));
        }
        if self.mesh_deliveries_weight != 0.0
            && self.mesh_deliveries_activation < Duration::from_secs(1)
        {
            return Err(ScoreParamsError::Number("mesh_deliveries_activation"));
        }
        Ok(())
    }
}

/// Why parameters of scoring cannot work.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScoreParamsError {
    /// The thresholds are not in order.
    #[error(
        "thresholds must satisfy graylist ≤ publish ≤ gossip ≤ 0 ≤ accept_px, opportunistic_graft"
    )]
    Thresholds,
    /// A weight of a penalty is positive.
    #[error("{name} is {value}, but a penalty's weight must not be positive")]
    Positive {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: f64,
    },
    /// A weight of a reward, a cap or a threshold is negative.
    #[error("{name} is {value}, but must not be negative")]
    Negative {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: f64,
    },
    /// A factor is not between 0 and 1, both excluded.
    #[error("{name} is {value}, but must lie between 0 and 1")]
    Factor {
        /// Name of the field.
        name: &'static str,
        /// As configured.
        value: f64,
    },
    /// The interval of decay is below a second.
    #[error("decay_interval is {0:?}, below 1 s")]
    DecayInterval(Duration),
    /// Another value is zero or no number.
    #[error("{0} is out of range")]
    Number(&'static str),
}

impl ScoreParamsError {
    /// Always [`Fault::Local`].
    #[must_use]
    pub const fn fault(&self) -> Fault {
        Fault::Local
    }
}

fn not_positive(name: &'static str, value: f64) -> Result<(), ScoreParamsError> {
    if value.is_finite() && value <= 0.0 {
        Ok(())
    } else {
        Err(ScoreParamsError::Positive { name, value })
    }
}

fn not_negative(name: &'static str, value: f64) -> Result<(), ScoreParamsError> {
    if value.is_finite() && value >= 0.0 {
        Ok(())
    } else {
        Err(ScoreParamsError::Negative { name, value })
    }
}

fn factor(name: &'static str, value: f64) -> Result<(), ScoreParamsError> {
    if value > 0.0 && value < 1.0 {
        Ok(())
    } else {
        Err(ScoreParamsError::Factor { name, value })
    }
}
