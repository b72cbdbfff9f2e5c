//! Hooks, which read and change the nodes of the graph during a forward pass.
//!
//! A [`Hook`] chooses the nodes that it wants. It gets each right after it is computed, before any
//! node that depends on it, so that the pass continues with the values that the hook
//! [writes](Node::write). [`NodeInfo::role`] identifies nodes independently of the architecture,
//! and [`NodeInfo::rows`] says which sequence and position each row belongs to.

use std::ops::ControlFlow;

use super::error::Result;
pub use super::node::{NodeInfo, Row, Rows};
pub use super::node_ffi::Node;
pub use super::role::Role;
pub use super::roles::Roles;

/// Reads and changes nodes while a session computes. Needs [`Settings::hooks`](super::Settings).
///
/// If tokens are fed in several batches, each is a pass of its own, and the hook sees all of them.
pub trait Hook {
    /// Returns whether the node is wanted. All threads pause for each wanted node.
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool;

    /// Called with a wanted node after it was computed. `Break` ends the pass: the hook is not
    /// called again, there are no logits, the pass's tokens are removed from the cache, and the
    /// session returns [`Pass::Stopped`].
    ///
    /// # Errors
    /// An error also ends the pass, and the session returns it.
    fn node(&mut self, node: &mut Node<'_>) -> Result<ControlFlow<()>>;
}

/// How a pass with a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pass {
    /// It was computed to the end.
    Complete,
    /// The hook returned `Break`: the sequences are as they were before the pass.
    Stopped,
}
