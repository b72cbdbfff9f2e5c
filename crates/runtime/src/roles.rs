//! Finds the roles of a graph's nodes, independently of their names in an architecture.
//!
//! The table [`RULES`] has, for each role, the rules that identify its node; the first that matches
//! counts. They are applied to the graph of a pass over two tokens when a session with hooks is
//! made. A role that the model lacks causes an error only when it is requested.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::{Error, Result};
use super::role::Role;
use super::settings::FlashAttention;
use super::trace::RawNode;

/// A rule that identifies a node; `{}` stands for the layer.
enum Rule {
    /// The first node of this name.
    Name(&'static str),
    /// A node of a name without a layer: the first of that name is layer 0's, the next layer 1's.
    InTurn(&'static str),
    /// The product with this matrix.
    Product(&'static str),
    /// The sum with this bias.
    Sum(&'static str),
    /// The lookup of rows in this table.
    Lookup(&'static str),
}

/// A role as a function of its layer, and the rules that identify its node.
type RoleRules = (fn(usize) -> Role, &'static [Rule]);

/// The roles of each block, or of the whole graph if `{}` does not occur. Names are llama.cpp's.
/// Gemma and OLMo 2 normalize again what a block adds; GPT-2 and Phi-2 add a bias after the matrix.
const RULES: [RoleRules; 7] = {
    use Rule::{InTurn, Lookup, Name, Product, Sum};
    [
        (
            |_| Role::Embedding,
            &[
                Name("inp_scaled"),
                Name("inpL"),
                Lookup("token_embd.weight"),
            ],
        ),
        (Role::Residual, &[Name("l_out-{}")]),
        (Role::HeadOutput, &[Name("kqv_out-{}")]),
        (
            Role::Attention,
            &[
                Name("attn_post_norm-{}"),
                Sum("blk.{}.attn_output.bias"),
                Product("blk.{}.attn_output.weight"),
            ],
        ),
        (
            Role::Mlp,
            &[
                Name("ffn_post_norm-{}"),
                InTurn("ffn_post_norm"),
                // For a mixture of experts with a shared expert this is their sum, otherwise the
                // MLP.
                Name("ffn_out-{}"),
                Name("ffn_moe_out-{}"),
                Sum("blk.{}.ffn_down.bias"),
                Product("blk.{}.ffn_down.weight"),
            ],
        ),
        (Role::Pattern, &[Name("kq_soft_max-{}")]),
        (|_| Role::FinalNorm, &[Name("result_norm")]),
    ]
};

/// How a node is recognized in a later pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// A name, and the index among the nodes of that name.
    Name(String, usize),
    /// The first node of an operation with these weights.
    With(&'static str, String),
}

/// The nodes of a pass that were seen so far.
#[derive(Debug, Default)]
pub(super) struct Seen {
    names: HashMap<String, usize>,
    weights: HashSet<(&'static str, String)>,
}

/// The keys that the next node of a pass may be recognized by.
fn keys(node: &RawNode, seen: &mut Seen) -> Vec<Key> {
    let count = seen.names.entry(node.name.clone()).or_insert(0);
    let mut keys = vec![Key::Name(node.name.clone(), *count)];
    *count += 1;
    let with = match node.op.as_str() {
        "MUL_MAT" => Some(("MUL_MAT", 0)),
        "ADD" => Some(("ADD", 1)),
        "GET_ROWS" => Some(("GET_ROWS", 0)),
        _ => None,
    };
    if let Some((op, input)) = with
        && let Some(input) = node.inputs.get(input).filter(|input| input.leaf)
        && seen.weights.insert((op, input.name.clone()))
    {
        keys.push(Key::With(op, input.name.clone()));
    }
    keys
}

impl Rule {
    fn key(&self, layer: usize) -> Key {
        let fill = |text: &str| text.replace("{}", &layer.to_string());
        match self {
            Rule::Name(name) => Key::Name(fill(name), 0),
            Rule::InTurn(name) => Key::Name((*name).to_owned(), layer),
            Rule::Product(weights) => Key::With("MUL_MAT", fill(weights)),
            Rule::Sum(weights) => Key::With("ADD", fill(weights)),
            Rule::Lookup(weights) => Key::With("GET_ROWS", fill(weights)),
        }
    }
}

/// The roles that a model's graph has.
#[derive(Debug, Clone, Default)]
pub struct Roles {
    arch: String,
    fused: bool,
    by_key: HashMap<Key, Role>,
    present: HashSet<Role>,
}

impl Roles {
    /// Applies the table to the graph of a pass over `n_tokens` tokens with logits for all of them.
    pub(super) fn find(
        arch: &str,
        fused: bool,
        n_layer: usize,
        n_embd: usize,
        n_tokens: usize,
        graph: &[RawNode],
    ) -> Roles {
        let mut seen = Seen::default();
        let mut nodes: HashMap<Key, &RawNode> = HashMap::new();
        let mut uses: HashMap<usize, Vec<&RawNode>> = HashMap::new();
        for node in graph {
            for key in keys(node, &mut seen) {
                nodes.entry(key).or_insert(node);
            }
            for input in &node.inputs {
                uses.entry(input.id).or_default().push(node);
            }
        }
        // What is added to the residual stream is an input of a sum, either directly or after rows
        // were selected from it.
        let is_added = |node: &RawNode| {
            let of = |node: &RawNode| uses.get(&node.id).cloned().unwrap_or_default();
            of(node).iter().any(|user| match user.op.as_str() {
                "ADD" => true,
                "GET_ROWS" => of(user).iter().any(|user| user.op == "ADD"),
                _ => false,
            })
        };
        let fits = |role: Role, node: &RawNode| {
            let state = node.shape == [n_embd, n_tokens, 1, 1];
            match role {
                Role::Pattern(_) => node.shape[1] == n_tokens,
                Role::HeadOutput(_) => node.shape[1..] == [n_tokens, 1, 1],
                Role::Attention(_) | Role::Mlp(_) => state && is_added(node),
                _ => state,
            }
        };
        let mut roles = Roles {
            arch: arch.to_owned(),
            fused,
            ..Roles::default()
        };
        for layer in 0..n_layer {
            for (role, rules) in &RULES {
                let role = role(layer);
                if roles.present.contains(&role) {
                    continue;
                }
                let keys = rules.iter().map(|rule| rule.key(layer));
                let key = keys.into_iter().find(|key| {
                    let node = nodes.get(key);
                    node.is_some_and(|node| fits(role, node))
                });
                if let Some(key) = key {
                    roles.by_key.insert(key, role);
                    roles.present.insert(role);
                }
            }
        }
        roles
    }

    /// Returns whether the graph has a node of this role.
    pub fn has(&self, role: Role) -> bool {
        self.present.contains(&role)
    }

    /// Checks that the graph has a node of this role.
    ///
    /// # Errors
    /// [`Error::NoRole`] if it has not.
    pub fn require(&self, role: Role) -> Result<()> {
        if self.has(role) {
            return Ok(());
        }
        Err(Error::NoRole {
            arch: self.arch.clone(),
            role,
            fused: self.fused && matches!(role, Role::Pattern(_)),
        })
    }

    /// The role of the next node of a pass.
    pub(super) fn of(&self, node: &RawNode, seen: &mut Seen) -> Option<Role> {
        let mut keys = keys(node, seen).into_iter();
        keys.find_map(|key| self.by_key.get(&key).copied())
    }
}

/// The roles of a model, which depend on whether its attention is fused.
#[derive(Default)]
pub(super) struct FoundRoles(Mutex<Vec<(FlashAttention, Arc<Roles>)>>);

impl FoundRoles {
    pub fn get_or_find(
        &self,
        flash: FlashAttention,
        find: impl FnOnce() -> Result<Roles>,
    ) -> Result<Arc<Roles>> {
        let mut found = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, roles)) = found.iter().find(|(of, _)| *of == flash) {
            return Ok(Arc::clone(roles));
        }
        let roles = Arc::new(find()?);
        found.push((flash, Arc::clone(&roles)));
        Ok(roles)
    }
}
