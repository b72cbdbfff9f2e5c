//! Prompts typed at a terminal, one after another, with the model kept loaded.
//!
//! With `--chat` they are one conversation: what was said before is before every new question.
//! Without it each line is a prompt of its own.

use std::io::IsTerminal as _;
use std::mem;

use anyhow::Context as _;
use rustyline::Editor;
use rustyline::config::{Behavior, Config};
use rustyline::error::ReadlineError;
use rustyline::history::{FileHistory, History as _};

use super::Job;
use super::render::{self, Renderer};
use crate::commands::engine::explain;
use crate::commands::prompt::Text;
use crate::hint::Hinted;
use crate::hub::store::Store;
use crate::output::{self, Output};
use crate::runtime::chat::{self, Message};
use crate::runtime::{Engine, Result, Token};

/// Asks, completes, asks again; Ctrl-C stops an answer, Ctrl-D ends.
pub(super) fn run(job: &Job<'_>) -> anyhow::Result<()> {
    let mut config = Config::builder();
    if !std::io::stdout().is_terminal() {
        // Questions belong on the terminal, wherever the answers go.
        config = config.behavior(Behavior::PreferTerm);
    }
    let config = config.auto_add_history(true).build();
    let mut history = FileHistory::with_config(&config);
    let file = Store::from_env()
        .ok()
        .map(|store| store.root().join("history"));
    if let Some(path) = &file {
        // There is none the first time.
        let _ = history.load(path);
    }
    let mut conversation = Conversation::default();
    // A conversation's next question begins with all that was said before.
    let mut engine = job.engine(false)?;
    loop {
        let line = match ask(&config, &mut history)? {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error).context("cannot read a line"),
        };
        if line.trim().is_empty() {
            continue;
        }
        answer(job, &mut engine, &mut conversation, line)?;
        job.cancel.clear();
    }
    if let Some(path) = &file {
        let saved = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        // History is a convenience: a full or read-only disk is no reason to fail.
        if saved.is_ok() {
            let _ = history.save(path);
        }
    }
    Ok(())
}

/// A line from the terminal. The editor lives only as long as that takes: while it does, SIGINT
/// is its own and would not stop an answer.
fn ask(
    config: &Config,
    history: &mut FileHistory,
) -> anyhow::Result<std::result::Result<String, ReadlineError>> {
    let mut editor: Editor<(), FileHistory> =
        Editor::with_history(config.clone(), mem::take(history))
            .context("cannot edit lines here")?;
    let line = editor.readline("> ");
    mem::swap(editor.history_mut(), history);
    Ok(line)
}

/// What was said so far, where the model is to remember it.
#[derive(Debug, Default)]
struct Conversation {
    messages: Vec<Message>,
}

impl Conversation {
    /// The tokens of everything up to the answer to `asked`.
    fn tokens(&mut self, job: &Job<'_>, asked: &Text) -> Result<Vec<Token>> {
        let prompts = &job.args.prompts;
        if !prompts.is_chat(asked) {
            return prompts.tokens(&job.model, asked);
        }
        match self.messages.is_empty() {
            true => self.messages = prompts.messages(asked),
            false => self.messages.push(Message::new("user", &asked.text)),
        }
        chat::tokenize_chat(&job.model, &self.messages)
    }

    /// Adds the answer to what was asked last.
    fn answered(&mut self, text: &str) {
        if !self.messages.is_empty() {
            self.messages.push(Message::new("assistant", text));
        }
    }

    /// Takes back what was asked last and got no answer.
    fn take_back(&mut self) {
        self.messages.pop();
        // A system message alone is begun with again.
        if self.messages.len() < 2 {
            self.messages.clear();
        }
    }
}

fn answer(
    job: &Job<'_>,
    engine: &mut Engine,
    conversation: &mut Conversation,
    line: String,
) -> anyhow::Result<()> {
    let prompt = Text::argument(line);
    let tokens = match conversation.tokens(job, &prompt) {
        Ok(tokens) => tokens,
        Err(error) => {
            conversation.take_back();
            tell(&explain(error));
            return Ok(());
        }
    };
    let mut renderer = Renderer::new(job, Output::stdout(), vec![prompt]);
    let result = job.run(engine, vec![tokens], &mut renderer);
    renderer.finish()?;
    match result {
        Ok((report, _)) => {
            conversation.answered(&renderer.last_text);
            if job.args.stats {
                render::stats(job, &report, &renderer);
            }
        }
        // The next prompt may fit.
        Err(error) => {
            conversation.take_back();
            tell(&error);
        }
    }
    Ok(())
}

fn tell(error: &anyhow::Error) {
    output::note(&format!("error: {error:#}"));
    if let Some(hint) = Hinted::find(error) {
        output::note(&format!("hint: {hint}"));
    }
}
