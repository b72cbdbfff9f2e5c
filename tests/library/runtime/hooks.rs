//! Hooks: what nodes are, reading them, writing them, ending a pass.

use std::collections::BTreeMap;

use super::*;
use crate::support::archs;
use modelve::runtime::graph::{Hook, Node, NodeInfo, Pass, Role, Row};

/// Phi-3 with a key head for each head and for several, and what `archs` makes.
fn models() -> Vec<(String, Model)> {
    let dir = tempfile::tempdir().unwrap();
    let mut models = Vec::new();
    for heads_kv in [4, 2] {
        let path = dir.path().join(format!("phi3-{heads_kv}.gguf"));
        let tiny = Tiny {
            heads_kv,
            ..Tiny::default()
        };
        tiny.write(&path);
        models.push((format!("phi3 of {heads_kv} key heads"), path));
    }
    for (arch, path) in archs::models(dir.path()) {
        models.push((arch.to_owned(), path));
    }
    let load = |path: PathBuf| Model::load(&path, &LoadOptions::default()).unwrap();
    models
        .into_iter()
        .map(|(name, path)| (name, load(path)))
        .collect()
}

fn hooked() -> Settings {
    Settings {
        hooks: true,
        n_seq: 4,
        ..exact()
    }
}

/// Reads the nodes of some roles, and gives some of their rows other values.
#[derive(Default)]
struct Probe {
    roles: Vec<Role>,
    /// What was there, row by row.
    read: BTreeMap<(Role, usize), (Row, Vec<f32>)>,
    /// What to put in the place of a row.
    patch: Vec<(Role, Row, Vec<f32>)>,
    write_back: bool,
    /// End the pass at the first.
    stop: bool,
    calls: usize,
    seen: Vec<Role>,
}

impl Probe {
    fn of(roles: impl IntoIterator<Item = Role>) -> Self {
        Probe {
            roles: roles.into_iter().collect(),
            ..Probe::default()
        }
    }
}

impl Hook for Probe {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        node.role.is_some_and(|role| self.roles.contains(&role))
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let role = info.role.unwrap();
        let rows = info.rows.expect("rows are told");
        assert_eq!(info.shape[rows.dimension], rows.of.len());
        self.calls += 1;
        self.seen.push(role);
        let mut values = node.read()?.to_vec();
        let mut changed = self.write_back;
        for (i, &row) in rows.of.iter().enumerate() {
            if rows.dimension == 1 && info.shape[2] == 1 {
                let found = values[info.row(i)].to_vec();
                self.read.insert((role, i), (row, found));
                for (at, whose, new) in &self.patch {
                    if *at == role && *whose == row {
                        values[info.row(i)].copy_from_slice(new);
                        changed = true;
                    }
                }
            }
        }
        if changed {
            node.write(&values)?;
        }
        Ok(match self.stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }
}

/// The logits of every token of a text, in a sequence that is closed again.
fn pass(session: &mut Session, tokens: &[Token], hook: &mut dyn Hook) -> Vec<Vec<f32>> {
    let seq = session.open().unwrap();
    let mut rows = Vec::new();
    let mut keep = |_: usize, row: &[f32]| rows.push(row.to_vec());
    let pass = session.feed_hooked(&seq, tokens, WantLogits::All, hook, &mut keep);
    assert_eq!(pass.unwrap(), Pass::Complete);
    session.close(seq);
    rows
}

fn states(layer: usize) -> [Role; 3] {
    [
        Role::Residual(layer),
        Role::Attention(layer),
        Role::Mlp(layer),
    ]
}

const A: [Token; 5] = [Token(270), Token(280), Token(290), Token(300), Token(310)];
const B: [Token; 5] = [Token(271), Token(283), Token(265), Token(300), Token(291)];

