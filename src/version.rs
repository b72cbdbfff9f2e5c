//! The output of `modelve --version`.

/// `0.2.0 (commit, llama.cpp …, ggml …)`: the version of the program and its libraries.
pub const VERSION: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (",
    env!("MODELVE_COMMIT"),
    ", llama.cpp ",
    env!("MODELVE_LLAMA_VERSION"),
    ", ggml ",
    env!("MODELVE_GGML_VERSION"),
    ")"
);
