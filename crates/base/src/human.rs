//! Numbers and names as a person reads them.

use std::borrow::Cow;
use std::fmt::Write;

/// Formats a number of bytes with three digits in binary units: `2.23 GiB`, `384 KiB`, `17 B`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = n as f64;
    let mut unit = 0;
    // 1023.5 would round to four digits.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{n} B"),
        _ => format!("{} {}", three_digits(value), UNITS[unit]),
    }
}

/// Formats a number with three digits in powers of a thousand: `3.82 B`, `124 M`, `17`.
pub fn quantity(n: u64) -> String {
    const UNITS: [&str; 7] = ["", " K", " M", " B", " T", " P", " E"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    match unit {
        0 => n.to_string(),
        _ => format!("{}{}", three_digits(value), UNITS[unit]),
    }
}

fn three_digits(value: f64) -> String {
    if value < 9.995 {
        format!("{value:.2}")
    } else if value < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Formats a number with its thousands set off by commas: `131,072`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats an ascending list of numbers with runs of three or more folded: `0–3, 6, 9–31`.
pub fn ranges(numbers: &[u64]) -> String {
    let mut out = String::new();
    let mut rest = numbers;
    while let [first, ..] = rest {
        let run = 1 + rest
            .windows(2)
            .take_while(|pair| pair[0].checked_add(1) == Some(pair[1]))
            .count();
        let last = rest[run - 1];
        let comma = if out.is_empty() { "" } else { ", " };
        // `7, 8` reads better than `7–8`.
        let written = match run {
            1 => write!(out, "{comma}{first}"),
            2 => write!(out, "{comma}{first}, {last}"),
            _ => write!(out, "{comma}{first}–{last}"),
        };
        debug_assert!(written.is_ok(), "a string takes everything");
        rest = &rest[run..];
    }
    out
}

/// Parses a size as people write it, such as `16GiB`, `16 GB`, `16g` or `1500000`, to bytes.
/// Without a unit it is bytes; `G` and `GiB` are 2^30, `GB` is 10^9.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let explain = || format!("`{text}` is not a size such as 16GiB, 800M or 1.5TB");
    let number: f64 = number.parse().map_err(|_| explain())?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.chars().next() {
        None | Some('b') => 0,
        Some('k') => 1,
        Some('m') => 2,
        Some('g') => 3,
        Some('t') => 4,
        Some(_) => return Err(explain()),
    };
    let base: f64 = match (power, unit.get(1..)) {
        (0, None | Some("")) | (_, Some("" | "i" | "ib")) => 1024.0,
        (1.., Some("b")) => 1000.0,
        _ => return Err(explain()),
    };
    let bytes = number * base.powi(power);
    // Sizes from 2^63 on have no use, and a larger float would silently saturate in the cast.
    if bytes < 0.0 || bytes >= i64::MAX as f64 {
        return Err(explain());
    }
    Ok(bytes as u64)
}

/// Escapes bytes from a file for a terminal: text stays as it is, backslashes, control characters
/// and what would reorder or hide text are escaped, and bytes that are not UTF-8 become `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || is_hazard(c) {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// Escapes a message that may quote a file or a server, so that it cannot control the terminal:
/// line feeds, tabs and backslashes stay, everything else that a terminal would act on or not
/// show is escaped.
pub fn escape_message(text: &str) -> Cow<'_, str> {
    replaced(text, |c| is_hazard(c) && c != '\n' && c != '\t')
}

/// Escapes a text for a terminal, such as one that a model wrote: control characters other than
/// line feed and tab are escaped, bytes that are not UTF-8 become `\xNN`, and everything else
/// stays, joiners of emoji and marks of direction included.
pub fn for_terminal(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out += &replaced(chunk.valid(), |c| c.is_control() && c != '\n' && c != '\t');
        for byte in chunk.invalid() {
            out += &format!("\\x{byte:02x}");
        }
    }
    out
}

/// `text` with some of its characters escaped.
fn replaced(text: &str, escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match escaped(c) {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Returns whether a terminal would act on a character or not show it: controls, separators of
/// lines and paragraphs, bidirectional overrides, and characters without width.
fn is_hazard(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_digits_and_never_four() {
        for (n, expected) in [
            (0, "0 B"),
            (999, "999 B"),
            (1023, "1.00 KiB"),
            (1024, "1.00 KiB"),
            (393_216, "384 KiB"),
            (1_048_064, "1.00 MiB"),
            (2_393_231_072, "2.23 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
        assert_eq!(quantity(3_821_079_648), "3.82 B");
        assert_eq!(quantity(999_999), "1.00 M");
        assert_eq!(quantity(42), "42");
    }

    #[test]
    fn thousands_and_runs() {
        assert_eq!(count(0), "0");
        assert_eq!(count(131_072), "131,072");
        assert_eq!(count(1_000), "1,000");
        assert_eq!(ranges(&[0, 1, 2, 5, 7, 8]), "0–2, 5, 7, 8");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[u64::MAX]), u64::MAX.to_string());
    }

    #[test]
    fn sizes_as_people_write_them() {
        assert_eq!(parse_bytes("16GiB"), Ok(16 << 30));
        assert_eq!(parse_bytes("16 g"), Ok(16 << 30));
        assert_eq!(parse_bytes("16GB"), Ok(16_000_000_000));
        assert_eq!(parse_bytes("1.5k"), Ok(1536));
        assert_eq!(parse_bytes("100"), Ok(100));
        assert_eq!(parse_bytes("100b"), Ok(100));
        for bad in [
            "",
            "G",
            "16x",
            "16Gx",
            "1e9",
            "-1",
            "9999999999T",
            "1.2.3",
            "5é",
        ] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nothing_reaches_the_terminal_raw() {
        assert_eq!(escape("a▁b 你".as_bytes()), "a▁b 你");
        assert_eq!(escape(b"a\n\x1b[31m\\"), r"a\n\u{1b}[31m\\");
        assert_eq!(escape(b"\xe2\x96"), r"\xe2\x96");
        assert_eq!(escape("\u{202e}x".as_bytes()), r"\u{202e}x");
        assert_eq!(
            escape_message("a\tb\n\\ \x1b]0;x\x07\u{202e}"),
            "a\tb\n\\ \\u{1b}]0;x\\u{7}\\u{202e}"
        );
        assert_eq!(
            for_terminal("👩\u{200d}🔬\ta\n\r\u{9b}2J".as_bytes()),
            "👩\u{200d}🔬\ta\n\\r\\u{9b}2J"
        );
        assert_eq!(for_terminal(b"a\xff"), r"a\xff");
    }
}