#[test]
fn what_blocks_add_makes_the_residual_stream() {
    for (name, model) in models() {
        let mut session = Session::new(&model, &hooked()).unwrap();
        let roles = session.roles().unwrap().clone();
        assert!(
            roles.has(Role::Embedding) && roles.has(Role::FinalNorm),
            "{name}"
        );
        assert!(
            (0..2).all(|layer| roles.has(Role::Residual(layer))),
            "{name}"
        );
        if name == "mamba" {
            let missing = roles.require(Role::Attention(1)).unwrap_err().to_string();
            assert_eq!(
                missing,
                "mamba: its graph has no attention output of layer 1"
            );
            continue;
        }
        let wanted = (0..2)
            .flat_map(states)
            .chain([Role::Embedding, Role::FinalNorm]);
        let wanted = wanted.chain((0..2).flat_map(|l| [Role::HeadOutput(l), Role::Pattern(l)]));
        let mut wanted: Vec<Role> = wanted.collect();
        for &role in &wanted {
            roles
                .require(role)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let mut probe = Probe::of(wanted.iter().copied());
        pass(&mut session, &A, &mut probe);
        let mut seen = probe.seen.clone();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted, "{name}: each role once");
        for i in 0..A.len() {
            let state = |role| &probe.read[&(role, i)].1;
            for layer in 0..2 {
                let before = match layer {
                    0 => state(Role::Embedding),
                    _ => state(Role::Residual(0)),
                };
                let parts = before.iter().zip(state(Role::Attention(layer)));
                let parts = parts.zip(state(Role::Mlp(layer)));
                let sum: Vec<f32> = parts.map(|((a, b), c)| a + b + c).collect();
                let off = distance(&sum, state(Role::Residual(layer)));
                assert!(off < 1e-5, "{name}, layer {layer}: {off}");
            }
            let (row, _) = probe.read[&(Role::Residual(1), i)];
            assert_eq!(row.position.index(), i);
        }
    }
}

#[test]
fn fused_attention_keeps_no_weights_and_says_so() {
    let settings = Settings {
        flash_attention: FlashAttention::On,
        ..hooked()
    };
    let session = Session::new(&tiny(), &settings).unwrap();
    let roles = session.roles().unwrap();
    assert!(roles.has(Role::HeadOutput(1)) && roles.has(Role::Mlp(1)));
    let error = roles.require(Role::Pattern(0)).unwrap_err().to_string();
    assert!(error.ends_with("attention weights of layer 0: flash attention keeps no weights"));
}

#[test]
fn writing_back_what_was_read_changes_no_bit() {
    for (name, model) in models() {
        let mut plain = Session::new(&model, &exact()).unwrap();
        let expected = alone(&mut plain, &A);
        let mut session = Session::new(&model, &hooked()).unwrap();
        let roles = (0..2).flat_map(|layer| {
            let more = [Role::HeadOutput(layer), Role::Pattern(layer)];
            states(layer).into_iter().chain(more)
        });
        let mut probe = Probe {
            write_back: true,
            ..Probe::of(roles.chain([Role::Embedding, Role::FinalNorm]))
        };
        assert_eq!(pass(&mut session, &A, &mut probe), expected, "{name}");
        assert!(probe.calls >= 4, "{name}");
    }
}

