//! The devices that ggml can compute on.

/// A device that ggml can compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name that selects it, such as `CPU` or `CUDA0`.
    pub name: String,
    /// The manufacturer's name for it.
    pub description: String,
    /// Whether it has memory of its own that layers can be put into.
    pub gpu: bool,
    /// Free memory in bytes, as the device reports it.
    pub free: u64,
    /// Its total memory in bytes.
    pub total: u64,
}
