//! Experiments: what a model would say if a word, a layer or a head were removed or replaced by
//! another prompt's, and thus why it says what it says.
//!
//! Each experiment is a function over a [`Session`](modelve_runtime::Session) with hooks. It
//! returns plain data that serializes to the documented JSON, and prints nothing. The session is
//! made with [`settings`] and has [`room`] for variants in addition to the prompt. Parts of a model
//! are named as on the command line, see [`Part`]; effects are changes of one number, see
//! [`measure`].
//!
//! | function | what it tells |
//! |---|---|
//! | [`why::why`] | which words an answer depends on, and how much each part of the model contributes |
//! | [`patch::patch`] | where the difference between two prompts is represented: states of one are put into the other |
//! | [`detect::heads`] | what each head does with random tokens, and which tokens it promotes |
//! | [`steer::Learning`] | control vectors that steer from some texts to others |
//! | [`dump::Plan`] | activations of many texts, in a file |
//! | [`ablate::ablate`], [`ablate::rank`] | what the model says without some of its parts, and which matter |

pub mod ablate;
mod align;
pub mod attribution;
pub mod detect;
pub mod dump;
pub mod edit;
mod error;
pub mod heads;
pub mod html;
mod matrix;
pub mod mean;
pub mod measure;
mod noise;
mod part;
pub mod patch;
pub mod removal;
pub mod steer;
pub mod variants;
pub mod why;
mod words;

pub use error::{Error, Result};
pub use part::{Part, Spot};
pub use variants::{exact, room, settings};
