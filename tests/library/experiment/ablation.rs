//! Ablation: what is taken out, and what a hook gives.

use super::*;

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
        WantLogits::All,
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
