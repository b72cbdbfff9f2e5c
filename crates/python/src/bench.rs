//! What a model's thread computes with: the model, and sessions that stay for the next question.
//! They have the settings of the commands, so that both give the same numbers.

use anyhow::anyhow;
use modelve::commands::engine::{EngineArgs, explain};
use modelve::commands::probing;
use modelve::runtime::weights::Work;
use modelve::runtime::{Cancel, Engine, Model, Session, Sessions, Settings, Setup};

use crate::error::Result;

/// Tokens of a batch that is scored.
const SCORED: u32 = 512;
/// Rows of logits that candidates of one length may need at once.
const TRIED: u32 = 65;
/// A resident model answers many questions, more than any estimate of one.
const WORK: Work = Work {
    prompt_tokens: 64 * 512,
    max_tokens: 128,
    prompts: 64,
    parallel: 1,
};

/// A loaded model and its sessions.
pub struct Bench {
    /// The model.
    pub model: Model,
    /// How it was asked to run.
    pub args: EngineArgs,
    /// Stops what is computed.
    pub cancel: Cancel,
    next: Sessions,
    score: Sessions,
    lens: Sessions,
    engine: Option<Engine>,
}

impl Bench {
    /// Finds, checks and loads the model.
    ///
    /// # Errors
    /// Those of the command line.
    pub fn load(args: EngineArgs, cancel: &Cancel) -> Result<Bench> {
        let model = args.load(WORK, cancel)?;
        let base = args.settings(cancel);
        let next = Settings {
            n_seq: 1,
            n_outputs: TRIED,
            ..base.clone()
        };
        let score = Settings {
            n_batch: SCORED,
            n_outputs: SCORED,
            ..base.clone()
        };
        let lens = modelve::probe::lens::settings(&model, base);
        Ok(Bench {
            next: Sessions::new(&model, next),
            score: Sessions::new(&model, score),
            lens: Sessions::new(&model, lens),
            engine: None,
            model,
            args,
            cancel: cancel.clone(),
        })
    }

    /// The settings of sessions, except for sizes.
    pub fn settings(&self) -> Settings {
        self.args.settings(&self.cancel)
    }

    /// The session for the distribution after a text, with room for `room` tokens.
    ///
    /// # Errors
    /// A text that is too long; see [`Session::new`].
    pub fn next(&mut self, room: usize) -> Result<&mut Session> {
        probing::check_length(&self.args, &self.model, room)?;
        self.next.of(room).map_err(explain)
    }

    /// The session in which every token of a text is scored.
    ///
    /// # Errors
    /// See [`Bench::next`].
    pub fn score(&mut self, room: usize) -> Result<&mut Session> {
        probing::check_length(&self.args, &self.model, room)?;
        self.score.of(room).map_err(explain)
    }

    /// The session for the lens.
    ///
    /// # Errors
    /// See [`Bench::next`].
    pub fn lens(&mut self, room: usize) -> Result<&mut Session> {
        probing::check_length(&self.args, &self.model, room)?;
        self.lens.of(room).map_err(explain)
    }

    /// A session of its own for a text of `tokens` tokens.
    ///
    /// # Errors
    /// See [`Bench::next`].
    pub fn own(&self, tokens: usize, settings: Settings) -> Result<Session> {
        probing::session(&self.args, &self.model, tokens, settings)
    }

    /// Calls `work` with the engine for completions, which stays for the next ones unless `work`
    /// fails.
    ///
    /// # Errors
    /// Those of `work` and of [`Engine::new`].
    pub fn complete<T>(&mut self, work: impl FnOnce(&mut Engine) -> Result<T>) -> Result<T> {
        let mut engine = match self.engine.take() {
            Some(engine) => engine,
            None => {
                let setup = Setup {
                    settings: self.settings(),
                    ctx_size: self.args.ctx_size,
                    discard_ended: true,
                    ..Setup::default()
                };
                Engine::new(&self.model, setup).map_err(explain)?
            }
        };
        let result = work(&mut engine)?;
        self.engine = Some(engine);
        Ok(result)
    }

    /// Returns an error after Ctrl-C, for work that ends early in place of failing.
    ///
    /// # Errors
    /// [`modelve::hint::Interrupted`].
    pub fn uninterrupted(&self) -> Result<()> {
        match self.cancel.is_set() {
            true => Err(anyhow!(modelve::hint::Interrupted)),
            false => Ok(()),
        }
    }
}
