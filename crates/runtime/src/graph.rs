//! Looking into a pass, and changing it: hooks on the nodes of the graph as they are computed.
//!
//! A [`Hook`] is asked for every node whether it wants it, and gets those it wants right after
//! they were computed and before anything that follows from them is: what it [writes](Node::write)
//! is what the model goes on with. [`NodeInfo::role`] tells what a node is in every architecture,
//! and [`NodeInfo::rows`] which sequence and position each of its rows belongs to.

use std::ops::ControlFlow;

use super::error::Result;
pub use super::node::{NodeInfo, Row, Rows};
pub use super::node_ffi::Node;
pub use super::role::Role;
pub use super::roles::Roles;

/// Looks at nodes and changes them while a session computes. Needs
/// [`Settings::hooks`](super::Settings).
///
/// What is fed in several batches is several passes, and the hook sees each.
pub trait Hook {
    /// Returns whether the node is wanted. Each one wanted costs a pause of the threads.
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool;

    /// A wanted node, computed. `Break` ends the pass: the hook is not asked again, no logits
    /// are given, what was computed of the pass is removed from the cache, and the session tells
    /// [`Pass::Stopped`].
    ///
    /// # Errors
    /// An error ends the pass likewise, and is the session's answer.
    fn node(&mut self, node: &mut Node<'_>) -> Result<ControlFlow<()>>;
}

/// How a pass with a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Pass {
    /// It was computed to the end.
    Complete,
    /// The hook said `Break`: the sequences are as they were before the pass.
    Stopped,
}
