//! The cumulative distribution of latencies as a picture.

use std::fmt::Write as _;

use crate::Report;

/// Size of the picture, and its margins to the left and below.
const SIZE: (f64, f64) = (720.0, 420.0);
const MARGIN: (f64, f64) = (60.0, 50.0);
/// Points of a curve.
const POINTS: usize = 200;
const COLOURS: [&str; 6] = [
    "#1b6ca8", "#c8553d", "#3b8b5a", "#8a5aa8", "#b8860b", "#555555",
];

/// An SVG picture of how many of the expected deliveries came within which time, one curve for each named report.
#[must_use]
pub fn latency_cdf(reports: &[(&str, &Report)]) -> String {
    let longest = reports.iter().filter_map(|(_, r)| r.latencies.last()).max();
    // The axis ends at a round number of milliseconds that p99.9 of all fits.
    let far = reports
        .iter()
        .filter_map(|(_, r)| {
            r.latencies.get(
                r.latencies
                    .len()
                    .saturating_sub(r.latencies.len() / 1000 + 1),
            )
        })
        .max()
        .or(longest)
        .map_or(1.0, |us| f64::from(*us) / 1e3);
    let step = nice(far / 6.0);
    let end = (far / step).ceil().max(1.0) * step;
    let (width, height) = (SIZE.0 - MARGIN.0 - 20.0, SIZE.1 - MARGIN.1 - 20.0);
    let x = |ms: f64| MARGIN.0 + width * (ms / end).min(1.0);
    let y = |share: f64| 20.0 + height * (1.0 - share);
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" font-family="sans-serif" font-size="12">
<rect width="100%" height="100%" fill="white"/>"##,
        SIZE.0, SIZE.1
    );
    for tick in 0..=5 {
        let share = f64::from(tick) / 5.0;
        let _ = writeln!(
            out,
            r##"<path d="M{:.1} {:.1}H{:.1}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{:.0} %</text>"##,
            MARGIN.0,
            y(share),
            MARGIN.0 + width,
            MARGIN.0 - 8.0,
            y(share) + 4.0,
            share * 100.0
        );
    }
    let ticks = (end / step).round() as u32;
    for tick in 0..=ticks {
        let ms = f64::from(tick) * step;
        let _ = writeln!(
            out,
            r##"<path d="M{0:.1} {1:.1}V{2:.1}" stroke="#eee"/><text x="{0:.1}" y="{3:.1}" text-anchor="middle">{ms}</text>"##,
            x(ms),
            y(1.0),
            y(0.0),
            y(0.0) + 18.0
        );
    }
    let _ = writeln!(
        out,
        r##"<text x="{:.1}" y="{:.1}" text-anchor="middle">milliseconds from publication to delivery</text>"##,
        MARGIN.0 + width / 2.0,
        SIZE.1 - 10.0
    );
    for (at, (name, report)) in reports.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let mut path = format!("M{:.1} {:.1}", x(0.0), y(0.0));
        let count = report.latencies.len();
        for point in 1..=POINTS {
            let upto = (count * point).div_ceil(POINTS);
            if let Some(us) = upto
                .checked_sub(1)
                .and_then(|last| report.latencies.get(last))
            {
                let share = report.outcome.delivered * upto as f64 / count as f64;
                let _ = write!(path, "L{:.1} {:.1}", x(f64::from(*us) / 1e3), y(share));
            }
        }
        let _ = writeln!(
            out,
            r##"<path d="{path}" fill="none" stroke="{colour}" stroke-width="2"/>
<text x="{:.1}" y="{:.1}" text-anchor="end" fill="{colour}">{}: p50 {:.0} ms, p99 {:.0} ms, {:.2} %</text>"##,
            MARGIN.0 + width - 10.0,
            y(0.0) - 12.0 - 16.0 * (reports.len() - 1 - at) as f64,
            escaped(name),
            report.outcome.p50.as_secs_f64() * 1e3,
            report.outcome.p99.as_secs_f64() * 1e3,
            report.outcome.delivered * 100.0
        );
    }
    out.push_str("</svg>\n");
    out
}

/// The least of 1, 2 and 5 times a power of ten that is not below `value`.
fn nice(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1e-3).log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|f| f * power >= value);
    factor.unwrap_or(10.0) * power
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Outcome;
    use std::time::Duration;

    #[test]
    fn a_picture_has_a_curve_per_report() {
        let report = Report {
            outcome: Outcome {
                delivered: 1.0,
                p50: Duration::from_millis(50),
                p99: Duration::from_millis(99),
                ..Outcome::default()
            },
            duplicates: 0.0,
            bytes_per_message: 0.0,
            by_gossip: 0.0,
            mesh: (0, 0),
            mesh_mean: 0.0,
            sybil_share: 0.0,
            sybils_graylisted: 0,
            latencies: (1..=100).map(|ms| ms * 1000).collect(),
        };
        let picture = latency_cdf(&[("random", &report), ("a < b & c", &report)]);
        assert_eq!(picture.matches(r#"fill="none""#).count(), 2);
        assert!(picture.contains("a &lt; b &amp; c: p50 50 ms, p99 99 ms, 100.00 %"));
        assert!(picture.starts_with("<svg") && picture.ends_with("</svg>\n"));
        assert!(!picture.contains("NaN") && !picture.contains("inf"));
        let empty = Report {
            latencies: Vec::new(),
            ..report
        };
        assert!(!latency_cdf(&[("nothing", &empty)]).contains("NaN"));
        assert_eq!((nice(0.9), nice(17.0), nice(60.0)), (1.0, 20.0, 100.0));
    }
}
