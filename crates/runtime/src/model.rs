//! A model, loaded once and shared.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use llama_cpp_2::model::LlamaModel;

use super::cancel::Cancel;
use super::check::{self, Facts};
use super::error::{Error, Result};
use super::ffi;
use super::params::{Extent, LoadParams};
use super::remote::{self, Remote, Workers};
use super::roles::FoundRoles;
use super::rope::{Rope, RopeFactors};
use super::start::{self, start};
use super::vocab::Vocab;
use modelve_gguf::Gguf;

/// Where the weights are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Weights {
    /// In the mapped file, in its layout: loading takes no time.
    #[default]
    Mapped,
    /// In a copy that is repacked for the CPU's kernels: loading takes seconds, and computing is
    /// faster for some types.
    Repacked,
}

/// How many layers are put on a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GpuLayers {
    /// As many as fit, if this build has a GPU backend and the machine a GPU.
    #[default]
    Auto,
    /// All of them.
    All,
    /// This many.
    Count(u32),
}

/// How to load a model.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// Whether to repack weights.
    pub weights: Weights,
    /// How many layers are put on a GPU.
    pub gpu_layers: GpuLayers,
    /// The name of the device to use; `None` lets llama.cpp choose.
    pub device: Option<String>,
    /// Layers that workers compute: the last ones of the model, in this order. With them, no layer is
    /// put on a GPU of this machine.
    pub remote: Remote,
    /// Bytes to leave free on a GPU for the KV cache when `gpu_layers` is `Auto`.
    pub gpu_reserve: u64,
    /// The flag that stops the load.
    pub cancel: Cancel,
}

/// A loaded model. Clones share it. Threads can share it, too, each with its own
/// [`Session`](super::Session).
#[derive(Clone)]
pub struct Model {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub raw: Arc<LlamaModel>,
    vocab: Vocab,
    path: PathBuf,
    /// The file as it was when it was loaded, even if its path names another file by now.
    gguf: Gguf,
    facts: Facts,
    rope: Option<Rope>,
    weights: Weights,
    gpu_layers: u32,
    device: String,
    remote: Remote,
    workers: Workers,
    load_time: Duration,
    /// Computed by the first call of [`Model::fingerprint`].
    pub fingerprint: OnceLock<[u8; 32]>,
    /// The roles of its graph's nodes, found once for each kind of attention.
    pub roles: FoundRoles,
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.inner.path)
            .finish_non_exhaustive()
    }
}

impl Model {
    /// Reads and checks the header of a GGUF file, for [`Model::load_checked`] and for the memory
    /// needs of a context, before anything is loaded.
    ///
    /// # Errors
    /// The file is not a GGUF, or llama.cpp would fail on it.
    pub fn inspect(path: &Path) -> Result<CheckedFile> {
        let gguf = Gguf::open(path)?;
        let facts = check::model(path, &gguf)?;
        Ok(CheckedFile {
            path: path.to_owned(),
            gguf,
            facts,
        })
    }

    /// Loads a GGUF file.
    ///
    /// # Errors
    /// See [`Model::inspect`]; a device that this build lacks; [`Error::Cancelled`].
    pub fn load(path: &Path, options: &LoadOptions) -> Result<Model> {
        Self::load_checked(Self::inspect(path)?, options)
    }

