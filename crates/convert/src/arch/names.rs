//! The meaning of GGUF's tensor names: Hugging Face's name, the kind of module, and a plain word.
//!
//! Sources: llama.cpp's src/llama-arch.cpp for the GGUF names, transformers' modeling files for the
//! others. A name in no table is used unchanged.

use super::ARCHITECTURES;

/// What a module does to its input, in PyTorch's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Module {
    /// A matrix: input size → output size.
    Linear,
    /// A table of vectors, looked up by number.
    Embedding,
    /// One factor per component.
    Norm,
    /// Anything else.
    Other,
}

/// A row of the tables.
#[derive(Debug)]
pub struct Name {
    /// In the GGUF, without `blk.N.` and `.weight`.
    pub gguf: &'static str,
    /// In the checkpoint, without the prefix of the model or the layer.
    pub hub: &'static str,
    /// The kind of module.
    pub module: Module,
    /// A plain word for its purpose.
    pub about: &'static str,
}

/// Makes a row of these tables, or of [`super::Architecture::names`].
pub(super) const fn name(
    gguf: &'static str,
    hub: &'static str,
    module: Module,
    about: &'static str,
) -> Name {
    Name {
        gguf,
        hub,
        module,
        about,
    }
}

use Module::{Embedding, Linear, Norm, Other};

/// Tensors outside the layers, in the order of a forward pass.
#[rustfmt::skip]
pub static OUTSIDE: &[Name] = &[
    name("token_embd", "model.embed_tokens", Embedding, "one vector per token of the vocabulary: what a token means before any context"),
    name("position_embd", "model.embed_positions", Embedding, "one vector per position, added to the token's"),
    name("token_types", "model.token_type_embeddings", Embedding, "one vector per kind of text, added to the token's"),
    name("token_embd_norm", "model.embed_norm", Norm, "evens out the sizes of the embedded tokens"),
    name("output_norm", "model.norm", Norm, "evens out the sizes of the last layer's vectors before they become logits"),
    name("rope_freqs", "model.rotary_emb.freqs", Other, "factors on the frequencies that encode positions"),
    name("rope_factors_long", "model.rotary_emb.long_factor", Other, "stretches the frequencies that encode positions, for contexts longer than the original training"),
    name("rope_factors_short", "model.rotary_emb.short_factor", Other, "the same for contexts within the original training's length"),
    name("output", "lm_head", Linear, "the last vector to one logit per token of the vocabulary"),
    name("cls", "classifier.dense", Linear, "the last vector to classes"),
    name("cls.output", "classifier.out_proj", Linear, "the last vector to classes"),
];

