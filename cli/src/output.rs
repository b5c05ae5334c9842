//! What goes to stdout: JSON lines for machines, text for people.

use serde_json::Value;

/// Prints one event, as JSON or by `human`.
pub(crate) fn event(json: bool, value: &Value, human: impl FnOnce()) {
    if json {
        println!("{value}");
    } else {
        human();
    }
}

/// Text from a remote without control characters, which could drive the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() || is_bidi_control(c) {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

/// Characters that reorder the text around them.
fn is_bidi_control(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A rate in MiB/s; 0 for nothing.
pub(crate) fn mib_per_s(bytes: u64, seconds: f64) -> f64 {
    if bytes == 0 {
        0.0
    } else {
        bytes as f64 / (1024.0 * 1024.0) / seconds.max(1e-9)
    }
}

/// Quantile of sorted samples.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let index = (sorted.len() as f64 * q) as usize;
    sorted
        .get(index.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// Rounded to a tenth, so that figures read well.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
