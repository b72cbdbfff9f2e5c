//! Shared code of the commands that probe a model: loading it, its session, and the format of
//! results.

use anyhow::bail;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr};

use super::engine::{EngineArgs, explain};
use crate::base::human;
use crate::hint::{Interrupted, UsageError};
use crate::output;
use crate::probe::Error;
use crate::progress::{Progress, Unit};
use crate::runtime::weights::Work;
use crate::runtime::{self, Cancel, Model, Session, Settings};

/// Loads the model for texts of `bytes` bytes in total.
pub fn load(engine: &EngineArgs, bytes: usize, cancel: &Cancel) -> anyhow::Result<Model> {
    engine.load(work(bytes), cancel)
}

/// An estimate of the work for texts of `bytes` bytes, at about three bytes per token.
pub fn work(bytes: usize) -> Work {
    Work::one(bytes / 3 + 1, 0)
}

/// Attaches the matching hint to an error of a probe. After Ctrl-C the error is [`Interrupted`]; a
/// wrong request is an error of usage.
pub fn told(error: Error) -> anyhow::Error {
    match error {
        Error::Runtime(error) => explain(error),
        Error::EmptyPrompt
        | Error::TextTooShort
        | Error::EmptyCandidate { .. }
        | Error::NotOneToken { .. }
        | Error::NoToken { .. }
        | Error::NoLayer { .. }
        | Error::NoHead { .. }
        | Error::NoPosition { .. }
        | Error::Window { .. }
        | Error::Tree { .. } => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

/// Checks that a text of `tokens` tokens is not longer than the flags and the model allow.
///
/// # Errors
/// It is longer.
pub fn check_length(engine: &EngineArgs, model: &Model, tokens: usize) -> anyhow::Result<()> {
    let trained = model.facts().n_ctx_train;
    let (most, whose) = match engine.ctx_size {
        Some(size) => (size, "--ctx-size allows"),
        None => (trained, "the model was trained on"),
    };
    if tokens > most as usize {
        bail!(
            "{} tokens are more than the {} that {whose}",
            human::count(tokens as u64),
            human::count(most.into())
        );
    }
    Ok(())
}

/// A session with room for a text of `tokens` tokens and the RoPE factors for that length.
pub fn session(
    engine: &EngineArgs,
    model: &Model,
    tokens: usize,
    settings: Settings,
) -> anyhow::Result<Session> {
    session_beside(engine, model, tokens, 0, settings)
}

/// Makes a [`session`] with room for `beside` more tokens in other sequences.
pub fn session_beside(
    engine: &EngineArgs,
    model: &Model,
    tokens: usize,
    beside: usize,
    settings: Settings,
) -> anyhow::Result<Session> {
    check_length(engine, model, tokens)?;
    let n_ctx = model.context_for(model.rope_factors(tokens), tokens + beside);
    Session::new(model, &Settings { n_ctx, ..settings }).map_err(explain)
}

/// Sessions for texts of different lengths, see [`runtime::Sessions`].
pub struct Sessions<'a> {
    engine: &'a EngineArgs,
    model: &'a Model,
    sessions: runtime::Sessions,
}

impl<'a> Sessions<'a> {
    /// Sessions for texts that need these numbers of tokens; each is made when it is first needed.
    pub fn new(
        engine: &'a EngineArgs,
        model: &'a Model,
        settings: Settings,
        rooms: impl Iterator<Item = usize>,
    ) -> Self {
        let mut sessions = runtime::Sessions::new(model, settings);
        rooms.for_each(|room| sessions.reserve(room));
        Sessions {
            engine,
            model,
            sessions,
        }
    }

    /// The session for a text that needs `room` tokens.
    pub fn of(&mut self, room: usize) -> anyhow::Result<&mut Session> {
        check_length(self.engine, self.model, room)?;
        self.sessions.of(room).map_err(explain)
    }

    /// The underlying sessions, after checking that none of these lengths exceeds what the flags
    /// and the model allow.
    pub fn for_rooms(
        &mut self,
        rooms: impl Iterator<Item = usize>,
    ) -> anyhow::Result<&mut runtime::Sessions> {
        for room in rooms {
            check_length(self.engine, self.model, room)?;
            self.sessions.reserve(room);
        }
        Ok(&mut self.sessions)
    }
}

/// Returns a callback that reports the total done so far to `progress`.
pub fn telling(progress: &dyn Progress) -> impl FnMut(usize) {
    let mut before = 0;
    move |done| {
        progress.advance((done - before) as u64);
        before = done;
    }
}

/// Returns such a callback for work whose total is only known once it has begun.
pub fn telling_of(
    progress: &dyn Progress,
    what: &'static str,
    plural: &'static str,
) -> impl FnMut(usize, usize) {
    let mut before = 0;
    move |done, total| {
        if before == 0 {
            progress.start(what, Unit::Items(plural), total as u64, 0);
        }
        progress.advance((done - before) as u64);
        before = done;
    }
}

/// Returns an error if a result, which has been printed, is incomplete.
pub fn interrupted(complete: bool) -> anyhow::Result<()> {
    if complete {
        Ok(())
    } else {
        Err(Interrupted.into())
    }
}

/// The error of an experiment that was interrupted before it had a result; also prints a note that
/// says so.
pub fn nothing_yet() -> anyhow::Error {
    output::note("interrupted before the first result: nothing was written");
    Interrupted.into()
}

/// Formats a probability like `12.3 %` in six columns, with enough digits to distinguish small
/// ones.
pub fn percent(prob: f64) -> String {
    let value = 100.0 * prob;
    match value {
        v if v >= 9.995 => format!("{v:4.1} %"),
        v if v >= 0.0995 => format!("{v:4.2} %"),
        v if v >= 0.000_995 => format!("{v:.4}%"),
        v if v > 0.0 => format!("{v:.0e}%"),
        _ => "   0 %".to_owned(),
    }
}

/// A bar of `width` columns filled to `share` of it, in eighths of a column.
pub fn bar(share: f64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * width as f64 * 8.0).round() as usize;
    format!("{}{}", "█".repeat(eighths / 8), EIGHTHS[eighths % 8])
}

