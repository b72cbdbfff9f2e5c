//! The module tree, in the style of PyTorch's `print(model)`. Equal layers are drawn once, with a
//! note where their types differ.

use std::collections::HashMap;

use super::subject::{Subject, Tensor};
use crate::base::human;
use crate::convert::arch::names::{self, Module, Name};

/// A module, a group of modules, or a run of equal layers.
#[derive(Debug, Default)]
pub struct Node {
    /// Name in the checkpoint; for a run of layers also their numbers.
    pub name: String,
    /// transformers' class, if known.
    pub class: Option<String>,
    /// Name in the GGUF; empty for a group.
    pub gguf: String,
    /// Sizes of input and output, or the shape.
    pub shape: String,
    /// Number of weights in all layers that are drawn as one.
    pub params: u64,
    /// Size in bytes of all layers that are drawn as one.
    pub bytes: u64,
    /// The types, each with the layers that have it (0 outside of layers), the most frequent type
    /// first.
    pub types: Vec<(String, Vec<u64>)>,
    /// The modules in it.
    pub children: Vec<Node>,
    /// Index of each child in `children`, by name.
    index: HashMap<String, usize>,
}

/// A tensor and its place in the tree.
struct Placed<'a> {
    tensor: &'a Tensor,
    layer: Option<u64>,
    /// The index of its run of layers.
    run: usize,
    /// Its place in the order of a forward pass.
    order: usize,
    rest: &'a str,
    name: Option<&'static Name>,
}

/// Layers from `first` to `last`, whose tensors have the same names and shapes.
#[derive(Debug, PartialEq)]
struct Run {
    first: u64,
    last: u64,
}

/// Builds the tree of a model.
pub fn build(subject: &Subject<'_>) -> Node {
    let architecture = subject.architecture();
    let runs = runs(subject);
    let mut placed: Vec<Placed<'_>> = subject
        .tensors
        .iter()
        .map(|tensor| place(architecture, tensor, &runs))
        .collect();
    // Embeddings, then the layers, then what follows them. Tensors that no table has come last in
    // their group, in the order of the file, because the sort is stable.
    let layers_at = names::OUTSIDE
        .iter()
        .position(|name| name.gguf == "output_norm");
    placed.sort_by_key(|p| match p.layer {
        Some(_) => (layers_at.unwrap_or(0), 0, p.run, p.order),
        None => (p.order, 1, 0, 0),
    });

    let family = names::family(architecture);
    let mut root = Node {
        name: names::class(architecture).map_or_else(|| architecture.to_owned(), Into::into),
        ..Node::default()
    };
    for p in &placed {
        insert(&mut root, p, &runs, names::layers(architecture), family);
    }
    if let Some(embedding) = subject.tied_output() {
        let lm_head = child(&mut root, "lm_head", || None);
        lm_head.gguf = "token_embd".to_owned();
        lm_head.shape = format!("{}, tied", shape(embedding, Module::Linear));
    }
    total(&mut root);
    root
}

fn place<'a>(architecture: &str, tensor: &'a Tensor, runs: &[Run]) -> Placed<'a> {
    let split = names::layer(&tensor.name);
    let (layer, rest) = match split {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, tensor.name.as_str()),
    };
    let found = names::find(architecture, layer.is_some(), rest);
    // Runs are sorted and contain every layer.
    let run = layer.map(|layer| runs.partition_point(|run| run.last < layer));
    Placed {
        tensor,
        layer,
        run: run.unwrap_or(0),
        order: found.map_or(usize::MAX, |(order, _)| order),
        rest,
        name: found.map(|(_, name)| name),
    }
}