    /// Loads a file that was inspected.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn load_checked(checked: CheckedFile, options: &LoadOptions) -> Result<Model> {
        Self::load_as(checked, options, false)
    }

    /// Like [`Model::load_checked`], with the weights in memory that nothing else uses, in the layout
    /// of the file.
    pub(super) fn load_private(checked: CheckedFile, options: &LoadOptions) -> Result<Model> {
        Self::load_as(checked, options, true)
    }

    fn load_as(checked: CheckedFile, options: &LoadOptions, copied: bool) -> Result<Model> {
        let begun = Instant::now();
        let CheckedFile { path, gguf, facts } = checked;
        let (mut gpu_layers, mut device) = place_layers(&facts, &gguf, options)?;
        let rope = facts.rope_boundary.map(Rope::new);
        // llama.cpp compares the boundary between RoPE factors with the padded size of the context.
        // A boundary that is not a multiple of the padding is moved up to the next one, and
        // sessions stop at the original boundary.
        let overrides: Vec<(String, i64)> = rope
            .filter(|rope| rope.short_context != rope.original)
            .map(|rope| {
                let key = format!("{}.rope.scaling.original_context_length", facts.arch);
                (key, i64::from(rope.short_context))
            })
            .into_iter()
            .collect();
        let cancel = options.cancel.clone();
        let workers = Workers::of(&options.remote.layers);
        let remote = remote::devices(start(), &options.remote.layers)?;
        workers.set_loading(true);
        let raw = loop {
            let raw = ffi::load_model(
                start(),
                &path,
                &gguf,
                LoadParams {
                    extent: Extent::Everything,
                    copied,
                    repack: options.weights == Weights::Repacked,
                    gpu_layers,
                    device: options.device.as_deref(),
                    remote: &remote,
                    overrides: &overrides,
                    progress: &mut |_| !cancel.is_set() && !workers.any_lost(),
                },
            );
            // A device may fail to allocate memory that it reports as free. If so, try half as
            // many layers.
            match &raw {
                Err(error) if gpu_layers > 0 && fewer_may_do(options, error) => {
                    tracing::warn!("{gpu_layers} layers do not fit on {device}: {error}");
                    gpu_layers /= 2;
                }
                _ => break raw,
            }
        };
        if raw.is_ok() {
            remote::settle(&remote);
        }
        workers.set_loading(false);
        workers.check()?;
        if gpu_layers == 0 {
            device = "CPU".to_owned();
        }
        if options.cancel.is_set() {
            return Err(Error::Cancelled);
        }
        let raw = Arc::new(raw?);
        let vocab = Vocab::new(Arc::clone(&raw), &facts);
        let inner = Inner {
            raw,
            vocab,
            path,
            gguf,
            facts,
            rope,
            weights: options.weights,
            gpu_layers,
            device,
            remote: options.remote.clone(),
            workers,
            load_time: begun.elapsed(),
            fingerprint: OnceLock::new(),
            roles: FoundRoles::default(),
        };
        Ok(Model {
            inner: Arc::new(inner),
        })
    }

    /// The model's vocabulary.
    pub fn vocab(&self) -> &Vocab {
        &self.inner.vocab
    }

    /// The properties of the model, from the header of its file.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// The mapped file.
    pub fn gguf(&self) -> &Gguf {
        &self.inner.gguf
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The boundary between the model's two sets of RoPE factors, if it has two.
    pub fn rope(&self) -> Option<Rope> {
        self.inner.rope
    }

    /// The RoPE factors for a text of `tokens` tokens.
    pub fn rope_factors(&self, tokens: usize) -> RopeFactors {
        match self.rope() {
            Some(rope) if tokens > rope.original as usize => RopeFactors::Long,
            _ => RopeFactors::Short,
        }
    }

    /// The longest text for these RoPE factors, in tokens.
    pub fn reach(&self, rope_factors: RopeFactors) -> usize {
        match (self.rope(), rope_factors) {
            (Some(rope), RopeFactors::Short) => rope.original as usize,
            _ => usize::MAX,
        }
    }

    /// The size of a context for `tokens` cells that computes with these RoPE factors.
    pub fn context_for(&self, rope_factors: RopeFactors, tokens: usize) -> u32 {
        let tokens = u32::try_from(tokens.max(1)).unwrap_or(u32::MAX);
        match (self.rope(), rope_factors) {
            // llama.cpp uses the long factors only in a context larger than the boundary.
            (Some(rope), RopeFactors::Long) => tokens.max(rope.short_context + 1),
            (Some(rope), RopeFactors::Short) => tokens.min(rope.short_context),
            (None, _) => tokens,
        }
    }

    /// Where the weights are in memory.
    pub fn weights(&self) -> Weights {
        self.inner.weights
    }

    /// The number of layers on a GPU.
    pub fn gpu_layers(&self) -> u32 {
        self.inner.gpu_layers
    }

    /// The name of the device that computes.
    pub fn device(&self) -> &str {
        &self.inner.device
    }

    /// The workers that hold layers.
    pub(super) fn workers(&self) -> &Workers {
        &self.inner.workers
    }

    /// The layers that are on other machines.
    pub fn remote(&self) -> &Remote {
        &self.inner.remote
    }

    /// The time that loading took.
    pub fn load_time(&self) -> Duration {
        self.inner.load_time
    }
}

