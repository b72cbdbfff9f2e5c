//! Looks up tokens by id, text or pattern.

use std::fmt::Write as _;
use std::io::Write;
use std::num::NonZeroUsize;

use anyhow::{anyhow, bail};
use regex::Regex;

use super::JsonToken;
use crate::base::human;
use crate::commands::probing::quoted;
use crate::gguf::vocab::{Kind, Vocabulary};
use crate::hint::hinted;
use crate::output::{ACCENT, DIM, Output};
use crate::table::{Columns, cell, plain};

/// The number of tokens to suggest for one that does not exist.
const SUGGESTIONS: usize = 5;

/// Parses ids and checks that each is in range.
pub(super) fn ids(arguments: &[String], vocabulary: &Vocabulary<'_>) -> anyhow::Result<Vec<u32>> {
    let parse = |argument: &String| match argument.parse::<i128>() {
        Ok(id) => in_range(id, vocabulary),
        Err(_) => bail!("`{}` is not a token id", human::escape(argument.as_bytes())),
    };
    arguments.iter().map(parse).collect()
}

/// The ids of the tokens that arguments name: numbers are ids, anything else is a token's text or
/// piece.
pub(super) fn resolve(
    arguments: &[String],
    vocabulary: &Vocabulary<'_>,
) -> anyhow::Result<Vec<u32>> {
    let mut ids = Vec::new();
    for argument in arguments {
        if let Ok(id) = argument.parse::<i128>() {
            ids.push(in_range(id, vocabulary)?);
            continue;
        }
        let found = vocabulary.find(argument.as_bytes());
        if found.is_empty() {
            let mut message = format!("no token `{}`", human::escape(argument.as_bytes()));
            for (index, id) in vocabulary
                .nearest(argument, SUGGESTIONS)
                .into_iter()
                .enumerate()
            {
                let text = human::escape(vocabulary.text(id).unwrap_or_default());
                let before = if index == 0 { "; nearest:" } else { "," };
                write!(message, "{before} {text} ({id})")?;
            }
            let hint = "to find tokens by a part of their text: --search REGEX";
            return Err(hinted(anyhow!(message), hint));
        }
        ids.extend(found);
    }
    Ok(ids)
}

fn in_range(id: i128, vocabulary: &Vocabulary<'_>) -> anyhow::Result<u32> {
    match u32::try_from(id) {
        Ok(id) if (id as usize) < vocabulary.len() => Ok(id),
        _ if vocabulary.is_empty() => bail!("no token {id}: the vocabulary is empty"),
        _ => bail!("no token {id}: ids are 0 to {}", vocabulary.len() - 1),
    }
}

/// Prints the tokens whose text or piece matches `pattern`.
pub(super) fn search(
    pattern: &Regex,
    limit: Option<NonZeroUsize>,
    json: bool,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let matches = |text: &[u8]| std::str::from_utf8(text).is_ok_and(|text| pattern.is_match(text));
    let all = vocabulary
        .tokens()
        .filter(|token| matches(token.text) || matches(&token.piece));
    let ids: Vec<u32> = match limit {
        Some(limit) => all.take(limit.get()).map(|token| token.id).collect(),
        None => all.map(|token| token.id).collect(),
    };
    if ids.is_empty() {
        bail!("no token matches {pattern}");
    }
    print(&ids, json, vocabulary, out)
}

/// Prints tokens, one row each, or as a JSON array.
pub(super) fn print(
    ids: &[u32],
    json: bool,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let tokens = ids.iter().filter_map(|&id| vocabulary.token(id));
    if json {
        return Ok(out.json(&tokens.map(JsonToken).collect::<Vec<_>>())?);
    }
    let mut rows = Columns::new(out, &["id>", "piece", "text", "bytes", "kind", "score>"]);
    for token in tokens {
        let mut hex = String::new();
        for byte in token.piece.iter() {
            write!(hex, "{}{byte:02x}", if hex.is_empty() { "" } else { " " })?;
        }
        rows.add([
            cell(token.id, ACCENT),
            plain(quoted(&token.piece)),
            plain(human::escape(token.text)),
            cell(hex, DIM),
            match token.kind {
                Kind::Normal => cell(token.kind.name(), DIM),
                kind => plain(kind.name()),
            },
            cell(
                token
                    .score
                    .map(|score| score.to_string())
                    .unwrap_or_default(),
                DIM,
            ),
        ]);
    }
    Ok(out.write_all(rows.lines().as_bytes())?)
}
