//! How long bytes take from one node to another.

use std::{str::FromStr, time::Duration};

use crate::{ScenarioError, rng::Rng};

/// Bytes of a packet.
const PACKET: usize = 1400;
/// Least time until a lost packet is sent again when nothing behind it tells of the loss, in microseconds; Linux' least
/// retransmission timeout.
const TIMEOUT: u64 = 200_000;
/// Share of a way's time that varies from frame to frame, unless the time is fixed.
const JITTER: f64 = 0.1;

/// Time of the way between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// The same for all.
    Fixed(Duration),
    /// Of each pair a time between these, at random.
    Uniform(Duration, Duration),
    /// Nodes are spread over seven regions of the earth as servers of public networks are, each with 1 to 10 ms to its
    /// network: 2 to 180 ms, and 45 ms in the middle.
    Geographic,
}

impl FromStr for Latency {
    type Err = ScenarioError;

    /// `geo`, `50ms` or `10..100ms`.
    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let wrong = || ScenarioError::Latency(text.to_owned());
        if text == "geo" {
            return Ok(Self::Geographic);
        }
        let number = text.strip_suffix("ms").ok_or_else(wrong)?;
        let ms = |text: &str| {
            let number: f64 = text.trim_end_matches("ms").parse().map_err(|_| wrong())?;
            if (0.0..=10_000.0).contains(&number) {
                Ok(Duration::from_secs_f64(number / 1e3))
            } else {
                Err(wrong())
            }
        };
        match number.split_once("..") {
            None => Ok(Self::Fixed(ms(number)?)),
            Some((from, to)) => {
                let (from, to) = (ms(from)?, ms(to)?);
                if from > to {
                    return Err(wrong());
                }
                Ok(Self::Uniform(from, to))
            }
        }
    }
}

/// Share of the nodes in each region: east and west of North America, Europe, east and south of Asia, South America, Oceania.
const SHARES: [f64; 7] = [0.27, 0.13, 0.34, 0.12, 0.08, 0.03, 0.03];
/// One-way milliseconds between regions, halves of round trips between large cloud regions.
const WAYS: [[u64; 7]; 7] = [
    [6, 32, 42, 85, 95, 58, 100],
    [32, 6, 70, 55, 110, 88, 70],
    [42, 70, 8, 110, 65, 95, 135],
    [85, 55, 110, 12, 45, 135, 62],
    [95, 110, 65, 45, 12, 150, 75],
    [58, 88, 95, 135, 150, 8, 155],
    [100, 70, 135, 62, 75, 155, 8],
];

/// Where a node is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    region: usize,
    /// Microseconds to its network.
    access: u64,
}

impl Place {
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut left = rng.unit();
        let mut region = 0;
        for (at, share) in SHARES.iter().enumerate() {
            region = at;
            left -= share;
            if left < 0.0 {
                break;
            }
        }
        Self {
            region,
            access: 1_000 + rng.below(9_000) as u64,
        }
    }

    /// A millisecond from its network, in the region of another: where an attacker would be.
    pub(crate) const fn beside(other: Self) -> Self {
        Self {
            region: other.region,
            access: 1_000,
        }
    }
}

impl Latency {
    /// Microseconds from one place to another.
    pub(crate) fn between(self, a: Place, b: Place, rng: &mut Rng) -> u64 {
        match self {
            Self::Fixed(time) => time.as_micros() as u64,
            Self::Uniform(from, to) => {
                let span = (to - from).as_micros() as usize;
                from.as_micros() as u64 + rng.below(span + 1) as u64
            }
            Self::Geographic => WAYS[a.region][b.region] * 1_000 + a.access + b.access,
        }
    }

    /// Microseconds that a frame takes on a way of `way` microseconds, without waiting for others before it.
    pub(crate) fn of_frame(self, way: u64, len: usize, loss: f64, rng: &mut Rng) -> u64 {
        let mut time = way;
        if !matches!(self, Self::Fixed(_)) {
            time += (way as f64 * JITTER * rng.unit()) as u64;
        }
        if loss > 0.0 {
            time += retransmission(way, len, loss, rng);
        }
        time
    }
}

/// What lost packets cost a frame of a reliable stream: the packets behind a lost one tell of it within a round trip; the last
/// one is missed by a timer, which doubles.
fn retransmission(way: u64, len: usize, loss: f64, rng: &mut Rng) -> u64 {
    let packets = len.div_ceil(PACKET).max(1);
    let mut worst = 0;
    for packet in 0..packets {
        let mut delay = 0;
        let mut timeout = TIMEOUT.max(4 * way);
        while rng.chance(loss) && delay < 60_000_000 {
            if delay == 0 && packet + 1 < packets {
                delay += 2 * way;
            } else {
                delay += timeout;
                timeout *= 2;
            }
        }
        worst = worst.max(delay);
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_read() {
        let ms = Duration::from_millis;
        assert_eq!("geo".parse(), Ok(Latency::Geographic));
        assert_eq!("50ms".parse(), Ok(Latency::Fixed(ms(50))));
        assert_eq!("10..100ms".parse(), Ok(Latency::Uniform(ms(10), ms(100))));
        assert_eq!("1ms..2ms".parse(), Ok(Latency::Uniform(ms(1), ms(2))));
        for wrong in ["", "50", "ms", "-1ms", "9..3ms", "20000ms", "NaNms"] {
            assert!(wrong.parse::<Latency>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_earth_has_its_distances() {
        let mut rng = Rng::new(1);
        let mut ways: Vec<u64> = (0..10_000)
            .map(|_| {
                let (a, b) = (Place::random(&mut rng), Place::random(&mut rng));
                Latency::Geographic.between(a, b, &mut rng)
            })
            .collect();
        ways.sort_unstable();
        let (least, median, most) = (ways[0], ways[5_000], ways[9_999]);
        println!("one way: {least} to {most} µs, median {median}");
        assert!((2_000..20_000).contains(&least) && (30_000..70_000).contains(&median));
        assert!(most <= 180_000);
    }

    #[test]
    fn loss_delays_and_nothing_else() {
        let mut rng = Rng::new(1);
        let way = 50_000;
        let fixed = Latency::Fixed(Duration::from_micros(way));
        let mut late = 0;
        for _ in 0..10_000 {
            let time = fixed.of_frame(way, 100, 0.02, &mut rng);
            assert!(time == way || time >= way + TIMEOUT);
            late += usize::from(time > way);
        }
        assert!((120..300).contains(&late), "{late} of 10,000 at 2 %");
        assert_eq!(fixed.of_frame(way, 1 << 20, 0.0, &mut rng), way);
        // Of a long frame almost every loss is noticed by what follows.
        let time = fixed.of_frame(way, 1 << 20, 0.001, &mut rng);
        assert!(time <= way + 2 * way + TIMEOUT, "{time}");
    }
}
