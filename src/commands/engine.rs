//! The flags of all commands that run a model, and their effect.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args as _, FromArgMatches as _, ValueEnum};

use super::flags::{self, ModelFlag};
use super::prompt::Input;
use super::workers::{self, WorkersArgs};
use super::{find, kind, trial};
use crate::gguf::Gguf;
use crate::hint::{Interrupted, UsageError, hinted};
use crate::hub::locate::Located;
use crate::runtime::weights::{self, Work};
use crate::runtime::{
    Cancel, CheckedFile, Error, FlashAttention, GpuLayers, KvType, LoadOptions, Model, Remote,
    Settings, Weights, context, host,
};

/// The flags that choose a model and how it runs.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EngineArgs {
    /// The model.
    #[command(flatten)]
    pub model: ModelFlag,

    /// Number of threads [default: the cores this process may use]
    #[arg(short, long, value_name = "N", value_parser = flags::threads, help_heading = "Engine", hide_short_help = true)]
    pub threads: Option<u32>,

    /// Context size in tokens, for prompt and answer [default: that of the model's training];
    /// memory is only taken as needed
    #[arg(long, value_name = "TOKENS", help_heading = "Engine", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub ctx_size: Option<u32>,

    /// Type of the KV cache
    #[arg(
        long,
        value_name = "TYPE",
        help_heading = "Engine",
        hide_short_help = true,
        default_value = "f16"
    )]
    pub kv_type: KvTypeArg,

    /// Flash attention, which computes attention in one operation
    #[arg(
        long,
        value_name = "WHEN",
        help_heading = "Engine",
        hide_short_help = true,
        default_value = "auto"
    )]
    pub flash_attn: FlashArg,

    /// Use the weights in the mapped file, or a copy repacked for the CPU; auto takes what finishes
    /// sooner
    #[arg(
        long,
        value_name = "WHERE",
        help_heading = "Engine",
        hide_short_help = true,
        default_value = "auto"
    )]
    pub weights: WeightsArg,

    /// Number of layers to put on a GPU: a number, all, or auto (all that fit)
    #[arg(long, value_name = "N", help_heading = "Engine", hide_short_help = true, default_value = "auto", value_parser = parse_gpu_layers)]
    pub gpu_layers: GpuLayersArg,

    /// The device to compute on, by name; `CPU` uses no GPU
    #[arg(
        long,
        value_name = "NAME",
        help_heading = "Engine",
        hide_short_help = true
    )]
    pub device: Option<String>,

    /// Load a model of any architecture at once; without it, files that cannot be checked in full
    /// are first tried in a separate process
    #[arg(long, help_heading = "Engine", hide_short_help = true)]
    pub trust: bool,

    /// Other machines.
    #[command(flatten)]
    pub workers: WorkersArgs,
}

/// The values of `--kv-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum KvTypeArg {
    /// 32 bits per value
    F32,
    /// 16 bits per value
    #[default]
    F16,
    /// 8.5 bits per value
    #[value(name = "q8_0")]
    Q8_0,
    /// 4.5 bits per value
    #[value(name = "q4_0")]
    Q4_0,
}

/// The values of `--flash-attn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum FlashArg {
    /// Always
    On,
    /// Never
    Off,
    /// Where the device supports it
    #[default]
    Auto,
}

/// The values of `--weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum WeightsArg {
    /// In place, from the file
    Mapped,
    /// In a copy repacked at start
    Repacked,
    /// Whichever finishes this request sooner
    #[default]
    Auto,
}

/// The value of `--gpu-layers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GpuLayersArg(GpuLayers);

fn parse_gpu_layers(text: &str) -> Result<GpuLayersArg, String> {
    let layers = match text {
        "auto" => GpuLayers::Auto,
        "all" => GpuLayers::All,
        number => match number.parse() {
            Ok(n) => GpuLayers::Count(n),
            Err(_) => return Err("a number, all or auto".to_owned()),
        },
    };
    Ok(GpuLayersArg(layers))
}

impl EngineArgs {
    /// The flags that these words are, such as `--threads=2`.
    ///
    /// # Errors
    /// Words that are no such flags, or values that they do not take.
    pub fn of_words(words: impl IntoIterator<Item = String>) -> Result<EngineArgs, UsageError> {
        let command = clap::Command::new("modelve").no_binary_name(true);
        let parsed = EngineArgs::augment_args(command).try_get_matches_from(words);
        parsed
            .and_then(|matches| EngineArgs::from_arg_matches(&matches))
            .map_err(|error| {
                // What follows is about the program's help.
                let text = error.to_string();
                let lines = text
                    .lines()
                    .take_while(|line| !line.starts_with("For more"));
                let text = lines.map(str::trim).filter(|line| !line.is_empty());
                let text = text.collect::<Vec<_>>().join(" ");
                UsageError(text.trim_start_matches("error: ").to_owned())
            })
    }