/// Quotes a token's text, so that its spaces are visible, and escapes control characters. Bytes
/// that are not characters are shown like `\xe2`, as everywhere.
pub fn quoted(piece: impl AsRef<[u8]>) -> String {
    format!("\"{}\"", human::escape(piece.as_ref()).replace('"', "\\\""))
}

/// The number of columns of a text on a terminal, where for example Chinese characters take two
/// each.
pub fn columns(text: &str) -> usize {
    UnicodeWidthStr::width(text)
}

/// The end of a text, escaped, on one line of at most `most` columns.
pub fn tail(text: &str, most: usize) -> String {
    end(&human::escape(text.as_bytes()), most)
}

/// The end of a line that is already escaped, at most `most` columns of it.
pub fn end(line: &str, most: usize) -> String {
    if columns(line) <= most {
        return line.to_owned();
    }
    let mut room = most.saturating_sub(1);
    let mut kept: Vec<char> = line
        .chars()
        .rev()
        .take_while(|c| fits(*c, &mut room))
        .collect();
    kept.push('…');
    kept.into_iter().rev().collect()
}

/// The beginning of a text, at most `most` columns of it.
pub fn clip(text: &str, most: usize) -> String {
    if columns(text) <= most {
        return text.to_owned();
    }
    let mut room = most.saturating_sub(1);
    let kept = text.chars().take_while(|c| fits(*c, &mut room));
    kept.chain(['…']).collect()
}

/// Subtracts the columns of `c` from `room`; returns false, and subtracts nothing, if it has not
/// enough.
fn fits(c: char, room: &mut usize) -> bool {
    let left = room.checked_sub(c.width().unwrap_or(0));
    if let Some(left) = left {
        *room = left;
    }
    left.is_some()
}

/// Left-aligns `text` in a field of `width` columns.
pub fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(columns(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents_are_six_wide() {
        for prob in [
            1.0, 0.99996, 0.5, 0.0999, 0.0123, 0.00123, 1e-4, 1e-5, 1.2e-6, 1e-12, 0.0,
        ] {
            let text = percent(prob);
            assert!((5..=7).contains(&text.chars().count()), "{text:?}");
        }
        assert_eq!(percent(0.1234), "12.3 %");
        assert_eq!(percent(0.01234), "1.23 %");
        assert_eq!(percent(0.000_123_4), "0.0123%");
    }

    #[test]
    fn bars_fill_by_eighths() {
        assert_eq!(bar(1.0, 3), "███");
        assert_eq!(bar(0.5, 3), "█▌");
        assert_eq!(bar(0.0, 3), "");
        assert_eq!(bar(f64::NAN, 3), "");
        assert_eq!(bar(7.0, 2), "██");
    }

    #[test]
    fn tails_keep_the_end() {
        assert_eq!(tail("abc", 5), "abc");
        assert_eq!(tail("abcdef", 4), "…def");
        // A quoted text is already escaped.
        assert_eq!(end(&quoted(b"\xe2"), 9), r#""\xe2""#);
        assert_eq!(pad("a", 3), "a  ");
        // Two columns each.
        assert_eq!(tail("你好吗", 5), "…好吗");
        assert_eq!(clip("你好吗", 4), "你…");
        assert_eq!(pad("你", 3), "你 ");
    }
}
