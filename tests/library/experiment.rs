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
    Cancel, FlashAttention, KvType, LoadOptions, Model, Session, Settings, Token, Want,
};

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
    let pass = session.feed_hooked(&seq, &ids, Want::Last, &mut hook, &mut keep);
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

fn patched(model: &Model, clean: &[i32], corrupt: &[i32], what: What) -> patch::Patch {
    let options = patch::Options {
        asked: between(270, Some(290)),
        what,
        top: 3,
        together: true,
        ..patch::Options::default()
    };
    let corrupt = Corrupt::Prompt(prompt(corrupt));
    patch(
        &mut session(model),
        &prompt(clean),
        &corrupt,
        &options,
        &mut |_, _| {},
    )
    .unwrap()
}

#[test]
fn all_states_of_a_layer_are_all_there_is() {
    for (name, model) in models() {
        let found = patched(&model, &CLEAN, &CORRUPT, What::Residual);
        assert!(found.complete);
        assert!(
            (found.clean_value - found.corrupt_value).abs() > 0.01,
            "{name}"
        );
        for share in found.together.unwrap() {
            assert!(close(share.unwrap(), 1.0, 1e-3), "{name}: {share:?}");
        }
        // So is the last position behind the last layer, where nothing else is left.
        let last = found.recovered.last().unwrap();
        assert!(close(last[5].unwrap(), 1.0, 1e-3), "{name}");
        assert!(last[..5].iter().all(|share| *share == Some(0.0)), "{name}");
    }
}

#[test]
fn a_prompt_patched_with_itself_stays_as_it_is() {
    for (name, model) in models() {
        // ggml looks GELU up in a table of 16 bits, where a last digit decides which entry.
        let within = if name == "gpt2" { 1e-3 } else { 1e-5 };
        for what in [What::Residual, What::Attention, What::Mlp, What::Head] {
            if name == "mamba" && what != What::Residual {
                continue;
            }
            let found = patched(&model, &CLEAN, &CLEAN, what);
            let values: Vec<f64> = found.values.iter().flatten().map(|v| v.unwrap()).collect();
            assert_eq!(
                values.len(),
                if what == What::Head { 8 } else { 12 },
                "{name}"
            );
            for value in values {
                assert!(
                    close(value, found.clean_value, within),
                    "{name}, {what:?}: {value} in place of {}",
                    found.clean_value
                );
            }
        }
    }
}

#[test]
fn patches_are_what_a_hook_on_the_whole_prompt_gives() {
    for (name, model) in models() {
        let mut session = session(&model);
        for what in [What::Residual, What::Attention, What::Mlp, What::Head] {
            if name == "mamba" && what != What::Residual {
                continue;
            }
            let found = patched(&model, &CLEAN, &CORRUPT, what);
            let role = |layer| match what {
                What::Residual => Role::Residual(layer),
                What::Attention => Role::Attention(layer),
                What::Mlp => Role::Mlp(layer),
                What::Head => Role::HeadOutput(layer),
            };
            let mut states = std::collections::HashMap::new();
            plainly(&mut session, &CLEAN, &mut |role, position, row| {
                states.insert((role, position), row.to_vec());
            });
            for (i, values) in found.values.iter().enumerate() {
                for (j, found_value) in values.iter().enumerate() {
                    let logits = plainly(&mut session, &CORRUPT, &mut |of, position, row| {
                        if of != role(i) {
                            return;
                        }
                        let n = row.len();
                        let range = match what {
                            What::Head => j * n / 4..(j + 1) * n / 4,
                            _ if position == j => 0..n,
                            _ => return,
                        };
                        row[range.clone()].copy_from_slice(&states[&(of, position)][range]);
                    });
                    let plain = value(&logits, 270, 290, found.measure.soft_cap);
                    let found_value = found_value.unwrap();
                    assert!(
                        close(found_value, plain, 1e-4),
                        "{name}, {what:?}, layer {i}, column {j}: {found_value} {plain}"
                    );
                }
            }
        }
    }
}

#[test]
fn prompts_of_different_lengths_meet_at_both_ends() {
    let (_, model) = models().swap_remove(0);
    let found = patched(&model, &CLEAN, &LONGER, What::Residual);
    assert_eq!(found.positions, [0, 1, 6, 7]);
    assert_eq!(found.clean_positions, [0, 1, 4, 5]);
    let sentence = found.unaligned.unwrap();
    assert!(sentence.contains("6 and 8 tokens"), "{sentence}");
    assert!(close(found.recovered[1][3].unwrap(), 1.0, 1e-3));
    let options = patch::Options {
        positions: Some(vec![3]),
        ..patch::Options::default()
    };
    let corrupt = Corrupt::Prompt(prompt(&LONGER));
    let error = patch(
        &mut session(&model),
        &prompt(&CLEAN),
        &corrupt,
        &options,
        &mut |_, _| {},
    );
    let error = error.unwrap_err().to_string();
    assert!(error.contains("position 3 stands for nothing"), "{error}");
}