/// Tensors inside a layer, in the order of a forward pass.
#[rustfmt::skip]
pub static INSIDE: &[Name] = &[
    name("attn_norm", "input_layernorm", Norm, "evens out the vectors' sizes before attention"),
    name("attn_norm_2", "input_layernorm_2", Norm, "a second norm before attention"),
    name("attn_qkv", "self_attn.qkv_proj", Linear, "queries, keys and values in one matrix: what a token looks for, offers and passes on"),
    name("attn_q", "self_attn.q_proj", Linear, "queries: what a token looks for in those before it"),
    name("attn_k", "self_attn.k_proj", Linear, "keys: what a token offers to be found by"),
    name("attn_v", "self_attn.v_proj", Linear, "values: what a token passes on to those that attend to it"),
    name("attn_q_a", "self_attn.q_a_proj", Linear, "queries, first squeezed into a narrow vector"),
    name("attn_q_a_norm", "self_attn.q_a_layernorm", Norm, "evens out the squeezed queries"),
    name("attn_q_b", "self_attn.q_b_proj", Linear, "the squeezed queries widened to all heads"),
    name("attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", Linear, "keys and values squeezed into the narrow vector that the cache keeps"),
    name("attn_kv_a_norm", "self_attn.kv_a_layernorm", Norm, "evens out the squeezed keys and values"),
    name("attn_kv_b", "self_attn.kv_b_proj", Linear, "the squeezed keys and values widened to all heads"),
    name("attn_k_b", "self_attn.k_b_proj", Linear, "the squeezed keys widened to all heads"),
    name("attn_v_b", "self_attn.v_b_proj", Linear, "the squeezed values widened to all heads"),
    name("attn_q_norm", "self_attn.q_norm", Norm, "evens out the queries, head by head"),
    name("attn_k_norm", "self_attn.k_norm", Norm, "evens out the keys, head by head"),
    name("attn_sinks", "self_attn.sinks", Other, "where a head's attention goes when nothing is worth attending to"),
    name("attn_rot_embd", "self_attn.rotary_emb", Other, "frequencies that encode positions"),
    name("attn_output", "self_attn.o_proj", Linear, "what the heads found, back into the residual stream"),
    name("attn_sub_norm", "self_attn.inner_attn_ln", Norm, "evens out what the heads found"),
    name("post_attention_norm", "post_attention_layernorm", Norm, "evens out what attention adds"),
    name("ffn_norm", "post_attention_layernorm", Norm, "evens out the vectors' sizes before the feed-forward network"),
    name("ffn_gate_inp", "mlp.gate", Linear, "the router: which experts a token goes to"),
    name("exp_probs_b", "mlp.gate.e_score_correction", Other, "keeps the experts evenly busy"),
    name("ffn_gate", "mlp.gate_proj", Linear, "which features of the feed-forward network are let through"),
    name("ffn_up", "mlp.up_proj", Linear, "widens the vector into the features of the feed-forward network"),
    name("ffn_down", "mlp.down_proj", Linear, "the features back into the residual stream"),
    name("ffn_sub_norm", "mlp.ffn_layernorm", Norm, "evens out the features"),
    name("ffn_gate_exps", "mlp.experts.gate_proj", Linear, "the gates of all experts"),
    name("ffn_up_exps", "mlp.experts.up_proj", Linear, "the widening matrices of all experts"),
    name("ffn_gate_up_exps", "mlp.experts.gate_up_proj", Linear, "gates and widening matrices of all experts, in one"),
    name("ffn_down_exps", "mlp.experts.down_proj", Linear, "the narrowing matrices of all experts"),
    name("ffn_gate_inp_shexp", "mlp.shared_expert_gate", Linear, "how much of the shared expert is added"),
    name("ffn_gate_shexp", "mlp.shared_expert.gate_proj", Linear, "the gate of the expert that every token goes through"),
    name("ffn_up_shexp", "mlp.shared_expert.up_proj", Linear, "the widening matrix of the expert that every token goes through"),
    name("ffn_down_shexp", "mlp.shared_expert.down_proj", Linear, "the narrowing matrix of the expert that every token goes through"),
    name("post_ffw_norm", "post_feedforward_layernorm", Norm, "evens out what the feed-forward network adds"),
    name("layer_output_norm", "output_layernorm", Norm, "evens out the layer's result"),
];

/// Splits the name of a layer's tensor: `blk.7.attn_q.weight` is (7, `attn_q.weight`).
pub fn layer(tensor: &str) -> Option<(u64, &str)> {
    let (number, rest) = tensor.strip_prefix("blk.")?.split_once('.')?;
    Some((number.parse().ok()?, rest))
}

/// Finds the row of a tensor, and its place in the order of a forward pass. `rest` is the name
/// without `blk.N.`, or the whole name outside the layers.
pub fn find(architecture: &str, in_layer: bool, rest: &str) -> Option<(usize, &'static Name)> {
    let bare = bare(rest);
    let table = if in_layer { INSIDE } else { OUTSIDE };
    let index = table.iter().position(|name| name.gguf == bare)?;
    let mut own = ARCHITECTURES
        .iter()
        .filter(|known| known.gguf_name() == architecture)
        .flat_map(|known| known.names());
    let own = own.find(|name| name.gguf == bare);
    Some((index, own.unwrap_or(&table[index])))
}

