//! Activations in safetensors files, against transformers and against themselves.

use std::fs::File;

use crate::support::archs;
use crate::support::heads_fixture::{N_LAYER, WIDTH, all};
use crate::support::probe_fixture::exact;
use crate::support::tiny_gguf::Tiny;
use modelve::experiment::dump::{self, Plan, What};
use modelve::runtime::{LoadOptions, Model, Sessions, Settings, Token};
use safetensors::{Dtype, SafeTensors};

/// The bytes of a dump, as much as was computed before `stop` tokens were done.
fn dumped(
    model: &Model,
    texts: &[Vec<Token>],
    what: &[What],
    layers: &[usize],
    settings: Settings,
    stop: usize,
) -> (Vec<u8>, usize) {
    let settings = dump::settings(model, settings);
    let cancel = settings.cancel.clone();
    let mut sessions = Sessions::new(model, settings);
    let first = texts.iter().map(Vec::len).find(|&n| n > 0).unwrap();
    let session = sessions.of(first).unwrap();
    let plan = Plan::new(session, texts.to_vec(), what, layers).unwrap();
    plan.rooms(model).for_each(|room| sessions.reserve(room));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("acts");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path);
    let done = plan.write(&file.unwrap(), &mut sessions, &mut |done| {
        if done >= stop {
            cancel.set();
        }
    });
    let (bytes, done) = (std::fs::read(&path).unwrap(), done.unwrap());
    if done == plan.tokens() {
        assert_eq!(bytes.len() as u64, plan.bytes());
    }
    (bytes, done)
}

fn rows(tensors: &SafeTensors<'_>, name: &str) -> (Vec<usize>, Vec<f32>) {
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::F32);
    let values = view.data().chunks_exact(4);
    let values = values.map(|b| f32::from_le_bytes(b.try_into().unwrap()));
    (view.shape().to_vec(), values.collect())
}

fn numbers(tensors: &SafeTensors<'_>, name: &str) -> Vec<i32> {
    let view = tensors.tensor(name).unwrap();
    assert_eq!(view.dtype(), Dtype::I32);
    let values = view.data().chunks_exact(4);
    values
        .map(|b| i32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

#[test]
fn activations_are_those_of_transformers() {
    let what = [What::Residual, What::Attention, What::Mlp, What::Heads];
    for fixture in all() {
        let layers: Vec<usize> = (0..N_LAYER).collect();
        let ids = fixture.ids();
        let texts = [ids.clone()];
        let (bytes, done) = dumped(
            &fixture.model(),
            &texts,
            &what,
            &layers,
            exact(),
            usize::MAX,
        );
        assert_eq!(done, ids.len());
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for what in what {
            let expected = fixture.floats(&what.to_string());
            let n = expected.len() / N_LAYER;
            for layer in 0..N_LAYER {
                let name = format!("{what}.{layer}");
                let (shape, values) = rows(&tensors, &name);
                assert_eq!(shape, [ids.len(), WIDTH]);
                let expected = &expected[layer * n..][..n];
                let largest = expected.iter().fold(1f32, |a, x| a.max(x.abs()));
                for (x, y) in values.iter().zip(expected) {
                    let off = (x - y).abs();
                    assert!(
                        off < fixture.tolerance() * largest,
                        "{}, {name}: {x} {y}",
                        fixture.name
                    );
                }
            }
        }
        let ids: Vec<i32> = ids.iter().map(|id| id.0).collect();
        assert_eq!(numbers(&tensors, "ids"), ids);
    }
}

/// Texts that share a batch, texts that are longer than one, and empty ones.
fn texts() -> Vec<Vec<Token>> {
    let text = |n: usize, seed: usize| (0..n).map(move |i| Token::at(260 + (i * seed + seed) % 90));
    let sizes = [(3, 7), (5, 11), (0, 1), (40, 3), (1, 5), (2, 13), (19, 17)];
    sizes.map(|(n, seed)| text(n, seed).collect()).to_vec()
}

#[test]
fn texts_together_and_in_parts_are_as_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny::default().write(&path);
    let mut models = archs::models(dir.path());
    models.push(("phi3", path));
    for (arch, path) in models {
        let model = Model::load(&path, &LoadOptions::default()).unwrap();
        let what = match arch {
            "mamba" => vec![What::Embedding, What::Residual, What::Final],
            _ => What::ALL.map(|(_, what)| what).to_vec(),
        };
        let names = |tensors: &SafeTensors<'_>| {
            let names = tensors.names().into_iter().map(ToString::to_string);
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        // All of both layers, and so little that passes end early.
        for (what, layers) in [(what, vec![0, 1]), (vec![What::Residual], vec![0])] {
            let (bytes, done) = dumped(&model, &texts(), &what, &layers, exact(), usize::MAX);
            assert_eq!(done, 70, "{arch}");
            let together = SafeTensors::deserialize(&bytes).unwrap();
            let whose: Vec<i32> = (texts().iter().zip(0..))
                .flat_map(|(text, number)| vec![number; text.len()])
                .collect();
            assert_eq!(numbers(&together, "text"), whose);
            let places = numbers(&together, "position");
            assert_eq!(places[..10], [0, 1, 2, 0, 1, 2, 3, 4, 0, 1]);
            let mut start = 0;
            for text in texts().into_iter().filter(|text| !text.is_empty()) {
                let n = text.len();
                let (bytes, _) = dumped(&model, &[text], &what, &layers, exact(), usize::MAX);
                let alone = SafeTensors::deserialize(&bytes).unwrap();
                assert_eq!(names(&alone), names(&together));
                for name in names(&alone) {
                    if ["ids", "text", "position"].contains(&name.as_str()) {
                        continue;
                    }
                    let (shape, one) = rows(&alone, &name);
                    let (_, all) = rows(&together, &name);
                    let all = &all[start * shape[1]..][..n * shape[1]];
                    let off = (one.iter().zip(all)).fold(0f32, |a, (x, y)| a.max((x - y).abs()));
                    // GPT-2's activation function rounds to 16 bits.
                    let most = if arch == "gpt2" { 2e-3 } else { 1e-4 };
                    assert!(off < most, "{arch}, {name}: {off}");
                    assert!(one.iter().any(|&x| x != 0.0), "{arch}, {name}");
                }
                start += n;
            }
        }
    }
}

#[test]
fn after_ctrl_c_the_file_holds_what_was_done() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny::default().write(&path);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let texts = (0..60).map(|i| [260 + i, 270, 280].map(Token).to_vec());
    let texts: Vec<Vec<Token>> = texts.collect();
    let what = [What::Embedding, What::Residual, What::Final];
    let dump = |stop| dumped(&model, &texts, &what, &[0, 1], exact(), stop);
    let (whole, all) = dump(usize::MAX);
    let (part, done) = dump(1);
    assert_eq!(all, 180);
    assert!(done > 0 && done < all, "{done}");
    let (whole, part_of) = (
        SafeTensors::deserialize(&whole).unwrap(),
        SafeTensors::deserialize(&part).unwrap(),
    );
    for name in ["embedding", "residual.0", "residual.1", "final"] {
        let (shape, values) = rows(&part_of, name);
        assert_eq!(shape, [done, 64]);
        assert_eq!(values, rows(&whole, name).1[..done * 64], "{name}");
    }
    for name in ["ids", "text", "position"] {
        assert_eq!(numbers(&part_of, name), numbers(&whole, name)[..done]);
    }
    let (_, header) = SafeTensors::read_metadata(&part).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["complete"], "false");
}
