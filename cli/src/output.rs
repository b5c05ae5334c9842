//! What goes to stdout: JSON lines for machines, text for people.

use std::io::Write;

use serde_json::Value;

/// Prints one event, as a JSON line or as the text that `human` makes.
///
/// Whoever reads stdout may stop reading (`| head -1`); then the rest is for nobody.
pub(crate) fn event(json: bool, value: &Value, human: impl FnOnce() -> String) {
    let line = if json { value.to_string() } else { human() };
    say(&line);
}

/// Prints a line for people.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
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
