//! Reads texts from files and standard input, decodes them, and splits them into prompts.

use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;

use super::{Origin, Text};
use crate::base::infile;
use crate::commands::command_line::{CommandLine, quote};
use crate::hint::{WithHint, hinted};

/// The name of standard input in messages.
const STDIN: &str = "standard input";

/// Reads the bytes of a file, or of standard input for `-`.
///
/// # Errors
/// The file cannot be read, is a folder, or has more than [`infile::MAX_TEXT_BYTES`] bytes.
pub fn read_bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = match path == Path::new("-") {
        true => infile::bounded(std::io::stdin().lock(), infile::MAX_TEXT_BYTES),
        false => File::open(path).and_then(|file| infile::bounded(file, infile::MAX_TEXT_BYTES)),
    };
    read.with_context(|| format!("cannot read {}", name(path)))
}

/// Reads the text of a file, or of standard input for `-`. A byte order mark is removed, and a text
/// that starts with UTF-16's is decoded.
///
/// # Errors
/// Those of [`read_bytes`]; the file is not text.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    decode(read_bytes(path)?).map_err(|at| {
        let error = anyhow!(
            "{} is not UTF-8 text: byte {at} is not the start of a character",
            name(path)
        );
        match path == Path::new("-") {
            true => error,
            false => {
                let file = quote(&path.to_string_lossy());
                let hint = format!("if it is Latin-1: iconv -f latin1 -t utf-8 {file}");
                hinted(error, hint)
            }
        }
    })
}

/// Decodes UTF-8, or UTF-16 with a byte order mark, and removes the mark. The error is the position
/// of the first invalid byte.
fn decode(bytes: Vec<u8>) -> Result<String, usize> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..]
            .chunks_exact(2)
            .map(|pair| unit([pair[0], pair[1]]))
            .collect();
        let text = String::from_utf16(&units).map_err(|_| 0usize)?;
        match bytes.len() % 2 {
            0 => Ok(text),
            _ => Err(bytes.len() - 1),
        }
    };
    match bytes.as_slice() {
        [0xff, 0xfe, ..] => utf16(&bytes, u16::from_le_bytes),
        [0xfe, 0xff, ..] => utf16(&bytes, u16::from_be_bytes),
        _ => {
            let text =
                String::from_utf8(bytes).map_err(|error| error.utf8_error().valid_up_to())?;
            Ok(match text.strip_prefix('\u{feff}') {
                Some(rest) => rest.to_owned(),
                None => text,
            })
        }
    }
}

/// The texts of a file or standard input. With `lines`, each line that is not blank is a text.
/// Otherwise, JSON lines contain a text each, and anything else is one text, without the line break
/// at its end.
pub(super) fn texts(path: &Path, lines: bool) -> anyhow::Result<Vec<Text>> {
    let content = read_text(path)?;
    let name = name(path);
    if !lines && (is_json_lines(&content) || has_extension(path, "jsonl")) {
        return json_lines(&content, &name);
    }
    if lines {
        let full = content.lines().enumerate();
        let full = full.filter(|(_, line)| !line.trim().is_empty());
        let text = |(at, line): (usize, &str)| Text {
            text: line.to_owned(),
            system: None,
            origin: Origin::Line(name.clone(), at + 1),
        };
        return Ok(full.map(text).collect());
    }
    let text = content.strip_suffix('\n').unwrap_or(&content);
    let text = text.strip_suffix('\r').unwrap_or(text);
    Ok(vec![Text {
        text: text.to_owned(),
        system: None,
        origin: Origin::File(name),
    }])
}

fn name(path: &Path) -> String {
    match path == Path::new("-") {
        true => STDIN.to_owned(),
        false => path.display().to_string(),
    }
}

fn has_extension(path: &Path, wanted: &str) -> bool {
    path.extension().is_some_and(|ext| ext == wanted)
}

/// Returns whether the first line starts like a JSON object on one line, `{"`. JSON that is
/// formatted over several lines, code in braces, and templates do not.
fn is_json_lines(content: &str) -> bool {
    let first = content.trim_start().strip_prefix('{');
    first.is_some_and(|rest| rest.trim_start_matches([' ', '\t']).starts_with('"'))
}

/// A line of JSON: the text as a string, or an object with the text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object {
        #[serde(alias = "text")]
        prompt: String,
        system: Option<String>,
    },
}

fn json_lines(content: &str, name: &str) -> anyhow::Result<Vec<Text>> {
    let mut texts = Vec::new();
    for (at, line) in content.lines().enumerate() {
        let number = at + 1;
        if line.trim().is_empty() {
            continue;
        }
        let (text, system) = match serde_json::from_str(line) {
            Ok(Line::Text(text)) => (text, None),
            Ok(Line::Object { prompt, system }) => (prompt, system),
            Err(_) => {
                return Err(anyhow!("line {number} of {name} is not a JSON prompt")).with_hint(
                    || {
                        let again = CommandLine::typed().with(&["--lines"]);
                        format!(
                            "a line is {{\"prompt\": \"…\"}}; to read every line as text: {again}"
                        )
                    },
                );
            }
        };
        texts.push(Text {
            text,
            system,
            origin: Origin::Line(name.to_owned(), number),
        });
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_order_marks_are_dropped() {
        for (bytes, expected) in [
            (&b"\xef\xbb\xbfa"[..], Ok("a")),
            (b"\xff\xfea\0\xe9\0", Ok("a\u{e9}")),
            (b"\xfe\xff\0a", Ok("a")),
            (b"ab\xff", Err(2)),
            (b"\xff\xfea", Err(2)),
            (b"", Ok("")),
        ] {
            assert_eq!(decode(bytes.to_vec()), expected.map(str::to_owned));
        }
    }

    #[test]
    fn json_lines_are_strings_or_objects() {
        let text =
            "{\"prompt\": \"c\", \"system\": \"d\", \"other\": 1}\n\n\"a\\nb\"\n{\"text\": \"e\"}";
        let texts = json_lines(text, "x").unwrap();
        let found: Vec<_> = texts
            .iter()
            .map(|t| (t.text.as_str(), t.system.as_deref()))
            .collect();
        assert_eq!(found, [("c", Some("d")), ("a\nb", None), ("e", None)]);
        assert_eq!(texts[1].origin, Origin::Line("x".to_owned(), 3));
        for bad in ["plain text", "{\"promt\": 1}", "[1]", "3"] {
            let error = json_lines(&format!("\"fine\"\n{bad}\n"), "x").unwrap_err();
            assert!(error.to_string().contains("line 2 of x"), "{error}");
        }
    }

    #[test]
    fn only_objects_of_one_line_make_json_lines() {
        for yes in ["{\"prompt\": 1}", " { \"a\"", "\n{\"a\":"] {
            assert!(is_json_lines(yes), "{yes:?}");
        }
        for no in [
            "",
            "{",
            "{\n  \"a\": 1\n}",
            "{% if x %}",
            "{}",
            "\"a\"",
            "a {\"b\"}",
        ] {
            assert!(!is_json_lines(no), "{no:?}");
        }
    }
}
