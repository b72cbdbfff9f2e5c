//! What ggml can compute on.

/// A device ggml can compute on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The name to ask for it by, such as `CPU` or `CUDA0`.
    pub name: String,
    /// The maker's name for it.
    pub description: String,
    /// Whether it has memory of its own that layers can be put into.
    pub gpu: bool,
    /// Free memory in bytes, as the device reports it.
    pub free: u64,
    /// All of its memory, in bytes.
    pub total: u64,
}
