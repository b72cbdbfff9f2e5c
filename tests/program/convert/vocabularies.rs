//! Real vocabularies: the pre-tokenizer is known by what it does to a text, whatever its pattern looks like.

use super::families::checkpoint;
use super::*;

/// The tokens and merges of a GGUF as a `tokenizer.json`, with this pattern and these tokens before a text.
fn tokenizer_json(gguf: &Gguf, pattern: &str, before: Option<&str>) -> Value {
    let texts = |key: &str| -> Vec<String> {
        let list = gguf.get(&format!("tokenizer.ggml.{key}")).unwrap();
        let list = list.as_array().unwrap();
        list.iter()
            .map(|text| text.as_str().unwrap().into_owned())
            .collect()
    };
    let types = gguf.get("tokenizer.ggml.token_type").unwrap();
    let types = types.as_array().unwrap();
    let is_normal = types.iter().map(|ty| ty.as_u64() == Some(1));
    let (mut vocab, mut added) = (serde_json::Map::new(), Vec::new());
    for ((id, text), is_normal) in texts("tokens").into_iter().enumerate().zip(is_normal) {
        match is_normal {
            true => drop(vocab.insert(text, json!(id))),
            false => added.push(json!({"id": id, "content": text, "special": true})),
        }
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false});
    let post = match before {
        Some(token) => {
            let id = added
                .iter()
                .find(|added| added["content"] == token)
                .unwrap();
            json!({"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": token}}, {"Sequence": {"id": "A"}}],
                "special_tokens": {token: {"id": token, "ids": [id["id"]]}}})
        }
        None => bytes.clone(),
    };
    json!({
        "added_tokens": added, "post_processor": post,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}, bytes]},
        "model": {"type": "BPE", "vocab": vocab, "merges": texts("merges"),
            "ignore_merges": before.is_some()}})
}

#[test]
fn a_pre_tokenizer_is_known_by_what_it_does() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vocabs");
    // The same rules as GPT-2's and Llama 3's, spelled as nobody does.
    let gpt2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let llama = r"(?i:'[sdmt]|'ll|'ve|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    for (name, pattern, before) in [
        ("gpt-2", gpt2, None),
        ("llama-bpe", llama, Some("<|begin_of_text|>")),
    ] {
        let path = shared.join(format!("ggml-vocab-{name}.gguf"));
        if !path.is_file() {
            eprintln!("skipped: {} is not here", path.display());
            continue;
        }
        let gguf = Gguf::open(&path).unwrap();
        let tokenizer = tokenizer_json(&gguf, pattern, before);
        let size = gguf.get("tokenizer.ggml.tokens").unwrap();
        let size = size.as_array().unwrap().iter().count();
        let bench = checkpoint(&json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 32, "intermediate_size": 32,
            "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": size,
            "tie_word_embeddings": true, "eos_token_id": size - 1}));
        fs::remove_file(bench.path("in/tokenizer.model")).unwrap();
        fs::write(bench.path("in/tokenizer_config.json"), "{}").unwrap();
        fs::write(bench.path("in/tokenizer.json"), tokenizer.to_string()).unwrap();
        bench.good(&["in", "-q", "BF16", "-o", "out/x.gguf"]);
        let written = Gguf::open(&bench.path("out/x.gguf")).unwrap();
        let pre = written.get("tokenizer.ggml.pre").unwrap();
        assert_eq!(pre.as_str().unwrap(), name);

        // With other ids nothing is known, and the pattern says nothing.
        let mut other = tokenizer.clone();
        other["model"]["merges"].as_array_mut().unwrap().reverse();
        fs::write(bench.path("in/tokenizer.json"), other.to_string()).unwrap();
        let said = bench.run(&["in", "-q", "BF16", "-o", "out/y.gguf"]);
        let said = String::from_utf8_lossy(&said.stderr).into_owned();
        assert!(said.contains("that llama.cpp does not have"), "{said}");
    }
}
