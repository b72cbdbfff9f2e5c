//! Shared code of the commands that run experiments: the measure's flags, the session, errors, and
//! the format of signed numbers.

use std::io::Write as _;

use super::command_line::{CommandLine, quote};
use super::engine::{EngineArgs, explain};
use super::probing::{self, quoted};
use crate::experiment::measure::{Asked, Measure, Name};
use crate::experiment::{self, Error};
use crate::hint::{UsageError, hinted};
use crate::output::{DIM, GOOD, Output, WARN};
use crate::runtime::{Cancel, Model, Session, Token};

/// The flags that choose what an experiment measures.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct MeasureArgs {
    /// The answer to explain: a word, read like the candidates of `next` [default: the likeliest]
    #[arg(
        long,
        value_name = "WORD",
        allow_hyphen_values = true,
        conflicts_with = "token_id"
    )]
    pub token: Option<String>,

    /// The answer to compare it with [default: the second likeliest; with --token the mean of all]
    #[arg(
        long,
        value_name = "WORD",
        allow_hyphen_values = true,
        conflicts_with = "against_id"
    )]
    pub against: Option<String>,

    /// The answer to explain, by token id
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub token_id: Option<Token>,

    /// The answer to compare it with, by token id
    #[arg(long, value_name = "ID", hide_short_help = true)]
    pub against_id: Option<Token>,
}

impl MeasureArgs {
    /// The answers that were named.
    pub fn asked(&self) -> Asked {
        let name = |word: &Option<String>, id: Option<Token>| match (word, id) {
            (Some(word), _) => Some(Name::Text(word.clone())),
            (None, Some(id)) => Some(Name::Id(id)),
            (None, None) => None,
        };
        Asked {
            token: name(&self.token, self.token_id),
            against: name(&self.against, self.against_id),
        }
    }
}

/// A session for experiments on texts of `tokens` tokens, with room for variants beside them if
/// there is enough memory.
pub fn session(
    engine: &EngineArgs,
    model: &Model,
    tokens: usize,
    cancel: &Cancel,
) -> anyhow::Result<Session> {
    let settings = experiment::settings(model, engine.settings(cancel));
    let beside = experiment::room(tokens);
    match probing::session_beside(engine, model, tokens, beside, settings.clone()) {
        // Without that room, the variants and the text itself are computed in turns.
        Err(_) if !cancel.is_set() => probing::session(engine, model, tokens, settings),
        session => session,
    }
}

/// Attaches the matching hint to an error of an experiment. After Ctrl-C the error is
/// [`Interrupted`](crate::hint::Interrupted); a wrong request is an error of usage.
pub fn told(error: Error) -> anyhow::Error {
    use crate::{probe, runtime};
    match error {
        Error::Runtime(runtime::Error::Cancelled)
        | Error::Probe(probe::Error::Runtime(runtime::Error::Cancelled)) => probing::nothing_yet(),
        Error::Runtime(error) => explain(error),
        Error::Probe(error) => probing::told(error),
        Error::NoPart { .. } => {
            let typed = CommandLine::typed();
            let model = typed.model().map(|model| format!(" {}", quote(model)));
            let model = model.unwrap_or_default();
            hinted(
                UsageError(error.to_string()),
                format!("what layers and heads the model has: modelve meta{model}"),
            )
        }
        Error::NotAPart { .. }
        | Error::NotRemovable { .. }
        | Error::NoPosition { .. }
        | Error::EmptyName { .. }
        | Error::SameTokens { .. }
        | Error::Unaligned { .. }
        | Error::OneSided { .. }
        | Error::TooFewTokens { .. } => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

/// Formats a change or a contribution with its sign: `+1.234` or `-0.400`.
pub fn signed(value: f64) -> String {
    match value.is_finite() {
        true => format!("{:+.3}", (1e3 * value).round() / 1e3 + 0.0),
        false => "–".to_owned(),
    }
}

/// Colours a text by the sign of its value.
pub fn painted(out: &Output, value: f64, text: &str) -> String {
    let style = match value {
        v if v > 0.0005 => GOOD,
        v if v < -0.0005 => WARN,
        _ => DIM,
    };
    out.paint(style, text)
}

/// Prints a note if a result is incomplete.
pub fn partial(out: &mut Output, complete: bool) -> std::io::Result<()> {
    if complete {
        return Ok(());
    }
    let note = "interrupted: results so far";
    writeln!(out, "{}", out.paint(WARN, note))
}

/// Describes what is measured, in one line.
pub fn measured(measure: &Measure) -> String {
    let rival = match &measure.against {
        Some(rival) => format!("against {}", quoted(&rival.piece)),
        None => "against the mean of the vocabulary".to_owned(),
    };
    let cap = match measure.soft_cap {
        Some(cap) => format!(", before the soft cap of {cap}"),
        None => String::new(),
    };
    let which = match measure.against {
        Some(_) => "the first of its tokens that differs",
        None => "its first token",
    };
    let longer = measure.longer.iter().map(|name| {
        let (piece, named) = (quoted(&name.measured.piece), quoted(&name.named));
        format!(" ({piece} stands for {named}: {which})")
    });
    format!(
        "{} {rival}{}, in {}{cap}",
        quoted(&measure.token.piece),
        longer.collect::<String>(),
        measure.unit
    )
}
