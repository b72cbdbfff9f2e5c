//! Runs a hook during one pass: offers it every node, and calls it with those that it wants.

use std::ops::ControlFlow;

use super::error::Result;
use super::graph::{Hook, Pass};
use super::node::{NodeInfo, Row, Rows};
use super::node_ffi::{Node, Scratch, Tensor, Watcher};
use super::role::Role;
use super::roles::{Roles, Seen};
use super::trace::{Along, RawNode, Trace, Whose};

/// A node that the hook wants, the names of its inputs, its role, and the tokens of its rows.
type Asked = (RawNode, Vec<String>, Option<Role>, Option<Along>);

/// The state of a hook during one pass.
pub(super) struct ActiveHook<'a> {
    hook: &'a mut dyn Hook,
    tokens: &'a [Row],
    outputs: &'a [Row],
    roles: &'a Roles,
    trace: Trace,
    seen: Seen,
    current: Option<Asked>,
    scratch: Scratch,
    /// How the hook ended the pass early, if it did.
    ended: Option<Result<()>>,
}

impl<'a> ActiveHook<'a> {
    pub fn new(
        hook: &'a mut dyn Hook,
        tokens: &'a [Row],
        outputs: &'a [Row],
        roles: &'a Roles,
    ) -> Self {
        ActiveHook {
            hook,
            tokens,
            outputs,
            roles,
            trace: Trace::new(tokens.len(), outputs.len()),
            seen: Seen::default(),
            current: None,
            scratch: Scratch::default(),
            ended: None,
        }
    }

    /// How the pass ended.
    pub fn outcome(self) -> Result<Pass> {
        match self.ended {
            None => Ok(Pass::Complete),
            Some(Ok(())) => Ok(Pass::Stopped),
            Some(Err(error)) => Err(error),
        }
    }
}

fn info<'a>(
    node: &'a RawNode,
    inputs: &'a [String],
    role: Option<Role>,
    along: Option<Along>,
    tokens: &'a [Row],
    outputs: &'a [Row],
) -> NodeInfo<'a> {
    NodeInfo {
        name: &node.name,
        op: &node.op,
        shape: node.shape,
        ty: node.ty,
        inputs,
        role,
        rows: along.map(|along| Rows {
            dimension: along.dimension,
            of: match along.whose {
                Whose::Tokens => tokens,
                Whose::Outputs => outputs,
            },
        }),
    }
}

impl Watcher for ActiveHook<'_> {
    fn ask(&mut self, mut node: RawNode) -> bool {
        let along = self.trace.note(&node);
        let role = self.roles.of(&node, &mut self.seen);
        let names = node.inputs.iter_mut();
        let names: Vec<String> = names.map(|input| std::mem::take(&mut input.name)).collect();
        let wanted = {
            let info = info(&node, &names, role, along, self.tokens, self.outputs);
            self.hook.wants(&info)
        };
        self.current = wanted.then_some((node, names, role, along));
        wanted
    }

    fn computed(&mut self, tensor: Tensor<'_>) -> ControlFlow<()> {
        let Some((node, names, role, along)) = self.current.take() else {
            return ControlFlow::Continue(());
        };
        let info = info(&node, &names, role, along, self.tokens, self.outputs);
        let mut node = Node::new(info, tensor, &mut self.scratch);
        match self.hook.node(&mut node) {
            Ok(ControlFlow::Continue(())) => ControlFlow::Continue(()),
            ended => {
                self.ended = Some(ended.map(drop));
                ControlFlow::Break(())
            }
        }
    }
}

/// Records the nodes of a graph without computing them.
#[derive(Default)]
pub(super) struct Survey {
    pub nodes: Vec<RawNode>,
}

impl Watcher for Survey {
    fn ask(&mut self, node: RawNode) -> bool {
        self.nodes.push(node);
        false
    }

    fn computed(&mut self, _: Tensor<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}
