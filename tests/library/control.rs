//! Control vectors: llama.cpp's adapter against a hook, against transformers, and their files.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use crate::support::archs;
use crate::support::heads_fixture::{self, WIDTH, all};
use crate::support::probe_fixture::exact;
use crate::support::tiny_gguf::Tiny;
use modelve::experiment::steer::{self, Learning, Side};
use modelve::gguf::{GgmlType, Gguf, Layout, Value};
use modelve::probe::Prompt;
use modelve::runtime::graph::{Hook, Node, NodeInfo, Role};
use modelve::runtime::{
    ControlVector, Error, LoadOptions, Model, Session, Settings, StateFault, Token, WantLogits,
};

fn vector(width: usize, layers: &[usize]) -> ControlVector {
    let direction = |layer: usize| {
        let values = (0..width).map(move |i| ((i * 7 + layer * 3) % 11) as f32 * 0.1 - 0.45);
        (layer, values.collect::<Vec<f32>>())
    };
    let directions: BTreeMap<_, _> = layers.iter().map(|&layer| direction(layer)).collect();
    ControlVector::new(width, directions).unwrap()
}

fn with(control: Option<ControlVector>) -> Settings {
    Settings {
        control: control.map(Arc::new),
        ..exact()
    }
}

/// Adds directions to the states after layers by itself.
struct Adding(ControlVector);

impl Hook for Adding {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        matches!(node.role, Some(Role::Residual(_)))
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
        let Some(Role::Residual(layer)) = node.info().role else {
            return Ok(ControlFlow::Continue(()));
        };
        let mut directions = self.0.directions();
        if let Some((_, direction)) = directions.find(|(of, _)| *of == layer) {
            let mut values = node.read()?.to_vec();
            for row in values.chunks_exact_mut(direction.len()) {
                row.iter_mut().zip(direction).for_each(|(x, d)| *x += d);
            }
            node.write(&values)?;
        }
        Ok(ControlFlow::Continue(()))
    }
}

const TEXT: [Token; 6] = [
    Token(270),
    Token(280),
    Token(290),
    Token(300),
    Token(310),
    Token(275),
];

fn logits(model: &Model, settings: &Settings, hook: Option<&mut dyn Hook>) -> Vec<Vec<f32>> {
    let mut session = Session::new(model, settings).unwrap();
    let seq = session.open().unwrap();
    let mut rows = Vec::new();
    let mut keep = |_: usize, row: &[f32]| rows.push(row.to_vec());
    match hook {
        Some(hook) => {
            let pass = session.feed_hooked(&seq, &TEXT, WantLogits::All, hook, &mut keep);
            let _ = pass.unwrap();
        }
        None => session
            .feed(&seq, &TEXT, WantLogits::All, &mut keep)
            .unwrap(),
    }
    rows
}

#[test]
fn the_adapter_does_what_a_hook_does_to_the_last_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("phi3.gguf");
    let layers = 4;
    Tiny {
        layers,
        ..Tiny::default()
    }
    .write(&path);
    let mut models = archs::models(dir.path());
    models.push(("phi3", path));
    for (arch, path) in models {
        let model = Model::load(&path, &LoadOptions::default()).unwrap();
        let last = model.facts().n_layer as usize - 1;
        let plain = logits(&model, &with(None), None);
        for layers in [vec![1], vec![last], (1..=last).collect()] {
            let vector = vector(64, &layers);
            let adapted = logits(&model, &with(Some(vector.clone())), None);
            let hooked = logits(&model, &with(None), Some(&mut Adding(vector)));
            assert_eq!(adapted, hooked, "{arch}, layers {layers:?}");
            assert_ne!(adapted, plain, "{arch}, layers {layers:?}");
        }
        // It is in force without hooks, too.
        let settings = Settings {
            hooks: false,
            ..with(Some(vector(64, &[1])))
        };
        let hooked = logits(&model, &with(None), Some(&mut Adding(vector(64, &[1]))));
        assert_eq!(logits(&model, &settings, None), hooked, "{arch}");
    }
}

#[test]
fn a_steered_answer_is_that_of_transformers() {
    for fixture in all() {
        let model = fixture.model();
        let direction = BTreeMap::from([(1, fixture.floats("direction"))]);
        let vector = ControlVector::new(WIDTH, direction).unwrap();
        let ids = fixture.ids();
        let last = |control| {
            let mut session = Session::new(&model, &with(control)).unwrap();
            let seq = session.open().unwrap();
            let mut row = Vec::new();
            let mut keep = |_: usize, logits: &[f32]| row = logits.to_vec();
            session
                .feed(&seq, &ids, WantLogits::Last, &mut keep)
                .unwrap();
            row
        };
        let far = |a: &[f32], b: &[f32]| {
            let off = a.iter().zip(b).map(|(x, y)| (x - y).abs());
            off.fold(0f32, f32::max)
        };
        let (plain, steered) = (last(None), last(Some(vector)));
        // Logits of these models reach from 10 to 50.
        let most = 10.0 * fixture.tolerance();
        assert!(
            far(&plain, &fixture.floats("logits")) < most,
            "{}",
            fixture.name
        );
        let expected = fixture.floats("steered");
        assert!(far(&steered, &expected) < most, "{}", fixture.name);
        assert!(far(&plain, &expected) > 0.1, "{}", fixture.name);
    }
}

