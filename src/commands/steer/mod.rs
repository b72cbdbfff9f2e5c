//! `modelve steer`: control vectors, learned from texts and added to a model.

mod learn;
mod run;

/// Flags of `modelve steer`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  modelve steer learn --plus 'What a lovely day' --minus 'What an awful day' -o joy.gguf
  modelve steer run 'I think that' --vector joy.gguf --scale=-1,1,2
  modelve complete 'I think that' --control-vector joy.gguf:1.5

The files are llama.cpp's control vectors: its programs take these, and its are taken here.")]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Learn a direction: the mean state after some texts minus that after others
    Learn(Box<learn::Args>),
    /// Show what the model says without and with a control vector
    Run(Box<run::Args>),
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<()> {
    match &args.action {
        Action::Learn(args) => learn::run(args),
        Action::Run(args) => run::run(args),
    }
}