#[test]
fn the_states_of_another_text_give_its_answer() {
    for (name, model) in models() {
        let mut session = Session::new(&model, &hooked()).unwrap();
        if name == "mamba" {
            continue;
        }
        let mut of_b = Probe::of((0..2).map(Role::Residual));
        let b = pass(&mut session, &B, &mut of_b);
        let a = pass(&mut session, &A, &mut Probe::default());
        assert!(distance(&a[4], &b[4]) > 1e-2, "{name}: the texts differ");
        for layer in 0..2 {
            let role = Role::Residual(layer);
            // The sequence has the name that the one before it had.
            let patch = (0..B.len()).map(|i| {
                let (row, values) = &of_b.read[&(role, i)];
                (role, *row, values.clone())
            });
            let mut probe = Probe {
                patch: patch.collect(),
                ..Probe::of([role])
            };
            let patched = pass(&mut session, &A, &mut probe);
            assert_eq!(patched, b, "{name}, layer {layer}");
        }
        // The attention of one layer alone changes the answer in part.
        let mut of_b = Probe::of([Role::HeadOutput(0)]);
        pass(&mut session, &B, &mut of_b);
        let rows = of_b.read.into_iter();
        let patch = rows.map(|((role, _), (row, values))| (role, row, values));
        let mut probe = Probe {
            patch: patch.collect(),
            ..Probe::of([Role::HeadOutput(0)])
        };
        let patched = pass(&mut session, &A, &mut probe);
        assert!(distance(&patched[4], &a[4]) > 1e-4 && distance(&patched[4], &b[4]) > 1e-4);
    }
}

/// Two texts in one batch, token by token in turns; only the last of each gets logits.
#[test]
fn one_sequence_of_a_batch_is_patched_and_the_other_is_not() {
    for (name, model) in models() {
        let mut session = Session::new(&model, &hooked()).unwrap();
        let two = |session: &mut Session, second: &[Token], hook: &mut dyn Hook| {
            let seqs = [session.open().unwrap(), session.open().unwrap()];
            let entries: Vec<Entry<'_>> = (0..A.len())
                .flat_map(|i| [(0, A[i], i), (1, second[i], i)])
                .map(|(which, token, i)| Entry {
                    seq: &seqs[which],
                    token,
                    output: i + 1 == A.len(),
                })
                .collect();
            let mut rows = Vec::new();
            let mut keep = |_: usize, row: &[f32]| rows.push(row.to_vec());
            let pass = session.step_hooked(&entries, hook, &mut keep);
            pass.map(|_| (rows, seqs[1].id()))
        };
        if name == "mamba" {
            let refused = two(&mut session, &B, &mut Probe::default());
            assert!(matches!(refused, Err(Error::HookOnSeveral { .. })));
            continue;
        }
        let mut of_b = Probe::of((0..2).map(Role::Residual));
        let (b, _) = two(&mut session, &B, &mut of_b).unwrap();
        let (a, second) = two(&mut session, &A, &mut Probe::default()).unwrap();
        assert_ne!(a[1], b[1]);
        // All of the last layer that is left are the rows with logits.
        let last = of_b
            .read
            .iter()
            .filter(|((role, _), _)| *role == Role::Residual(1));
        let places: Vec<_> = last.map(|(_, (row, _))| row.position.index()).collect();
        assert_eq!(places, [4, 4], "{name}");
        for layer in 0..2 {
            let role = Role::Residual(layer);
            let rows = of_b.read.values().zip(of_b.read.keys());
            let patch = rows
                .filter(|((row, _), (at, _))| *at == role && row.seq == second)
                .map(|((row, values), _)| (role, *row, values.clone()));
            let mut probe = Probe {
                patch: patch.collect(),
                ..Probe::of([role])
            };
            let (patched, _) = two(&mut session, &A, &mut probe).unwrap();
            assert_eq!(patched[0], a[0], "{name}, layer {layer}: not a bit");
            assert_eq!(patched[1], b[1], "{name}, layer {layer}");
        }
    }
}