#[test]
fn noise_is_seeded_and_what_is_restored_takes_it_away() {
    for (name, model) in models() {
        let mut session = session(&model);
        let mut ask = |seed| {
            let options = patch::Options {
                asked: between(270, Some(290)),
                together: true,
                ..patch::Options::default()
            };
            let noise = Corrupt::Noise(Noise {
                scale: 1.0,
                positions: vec![2, 3],
                seed,
            });
            patch(
                &mut session,
                &prompt(&CLEAN),
                &noise,
                &options,
                &mut |_, _| {},
            )
            .unwrap()
        };
        let (one, again, other) = (ask(1), ask(1), ask(2));
        assert_eq!(one.values, again.values, "{name}");
        assert_ne!(one.corrupt_value, other.corrupt_value, "{name}");
        for share in one.together.unwrap() {
            assert!(close(share.unwrap(), 1.0, 1e-3), "{name}: {share:?}");
        }
        // Before the noise there is nothing to restore.
        assert_eq!(one.recovered[0][1], Some(0.0), "{name}");
        assert_ne!(one.recovered[0][2], Some(0.0), "{name}");
    }
}

#[test]
fn nothing_taken_out_changes_nothing() {
    for (name, model) in models() {
        for with in [With::Zero, With::Mean] {
            let options = ablate::Options {
                with,
                top: 5,
                ..ablate::Options::default()
            };
            let found = ablate(
                &mut session(&model),
                &prompt(&CLEAN),
                &options,
                &mut |_, _| {},
            );
            let found = found.unwrap();
            assert!(
                found.change.abs() < 1e-5 && found.kl < 1e-9,
                "{name}: {}",
                found.change
            );
        }
    }
}

#[test]
fn a_part_taken_out_is_what_a_hook_gives() {
    for (name, model) in models().into_iter().filter(|(name, _)| name != "mamba") {
        let mut session = session(&model);
        let n = CLEAN.len();
        for (text, role, share, at) in [
            ("0.1", Role::HeadOutput(0), Some(1), None),
            ("attn.1", Role::Attention(1), None, None),
            ("mlp.0", Role::Mlp(0), None, None),
            ("mlp.1@-1", Role::Mlp(1), None, Some(n - 1)),
            ("embed@2", Role::Embedding, None, Some(2)),
            ("1.3@5", Role::HeadOutput(1), Some(3), Some(5)),
        ] {
            for with in [With::Zero, With::Mean] {
                let options = ablate::Options {
                    asked: between(270, Some(290)),
                    spots: vec![text.parse().unwrap()],
                    with,
                    ..ablate::Options::default()
                };
                let found =
                    ablate(&mut session, &prompt(&CLEAN), &options, &mut |_, _| {}).unwrap();
                // Every row of every layer is there only if all logits are wanted.
                let mut sums: Vec<f32> = Vec::new();
                let seq = session.open().unwrap();
                let mut sum = |of: Role, _: usize, row: &mut [f32]| {
                    if of == role {
                        sums.resize(row.len(), 0.0);
                        sums.iter_mut()
                            .zip(row)
                            .for_each(|(sum, x)| *sum += *x / n as f32);
                    }
                };
                all_rows(&mut session, &seq, &mut sum);
                let logits = plainly(&mut session, &CLEAN, &mut |of, position, row| {
                    if of == role && at.is_none_or(|at| at == position) {
                        let width = row.len();
                        let range = share.map_or(0..width, |i| i * width / 4..(i + 1) * width / 4);
                        match with {
                            With::Zero => row[range].fill(0.0),
                            With::Mean => row[range.clone()].copy_from_slice(&sums[range]),
                        }
                    }
                });
                let plain = value(&logits, 270, 290, found.measure.soft_cap);
                assert!(
                    close(found.without, plain, 1e-4),
                    "{name}, {text}, {with:?}: {} {plain}",
                    found.without
                );
                assert!(found.change.abs() > 1e-4, "{name}, {text}, {with:?}");
            }
        }
    }
}

