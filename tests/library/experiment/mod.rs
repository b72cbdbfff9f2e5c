//! Experiments: identities that hold whatever the model, and the same numbers by plainer means.

use std::ops::ControlFlow;
use std::path::PathBuf;

use crate::support::archs;
use crate::support::tiny_gguf::Tiny;
use modelve::experiment::ablate::{self, ablate, rank};
use modelve::experiment::mean::Averaging;
use modelve::experiment::measure::{Asked, Name};
use modelve::experiment::patch::{self, Corrupt, Noise, What, patch};
use modelve::experiment::removal::{Kind, With};
use modelve::experiment::why::{self, why};
use modelve::experiment::{Part, Spot, settings};
use modelve::probe::Prompt;
use modelve::runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve::runtime::{
    Cancel, FlashAttention, KvType, LoadOptions, Model, Session, Settings, Token, WantLogits,
};

mod ablation;
mod patching;

/// Phi-3 with a key head for each head and for several, and what `archs` makes: all of two layers
/// and in 32 bits.
fn models() -> Vec<(String, Model)> {
    let dir = tempfile::tempdir().unwrap();
    let mut files: Vec<(String, PathBuf)> = Vec::new();
    for heads_kv in [4, 2] {
        let path = dir.path().join(format!("phi3-{heads_kv}.gguf"));
        let tiny = Tiny {
            heads_kv,
            ..Tiny::default()
        };
        tiny.write(&path);
        files.push((format!("phi3 of {heads_kv} key heads"), path));
    }
    let others = archs::models(dir.path()).into_iter();
    files.extend(others.map(|(arch, path)| (arch.to_owned(), path)));
    let load = |path: PathBuf| Model::load(&path, &LoadOptions::default()).unwrap();
    let files = files.into_iter();
    files.map(|(name, path)| (name, load(path))).collect()
}

fn session(model: &Model) -> Session {
    let exact = Settings {
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_ctx: 1024,
        ..Settings::default()
    };
    Session::new(model, &settings(model, exact)).unwrap()
}

fn prompt(ids: &[i32]) -> Prompt {
    Prompt {
        text: "a text".to_owned(),
        ids: ids.iter().copied().map(Token).collect(),
    }
}

fn between(token: i32, against: Option<i32>) -> Asked {
    Asked {
        token: Some(Name::Id(Token(token))),
        against: against.map(|id| Name::Id(Token(id))),
    }
}

const CLEAN: [i32; 6] = [1, 270, 280, 290, 300, 310];
const CORRUPT: [i32; 6] = [1, 271, 280, 265, 300, 291];
/// Another length: its beginning and its end are those of the clean prompt.
const LONGER: [i32; 8] = [1, 270, 283, 265, 299, 277, 300, 310];

/// Two tokens whose logits after the clean prompt lie apart, and not at a soft cap of 5.
fn sound_tokens(session: &mut Session) -> (i32, i32) {
    let logits = plainly(session, &CLEAN, &mut |_, _, _| {});
    let sound = logits
        .iter()
        .enumerate()
        .filter(|(_, logit)| logit.abs() < 4.5);
    let sound: Vec<(usize, f32)> = sound.map(|(id, logit)| (id, *logit)).collect();
    let (most, _) = sound.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    let (least, _) = sound.iter().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    (*most as i32, *least as i32)
}

fn close(a: f64, b: f64, within: f64) -> bool {
    (a - b).abs() <= within * (1.0 + b.abs())
}

#[test]
fn what_parts_contribute_adds_up_to_the_measure() {
    for (name, model) in models() {
        let mut session = session(&model);
        let (token, rival) = sound_tokens(&mut session);
        for against in [Some(rival), None] {
            // The mean of the vocabulary holds logits at their cap, which tell nothing any more.
            if name == "gemma2" && against.is_none() {
                continue;
            }
            let options = why::Options {
                asked: between(token, against),
                ..why::Options::default()
            };
            let found = why(&mut session, &prompt(&CLEAN), &options, &mut |_, _| {}).unwrap();
            let sum = &found.attribution;
            if name == "mamba" {
                assert!(
                    sum.notes[0].contains("attention output of layer 0"),
                    "{:?}",
                    sum.notes
                );
                assert!(sum.parts.is_empty() && !found.words.is_empty());
                continue;
            }
            assert_eq!(sum.notes, [""; 0], "{name}");
            let relative = (sum.error / found.value).abs();
            assert!(relative < 1e-3, "{name}: {} of {}", sum.error, found.value);
            let added: f64 = sum.parts.iter().map(|part| part.value).sum();
            assert!(close(added, sum.sum, 1e-9), "{name}");
            let last = sum.layers.last().unwrap();
            assert!(
                close(last.after, found.value, 1e-3),
                "{name}: {}",
                last.after
            );
            for layer in &sum.layers {
                let mut heads = 0;
                let of_layer = sum.parts.iter().filter(|part| match part.part {
                    Part::Head { layer: of, .. } => {
                        heads += usize::from(of == layer.layer);
                        of == layer.layer
                    }
                    Part::Bias(of) => of == layer.layer,
                    _ => false,
                });
                let of_layer: f64 = of_layer.map(|part| part.value).sum();
                assert_eq!(heads, 4, "{name}");
                assert!(
                    close(of_layer, layer.attention, 1e-4),
                    "{name}: {of_layer} {}",
                    layer.attention
                );
            }
            let biases = sum
                .parts
                .iter()
                .filter(|part| matches!(part.part, Part::Bias(_)));
            assert_eq!(biases.count(), if name == "gpt2" { 2 } else { 0 }, "{name}");
        }
    }
}

