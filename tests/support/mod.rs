//! What several tests share: makers of models and checkpoints, stand-ins for the Hub and a terminal.

#![allow(dead_code)] // each test binary uses a part of it

pub mod archs;
pub mod asking;
pub mod heads_fixture;
pub mod hub_server;
pub mod llama_quantize_ffi;
pub mod probe_fixture;
pub mod synthetic;
pub mod terminal;
pub mod tiny_gguf;
pub mod tls_front;
pub mod toy;