fn all_rows(
    session: &mut Session,
    seq: &modelve::runtime::Seq,
    each: &mut dyn FnMut(Role, usize, &mut [f32]),
) {
    struct Each<'a>(&'a mut dyn FnMut(Role, usize, &mut [f32]));
    impl Hook for Each<'_> {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            node.role.is_some() && node.rows.is_some_and(|rows| rows.dimension == 1)
        }
        fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            let info = node.info();
            let mut values = node.read()?.to_vec();
            for (i, row) in info.rows.unwrap().of.iter().enumerate() {
                (self.0)(
                    info.role.unwrap(),
                    row.position.index(),
                    &mut values[info.row(i)],
                );
            }
            Ok(ControlFlow::Continue(()))
        }
    }
    let pass = session.feed_hooked(
        seq,
        &CLEAN.map(Token),
        Want::All,
        &mut Each(each),
        &mut |_, _| {},
    );
    assert_eq!(pass.unwrap(), Pass::Complete);
}

#[test]
fn ranked_parts_are_what_single_runs_give() {
    for (name, model) in models().into_iter().filter(|(name, _)| name != "mamba") {
        let mut session = session(&model);
        let mut options = ablate::Options {
            asked: between(270, Some(290)),
            top: 3,
            ..ablate::Options::default()
        };
        for (kind, n) in [
            (Kind::Heads, 8),
            (Kind::Attention, 2),
            (Kind::Mlps, 2),
            (Kind::Layers, 2),
        ] {
            let ranking = rank(
                &mut session,
                &prompt(&CLEAN),
                kind,
                &options,
                &mut |_, _| {},
            )
            .unwrap();
            assert!(ranking.complete);
            assert_eq!(ranking.parts.len(), n, "{name}, {kind:?}");
            let changes = ranking.parts.windows(2);
            assert!(
                changes
                    .into_iter()
                    .all(|two| two[0].change.abs() >= two[1].change.abs())
            );
            for effect in &ranking.parts {
                options.spots = vec![Spot::everywhere(effect.part)];
                let single =
                    ablate(&mut session, &prompt(&CLEAN), &options, &mut |_, _| {}).unwrap();
                assert!(
                    close(effect.without, single.without, 1e-5),
                    "{name}: {}",
                    effect.part
                );
                assert!(
                    (effect.kl - single.kl).abs() < 1e-5,
                    "{name}: {}",
                    effect.part
                );
            }
        }
    }
}

#[test]
fn parts_that_a_model_lacks_are_named() {
    let (_, model) = models().swap_remove(0);
    let ask = |text: &str| {
        let options = ablate::Options {
            spots: vec![text.parse().unwrap()],
            ..ablate::Options::default()
        };
        let error = ablate(
            &mut session(&model),
            &prompt(&CLEAN),
            &options,
            &mut |_, _| {},
        );
        error.unwrap_err().to_string()
    };
    assert_eq!(
        ask("mlp.2"),
        "there is no mlp.2: the model has 2 layers, 0 to 1"
    );
    assert_eq!(ask("1.4"), "there is no 1.4: layer 1 has 4 heads, 0 to 3");
    assert!(ask("bias.0").contains("bias.0 is a bias"));
    assert!(ask("mlp.0@6").contains("position 6 of a prompt with 6 tokens"));
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

#[test]
fn many_maps_have_a_mean_and_an_interval() {
    let (_, model) = models().swap_remove(0);
    let maps: Vec<patch::Patch> = [&CORRUPT[..], &[1, 270, 281, 290, 299, 310]]
        .iter()
        .map(|corrupt| patched(&model, &CLEAN, corrupt, What::Residual))
        .collect();
    let mut averaging = Averaging::default();
    for map in &maps {
        averaging.add(map.clone(), None).unwrap();
    }
    // One that the model answers alike is left out and named.
    averaging
        .add(patched(&model, &CLEAN, &CLEAN, What::Residual), None)
        .unwrap();
    let other = patched(&model, &CLEAN, &LONGER, What::Residual);
    let error = averaging.add(other, None).unwrap_err().to_string();
    assert!(
        error.contains("pair 4 has 4 columns where the first has 6"),
        "{error}"
    );
    let mean = averaging.finish(true).unwrap();
    assert_eq!((mean.pairs.len(), mean.alike), (2, vec![3]));
    for i in 0..2 {
        for j in 0..6 {
            let (a, b) = (
                maps[0].recovered[i][j].unwrap(),
                maps[1].recovered[i][j].unwrap(),
            );
            assert!(close(mean.recovered[i][j].unwrap(), (a + b) / 2.0, 1e-9));
            // Of two values the standard error is half their distance.
            let half = 12.706 * (a - b).abs() / 2.0;
            assert!(close(mean.interval[i][j].unwrap(), half, 1e-9));
        }
    }
}
