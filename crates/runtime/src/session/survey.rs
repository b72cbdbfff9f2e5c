//! Inspects the graph of a short pass to find the roles of its nodes, and to verify that a control
//! vector is added.

use std::sync::Arc;

use super::Session;
use crate::control::layers_added;
use crate::error::{Error, Result};
use crate::graph::Roles;
use crate::settings::FlashAttention;
use crate::token::Token;
use crate::trace::RawNode;

impl Session {
    /// Sets the control vector of the settings in llama.cpp, and verifies that the graph adds it.
    pub(super) fn add_control(&mut self) -> Result<()> {
        let Some(control) = self.settings.control.clone() else {
            return Ok(());
        };
        let (directions, first, last) = control.flat();
        let width = control.width();
        if !self.context.set_control(&directions, width, first, last) {
            return Err(Error::ControlVector {
                what: "is declined by llama.cpp".to_owned(),
            });
        }
        let (_, graph) = self.survey()?;
        let added = layers_added(&graph, width);
        let layers = control.directions().map(|(layer, _)| layer);
        let missing: Vec<usize> = layers.filter(|layer| !added.contains(layer)).collect();
        match missing.is_empty() {
            true => Ok(()),
            false => Err(Error::NoControl {
                arch: self.model.facts().arch.clone(),
                layers: missing,
            }),
        }
    }

    /// The graph of a pass over one or two tokens with logits for all of them, and their number.
    pub(super) fn survey(&mut self) -> Result<(usize, Vec<RawNode>)> {
        let limits = self.context.limits();
        let n = limits.n_batch.min(limits.n_outputs).min(2) as usize;
        self.batch.clear();
        (0..n).for_each(|position| self.batch.push(Token(0), position, 0, true));
        Ok((n, self.context.survey(&mut self.batch)?))
    }

    /// Finds the roles of nodes in the graph of a pass over two tokens.
    pub(super) fn find_roles(&mut self) -> Result<Arc<Roles>> {
        let model = self.model.clone();
        let flash = self.settings.flash_attention;
        model.inner.roles.get_or_find(flash, || {
            let (n, graph) = self.survey()?;
            let facts = model.facts();
            let (n_layer, n_embd) = (facts.n_layer as usize, facts.n_embd as usize);
            let fused = flash != FlashAttention::Off;
            Ok(Roles::find(&facts.arch, fused, n_layer, n_embd, n, &graph))
        })
    }
}