/// A GGUF file whose header was read and checked.
#[derive(Debug)]
pub struct CheckedFile {
    path: PathBuf,
    gguf: Gguf,
    facts: Facts,
}

impl CheckedFile {
    /// Lets llama.cpp read the whole header: metadata, vocabulary, and every tensor that it needs,
    /// whose shapes it checks. The weights are neither read nor mapped.
    ///
    /// # Errors
    /// [`Error::Load`] with llama.cpp's reason.
    pub fn try_header(&self) -> Result<()> {
        ffi::load_model(
            start(),
            &self.path,
            &self.gguf,
            LoadParams {
                extent: Extent::Header,
                copied: false,
                repack: false,
                gpu_layers: 0,
                device: None,
                remote: &[],
                overrides: &[],
                progress: &mut |_| true,
            },
        )
        .map(drop)
    }

    /// The properties of the model, from the header of its file.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The mapped file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// The number of layers that would be put on a GPU, and the name of the device that would
    /// compute.
    ///
    /// # Errors
    /// The device does not exist, or there is no device at all.
    pub fn choose_device(&self, options: &LoadOptions) -> Result<(u32, String)> {
        place_layers(&self.facts, &self.gguf, options)
    }
}

/// The number of layers to put on a GPU, and the name of the device that computes.
fn place_layers(facts: &Facts, gguf: &Gguf, options: &LoadOptions) -> Result<(u32, String)> {
    let devices = start::devices();
    if devices.iter().all(|device| device.gpu) {
        let folders = super::backends::folders();
        return Err(Error::NoBackend { folders });
    }
    let all = facts.n_layer + 1;
    let remote = &options.remote.layers;
    if !remote.is_empty() {
        let layers: u32 = remote.iter().map(|layers| layers.layers).sum();
        let mut names: Vec<&str> = remote.iter().map(|layers| layers.link.name()).collect();
        names.dedup();
        names.insert(0, "CPU");
        return Ok((layers.min(facts.n_layer) + 1, names.join(" + ")));
    }
    let gpus = || devices.iter().filter(|device| device.gpu);
    let chosen = match &options.device {
        None => gpus().next(),
        Some(name) => {
            let found = devices.iter().find(|d| d.name.eq_ignore_ascii_case(name));
            let Some(device) = found else {
                let have = devices.iter().map(|d| d.name.clone()).collect();
                return Err(Error::NoDevice {
                    name: name.clone(),
                    have,
                });
            };
            Some(device).filter(|device| device.gpu)
        }
    };
    let count = match (options.gpu_layers, chosen) {
        (GpuLayers::Count(0), _) | (GpuLayers::Auto, None) => 0,
        (GpuLayers::All | GpuLayers::Count(_), None) => return Err(Error::NoGpu),
        (GpuLayers::All, Some(_)) => all,
        (GpuLayers::Count(n), Some(_)) => n.min(all),
        (GpuLayers::Auto, Some(device)) => {
            let largest = gguf
                .tensors()
                .iter()
                .filter_map(|t| t.bytes)
                .max()
                .unwrap_or(0);
            // The size of the compute buffers is not in the header. The output matrix is the
            // largest thing that they hold.
            let room = device
                .free
                .saturating_sub(options.gpu_reserve + largest + (256 << 20));
            let layer = (facts.tensor_bytes / u64::from(all)).max(1);
            u32::try_from(room / layer).unwrap_or(all).min(all)
        }
    };
    let name = match chosen.filter(|_| count > 0) {
        Some(device) => device.name.clone(),
        None => "CPU".to_owned(),
    };
    Ok((count, name))
}

/// Returns whether fewer layers may be tried: a load failed because a device had not enough memory,
/// and the number of layers is automatic.
fn fewer_may_do(options: &LoadOptions, error: &Error) -> bool {
    options.gpu_layers == GpuLayers::Auto
        && options.remote.layers.is_empty()
        && !options.cancel.is_set()
        && matches!(error, Error::OutOfMemory { .. })
}
