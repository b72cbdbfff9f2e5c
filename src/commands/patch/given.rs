//! Parses the values of `modelve patch`'s flags: prompts, pairs from a file, positions, and the
//! places of noise.

use std::path::Path;

use anyhow::anyhow;

use super::args::Args;
use crate::commands::flags::numbers;
use crate::commands::prompt::{self, Text, input};
use crate::experiment::measure::{Asked, Name};
use crate::hint::{UsageError, hinted};
use crate::probe::Piece;

/// A pair as given; without a corrupt prompt, the clean one gets noise.
pub(super) struct Given {
    pub(super) clean: Text,
    pub(super) corrupt: Option<Text>,
    pub(super) asked: Asked,
}

pub(super) fn given(args: &Args) -> anyhow::Result<Vec<Given>> {
    if let Some(path) = &args.pairs {
        if !args.prompts.input.file.is_empty() {
            return Err(
                UsageError("--pairs has its own prompts: leave out --file".to_owned()).into(),
            );
        }
        return pairs(path);
    }
    let texts = args.prompts.texts(args.engine.model.is_given())?;
    let mut texts = texts.unwrap_or_default();
    let wanted = if args.noise.is_some() { 1 } else { 2 };
    if texts.len() != wanted {
        let usage = UsageError(match wanted {
            1 => format!("patch with --noise takes one prompt, not {}", texts.len()),
            _ => format!(
                "patch takes two prompts, a clean and a corrupt one, not {}",
                texts.len()
            ),
        });
        let examples = ["The ball hit the bat, and", "The cave hid the bat, and"];
        let example = prompt::without(&texts).followed_by(examples[..wanted].iter().copied());
        return Err(hinted(usage, format!("such as: {example}")));
    }
    if args
        .noise
        .is_some_and(|scale| !scale.is_finite() || scale <= 0.0)
    {
        return Err(
            UsageError("--noise takes a number of standard deviations above 0".to_owned()).into(),
        );
    }
    Ok(vec![Given {
        clean: texts.remove(0),
        corrupt: texts.pop(),
        asked: args.measure.asked(),
    }])
}

/// A line of `--pairs`.
#[derive(serde::Deserialize)]
struct Line {
    clean: String,
    corrupt: String,
    token: Option<String>,
    against: Option<String>,
}

fn pairs(path: &Path) -> anyhow::Result<Vec<Given>> {
    let text = input::read_text(path)?;
    let mut given = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_str(line).map_err(|error| {
            let error = anyhow!(
                "line {} of {} is not a pair: {error}",
                at + 1,
                path.display()
            );
            hinted(
                error,
                r#"a line is {"clean": "…", "corrupt": "…", "token": "…", "against": "…"}"#,
            )
        })?;
        given.push(Given {
            clean: Text::argument(line.clean),
            corrupt: Some(Text::argument(line.corrupt)),
            asked: Asked {
                token: line.token.map(Name::Text),
                against: line.against.map(Name::Text),
            },
        });
    }
    match given.is_empty() {
        true => Err(UsageError(format!("{} holds no pair", path.display())).into()),
        false => Ok(given),
    }
}

/// Parses a list of positions, which count from the end if negative: `3-5,-1`. Whether the prompt
/// has them is checked once it is tokenized.
pub(super) fn positions(list: &str) -> anyhow::Result<Vec<i32>> {
    let wrong = || {
        UsageError(format!(
            "{list:?} is not a list of positions, such as 0-5,9 or -1"
        ))
    };
    let mut positions = Vec::new();
    for item in list.split(',').map(str::trim) {
        let range = item
            .get(1..)
            .and_then(|rest| rest.find('-'))
            .map(|at| at + 1);
        let (from, to) = match range {
            Some(at) => (&item[..at], &item[at + 1..]),
            None => (item, item),
        };
        let from: i32 = from.trim().parse().map_err(|_| wrong())?;
        let to: i32 = to.trim().parse().map_err(|_| wrong())?;
        // A range of a million positions can only be a mistake.
        if to < from || (from < 0) != (to < 0) || to - from > 1 << 20 {
            return Err(wrong().into());
        }
        positions.extend(from..=to);
    }
    Ok(positions)
}

/// Returns the positions in a list, or those of a text in the prompt.
pub(super) fn places(pieces: &[Piece], named: &str) -> anyhow::Result<Vec<usize>> {
    if let Ok(list) = numbers(named, pieces.len(), "position") {
        return Ok(list);
    }
    let mut text: Vec<u8> = Vec::new();
    let mut ends = Vec::with_capacity(pieces.len());
    for piece in pieces {
        text.extend_from_slice(piece.as_ref());
        ends.push(text.len());
    }
    let wanted = named.as_bytes();
    let at = (!wanted.is_empty())
        .then(|| text.windows(wanted.len()).position(|part| part == wanted))
        .flatten();
    let Some(at) = at else {
        let what = format!("{named:?} is neither a text in the prompt nor a list of positions");
        return Err(UsageError(what).into());
    };
    let starts = [0].into_iter().chain(ends.iter().copied());
    let places = starts.zip(&ends).enumerate();
    let places = places.filter(|(_, (start, end))| *start < at + wanted.len() && **end > at);
    Ok(places.map(|(i, _)| i).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_counted_from_either_end() {
        let read = |list: &str| positions(list).ok();
        assert_eq!(read("0-2, 5,-1"), Some(vec![0, 1, 2, 5, -1]));
        assert_eq!(read("-3--1"), Some(vec![-3, -2, -1]));
        for bad in ["", "a", "3-1", "-1-3", "1-", "--1", "0-99999999", "1,,2"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn noised_tokens_are_named_by_text_or_place() {
        let pieces = ["<s>", " The", " bat", "s", "man"].map(|p| Piece::new(p.into()));
        assert_eq!(places(&pieces, "1-2").unwrap(), [1, 2]);
        assert_eq!(places(&pieces, "batsman").unwrap(), [2, 3, 4]);
        assert_eq!(places(&pieces, "The b").unwrap(), [1, 2]);
        assert!(places(&pieces, "ball").is_err());
        assert!(places(&pieces, "").is_err());
    }
}
