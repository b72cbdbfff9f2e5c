//! Nothing at run time: this crate exists for its build script, which has no dependencies
//! and so runs in the first second of a build. Cargo starts modelve's own build script only
//! after llama.cpp is compiled, minutes too late to say that a backend cannot be built.
