//! Experiments: what a model would say if a word, a layer or a head were missing or were
//! another prompt's, and so why it says what it says.
//!
//! Everything here is a function over a [`Session`](modelve_runtime::Session) with hooks, returns
//! plain data that serializes to the documented JSON, and prints nothing. Parts of a model are
//! named as on the command line, see [`Part`].

pub mod detect;
pub mod dump;
mod error;
mod part;
pub mod steer;

pub use error::{Error, Result};
pub use part::{Part, Spot};