    /// The settings of sessions, except for sizes.
    pub fn settings(&self, cancel: &Cancel) -> Settings {
        Settings {
            threads: self.threads,
            kv_type: match self.kv_type {
                KvTypeArg::F32 => KvType::F32,
                KvTypeArg::F16 => KvType::F16,
                KvTypeArg::Q8_0 => KvType::Q8_0,
                KvTypeArg::Q4_0 => KvType::Q4_0,
            },
            flash_attention: match self.flash_attn {
                FlashArg::On => FlashAttention::On,
                FlashArg::Off => FlashAttention::Off,
                FlashArg::Auto => FlashAttention::Auto,
            },
            cancel: cancel.clone(),
            ..Settings::default()
        }
    }

    /// Finds, checks and loads the model. `work` is an estimate of the work ahead.
    pub fn load(&self, work: Work, cancel: &Cancel) -> anyhow::Result<Model> {
        let path = self.locate("")?;
        self.load_file(&path, work, cancel)
    }

    /// The files of the model, including those of all its parts; empty if it is not found.
    pub fn inputs(&self) -> Vec<PathBuf> {
        let Ok(Located::Gguf(path)) = find::locate(self.model.model.as_deref()) else {
            return Vec::new();
        };
        match Gguf::open(&path) {
            Ok(gguf) => gguf.paths().map(Path::to_owned).collect(),
            Err(_) => vec![path],
        }
    }

    /// The files that are read for an answer to `texts`, which are never written.
    pub fn reading(&self, texts: &Input) -> Vec<PathBuf> {
        let mut files = self.inputs();
        files.extend(texts.file.clone());
        files
    }

    /// The path of the GGUF file. For a checkpoint, the hint proposes `modelve convert` with these
    /// `flags`.
    pub fn locate(&self, flags: &str) -> anyhow::Result<PathBuf> {
        match find::locate(self.model.model.as_deref())? {
            Located::Gguf(path) => Ok(path),
            Located::Checkpoint(path) => {
                let hint = kind::checkpoint_hint(&path, flags);
                let path = path.display();
                let error = anyhow!("{path} is a checkpoint, which llama.cpp cannot run");
                Err(hinted(error, hint))
            }
        }
    }

    /// Checks what can be checked of a model file before it is loaded, which takes milliseconds.
    pub fn inspect(&self, path: &Path) -> anyhow::Result<()> {
        Model::inspect(path).map_err(|error| refused(error, path))?;
        Ok(())
    }

    /// Does what [`EngineArgs::load`] does, for a file that was found.
    pub fn load_file(&self, path: &Path, work: Work, cancel: &Cancel) -> anyhow::Result<Model> {
        let checked = Model::inspect(path).map_err(|error| refused(error, path))?;
        let facts = checked.facts();
        if !self.trust {
            trial::model(path, facts, cancel)?;
        }
        let settings = self.settings(cancel);
        let free = host::free_memory();
        // With workers, the plan says what fits.
        if let (Some(size), false) = (self.ctx_size, self.workers.any()) {
            let n_ctx = u64::from(size);
            context::check_fit(facts, settings.kv_type, n_ctx, free, facts.tensor_bytes)
                .map_err(explain)?;
        }
        let weights = match self.weights {
            WeightsArg::Mapped => Weights::Mapped,
            WeightsArg::Repacked => Weights::Repacked,
            WeightsArg::Auto => weights::choose(facts, work, free),
        };
        let prompt = work.prompt_tokens / work.prompts.max(1);
        let tokens = prompt.saturating_add(work.max_tokens) as u64;
        let remote = self.place(&checked, tokens, work)?;
        let options = LoadOptions {
            weights,
            gpu_layers: self.gpu_layers.0,
            device: self.device.clone(),
            remote,
            gpu_reserve: context::kv_bytes(facts, settings.kv_type, tokens),
            cancel: cancel.clone(),
        };
        Model::load_checked(checked, &options).map_err(|error| match error {
            Error::OutOfMemory { .. } if !options.remote.layers.is_empty() => hinted(
                error,
                "give the worker fewer layers with --split, or let it offer less memory: modelve worker --memory SIZE",
            ),
            error => refused(error, path),
        })
    }
}

