//! The only outbound network code: fetches model repositories from the Hugging Face Hub.

pub mod cache;
mod id;
pub mod select;

pub use id::{HubId, IdError};
