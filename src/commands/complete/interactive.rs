//! Prompts typed at a terminal, one after another, with the model kept loaded.
//!
//! With `--chat` they are one conversation: the model sees all earlier turns before a new question.
//! Without it, each line is a prompt of its own.

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

/// Reads prompts and completes them in turn; Ctrl-C stops an answer, Ctrl-D ends.
pub(super) fn run(job: &Job<'_>) -> anyhow::Result<()> {
    let mut config = Config::builder();
    if !std::io::stdout().is_terminal() {
        // The prompt is shown on the terminal even if standard output goes elsewhere.
        config = config.behavior(Behavior::PreferTerm);
    }
    let config = config.auto_add_history(true).build();
    let mut history = FileHistory::with_config(&config);
    let file = Store::from_env()
        .ok()
        .map(|store| store.root().join("history"));
    if let Some(path) = &file {
        // The first time there is no history.
        let _ = history.load(path);
    }
    let mut conversation = Conversation::default();
    // A conversation's next question starts with the same tokens, so sequences are kept.
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
        // History is a convenience, so a failure to save it is ignored.
        if saved.is_ok() {
            let _ = history.save(path);
        }
    }
    Ok(())
}

/// Reads a line from the terminal. The editor handles SIGINT itself, so it exists only during the
/// call; otherwise Ctrl-C would not stop an answer.
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

/// The messages of the conversation so far; empty without `--chat`.
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

    /// Adds the answer to the last question.
    fn answered(&mut self, text: &str) {
        if !self.messages.is_empty() {
            self.messages.push(Message::new("assistant", text));
        }
    }

    /// Removes the last question, which got no answer.
    fn remove_question(&mut self) {
        self.messages.pop();
        // If only the system message is left, the next question adds it again.
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
            conversation.remove_question();
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
            conversation.remove_question();
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
