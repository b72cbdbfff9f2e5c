//! Other machines that compute layers of a model.
//!
//! ggml has the engine: its RPC server computes graphs for whoever connects to it, and its RPC
//! client is a backend like any other. But whoever reaches the server owns its process, the stream
//! is neither encrypted nor authenticated, and the client aborts the program when a server goes
//! away. This crate is what stands between the two:
//!
//! ```text
//! program ── ggml's client ──(loopback)── Link ══(network: Noise)══ Door ──(loopback)── ggml's server
//! ```
//!
//! - [`Door`]: the worker's end. Only clients with the same [`Key`] get in, one at a time. ggml's
//!   server runs in a child process and sees a single connection in its life, the door's own, which
//!   is made before any client is let in.
//! - [`Link`]: the program's end. ggml's client connects to it on loopback. When the worker is
//!   lost, the link goes on to answer ggml with zeros, so that nothing waits and nothing aborts, and
//!   says so by [`Link::fault`]: whoever computes must look there before using a result.
//!
//! The crate does not link llama.cpp. `rpc.rs` has what it knows of ggml's protocol.

mod cache;
mod child;
mod door;
mod error;
mod guests;
mod key;
mod link;
mod offer;
mod owner;
mod relay;
mod rpc;
mod session;
mod stream;

pub use door::{Door, DoorConfig};
pub use error::{Error, Result};
pub use key::Key;
pub use link::{Link, Traffic};
pub use offer::{Offer, OfferedDevice};
