//! Converts text to tokens and back, with llama.cpp's tokenizer; pieces are read from the file.

use std::io::{self, Write};
use std::mem::ManuallyDrop;
use std::path::Path;

use anstyle::{AnsiColor, Style};
use serde::Serialize;

use super::{Args, JsonText};
use crate::base::human;
use crate::commands::probing::quoted;
use crate::commands::{prompt, trial};
use crate::gguf::vocab::Vocabulary;
use crate::output::{ACCENT, Output};
use crate::runtime::{self, Reading};
use crate::table::{Columns, cell, plain};

/// `--encode` and `--decode` as JSON.
#[derive(Serialize)]
struct Json<'a> {
    text: JsonText<'a>,
    ids: &'a [u32],
    pieces: Vec<JsonText<'a>>,
}

/// The bytes to tokenize: those of the argument, of a file, or of standard input for `-`.
pub(super) fn text(args: &Args) -> anyhow::Result<Vec<u8>> {
    let stdin = || prompt::input::read_bytes(Path::new("-"));
    match (&args.encode, &args.file) {
        (Some(text), _) if text == "-" => stdin(),
        (Some(text), _) => Ok(text.as_encoded_bytes().to_vec()),
        (None, Some(path)) => prompt::input::read_bytes(path),
        (None, None) => stdin(),
    }
}

/// Tokenizes `text` and prints the tokens.
pub(super) fn encode(
    args: &Args,
    text: &[u8],
    path: &Path,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let tokenizer = load(path, vocabulary, text)?;
    let mut reading = Reading::Prompt;
    if args.no_bos {
        reading = reading.part();
    }
    if args.no_special {
        reading = reading.plain();
    }
    let ids = tokenizer.tokenize(text, reading)?;
    let ids: Vec<u32> = ids
        .into_iter()
        .filter_map(|id| u32::try_from(id.0).ok())
        .collect();
    print(text, &ids, args.json, vocabulary, out)
}

/// llama.cpp's tokenizer, to tokenize `text`. It is never dropped, because freeing its tables token
/// by token would take a tenth of the program's time, and the program ends right after it.
fn load(
    path: &Path,
    vocabulary: &Vocabulary<'_>,
    text: &[u8],
) -> anyhow::Result<ManuallyDrop<runtime::Vocab>> {
    let covered = runtime::Vocab::is_covered(vocabulary.gguf());
    trial::vocabulary(path, covered, text)?;
    Ok(ManuallyDrop::new(runtime::Vocab::of(
        path,
        vocabulary.gguf(),
    )?))
}

fn print(
    text: &[u8],
    ids: &[u32],
    json: bool,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let tokens: Vec<_> = ids.iter().filter_map(|&id| vocabulary.token(id)).collect();
    if json {
        let pieces = tokens.iter().map(|token| JsonText(&token.piece)).collect();
        return Ok(out.json(&Json {
            text: JsonText(text),
            ids,
            pieces,
        })?);
    }
    if out.has_colour() {
        for (index, token) in tokens.iter().enumerate() {
            let style = segment(index, token.kind.is_special());
            let piece = out.paint(style, human::escape(&token.piece));
            // A line feed is shown escaped and also written, to keep the layout of the text.
            writeln_if(out, &piece, token.piece.ends_with(b"\n"))?;
        }
        writeln!(out)?;
    }
    let mut rows = Columns::new(out, &["id>", "piece"]);
    for token in &tokens {
        rows.add([cell(token.id, ACCENT), plain(quoted(&token.piece))]);
    }
    if !rows.is_empty() {
        out.write_all(rows.lines().as_bytes())?;
    }
    let count = human::count(ids.len() as u64);
    let plural = if ids.len() == 1 { "" } else { "s" };
    Ok(writeln!(
        out,
        "{count} token{plural} for {} bytes",
        human::count(text.len() as u64)
    )?)
}

fn writeln_if(out: &mut Output, text: &str, line_feed: bool) -> io::Result<()> {
    out.write_all(text.as_bytes())?;
    if line_feed {
        out.write_all(b"\n")
    } else {
        Ok(())
    }
}

/// The style of a token: adjacent tokens differ, and special tokens differ from all others.
fn segment(index: usize, special: bool) -> Style {
    const BACKGROUNDS: [AnsiColor; 4] = [
        AnsiColor::Blue,
        AnsiColor::Green,
        AnsiColor::Yellow,
        AnsiColor::Cyan,
    ];
    let colour = match special {
        true => AnsiColor::Magenta,
        false => BACKGROUNDS[index % BACKGROUNDS.len()],
    };
    AnsiColor::Black.on(colour)
}

/// Decodes tokens and prints their bytes unchanged, with control characters escaped only on a
/// terminal.
pub(super) fn decode(
    ids: &[u32],
    json: bool,
    path: &Path,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let tokenizer = load(path, vocabulary, b"")?;
    let tokens = ids.iter().map(|&id| runtime::Token::try_from(id));
    let tokens: Vec<runtime::Token> = tokens.collect::<Result<_, _>>()?;
    let text = tokenizer.detokenize(&tokens, true)?;
    if json {
        let tokens: Vec<_> = ids.iter().filter_map(|&id| vocabulary.token(id)).collect();
        let pieces = tokens.iter().map(|token| JsonText(&token.piece)).collect();
        return Ok(out.json(&Json {
            text: JsonText(&text),
            ids,
            pieces,
        })?);
    }
    out.text(&text)?;
    Ok(writeln!(out)?)
}