/// Groups consecutive layers with the same names and shapes.
fn runs(subject: &Subject<'_>) -> Vec<Run> {
    type Part<'a> = (&'a str, &'a [u64]);
    let mut layers: Vec<(u64, Vec<Part<'_>>)> = Vec::new();
    let mut tensors: Vec<(u64, &str, &[u64])> = subject
        .tensors
        .iter()
        .filter_map(|tensor| {
            let (layer, rest) = names::layer(&tensor.name)?;
            Some((layer, rest, tensor.shape.as_slice()))
        })
        .collect();
    tensors.sort_unstable();
    for (layer, rest, shape) in tensors {
        match layers.last_mut() {
            Some((last, parts)) if *last == layer => parts.push((rest, shape)),
            _ => layers.push((layer, vec![(rest, shape)])),
        }
    }
    let mut runs: Vec<Run> = Vec::new();
    for (index, (layer, parts)) in layers.iter().enumerate() {
        match runs.last_mut() {
            Some(run)
                if run.last.checked_add(1) == Some(*layer) && layers[index - 1].1 == *parts =>
            {
                run.last = *layer;
            }
            _ => runs.push(Run {
                first: *layer,
                last: *layer,
            }),
        }
    }
    runs
}

fn insert(root: &mut Node, p: &Placed<'_>, runs: &[Run], layers: &str, family: Option<&str>) {
    let hub = match p.name {
        Some(name) if p.tensor.name.ends_with(".bias") => format!("{}.bias", name.hub),
        Some(name) => name.hub.to_owned(),
        None => names::bare(p.rest).to_owned(),
    };
    let mut node = root;
    if p.layer.is_some() {
        let run = &runs[p.run];
        let count = run.last - run.first + 1;
        let (outer, inner) = layers.rsplit_once('.').unwrap_or(("", layers));
        let (name, gguf) = match count {
            1 => (
                format!("{inner} ({})", run.first),
                format!("blk.{}", run.first),
            ),
            _ => (
                format!("{inner} ({}–{}): {count} ×", run.first, run.last),
                format!("blk.{}–{}", run.first, run.last),
            ),
        };
        node = child(node, outer, || class_of(outer, family));
        node = child(node, &name, || class_of("layers", family));
        node.gguf = gguf;
    }
    // The bias of a module is drawn beside it, not inside it.
    let (path, leaf) = match hub.strip_suffix(".bias").unwrap_or(&hub).rsplit_once('.') {
        // A name that no table has is not split.
        Some((path, _)) if p.name.is_some() => (path, &hub[path.len() + 1..]),
        _ => ("", hub.as_str()),
    };
    for part in path.split('.').filter(|part| !part.is_empty()) {
        node = child(node, part, || class_of(part, family));
    }
    let leaf = child(node, leaf, || None);
    if leaf.shape.is_empty() {
        leaf.gguf = p.rest.strip_suffix(".weight").unwrap_or(p.rest).to_owned();
        leaf.shape = shape(p.tensor, p.name.map_or(Module::Other, |name| name.module));
    }
    leaf.params = leaf.params.saturating_add(p.tensor.n_elements());
    leaf.bytes = leaf.bytes.saturating_add(p.tensor.bytes.unwrap_or(0));
    let layer = p.layer.unwrap_or(0);
    match leaf
        .types
        .iter_mut()
        .find(|(form, _)| *form == p.tensor.form)
    {
        Some((_, layers)) => layers.push(layer),
        None => leaf.types.push((p.tensor.form.clone(), vec![layer])),
    }
}

fn child<'n>(
    node: &'n mut Node,
    name: &str,
    class: impl FnOnce() -> Option<String>,
) -> &'n mut Node {
    let index = match node.index.get(name) {
        Some(&index) => index,
        None => {
            node.index.insert(name.to_owned(), node.children.len());
            node.children.push(Node {
                name: name.to_owned(),
                class: class(),
                ..Node::default()
            });
            node.children.len() - 1
        }
    };
    &mut node.children[index]
}

/// Returns transformers' name of the class of a group.
fn class_of(group: &str, family: Option<&str>) -> Option<String> {
    let kind = match group {
        "model" => "Model",
        "layers" => "DecoderLayer",
        "self_attn" => "Attention",
        "mlp" => "MLP",
        "rotary_emb" => "RotaryEmbedding",
        _ => return None,
    };
    Some(format!("{}{kind}", family?))
}

