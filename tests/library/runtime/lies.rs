//! Whatever a file says of itself: an error or a computation, but never the end of the process.
//! If it does end, `--nocapture` shows over which lie.
#![allow(clippy::print_stderr)]

use super::*;
use modelve::gguf::Array;
use tiny_gguf::Parts;

/// Loads a file and computes with it, if it can be loaded. Whether it could.
fn use_it(lie: &str, parts: &Parts) -> bool {
    eprintln!("{lie}");
    let file = file(|path| parts.write(path));
    let Ok(model) = Model::load(&file.path, &LoadOptions::default()) else {
        return false;
    };
    let settings = Settings {
        n_ctx: 256,
        threads: Some(1),
        ..Settings::default()
    };
    let Ok(mut session) = Session::new(&model, &settings) else {
        return false;
    };
    let token = Token::at(model.vocab().len().saturating_sub(1) as usize);
    let seq = session.open().unwrap();
    let fed = session.feed(
        &seq,
        &[Token(0), token, Token(1)],
        WantLogits::All,
        &mut |_, _| {},
    );
    let _ = model.vocab().tokenize("the ball \u{20ac}", Reading::Prompt);
    let request = Request {
        prompt: vec![Token(0), token],
        seed: 0,
        options: Arc::new(Options {
            max_tokens: 2,
            ..Options::default()
        }),
    };
    let setup = Setup {
        settings,
        ..Setup::default()
    };
    let go_on = &mut |_: Event| ControlFlow::Continue(());
    let completed = complete(&model, vec![request], setup, go_on);
    fed.is_ok() && completed.is_ok()
}

/// Rows of 256 weights, so that they can be of any type.
fn sound() -> Parts {
    let tiny = Tiny {
        layers: 1,
        width: 256,
        feed_forward: 256,
        ..Tiny::default()
    };
    tiny.parts()
}

fn spoiled(spoil: impl FnOnce(&mut Parts)) -> Parts {
    let mut parts = sound();
    spoil(&mut parts);
    parts
}

type Reshape = fn(&[u64]) -> Vec<u64>;

#[test]
fn tensors_that_lie_about_their_types_and_shapes() {
    assert!(use_it("none", &sound()));
    let names: Vec<String> = sound().tensors.into_iter().map(|t| t.0).collect();
    let mut tried = 0;
    for name in &names {
        let tensor = |parts: &mut Parts| parts.tensors.iter().position(|t| t.0 == *name).unwrap();
        // Every type there is, with as many bytes as it takes.
        for ty in GgmlType::all().iter().map(|info| info.ty) {
            let lie = spoiled(|parts| {
                let i = tensor(parts);
                let (_, shape, old, data) = &mut parts.tensors[i];
                let rows: u64 = shape[1..].iter().product();
                if let Some(bytes) = ty.row_bytes(shape[0]) {
                    data.resize((bytes * rows) as usize, 0);
                    *old = ty;
                    tried += 1;
                }
            });
            use_it(&format!("{name} of type {ty}"), &lie);
        }
        let shapes: [Reshape; 6] = [
            |shape| shape.iter().rev().copied().collect(),
            |shape| shape.iter().map(|n| n / 2).collect(),
            |shape| vec![shape.iter().product()],
            |shape| [shape, &[1, 1]].concat()[..shape.len().min(2) + 2].to_vec(),
            |shape| shape.iter().map(|_| 1).collect(),
            |shape| [&[shape[0]], &[2][..], &shape[1..]].concat(),
        ];
        for (i, reshape) in shapes.into_iter().enumerate() {
            let lie = spoiled(|parts| {
                let at = tensor(parts);
                let (_, shape, _, data) = &mut parts.tensors[at];
                *shape = reshape(shape);
                data.resize(shape.iter().product::<u64>() as usize * 4, 0);
            });
            use_it(&format!("{name} of shape {i}"), &lie);
        }
        let without = spoiled(|parts| {
            let i = tensor(parts);
            parts.tensors.remove(i);
        });
        let optional = name.starts_with("rope_factors") || name == "output.weight";
        assert!(
            optional || !use_it(&format!("no {name}"), &without),
            "without {name}"
        );
        let other = spoiled(|parts| {
            let i = tensor(parts);
            parts.tensors[i].0 = "blk.7.other.weight".to_owned();
        });
        use_it(&format!("{name} renamed"), &other);
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn metadata_that_lies() {
    let keys: Vec<String> = sound().metadata.into_iter().map(|(key, _)| key).collect();
    let values = || {
        [
            Value::U32(0),
            Value::U32(1),
            Value::U32(7),
            Value::U32(u32::MAX),
            Value::I32(-1),
            Value::U64(u64::MAX),
            Value::F32(f32::NAN),
            Value::F32(-1.0),
            Value::Bool(true),
            Value::String(String::new()),
            Value::String("llama".to_owned()),
            Value::Array(Array::I32(Vec::new())),
            Value::Array(Array::I32(vec![-1; 3])),
        ]
    };
    for key in &keys {
        use_it(&format!("no {key}"), &spoiled(|parts| parts.remove(key)));
        for value in values() {
            let lie = format!("{key} is {value:?}");
            use_it(&lie, &spoiled(|parts| parts.set(key, value)));
        }
    }
    for key in [
        "phi3.attention.sliding_window",
        "phi3.attention.value_length",
        "phi3.expert_count",
        "phi3.expert_used_count",
        "phi3.nextn_predict_layers",
        "phi3.rope.scaling.factor",
        "phi3.rope.scaling.type",
        "phi3.vocab_size",
        "phi3.pooling_type",
        "tokenizer.ggml.pre",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.add_eos_token",
        "tokenizer.ggml.add_space_prefix",
        "tokenizer.ggml.precompiled_charsmap",
        "tokenizer.ggml.merges",
        "split.count",
    ] {
        for value in values() {
            let lie = format!("{key} is {value:?}");
            use_it(&lie, &spoiled(|parts| parts.set(key, value)));
        }
    }
}