#[test]
fn what_the_cache_holds_belongs_to_its_vector() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny::default().write(&path);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let saved = |control: Option<ControlVector>| {
        let mut session = Session::new(&model, &with(control)).unwrap();
        let seq = session.open().unwrap();
        session
            .feed(&seq, &TEXT, WantLogits::None, &mut |_, _| {})
            .unwrap();
        session.save(&seq).unwrap()
    };
    let vectors = [
        None,
        Some(vector(64, &[1])),
        Some(vector(64, &[1]).scaled(2.0).unwrap()),
    ];
    for (i, from) in vectors.iter().enumerate() {
        let state = saved(from.clone());
        for (k, to) in vectors.iter().enumerate() {
            let mut session = Session::new(&model, &with(to.clone())).unwrap();
            let restored = session.restore(&state);
            if i == k {
                let seq = restored.unwrap();
                assert_eq!(session.tokens(&seq).unwrap(), TEXT);
                continue;
            }
            let fault = StateFault::OtherSettings {
                what: "control vector",
            };
            assert!(
                matches!(&restored, Err(Error::State(f)) if *f == fault),
                "{i} to {k}: {restored:?}"
            );
        }
    }
}

#[test]
fn a_vector_of_another_model_is_refused_before_anything_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny::default().write(&path);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    let refusal = |control| {
        Session::new(&model, &with(Some(control)))
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        refusal(vector(48, &[1])),
        "the control vector has directions of 48 values, and the states of this model (phi3) have 64"
    );
    assert_eq!(
        refusal(vector(64, &[1, 2])),
        "the control vector has a direction for layer 2, and the last of this model (phi3) is 1"
    );
}

#[test]
fn files_are_those_of_gguf_py() {
    let read = ControlVector::read(&heads_fixture::folder().join("control.gguf")).unwrap();
    let expected = |layer: usize| (0..WIDTH).map(move |i| (i * layer) as f32 / 16.0 - 1.0);
    let found: Vec<(usize, Vec<f32>)> = (read.directions())
        .map(|(layer, direction)| (layer, direction.to_vec()))
        .collect();
    assert_eq!(
        found,
        [1, 2].map(|layer| (layer, expected(layer).collect::<Vec<f32>>()))
    );
    // What is written is read, and says what llama.cpp's own say.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.gguf");
    std::fs::write(&path, read.to_bytes("phi3").unwrap()).unwrap();
    assert_eq!(ControlVector::read(&path).unwrap(), read);
    let gguf = Gguf::open(&path).unwrap();
    let text = |key: &str| gguf.get(key).unwrap().as_str().unwrap().into_owned();
    assert_eq!(text("general.architecture"), "controlvector");
    assert_eq!(text("controlvector.model_hint"), "phi3");
    assert_eq!(gguf.arch("layer_count").unwrap().as_i64(), Some(2));
    assert!(gguf.tensor("direction.2").unwrap().ty == GgmlType::F32);
}

type Spoilt<'a> = (&'a str, Vec<u64>, GgmlType, Vec<u8>);

