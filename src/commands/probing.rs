//! What the probing commands share: the model and its session, prompts, and where pages go.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;

use super::engine::{EngineArgs, explain};
use crate::base::outfile::{self, Existing, Outfile};
use crate::base::{human, infile};
use crate::hint::{Interrupted, Usage, hinted};
use crate::output::Output;
use crate::probe::Error;
use crate::probe::html::Page;
use crate::runtime::weights::Work;
use crate::runtime::{self, Cancel, Model, Session, Settings};

/// Where a result goes.
#[derive(Debug, Clone, clap::Args)]
pub struct Form {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Write a page to look at with a browser; it replaces none but an earlier page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

impl Form {
    /// Decides before the work where the page goes, if one is asked for. A page that modelve made is
    /// replaced, any other file stays, and what the command reads (`inputs`) stays whatever it is.
    ///
    /// # Errors
    /// A file that must stay; a folder that is not there or cannot be written.
    pub fn page(
        &self,
        inputs: impl IntoIterator<Item = PathBuf>,
    ) -> anyhow::Result<Option<Outfile>> {
        let Some(path) = &self.html else {
            return Ok(None);
        };
        let page = Outfile::judge(path, Existing::ReplaceIf(Page::is_one), inputs);
        let page = page.and_then(|page| page.try_begin().map(|()| page));
        let page = page.map_err(page_error)?;
        if page.is_stdout() && self.json {
            let what =
                "--json and --html - would both write to standard output: name a file for one";
            return Err(Usage(what.to_owned()).into());
        }
        Ok(Some(page))
    }
}

/// Whether the page takes standard output, which then carries nothing else.
pub fn is_on_stdout(page: &Option<Outfile>) -> bool {
    page.as_ref().is_some_and(Outfile::is_stdout)
}

/// An error of writing a page with its hint.
fn page_error(error: outfile::Error) -> anyhow::Error {
    use outfile::Error;
    let hint = match &error {
        Error::Exists { path } => {
            let path = path.display();
            format!(
                "it is no page that modelve made, so it stays: give the page another name, or remove {path} first"
            )
        }
        Error::IsInput { .. } | Error::IsStream { .. } | Error::NotAFile { .. } => {
            "give the page a name of its own: --html page.html".to_owned()
        }
        Error::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            format!("mkdir -p {}", outfile::folder_of(path).display())
        }
        _ => return error.into(),
    };
    hinted(error, hint)
}

/// Loads the model for texts of so many bytes in all.
pub fn load(engine: &EngineArgs, bytes: usize, cancel: &Cancel) -> anyhow::Result<Model> {
    engine.load(work(bytes), cancel)
}

/// What to expect of texts of so many bytes: a token is some three of them.
pub fn work(bytes: usize) -> Work {
    Work::one(bytes / 3 + 1, 0)
}

/// An error of a probe with the hint that belongs to it; after Ctrl-C only that. What was asked
/// wrongly is an error of usage.
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
        | Error::Tree { .. } => Usage(error.to_string()).into(),
        error => error.into(),
    }
}

/// Refuses a text of `tokens` that is longer than the flags or the model allow.
fn check_length(engine: &EngineArgs, model: &Model, tokens: usize) -> anyhow::Result<()> {
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

/// A session with room for a text of `tokens`, and the RoPE factors that belong to that length.
pub fn session(
    engine: &EngineArgs,
    model: &Model,
    tokens: usize,
    settings: Settings,
) -> anyhow::Result<Session> {
    check_length(engine, model, tokens)?;
    let n_ctx = model.context_for(model.regime(tokens), tokens);
    Session::new(model, &Settings { n_ctx, ..settings }).map_err(explain)
}

/// Sessions for texts of several lengths, see [`runtime::Sessions`].
pub struct Sessions<'a> {
    engine: &'a EngineArgs,
    model: &'a Model,
    sessions: runtime::Sessions,
}

impl<'a> Sessions<'a> {
    /// For texts that need so many tokens each; nothing is made before it is needed.
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
}

/// After what is done has been printed: the error that says it is not all.
pub fn interrupted(complete: bool) -> anyhow::Result<()> {
    if complete {
        Ok(())
    } else {
        Err(Interrupted.into())
    }
}

/// The prompts of the command line, or what standard input brings (`-`, or no prompt and no
/// terminal), without the line feed at its end.
pub fn prompts(arguments: &[String]) -> anyhow::Result<Vec<String>> {
    if arguments.is_empty() && std::io::stdin().is_terminal() {
        return Err(Usage("no prompt: give it as an argument or on standard input".into()).into());
    }
    if !arguments.is_empty() && arguments.iter().all(|argument| argument != "-") {
        return Ok(arguments.to_vec());
    }
    let read = read_stdin()?;
    let read = read.strip_suffix('\n').unwrap_or(&read);
    if arguments.is_empty() {
        return Ok(vec![read.to_owned()]);
    }
    let from = |argument: &String| match argument.as_str() {
        "-" => read.to_owned(),
        _ => argument.clone(),
    };
    Ok(arguments.iter().map(from).collect())
}