/// The logits after the last token of a text, read by itself, with `change` made to rows of nodes.
fn plainly(
    session: &mut Session,
    ids: &[i32],
    change: &mut dyn FnMut(Role, usize, &mut [f32]),
) -> Vec<f32> {
    struct Change<'a>(&'a mut dyn FnMut(Role, usize, &mut [f32]));
    impl Hook for Change<'_> {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            node.role.is_some() && node.rows.is_some_and(|rows| rows.dimension == 1)
        }
        fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            let info = node.info();
            let mut values = node.read()?.to_vec();
            for (i, row) in info.rows.unwrap().of.iter().enumerate() {
                let range = info.row(i);
                (self.0)(info.role.unwrap(), row.position.index(), &mut values[range]);
            }
            node.write(&values)?;
            Ok(ControlFlow::Continue(()))
        }
    }
    let seq = session.open().unwrap();
    let ids: Vec<Token> = ids.iter().copied().map(Token).collect();
    let mut row = Vec::new();
    let mut keep = |_: usize, logits: &[f32]| row = logits.to_vec();
    let mut hook = Change(change);
    let pass = session.feed_hooked(&seq, &ids, WantLogits::Last, &mut hook, &mut keep);
    assert_eq!(pass.unwrap(), Pass::Complete);
    row
}

fn value(logits: &[f32], token: usize, against: usize, cap: Option<f64>) -> f64 {
    let plain = |at: usize| {
        let logit = f64::from(logits[at]);
        cap.map_or(logit, |cap| cap * (logit / cap).atanh())
    };
    plain(token) - plain(against)
}

#[test]
fn a_word_left_out_is_the_prompt_without_it() {
    for (name, model) in models() {
        let mut session = session(&model);
        let options = why::Options {
            asked: between(270, Some(290)),
            by_token: true,
            ..why::Options::default()
        };
        let found = why(&mut session, &prompt(&CLEAN), &options, &mut |_, _| {}).unwrap();
        assert!(found.complete);
        // The token that begins every text is never left out.
        let kept = usize::from(model.vocab().adds_bos());
        assert_eq!(found.words.len(), CLEAN.len() - kept, "{name}");
        for word in &found.words {
            let shorter = [&CLEAN[..word.from], &CLEAN[word.to..]].concat();
            let logits = plainly(&mut session, &shorter, &mut |_, _, _| {});
            let without = value(&logits, 270, 290, found.measure.soft_cap);
            assert!(
                close(word.without, without, 1e-4),
                "{name}: {} {without}",
                word.without
            );
            assert!(close(word.change, without - found.value, 1e-3));
        }
    }
}

#[test]
fn what_was_done_before_a_stop_is_told() {
    let (_, model) = models().swap_remove(0);
    let exact = Settings {
        n_ctx: 1024,
        ..Settings::default()
    };
    // The proof of five parts, and of all of them, in two ways comes before the words.
    for (stop_at, proofs, words) in [(1, 0, 0), (3, 0, 0), (13, 6, 0), (15, 6, 2)] {
        let cancel = Cancel::new();
        let base = Settings {
            cancel: cancel.clone(),
            ..exact.clone()
        };
        // One variant at a time, so that there is something between them.
        let settings = Settings {
            n_outputs: 1,
            ..settings(&model, base)
        };
        let mut session = Session::new(&model, &settings).unwrap();
        let options = why::Options {
            by_token: true,
            ..why::Options::default()
        };
        let found = why(&mut session, &prompt(&CLEAN), &options, &mut |done, _| {
            if done == stop_at {
                cancel.set();
            }
        });
        let found = found.unwrap();
        assert!(!found.complete);
        assert_eq!((found.proof.len(), found.words.len()), (proofs, words));
        assert!(!found.attribution.parts.is_empty());
    }
}

#[test]
fn a_text_that_fills_its_session_still_has_variants() {
    // Without RoPE factors that depend on the size of the context.
    let (_, model) = models()
        .into_iter()
        .find(|(name, _)| name == "llama")
        .unwrap();
    let long: Vec<i32> = (0..250).map(|i| 262 + i % 60).collect();
    let tight = Settings {
        kv_type: KvType::F32,
        flash_attention: FlashAttention::Off,
        n_ctx: 256,
        ..Settings::default()
    };
    let mut tight = Session::new(&model, &settings(&model, tight)).unwrap();
    let options = ablate::Options {
        asked: between(270, Some(290)),
        ..ablate::Options::default()
    };
    let ask = |session: &mut Session| {
        rank(
            session,
            &prompt(&long),
            Kind::Heads,
            &options,
            &mut |_, _| {},
        )
        .unwrap()
    };
    let (narrow, wide) = (ask(&mut tight), ask(&mut session(&model)));
    assert_eq!(narrow.parts.len(), 8);
    for a in &narrow.parts {
        let b = wide.parts.iter().find(|b| b.part == a.part).unwrap();
        assert!(close(a.without, b.without, 1e-4), "{a:?} {b:?}");
    }
}
