//! An empty crate that exists for its build script, which has no dependencies and therefore runs in
//! the first second of a build. Cargo runs modelve's own build script only after llama.cpp is
//! compiled, which would report minutes later that a backend cannot be built.
