//! Prints an overview of the vocabulary: its kind, its special tokens, its chat template.

use std::io::Write;

use serde::Serialize;

use super::{Args, JsonText};
use crate::base::human;
use crate::commands::command_line::CommandLine;
use crate::gguf::vocab::Vocabulary;
use crate::output::{ACCENT, BOLD, DIM, GOOD, Output};
use crate::table::{Columns, cell, plain};

/// Maximum number of special tokens in the overview; some vocabularies have thousands.
const SHOWN: usize = 64;

/// The overview as JSON.
#[derive(Serialize)]
struct Json<'a> {
    #[serde(rename = "type")]
    ty: &'a str,
    size: usize,
    counts: serde_json::Map<String, serde_json::Value>,
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    pad: Option<u32>,
    unk: Option<u32>,
    add_bos: Option<bool>,
    add_eos: Option<bool>,
    special: Vec<Special<'a>>,
    chat_template: Option<&'a str>,
}

/// A special token with the flags of Hugging Face's `AddedToken`.
#[derive(Serialize)]
struct Special<'a> {
    id: u32,
    text: JsonText<'a>,
    kind: &'static str,
    rstrip: bool,
    lstrip: bool,
    single_word: bool,
    normalized: bool,
    special: bool,
}

fn special<'a>(vocabulary: &Vocabulary<'a>) -> Vec<Special<'a>> {
    let ids = vocabulary.special().into_iter();
    ids.filter_map(|id| {
        let token = vocabulary.token(id)?;
        let strips = vocabulary.strips(id);
        Some(Special {
            id,
            text: JsonText(token.text),
            kind: token.kind.name(),
            rstrip: strips.right,
            lstrip: strips.left,
            // llama.cpp has neither: it finds special tokens verbatim, anywhere.
            single_word: false,
            normalized: false,
            special: token.kind != crate::gguf::vocab::Kind::UserDefined,
        })
    })
    .collect()
}

/// Prints the overview, or only the special tokens with `--special`.
pub(super) fn print(
    args: &Args,
    vocabulary: &Vocabulary<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    match (args.special, args.json) {
        (true, true) => Ok(out.json(&special(vocabulary))?),
        (true, false) => print_special(vocabulary, usize::MAX, out),
        (false, true) => print_json(vocabulary, out),
        (false, false) => print_text(vocabulary, out),
    }
}

fn print_json(vocabulary: &Vocabulary<'_>, out: &mut Output) -> anyhow::Result<()> {
    let roles = vocabulary.roles();
    let role = |name: &str| {
        roles
            .iter()
            .find(|role| role.name == name)
            .map(|role| role.id)
    };
    let counts = vocabulary.counts().into_iter();
    let template = vocabulary.chat_template();
    Ok(out.json(&Json {
        ty: vocabulary.model(),
        size: vocabulary.len(),
        counts: counts
            .map(|(kind, n)| (kind.name().to_owned(), n.into()))
            .collect(),
        bos: role("bos"),
        eos: role("eos"),
        eot: role("eot"),
        pad: role("pad"),
        unk: role("unk"),
        add_bos: vocabulary.adds_bos(),
        add_eos: vocabulary.adds_eos(),
        special: special(vocabulary),
        chat_template: template.as_deref(),
    })?)
}

fn print_text(vocabulary: &Vocabulary<'_>, out: &mut Output) -> anyhow::Result<()> {
    let counts = vocabulary.counts().into_iter();
    let counts: Vec<String> = counts
        .map(|(kind, n)| format!("{} {}", human::count(n as u64), kind.name()))
        .collect();
    let size = human::count(vocabulary.len() as u64);
    let title = out.paint(BOLD, format!("{size} tokens"));
    let model = human::escape(vocabulary.model().as_bytes());
    let words = out.paint(DIM, vocabulary.model_in_words());
    writeln!(out, "{title}: {}", counts.join(", "))?;
    writeln!(out, "type {model}: {words}\n")?;

    let mut roles = Columns::new(out, &["", ">", "", ""]);
    for role in vocabulary.roles() {
        let remark = match (role.name, vocabulary.adds_bos(), vocabulary.adds_eos()) {
            _ if !role.stated => "not stated in the file; llama.cpp finds it by its text",
            ("bos", Some(true), _) => "put before a text",
            ("bos", Some(false), _) => "not put before a text",
            ("bos", None, _) => "the file does not say whether it is put before a text",
            ("eos", _, Some(true)) => "put after a text",
            _ => "",
        };
        roles.add([
            cell(role.name.to_uppercase(), DIM),
            cell(role.id, ACCENT),
            plain(human::escape(vocabulary.text(role.id).unwrap_or_default())),
            cell(remark, DIM),
        ]);
    }
    if !roles.is_empty() {
        writeln!(out, "{}", roles.lines())?;
    }
    writeln!(out, "{}", out.paint(BOLD, "Special tokens"))?;
    print_special(vocabulary, SHOWN, out)?;
    if let Some(template) = vocabulary.chat_template() {
        writeln!(out, "\n{}", out.paint(BOLD, "Chat template"))?;
        for line in template.split('\n') {
            writeln!(out, "{}", human::escape(line.as_bytes()))?;
        }
    }
    Ok(())
}

/// Prints the special tokens with the flags of Hugging Face's `AddedToken`, so that the two can be
/// compared.
fn print_special(vocabulary: &Vocabulary<'_>, most: usize, out: &mut Output) -> anyhow::Result<()> {
    let header = [
        "id>",
        "token",
        "kind",
        "rstrip",
        "lstrip",
        "single_word",
        "normalized",
        "special",
    ];
    let mut rows = Columns::new(out, &header);
    let flag = |set: bool| {
        cell(
            if set { "true" } else { "false" },
            if set { GOOD } else { DIM },
        )
    };
    let special = special(vocabulary);
    for token in special.iter().take(most) {
        rows.add([
            cell(token.id, ACCENT),
            plain(human::escape(token.text.0)),
            plain(token.kind),
            flag(token.rstrip),
            flag(token.lstrip),
            flag(token.single_word),
            flag(token.normalized),
            flag(token.special),
        ]);
    }
    if rows.is_empty() {
        writeln!(out, "none")?;
        return Ok(());
    }
    out.write_all(rows.lines().as_bytes())?;
    if special.len() > most {
        let more = human::count((special.len() - most) as u64);
        let all = CommandLine::typed().with(&["--special"]);
        writeln!(out, "… and {more} more: {all}")?;
    }
    Ok(())
}
