//! What a worker offers its client.

use serde::{Deserialize, Serialize};

/// What a worker says of itself once a client is let in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// modelve's version.
    pub version: String,
    /// The version of llama.cpp and ggml, which must be the same on both sides.
    pub engine: String,
    /// Operating system and architecture, such as `linux x86_64`.
    pub system: String,
    /// The devices, in the order in which ggml's server numbers them.
    pub devices: Vec<OfferedDevice>,
    /// Whether tensors are kept on the worker's disk.
    pub cache: bool,
    /// How ggml's server greets, with which the client's own ggml is answered.
    #[serde(default)]
    pub(crate) hello: Vec<u8>,
}

/// A device of a worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OfferedDevice {
    /// ggml's name for it, such as `CPU` or `CUDA0`.
    pub name: String,
    /// The manufacturer's name for it.
    pub description: String,
    /// Whether it has memory of its own.
    pub gpu: bool,
    /// Bytes that weights, caches and working memory may take.
    pub memory: u64,
    /// Bytes of weights that it reads in a second; `None` if that was not measured.
    pub bytes_per_second: Option<f64>,
}

impl Offer {
    /// An offer of these devices, by a worker with this `engine`.
    pub fn new(version: &str, engine: &str, devices: Vec<OfferedDevice>, cache: bool) -> Offer {
        Offer {
            version: version.to_owned(),
            engine: engine.to_owned(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            devices,
            cache,
            hello: Vec::new(),
        }
    }
}