fn write(path: &Path, arch: Option<&str>, tensors: &[Spoilt<'_>]) {
    let arch = arch.map(|arch| Value::String(arch.to_owned()));
    let metadata: Vec<_> = arch
        .into_iter()
        .map(|arch| ("general.architecture".to_owned(), arch))
        .collect();
    let infos: Vec<_> = tensors
        .iter()
        .map(|(name, shape, ty, _)| ((*name).to_owned(), shape.clone(), *ty))
        .collect();
    let layout = Layout::new(&metadata, &infos).unwrap();
    let mut file = layout.header().to_vec();
    for (info, (.., data)) in layout.tensors().iter().zip(tensors) {
        file.resize(info.offset as usize, 0);
        file.extend(data);
    }
    file.resize(layout.file_size() as usize, 0);
    std::fs::write(path, file).unwrap();
}

#[test]
fn other_files_are_refused_with_a_reason() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("v.gguf");
    let row = |value: f32| value.to_le_bytes().repeat(4);
    let f32s = GgmlType::F32;
    let own = Some("controlvector");
    let cases: Vec<(Option<&str>, Vec<Spoilt<'_>>, &str)> = vec![
        (own, vec![], "has no tensor direction.N"),
        (
            Some("llama"),
            vec![("direction.1", vec![4], f32s, row(1.0))],
            "is not a control vector: its architecture is \"llama\"",
        ),
        (
            own,
            vec![("direction.0", vec![4], f32s, row(1.0))],
            "has a direction for layer 0",
        ),
        (
            own,
            vec![("direction.-1", vec![4], f32s, row(1.0))],
            "has the tensor \"direction.-1\"",
        ),
        (
            own,
            vec![("direction.99999999999", vec![4], f32s, row(1.0))],
            "has the tensor \"direction.99999999999\"",
        ),
        (
            own,
            vec![
                ("direction.1", vec![4], f32s, row(1.0)),
                ("token_embd.weight", vec![4], f32s, row(1.0)),
            ],
            "has the tensor \"token_embd.weight\"",
        ),
        (
            own,
            vec![("direction.1", vec![2, 2], f32s, row(1.0))],
            "has direction.1 as F32 of shape [2, 2]",
        ),
        (
            own,
            vec![("direction.1", vec![8], GgmlType::F16, row(1.0))],
            "has direction.1 as F16",
        ),
        (
            own,
            vec![("direction.1", vec![0], f32s, vec![])],
            "has direction.1 of 0 values",
        ),
        (
            own,
            vec![("direction.3", vec![4], f32s, row(f32::NAN))],
            "has a value for layer 3 that is not finite",
        ),
        (
            own,
            vec![
                ("direction.1", vec![4], f32s, row(1.0)),
                ("direction.2", vec![2], f32s, row(1.0)[..8].to_vec()),
            ],
            "has 4 values and the one to be added to it 2",
        ),
    ];
    for (arch, tensors, expected) in cases {
        write(&path, arch, &tensors);
        let said = ControlVector::read(&path).unwrap_err().to_string();
        assert!(said.contains(expected), "{said}\n{expected}");
        assert!(said.starts_with(path.to_str().unwrap()), "{said}");
    }
    // llama.cpp adds up what is said of one layer twice.
    let one = |name| (name, vec![4], f32s, row(1.0));
    write(&path, None, &[one("direction.1"), one("direction.01")]);
    let read = ControlVector::read(&path).unwrap();
    assert_eq!(read.directions().next(), Some((1, &[2.0f32; 4][..])));
    let whole = std::fs::read(&path).unwrap();
    for cut in (0..whole.len()).step_by(13) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        // Zeros behind the last tensor are no loss.
        if let Ok(read) = ControlVector::read(&path) {
            assert_eq!(read.width(), 4);
        }
    }
}

#[test]
fn what_is_learned_is_the_difference_of_means() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    Tiny {
        layers: 3,
        ..Tiny::default()
    }
    .write(&path);
    let model = Model::load(&path, &LoadOptions::default()).unwrap();
    // In one batch and in several.
    let settings = [512, 2].map(|n_batch| Settings {
        n_batch,
        ..steer::settings(exact())
    });
    let mut sessions = settings.map(|settings| Session::new(&model, &settings).unwrap());
    let texts: [(&[i32], Side); 3] = [
        (&[270, 280, 290], Side::Plus),
        (&[271, 281], Side::Plus),
        (&[300], Side::Minus),
    ];
    let texts = texts.map(|(ids, side)| (ids.iter().copied().map(Token).collect::<Vec<_>>(), side));
    let learning = Learning::new(&model);
    let one_sided = learning.finish(&[1]).unwrap_err().to_string();
    assert!(one_sided.contains("0 on the plus side"), "{one_sided}");
    let learned = sessions.each_mut().map(|session| {
        let mut learning = Learning::new(&model);
        for (ids, side) in &texts {
            let prompt = Prompt {
                text: String::new(),
                ids: ids.clone(),
            };
            learning.add(session, &prompt, *side).unwrap();
        }
        learning
    });
    let session = &mut sessions[0];
    // The states by a hook of our own.
    struct Last(Vec<Vec<f32>>);
    impl Hook for Last {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            matches!(node.role, Some(Role::Residual(_)))
        }
        fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            let values = node.read()?;
            self.0.push(values[values.len() - 64..].to_vec());
            Ok(ControlFlow::Continue(()))
        }
    }
    let states = texts.map(|(ids, _)| {
        let seq = session.open().unwrap();
        let mut last = Last(Vec::new());
        let pass = session.feed_hooked(&seq, &ids, WantLogits::All, &mut last, &mut |_, _| {});
        let _ = pass.unwrap();
        last.0
    });
    for learning in learned {
        check(&learning, &states);
    }

    fn check(learning: &Learning, states: &[Vec<Vec<f32>>; 3]) {
        let (vector, directions) = learning.finish(&[1, 2]).unwrap();
        for (layer, direction) in vector.directions() {
            for (i, &x) in direction.iter().enumerate() {
                let of = |text: usize| states[text][layer][i];
                let expected = (of(0) + of(1)) / 2.0 - of(2);
                assert!((x - expected).abs() < 1e-4, "layer {layer}: {x} {expected}");
            }
            let length = direction.iter().map(|x| x * x).sum::<f32>().sqrt();
            let told = directions.iter().find(|d| d.layer == layer).unwrap();
            assert!((told.length - f64::from(length)).abs() < 1e-3);
        }
        let layers: Vec<usize> = directions.iter().map(|d| d.layer).collect();
        assert_eq!(layers, [1, 2], "layer 0 can have none");
        assert!(learning.finish(&[0]).is_err() && learning.finish(&[3]).is_err());
    }
}
