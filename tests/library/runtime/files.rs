//! Files that are no models, or lie.

use super::*;

#[test]
fn rejects_files_that_lie() {
    type Spoil = fn(&mut tiny_gguf::Parts);
    let cases: [(&str, Spoil); 20] = [
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            texts[300] = format!("{}\0b", texts[301]);
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            (texts[300], texts[301]) = ("[EMPTY_301]".to_owned(), String::new());
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("repeats the token", |p| {
            let (mut texts, _, _) = tiny_gguf::vocabulary();
            texts[300] = texts[301].clone();
            p.set(
                "tokenizer.ggml.tokens",
                Value::Array(texts.iter().collect()),
            );
        }),
        ("tokenizer.ggml.tokens is missing", |p| {
            p.remove("tokenizer.ggml.tokens")
        }),
        ("tokenizer.ggml.model is missing", |p| {
            p.remove("tokenizer.ggml.model")
        }),
        ("general.architecture is not a string", |p| {
            p.set("general.architecture", Value::U32(1))
        }),
        ("block_count is 4000000000", |p| {
            p.set("phi3.block_count", Value::U32(4_000_000_000))
        }),
        ("block_count is 0", |p| {
            p.set("phi3.block_count", Value::U32(0))
        }),
        ("context_length is not a whole number", |p| {
            p.set("phi3.context_length", Value::String("long".to_owned()))
        }),
        ("do not divide", |p| {
            p.set("phi3.attention.head_count_kv", Value::U32(3))
        }),
        ("do not make a width", |p| {
            p.set("phi3.attention.key_length", Value::U32(32))
        }),
        ("rope.dimension_count", |p| {
            p.set("phi3.rope.dimension_count", Value::U32(30))
        }),
        ("rms_epsilon", |p| {
            p.set(
                "phi3.attention.layer_norm_rms_epsilon",
                Value::F32(f32::NAN),
            )
        }),
        ("expert_count", |p| {
            p.set("phi3.expert_count", Value::U32(8))
        }),
        ("rope.scaling.type", |p| {
            p.set("phi3.rope.scaling.type", Value::String("other".to_owned()))
        }),
        ("is a vector of F16", |p| {
            let norm = p
                .tensors
                .iter_mut()
                .find(|t| t.0 == "output_norm.weight")
                .unwrap();
            norm.2 = GgmlType::F16;
            norm.3.truncate(norm.3.len() / 2);
        }),
        ("not at a multiple of 32", |p| {
            p.set("general.alignment", Value::U32(1))
        }),
        ("tensor blk.1.attn_qkv.weight is missing", |p| {
            p.tensors.retain(|t| t.0 != "blk.1.attn_qkv.weight")
        }),
        ("tensor 'blk.1.ffn_down.weight' not found", |p| {
            p.tensors.retain(|t| t.0 != "blk.1.ffn_down.weight")
        }),
        ("wrong shape", |p| {
            let matrix = p
                .tensors
                .iter_mut()
                .find(|t| t.0 == "blk.0.ffn_up.weight")
                .unwrap();
            matrix.1.reverse();
        }),
    ];
    for (expected, spoil) in cases {
        let file = file(|path| {
            let mut parts = Tiny::default().parts();
            spoil(&mut parts);
            parts.write(path);
        });
        match Model::load(&file.path, &LoadOptions::default()) {
            Ok(_) => panic!("loaded: {expected}"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(expected), "expected {expected:?} in {text:?}");
            }
        }
    }
    let no_model = file(|path| std::fs::write(path, b"once upon a time").unwrap());
    assert!(matches!(
        Model::load(&no_model.path, &LoadOptions::default()),
        Err(Error::Gguf(_))
    ));
}

#[test]
fn a_vocabulary_without_byte_tokens_refuses_what_it_cannot_spell() {
    let file = file(|path| {
        let mut parts = Tiny::default().parts();
        let (mut texts, _, mut types) = tiny_gguf::vocabulary();
        for byte in 0..=255 {
            texts[3 + byte] = format!("[unused{byte}]");
            types[3 + byte] = 5;
        }
        parts.set(
            "tokenizer.ggml.tokens",
            Value::Array(texts.iter().collect()),
        );
        parts.set(
            "tokenizer.ggml.token_type",
            Value::Array(modelve::gguf::Array::I32(types)),
        );
        parts.write(path);
    });
    let vocab = Vocab::load(&file.path).unwrap();
    assert!(
        !vocab
            .tokenize("the ball é", Reading::TextPart)
            .unwrap()
            .is_empty()
    );
    let error = vocab.tokenize("100 €", Reading::TextPart).unwrap_err();
    assert!(error.to_string().contains('€'), "{error}");
}