/// Formats a shape as `Linear 3,072 → 9,216`, without the name if the kind of module is unknown.
fn shape(tensor: &Tensor, module: Module) -> String {
    let sizes: Vec<String> = tensor
        .shape
        .iter()
        .map(|&size| human::count(size))
        .collect();
    match (module, sizes.as_slice()) {
        (Module::Linear, [input, output]) => format!("Linear {input} → {output}"),
        (Module::Linear, [input, output, experts]) => {
            format!("{experts} × Linear {input} → {output}")
        }
        (Module::Embedding, [width, rows]) => format!("Embedding {rows} × {width}"),
        (Module::Norm, [size]) => format!("Norm {size}"),
        _ => {
            let slowest_first: Vec<String> = sizes.into_iter().rev().collect();
            slowest_first.join(" × ")
        }
    }
}

/// Adds up the groups, and sorts types by frequency.
fn total(node: &mut Node) {
    for child in &mut node.children {
        total(child);
        node.params = node.params.saturating_add(child.params);
        node.bytes = node.bytes.saturating_add(child.bytes);
    }
    for (_, layers) in &mut node.types {
        layers.sort_unstable();
    }
    // Of equally frequent types, the one with the longer list of layers comes first, so that the
    // shorter list is written out.
    node.types.sort_by_cached_key(|(_, layers)| {
        std::cmp::Reverse((layers.len(), human::ranges(layers).len()))
    });
}

impl Node {
    /// Returns `Q4_K`, or `16 Q4_K, 16 Q6_K` if layers differ; without the numbers unless
    /// `counted`.
    pub fn types_in_words(&self, counted: bool) -> String {
        let counted = counted && self.types.len() > 1;
        let each = self.types.iter().map(|(ty, layers)| match counted {
            true => format!("{} {ty}", layers.len()),
            false => ty.clone(),
        });
        each.collect::<Vec<_>>().join(", ")
    }

    /// Returns the shape without the name of the module.
    pub fn bare_shape(&self) -> &str {
        let words = ["Linear ", "Embedding ", "Norm "];
        let mut bare = words
            .iter()
            .filter_map(|word| self.shape.strip_prefix(word));
        bare.next().unwrap_or(&self.shape)
    }

