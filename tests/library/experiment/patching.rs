//! Activation patching: what is put back, and what a hook on the whole prompt gives.

use super::*;

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
    assert!(error.contains("position 3 has no counterpart"), "{error}");
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