/// Returns the name in the checkpoint of a GGUF tensor: `blk.7.attn_q.weight` is
/// `model.layers.7.self_attn.q_proj.weight`.
pub fn in_checkpoint(architecture: &str, tensor: &str) -> String {
    let (before, rest) = match layer(tensor) {
        Some((layer, rest)) => (format!("{}.{layer}.", layers(architecture)), rest),
        None => (String::new(), tensor),
    };
    let parameter = &rest[bare(rest).len()..];
    match find(architecture, !before.is_empty(), rest) {
        Some((_, name)) => format!("{before}{}{parameter}", name.hub),
        None => tensor.to_owned(),
    }
}

/// Returns the prefix of layer tensors in the checkpoints of an architecture: `model.layers`.
pub fn layers(architecture: &str) -> &'static str {
    let mut known = ARCHITECTURES.iter();
    let known = known.find(|known| known.gguf_name() == architecture);
    known.map_or("model.layers", |known| known.layers())
}

/// Returns a name without `.weight` or `.bias` at its end.
pub fn bare(name: &str) -> &str {
    let without = name.strip_suffix(".weight");
    without
        .or_else(|| name.strip_suffix(".bias"))
        .unwrap_or(name)
}

/// Returns transformers' name of an architecture's family: `Phi3` of `Phi3ForCausalLM`.
pub fn family(architecture: &str) -> Option<&'static str> {
    let class = class(architecture)?;
    class
        .strip_suffix(CLASS)
        .or(class.strip_suffix("LMHeadModel"))
}

/// The end of the class name of a family's language models.
const CLASS: &str = "ForCausalLM";

/// Returns transformers' class of an architecture, for example `Phi3ForCausalLM`: the first one of
/// architectures that can be converted, the best-known one of others that llama.cpp runs.
pub fn class(architecture: &str) -> Option<&'static str> {
    let mut known = ARCHITECTURES.iter();
    if let Some(known) = known.find(|known| known.gguf_name() == architecture) {
        return known.hub_names().first().copied();
    }
    Some(match architecture {
        "phimoe" => "PhiMoEForCausalLM",
        "llama4" => "Llama4ForCausalLM",
        "qwen2moe" => "Qwen2MoeForCausalLM",
        "gemma" => "GemmaForCausalLM",
        "deepseek2" => "DeepseekV3ForCausalLM",
        "granite" => "GraniteForCausalLM",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(
            layer("blk.31.attn_qkv.weight"),
            Some((31, "attn_qkv.weight"))
        );
        assert_eq!(layer("blk.x.attn_qkv.weight"), None);
        assert_eq!(layer("output.weight"), None);
        assert_eq!(bare("attn_q.bias"), "attn_q");
        for (tensor, name) in [
            ("token_embd.weight", "model.embed_tokens.weight"),
            ("output.weight", "lm_head.weight"),
            (
                "blk.3.ffn_up.weight",
                "model.layers.3.mlp.gate_up_proj.weight",
            ),
            (
                "blk.3.attn_qkv.bias",
                "model.layers.3.self_attn.qkv_proj.bias",
            ),
            ("blk.3.novel.weight", "blk.3.novel.weight"),
        ] {
            assert_eq!(in_checkpoint("phi3", tensor), name);
        }
    }

    #[test]
    fn no_name_stands_twice_and_phi3s_matrix_is_both() {
        for table in [OUTSIDE, INSIDE] {
            for (index, name) in table.iter().enumerate() {
                assert!(table[..index].iter().all(|other| other.gguf != name.gguf));
            }
        }
        let hub = |architecture| find(architecture, true, "ffn_up.weight").unwrap().1.hub;
        assert_eq!(hub("phi3"), "mlp.gate_up_proj");
        assert_eq!(hub("llama"), "mlp.up_proj");
    }
}