/// The one prompt of a command that takes one.
pub fn one_prompt(argument: Option<&str>) -> anyhow::Result<String> {
    let arguments: Vec<String> = argument.map(str::to_owned).into_iter().collect();
    let prompts = prompts(&arguments)?;
    let prompt = prompts.into_iter().next().unwrap_or_default();
    if prompt.is_empty() {
        return Err(Usage("the prompt is empty".to_owned()).into());
    }
    Ok(prompt)
}

/// Numbers below `len`: `3`, `0-5,9`, and `-1` for the last.
pub fn numbers(text: &str, len: usize, what: &str) -> anyhow::Result<Vec<usize>> {
    let wrong = || {
        Usage(format!(
            "{text:?} is no list of {what}s, such as 0-5,9 or -1"
        ))
    };
    let mut list = Vec::new();
    for item in text.split(',').map(str::trim) {
        if let Some(back) = item.strip_prefix('-') {
            let back: usize = back.parse().map_err(|_| wrong())?;
            let Some(at) = len.checked_sub(back).filter(|&at| at < len) else {
                return Err(Usage(format!("{what} {item} of {len}")).into());
            };
            list.push(at);
            continue;
        }
        let (from, to) = item.split_once('-').unwrap_or((item, item));
        let from: usize = from.trim().parse().map_err(|_| wrong())?;
        let to: usize = to.trim().parse().map_err(|_| wrong())?;
        if from > to {
            return Err(wrong().into());
        }
        if to >= len {
            let last = len.saturating_sub(1);
            return Err(Usage(format!("{what} {to} of {len}, which are 0 to {last}")).into());
        }
        list.extend(from..=to);
    }
    Ok(list)
}

/// Everything on standard input.
pub fn read_stdin() -> anyhow::Result<String> {
    infile::text_from(std::io::stdin().lock()).context("cannot read standard input")
}

/// The text of a file that the user names.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    infile::text(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Results one after the other, as JSON or by `print`, and all of them in a page.
pub fn show<T: Serialize>(
    form: &Form,
    file: &Option<Outfile>,
    page: Page,
    results: &[T],
    print: impl FnOnce(&mut Output) -> std::io::Result<()>,
) -> anyhow::Result<()> {
    let mut out = Output::stdout();
    if form.json {
        for result in results {
            out.json_line(result)?;
        }
    } else if !is_on_stdout(file) {
        print(&mut out)?;
    }
    if let Some(file) = file {
        write_page(file, page, &results)?;
        wrote(&mut out, form, file)?;
    }
    Ok(out.flush()?)
}

/// Renders a page and writes it.
pub fn write_page(file: &Outfile, page: Page, data: &impl Serialize) -> anyhow::Result<()> {
    file.write(page.render(data)?.as_bytes())
        .map_err(page_error)
}

/// `12.3 %`, and enough digits to tell small probabilities apart, in six columns.
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

/// A piece in quotes, so that its spaces are seen, and nothing a terminal would act on.
pub fn quoted(piece: &str) -> String {
    format!("\"{}\"", human::escape(piece.as_bytes()))
}

/// The end of a text, on one line of at most `most` characters.
pub fn tail(text: &str, most: usize) -> String {
    let line = human::escape(text.as_bytes());
    let length = line.chars().count();
    if length <= most {
        return line;
    }
    let skip = length - most.saturating_sub(1);
    format!("…{}", line.chars().skip(skip).collect::<String>())
}

/// `text` to the left in a field of `width` characters.
pub fn pad(text: &str, width: usize) -> String {
    let length = text.chars().count();
    format!("{text}{}", " ".repeat(width.saturating_sub(length)))
}

/// Says on standard output that a page was written, unless the data went there.
pub fn wrote(out: &mut Output, form: &Form, file: &Outfile) -> std::io::Result<()> {
    if form.json || file.is_stdout() {
        return Ok(());
    }
    let path = file.path().display().to_string();
    writeln!(out, "wrote {}", human::escape(path.as_bytes()))
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
    fn lists_of_numbers() {
        assert_eq!(numbers("0-2, 5,-1", 8, "layer").unwrap(), [0, 1, 2, 5, 7]);
        for bad in ["", "a", "3-1", "8", "0-8", "-9", "-0", "1-", "--1"] {
            assert!(numbers(bad, 8, "layer").is_err(), "{bad}");
        }
        let error = numbers("99", 32, "layer").unwrap_err();
        assert_eq!(error.to_string(), "layer 99 of 32, which are 0 to 31");
    }

    #[test]
    fn tails_keep_the_end() {
        assert_eq!(tail("abc", 5), "abc");
        assert_eq!(tail("abcdef", 4), "…def");
        assert_eq!(pad("a", 3), "a  ");
    }
}
