//! Experiments: what a model would say if a word, a layer or a head were missing or were
//! another prompt's, and so why it says what it says.
//!
//! Everything here is a function over a [`Session`](modelve_runtime::Session) with hooks, returns
//! plain data that serializes to the documented JSON, and prints nothing. The session is made with
//! [`settings`] and has [`room`] for variants beside the prompt. Parts of a model are named as on
//! the command line, see [`Part`]; what an experiment changes is told as one number, see
//! [`measure`].
//!
//! | function | what it tells |
//! |---|---|
//! | [`why::why`] | which words an answer hangs on, and which parts of the model it is the sum of |
//! | [`patch::patch`] | where what tells two prompts apart lies: states of the one put into the other |
//! | [`detect::heads`] | what each head does with random tokens, and what it writes |
//! | [`steer::Learning`] | directions that lead from some texts to others |
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
