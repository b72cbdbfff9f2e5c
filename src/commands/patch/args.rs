//! The flags of `modelve patch`.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::commands::engine::EngineArgs;
use crate::commands::experiments::MeasureArgs;
use crate::commands::flags::Layers;
use crate::commands::prompt::PromptArgs;
use crate::commands::results::Form;
use crate::experiment::patch::What;

/// Flags of `modelve patch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and'
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and' --what head
  modelve patch 'The ball hit the bat, and' --noise 3 --noised ball   noise on one word's embedding
  modelve patch 'The ball hit the bat, and' 'The cave hid the bat, and' --html patch.html

The model reads the second prompt, with one value at a time replaced by that of the first. A cell
shows the share of the difference between the two that this restores.")]
pub struct Args {
    #[command(flatten)]
    pub(crate) prompts: PromptArgs,

    #[command(flatten)]
    pub(crate) measure: MeasureArgs,

    /// The value to replace: the residual stream, the output of attention or of an MLP, or a head's
    /// output
    #[arg(long, value_name = "WHAT", default_value = "residual")]
    pub what: WhatArg,

    /// Positions of the second prompt, such as 3-5,-1 [default: all]
    #[arg(short, long, value_name = "LIST", allow_hyphen_values = true)]
    pub positions: Option<String>,

    #[command(flatten)]
    pub(crate) layers: Layers,

    /// Replace all positions of a layer, or all its heads, at once as well
    #[arg(long)]
    pub together: bool,

    /// Instead of a second prompt: noise of S standard deviations on embeddings
    #[arg(long, value_name = "S", requires = "noised")]
    pub noise: Option<f64>,

    /// The tokens that get the noise: a text in the prompt, or positions such as 3-5
    #[arg(
        long,
        value_name = "TEXT|LIST",
        requires = "noise",
        allow_hyphen_values = true
    )]
    pub noised: Option<String>,

    /// Seed of the noise
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        requires = "noise",
        hide_short_help = true
    )]
    pub seed: u64,

    /// Draw the noise N times, with this seed and those after it, and show the mean
    #[arg(long, value_name = "N", default_value_t = 1, requires = "noise", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub samples: u32,

    /// Many pairs, from lines of {"clean": "…", "corrupt": "…", "token": "…", "against": "…"}, and
    /// their mean
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompts", "noise", "token", "against", "token_id", "against_id"])]
    pub pairs: Option<PathBuf>,

    /// Number of tokens to keep for each cell, for --json and --html
    #[arg(short = 'n', long, value_name = "N", default_value_t = 5)]
    pub top: usize,

    #[command(flatten)]
    pub(crate) form: Form,

    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// The values of `--what`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WhatArg {
    /// The residual stream after a layer
    #[default]
    Residual,
    /// The output of a layer's attention
    Attention,
    /// The output of a layer's MLP
    Mlp,
    /// The output of a head, at all positions
    Head,
}

impl Args {
    /// The files that are read, which are never overwritten.
    pub(super) fn inputs(&self) -> impl Iterator<Item = PathBuf> {
        let read = self.engine.reading(&self.prompts.input);
        read.into_iter().chain(self.pairs.clone())
    }

    pub(super) fn what(&self) -> What {
        match self.what {
            WhatArg::Residual => What::Residual,
            WhatArg::Attention => What::Attention,
            WhatArg::Mlp => What::Mlp,
            WhatArg::Head => What::Head,
        }
    }
}
