//! Experiments against transformers: the same parts taken out, the same states put into another
//! prompt, the same sum, by hooks of `scripts/make_experiment_fixtures.py` in 64 bits.

use std::path::Path;

use crate::support::heads_fixture::{Fixture, N_HEAD, N_LAYER, all};
use crate::support::probe_fixture::exact;
use modelve::experiment::ablate::{self, ablate};
use modelve::experiment::measure::{Asked, Name};
use modelve::experiment::patch::{self, Corrupt, What, patch};
use modelve::experiment::removal::With;
use modelve::experiment::why::{self, why};
use modelve::experiment::{Part, Spot, settings};
use modelve::probe::Prompt;
use modelve::runtime::{Session, Settings, Token};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    clean: Vec<Token>,
    corrupt: Vec<Token>,
    token: Token,
    against: Token,
    clean_value: f64,
    corrupt_value: f64,
    ablated: Ablated,
    mean_ablated_mlp: Vec<f64>,
    patched: Patched,
    parts: Parts,
}

#[derive(Deserialize)]
struct Ablated {
    head: Vec<Vec<f64>>,
    attention: Vec<f64>,
    mlp: Vec<f64>,
    layer: Vec<f64>,
}

#[derive(Deserialize)]
struct Patched {
    residual: Vec<Vec<f64>>,
    attention: Vec<Vec<f64>>,
    mlp: Vec<Vec<f64>>,
    head: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct Parts {
    embed: f64,
    #[serde(rename = "final")]
    last: f64,
    mlp: Vec<f64>,
    bias: Vec<f64>,
    head: Vec<Vec<f64>>,
}

/// A fixture, what transformers says of it, and a session that computes as nearly the same as can
/// be.
struct Case {
    fixture: Fixture,
    expected: Expected,
    session: Session,
}

fn cases() -> impl Iterator<Item = Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/experiment");
    all().into_iter().map(move |fixture| {
        let text = std::fs::read(folder.join(format!("{}.json", fixture.name))).unwrap();
        let model = fixture.model();
        let settings = Settings {
            // Within the reach of the short RoPE factors, with room for variants.
            n_ctx: 256,
            ..settings(&model, exact())
        };
        Case {
            expected: serde_json::from_slice(&text).unwrap(),
            session: Session::new(&model, &settings).unwrap(),
            fixture,
        }
    })
}

fn prompt(ids: &[Token]) -> Prompt {
    Prompt {
        text: "a text".to_owned(),
        ids: ids.to_vec(),
    }
}

impl Case {
    fn asked(&self) -> Asked {
        Asked {
            token: Some(Name::Id(self.expected.token)),
            against: Some(Name::Id(self.expected.against)),
        }
    }

    /// Asserts that a measure is the reference's, to 1e-3 of the largest there is; GELU from
    /// ggml's table of 16-bit floats is coarser.
    fn holds(&self, found: f64, expected: f64, place: &str) {
        let expectation = &self.expected;
        let largest = expectation
            .clean_value
            .abs()
            .max(expectation.corrupt_value.abs())
            .max(expected.abs())
            .max(1.0);
        let within = match self.fixture.name {
            "gpt2" | "gemma3" => 4e-3,
            _ => 1e-3,
        };
        let off = (found - expected).abs();
        let name = self.fixture.name;
        assert!(
            off < within * largest,
            "{name}, {place}: {found} for {expected}"
        );
    }

    fn without(&mut self, part: Part, with: With) -> f64 {
        let options = ablate::Options {
            asked: self.asked(),
            spots: vec![Spot::everywhere(part)],
            with,
            top: 1,
            ..ablate::Options::default()
        };
        let clean = prompt(&self.expected.clean);
        let found = ablate(&mut self.session, &clean, &options, &mut |_, _| {}).unwrap();
        self.holds(found.value, self.expected.clean_value, "clean");
        found.without
    }
}

#[test]
fn parts_taken_out_change_what_they_change_in_transformers() {
    for mut case in cases() {
        for layer in 0..N_LAYER {
            for (part, expected) in [
                (
                    Part::Attention(layer),
                    case.expected.ablated.attention[layer],
                ),
                (Part::Mlp(layer), case.expected.ablated.mlp[layer]),
                (Part::Layer(layer), case.expected.ablated.layer[layer]),
            ] {
                let found = case.without(part, With::Zero);
                case.holds(found, expected, &part.to_string());
            }
            for head in 0..N_HEAD {
                let part = Part::Head { layer, head };
                let found = case.without(part, With::Zero);
                let expected = case.expected.ablated.head[layer][head];
                case.holds(found, expected, &part.to_string());
            }
            let part = Part::Mlp(layer);
            let found = case.without(part, With::Mean);
            let expected = case.expected.mean_ablated_mlp[layer];
            case.holds(found, expected, &format!("{part} by its mean"));
        }
    }
}

#[test]
fn states_of_another_prompt_bring_back_what_they_do_in_transformers() {
    for mut case in cases() {
        for what in [What::Residual, What::Attention, What::Mlp, What::Head] {
            let options = patch::Options {
                asked: case.asked(),
                what,
                top: 1,
                ..patch::Options::default()
            };
            let clean = prompt(&case.expected.clean);
            let corrupt = Corrupt::Prompt(prompt(&case.expected.corrupt));
            let found = patch(
                &mut case.session,
                &clean,
                &corrupt,
                &options,
                &mut |_, _| {},
            )
            .unwrap();
            let patched = &case.expected.patched;
            let expected = match what {
                What::Residual => &patched.residual,
                What::Attention => &patched.attention,
                What::Mlp => &patched.mlp,
                What::Head => &patched.head,
            };
            case.holds(found.corrupt_value, case.expected.corrupt_value, "corrupt");
            assert_eq!(found.values.len(), N_LAYER);
            for (layer, row) in found.values.iter().enumerate() {
                assert_eq!(row.len(), expected[layer].len());
                for (column, value) in row.iter().enumerate() {
                    // A place before the first difference is computed as well: nothing changes.
                    let value = value.unwrap();
                    let place = format!("{what:?} {layer}, {column}");
                    case.holds(value, expected[layer][column], &place);
                }
            }
        }
    }
}

#[test]
fn what_parts_contribute_is_what_transformers_says() {
    for mut case in cases() {
        let options = why::Options {
            asked: case.asked(),
            ..why::Options::default()
        };
        let clean = prompt(&case.expected.clean);
        let found = why(&mut case.session, &clean, &options, &mut |_, _| {}).unwrap();
        assert_eq!(found.attribution.notes, [""; 0], "{}", case.fixture.name);
        let expected = &case.expected.parts;
        let mut seen = 0;
        for part in &found.attribution.parts {
            let value = match part.part {
                Part::Embed => expected.embed,
                Part::Head { layer, head } => expected.head[layer][head],
                Part::Mlp(layer) => expected.mlp[layer],
                Part::Bias(layer) => expected.bias[layer],
                Part::FinalBias => expected.last,
                other => panic!("{other} is no part of the sum"),
            };
            case.holds(part.value, value, &part.part.to_string());
            seen += usize::from(matches!(part.part, Part::Head { .. }));
        }
        assert_eq!(seen, N_LAYER * N_HEAD);
    }
}