    /// Collects which layers have which types, where these differ, with the names of the modules
    /// concerned. The most frequent type is that of "the others".
    pub fn differences<'n>(&'n self, found: &mut Vec<(String, Vec<&'n str>)>) {
        if let [(others, _), rare @ ..] = self.types.as_slice()
            && !rare.is_empty()
        {
            let each = rare
                .iter()
                .map(|(ty, layers)| format!("{ty} in layers {}", human::ranges(layers)));
            let rare = each.collect::<Vec<_>>().join(", ");
            let difference = format!("{rare}, {others} in the others");
            match found.iter_mut().find(|(other, _)| *other == difference) {
                Some((_, names)) => names.push(&self.name),
                None => found.push((difference, vec![&self.name])),
            }
        }
        for child in &self.children {
            child.differences(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::subject::{Fact, Facts};
    use super::*;
    use crate::gguf::GgmlType;

    struct Phi3;

    impl Facts for Phi3 {
        fn fact(&self, key: &str) -> Option<Fact> {
            (key == "general.architecture").then(|| Fact::Text("phi3".to_owned()))
        }
    }

    fn tensor(name: &str, shape: &[u64], ty: GgmlType) -> Tensor {
        Tensor {
            name: name.to_owned(),
            shape: shape.to_vec(),
            form: ty.to_string(),
            bytes: ty.row_bytes(shape.iter().product()),
        }
    }

    fn names(node: &Node) -> Vec<&str> {
        node.children
            .iter()
            .map(|child| child.name.as_str())
            .collect()
    }

    #[test]
    fn layers_fold_and_say_where_types_differ() {
        // The order of tensors is reversed, and one layer differs from the others.
        let mut tensors = vec![
            tensor("output.weight", &[256, 10], GgmlType::F32),
            tensor("weird.thing", &[7], GgmlType(99)),
            tensor("output_norm.weight", &[256], GgmlType::F32),
            tensor("token_embd.weight", &[256, 10], GgmlType::F32),
        ];
        for layer in (0..5).rev() {
            let ty = if layer == 1 {
                GgmlType::Q6_K
            } else {
                GgmlType::Q4_K
            };
            let columns = if layer == 4 { 512 } else { 256 };
            let name = format!("blk.{layer}.ffn_down.weight");
            tensors.push(tensor(&name, &[columns, 256], ty));
            let name = format!("blk.{layer}.attn_norm.weight");
            tensors.push(tensor(&name, &[256], GgmlType::F32));
        }
        let subject = Subject::new(tensors, 0, &Phi3);
        let root = build(&subject);
        assert_eq!(root.name, "Phi3ForCausalLM");
        assert_eq!(names(&root), ["model", "lm_head", "weird.thing"]);
        let model = &root.children[0];
        let expected = ["embed_tokens", "layers (0–3): 4 ×", "layers (4)", "norm"];
        assert_eq!(names(model), expected);
        let layers = &model.children[1];
        assert_eq!(layers.class.as_deref(), Some("Phi3DecoderLayer"));
        assert_eq!(layers.gguf, "blk.0–3");
        assert_eq!(names(layers), ["input_layernorm", "mlp"]);
        let down = &layers.children[1].children[0];
        assert_eq!(down.shape, "Linear 256 → 256");
        assert_eq!(down.bare_shape(), "256 → 256");
        assert_eq!(down.types_in_words(true), "3 Q4_K, 1 Q6_K");
        assert_eq!(down.types_in_words(false), "Q4_K, Q6_K");
        assert_eq!(down.params, 4 * 256 * 256);
        assert_eq!(down.bytes, 256 * (3 * 144 + 210));
        let mut differences = Vec::new();
        root.differences(&mut differences);
        let expected = "Q6_K in layers 1, Q4_K in the others".to_owned();
        assert_eq!(differences, [(expected, vec!["down_proj"])]);
        assert_eq!(root.params, subject.n_params());
    }

    #[test]
    fn an_output_matrix_that_is_the_embedding_is_drawn_and_not_counted() {
        let mut tensors = vec![
            tensor("token_embd.weight", &[256, 1000], GgmlType::F32),
            tensor("output_norm.weight", &[256], GgmlType::F32),
        ];
        let root = build(&Subject::new(tensors.clone(), 0, &Phi3));
        assert_eq!(names(&root), ["model", "lm_head"]);
        assert_eq!(root.children[1].shape, "Linear 256 → 1,000, tied");
        assert_eq!(root.params, 256 * 1001);
        tensors.push(tensor("output.weight", &[256, 1000], GgmlType::F32));
        let root = build(&Subject::new(tensors, 0, &Phi3));
        assert_eq!(root.children[1].shape, "Linear 256 → 1,000");
    }

    #[test]
    fn a_bias_stands_beside_its_module() {
        let tensors = vec![
            tensor("blk.0.attn_q.weight", &[4, 4], GgmlType::F32),
            tensor("blk.0.attn_q.bias", &[4], GgmlType::F32),
        ];
        let subject = Subject::new(tensors, 0, &Phi3);
        let root = build(&subject);
        let attention = &root.children[0].children[0].children[0];
        assert_eq!(names(attention), ["q_proj", "q_proj.bias"]);
    }

    #[test]
    fn layers_of_numbers_without_end_do_not_overflow() {
        let name = format!("blk.{}.attn_q.weight", u64::MAX);
        let tensors = vec![tensor(&name, &[4, 4], GgmlType::F32)];
        assert_eq!(build(&Subject::new(tensors, 0, &Phi3)).params, 16);
    }
}
