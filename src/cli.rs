//! The command line: the list of commands. Each command's flags are a struct beside the command in
//! [`crate::commands`].

use clap::{ArgAction, Parser, Subcommand};

use crate::commands::{
    ablate, attention, compare, complete, completions, convert, doctor, dump, explore, get, heads,
    imatrix, lens, man, meta, next, patch, score, serve, steer, trial, vocab, why, worker,
};

/// Look inside a language model: convert, inspect, tokenize, complete.
#[derive(Debug, Parser)]
#[command(name = "modelve", disable_version_flag = true, max_term_width = 100)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Print the version; with --verbose, also what this build can do on this machine
    #[arg(short = 'V', long, action = ArgAction::SetTrue)]
    pub version: bool,

    /// Show llama.cpp's own log, and the encoder used for each type, on standard error
    #[arg(short, long, global = true, action = ArgAction::SetTrue)]
    pub verbose: bool,

    /// Do not use the network, only what is on this machine
    #[arg(long, global = true, action = ArgAction::SetTrue)]
    pub offline: bool,
}

/// The commands, in the order in which a newcomer meets them.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert a checkpoint to a quantized GGUF
    Convert(convert::Args),
    /// Measure on a text which columns of the matrices matter, for `convert --imatrix`
    Imatrix(Box<imatrix::Args>),
    /// Fetch a GGUF file or a checkpoint from the Hub unchanged
    Get(get::Args),
    /// Show what is in a model: layers, shapes, types, sizes, and whether it fits
    Meta(meta::Args),
    /// Look into the vocabulary: ids, texts, special tokens; encode, decode, search
    Vocab(vocab::Args),
    /// Complete one prompt or many
    Complete(Box<complete::Args>),
    /// Show what the model expects after a prompt: the next token, branches, candidates
    Next(Box<next::Args>),
    /// Show how likely the model finds a text, token by token; perplexity
    Score(Box<score::Args>),
    /// Show what the model would say if it stopped after a layer
    Lens(Box<lens::Args>),
    /// Show what the heads of each layer attend to
    Attention(Box<attention::Args>),
    /// Explain an answer: the words and the parts of the model it depends on
    Why(Box<why::Args>),
    /// Show where in the model two prompts differ, by putting states of one into the other
    Patch(Box<patch::Args>),
    /// Show what the model says without a head, an MLP or a layer, and which of them matter
    Ablate(Box<ablate::Args>),
    /// Show what each head does: induction, previous token, promoted tokens
    Heads(Box<heads::Args>),
    /// Learn a direction from texts, and steer the model along it
    Steer(Box<steer::Args>),
    /// Write activations to a safetensors file
    Dump(Box<dump::Args>),
    /// Explore the model in a browser: what it expects while you type, and why
    Explore(Box<explore::Args>),
    /// Keep the model loaded and answer over HTTP, as OpenAI's API does
    Serve(Box<serve::Args>),
    /// Let other machines compute layers of their models on this one
    Worker(worker::Args),
    /// Show what quantization changed, by comparing two or more files of one model
    Compare(Box<compare::Args>),
    /// Show what this build can do on this machine: devices, CPU features, memory
    Doctor(doctor::Args),
    /// Print a completion script for your shell
    Completions(completions::Args),
    /// Print the manual page
    Man(man::Args),
    /// Try a model's file in this process; other commands start it for files that cannot be checked
    /// in full
    #[command(hide = true)]
    TryFile(trial::Args),
    /// Run ggml's RPC server for a single connection; `worker` starts it
    #[command(hide = true)]
    ServeDevices(worker::ChildArgs),
}

impl Command {
    /// Returns whether the command computes with a model.
    pub fn computes(&self) -> bool {
        match self {
            Command::Complete(_)
            | Command::Next(_)
            | Command::Score(_)
            | Command::Lens(_)
            | Command::Attention(_)
            | Command::Heads(_)
            | Command::Steer(_)
            | Command::Dump(_)
            | Command::Why(_)
            | Command::Patch(_)
            | Command::Ablate(_)
            | Command::Compare(_)
            | Command::Imatrix(_)
            | Command::Explore(_)
            | Command::Serve(_) => true,
            Command::Convert(args) => args.mix.runs_the_model(),
            Command::Get(_)
            | Command::Meta(_)
            | Command::Vocab(_)
            | Command::Doctor(_)
            | Command::Completions(_)
            | Command::Man(_)
            | Command::TryFile(_)
            | Command::Worker(_)
            | Command::ServeDevices(_) => false,
        }
    }
}
