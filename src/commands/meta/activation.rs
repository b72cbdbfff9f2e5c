//! The activation function of the feed-forward network. A GGUF does not state it: llama.cpp knows
//! it from the architecture.

/// Architectures by transformers' name of the activation (`hidden_act`). Source: the `LLM_FFN_…` in
/// each architecture's graph in llama.cpp.
#[rustfmt::skip]
const TABLE: [(&str, &[&str]); 3] = [
    ("silu", &[
        "llama", "llama4", "phi3", "phimoe", "qwen", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "deepseek", "deepseek2",
        "olmo", "olmo2", "olmoe", "granite", "granitemoe", "smollm3", "internlm2", "command-r", "cohere2", "stablelm",
        "baichuan", "exaone", "minicpm", "xverse", "orion", "chatglm", "glm4",
    ]),
    ("gelu", &[
        "gemma", "gemma2", "gemma3", "gpt2", "gptneox", "phi2", "falcon", "bloom", "mpt", "starcoder", "starcoder2",
        "codeshell",
    ]),
    ("relu2", &["nemotron"]),
];

/// Returns the activation of an architecture, if the table has it.
pub fn of(architecture: &str) -> Option<&'static str> {
    let row = TABLE
        .iter()
        .find(|(_, architectures)| architectures.contains(&architecture));
    row.map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_architecture_stands_twice() {
        let all: Vec<&str> = TABLE
            .iter()
            .flat_map(|(_, of)| of.iter().copied())
            .collect();
        for (index, name) in all.iter().enumerate() {
            assert!(!all[..index].contains(name), "{name}");
        }
        assert_eq!(of("phi3"), Some("silu"));
        assert_eq!(of("rwkv7"), None);
    }
}