impl EngineArgs {
    /// Gives layers of a model to the workers, if any were named. `tokens` is the number of tokens of
    /// one text.
    fn place(&self, checked: &CheckedFile, tokens: u64, work: Work) -> anyhow::Result<Remote> {
        if !self.workers.any() {
            return Ok(Remote::default());
        }
        let on_gpu = !matches!(self.gpu_layers.0, GpuLayers::Auto | GpuLayers::Count(0));
        let device = self.device.as_deref().unwrap_or("CPU");
        if on_gpu || !device.eq_ignore_ascii_case("cpu") {
            let usage =
                UsageError("with --workers, this machine's own layers are on its CPU".into());
            return Err(hinted(
                usage,
                "leave out --gpu-layers and --device; to use the GPU as well, run `modelve worker` on this machine and name it, too",
            ));
        }
        let facts = checked.facts();
        let trained = u64::from(facts.n_ctx_train.max(1));
        let texts = work.parallel.clamp(1, work.prompts.max(1)) as u64;
        let n_ctx = match self.ctx_size {
            Some(size) => u64::from(size),
            None => tokens.clamp(256, trained.max(256)).saturating_mul(texts),
        };
        let kv_type = self.settings(&Cancel::new()).kv_type;
        let placed = self
            .workers
            .place(checked.gguf(), facts, kv_type, n_ctx, self.threads)?;
        if placed.layers.is_empty() {
            let hint =
                "workers not used: the model fits here; --split gives them layers all the same";
            crate::output::note(hint);
        }
        Ok(placed)
    }
}

/// Attaches a hint to an error about a file, by what the file is instead of a model.
fn refused(error: Error, path: &Path) -> anyhow::Error {
    kind::instead_of(explain_file(error, path), path)
}

/// Attaches the matching hint to an error of the runtime.
pub fn explain(error: Error) -> anyhow::Error {
    if let Error::WorkerLost { worker, .. } = &error {
        let hint = workers::lost_hint(worker);
        return hinted(error, hint);
    }
    let hint = match &error {
        Error::Cancelled => return Interrupted.into(),
        Error::Memory(refusal) => match refusal.kv_type {
            KvType::F32 | KvType::F16 => {
                "a smaller --max-tokens or --ctx-size, a shorter prompt, or --kv-type q8_0"
            }
            _ => "a smaller --max-tokens or --ctx-size, or a shorter prompt",
        },
        Error::NoBackend { .. } => {
            "unpack the program together with its `backends` folder; what it finds: modelve doctor"
        }
        Error::NoGpu | Error::NoDevice { .. } if cfg!(feature = "portable") => {
            "what libraries for GPUs there are, and why one does not load: modelve doctor"
        }
        Error::NoRpc => {
            "llama.cpp was built before modelve used it: cargo clean -p llama-cpp-sys-2, and build again"
        }
        Error::NoGpu => {
            "build it with one: cargo build --release --features cuda (or metal, vulkan, rocm)"
        }
        Error::NoDevice { .. } => {
            "leave --device out, or build it in: cargo build --release --features cuda (or metal, vulkan, rocm)"
        }
        Error::OutOfMemory { .. } => {
            "leave more layers on the processor: --gpu-layers with a smaller number, 0 for none"
        }
        Error::Template(_) => "leave out --chat to give the model the prompt as it is",
        Error::Gguf(unread) => match kind::unread(unread) {
            Some(hint) => hint,
            None => return error.into(),
        },
        Error::NotANumber { .. } => "its weights are damaged: fetch or convert the file again",
        _ => return error.into(),
    };
    hinted(error, hint)
}

/// Attaches the matching hint to an error about the file at `path`.
fn explain_file(error: Error, path: &Path) -> anyhow::Error {
    match error {
        Error::Invalid { .. } | Error::Load { .. } => hinted(error, kind::does_not_run(path)),
        error => explain(error),
    }
}

/// A flag that Ctrl-C sets. A second Ctrl-C while it is still set ends the program.
pub fn cancel_on_ctrl_c() -> anyhow::Result<Cancel> {
    use signal_hook::{consts::SIGINT, flag};
    let cancel = Cancel::new();
    flag::register_conditional_shutdown(SIGINT, 130, cancel.flag())?;
    flag::register(SIGINT, cancel.flag())?;
    Ok(cancel)
}