#[test]
fn break_ends_the_pass_and_leaves_nothing_of_it() {
    let model = tiny();
    let cancel = Cancel::new();
    let settings = Settings {
        cancel: cancel.clone(),
        n_batch: 3,
        ..hooked()
    };
    let mut session = Session::new(&model, &settings).unwrap();
    let expected = pass(&mut session, &A, &mut Probe::default());
    let seq = session.open().unwrap();
    let mut silent = |_: usize, _: &[f32]| panic!("logits of a pass that was stopped");
    // One that ends the second batch of a feed undoes the first as well.
    struct Second(usize);
    impl Hook for Second {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            matches!(node.role, Some(Role::Residual(_)))
        }
        fn node(&mut self, _: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            self.0 += 1;
            Ok(match self.0 {
                3 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        }
    }
    let mut second = Second(0);
    let stopped = session.feed_hooked(&seq, &A, WantLogits::Last, &mut second, &mut silent);
    assert_eq!(stopped.unwrap(), Pass::Stopped);
    assert_eq!(second.0, 3, "not asked again");
    assert!(session.is_empty(&seq).unwrap());
    assert_eq!(session.free_cells(), session.n_ctx());
    assert!(!cancel.is_set(), "nobody asked for that");

    let mut first = Probe {
        stop: true,
        ..Probe::of((0..2).flat_map(states))
    };
    let entry = Entry {
        seq: &seq,
        token: A[0],
        output: true,
    };
    let stopped = session.step_hooked(&[entry], &mut first, &mut silent);
    assert_eq!(stopped.unwrap(), Pass::Stopped);
    assert_eq!(first.calls, 1);
    // An error of the hook's own does the same.
    struct Fails;
    impl Hook for Fails {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            node.role == Some(Role::Residual(0))
        }
        fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            node.write(&[0.0; 3])?;
            Ok(ControlFlow::Continue(()))
        }
    }
    let failed = session.step_hooked(&[entry], &mut Fails, &mut silent);
    assert!(
        matches!(
            failed,
            Err(Error::NodeLength {
                have: 64,
                given: 3,
                ..
            })
        ),
        "{failed:?}"
    );
    assert!(session.is_empty(&seq).unwrap());
    // The session goes on as if nothing had been.
    let after = all_logits(&mut session, &seq, &A);
    assert!(distance(&after[4], &expected[4]) < 1e-6);
}

#[test]
fn a_product_tells_what_it_multiplied_its_weights_with() {
    struct Products(BTreeMap<String, (Vec<f32>, [usize; 4])>);
    impl Hook for Products {
        fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
            let weights = node
                .inputs
                .first()
                .is_some_and(|name| name.starts_with("blk."));
            node.op == "MUL_MAT" && weights || node.role == Some(Role::HeadOutput(0))
        }
        fn node(&mut self, node: &mut Node<'_>) -> modelve::runtime::Result<ControlFlow<()>> {
            let info = node.info();
            if info.op != "MUL_MAT" {
                assert!(matches!(
                    node.read_activations(),
                    Err(Error::NoActivations { .. })
                ));
                let values = node.read()?.to_vec();
                self.0.insert("heads".to_owned(), (values, info.shape));
                return Ok(ControlFlow::Continue(()));
            }
            let (values, shape) = node.read_activations()?;
            let found = (values.to_vec(), shape);
            self.0.insert(info.inputs[0].clone(), found);
            Ok(ControlFlow::Continue(()))
        }
    }
    let mut session = Session::new(&tiny(), &hooked()).unwrap();
    let mut products = Products(BTreeMap::new());
    pass(&mut session, &A, &mut products);
    assert_eq!(products.0["blk.0.attn_output.weight"], products.0["heads"]);
    // Queries, keys and values, the output, two halves of the MLP and the way back, twice.
    assert_eq!(products.0.len(), 1 + 2 * 4);
    assert_eq!(products.0["blk.1.ffn_down.weight"].1[1], A.len());
}

#[test]
fn a_session_without_hooks_has_none() {
    let mut blind = Session::new(&tiny(), &exact()).unwrap();
    let seq = blind.open().unwrap();
    let mut ignore = |_: usize, _: &[f32]| {};
    let probe = &mut Probe::default();
    let refused = blind.feed_hooked(&seq, &A, WantLogits::None, probe, &mut ignore);
    assert!(matches!(refused, Err(Error::NoHooks)));
    assert!(matches!(blind.roles(), Err(Error::NoHooks)));
}
