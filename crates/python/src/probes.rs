//! Looking inside a model: its layers, its heads, and what an answer hangs on.

use anyhow::anyhow;
use modelve::commands::experiments;
use modelve::commands::probing::told;
use modelve::commands::why::COMMON;
use modelve::experiment::measure::{Asked, Name};
use modelve::experiment::patch::{self, Corrupt, What};
use modelve::experiment::why;
use modelve::hint::UsageError;
use modelve::probe::attention::{self, Rows};
use modelve::probe::html::{About, Page};
use modelve::probe::lens;
use modelve::runtime::{FlashAttention, Token, host};
use pyo3::prelude::*;

use crate::array::Array;
use crate::error::{Result, raised};
use crate::model::Model;
use crate::read::{Given, Named, Reading, numbers};
use crate::result::{Attention, Lens, Look, Patch, Shown, Table, Why, whole};

const LENS: Look = Look {
    page: Some(Page::LENS),
    listed: false,
    table: Table::Rows("cells"),
    brief: &["prompt", "n_layers", "cells"],
};
const ATTENTION: Look = Look {
    page: Some(Page::ATTENTION),
    listed: false,
    table: Table::Rows("heads"),
    brief: &["prompt", "layer", "heads"],
};
const WHY: Look = Look {
    page: Some(modelve::experiment::html::WHY),
    listed: false,
    table: Table::Rows("parts"),
    brief: &["prompt", "token", "against", "value"],
};
const PATCH: Look = Look {
    page: Some(modelve::experiment::html::PATCH),
    listed: false,
    table: Table::Grid("recovered", "layers", "positions"),
    brief: &[
        "clean",
        "corrupt",
        "token",
        "against",
        "clean_value",
        "corrupt_value",
    ],
};

/// What an experiment measures.
fn asked(token: Option<&Named>, against: Option<&Named>) -> Asked {
    let name = |named: &Named| match named {
        Named::Id(id) => Name::Id(Token(*id)),
        Named::Text(text) => Name::Text(text.clone()),
    };
    Asked {
        token: token.map(name),
        against: against.map(name),
    }
}

/// Rows of numbers as an array; what was not computed is not a number.
fn grid(rows: &[Vec<Option<f64>>]) -> Array {
    let width = rows.iter().map(Vec::len).max().unwrap_or(0);
    let mut values = Vec::with_capacity(rows.len() * width);
    for row in rows {
        let row = row
            .iter()
            .map(|value| value.map_or(f32::NAN, |value| value as f32));
        values.extend(row.chain(std::iter::repeat(f32::NAN)).take(width));
    }
    Array::new(values, &[rows.len(), width])
}

/// A number of each cell of a lens as an array `[layers, positions]`.
fn layers(found: &lens::Lens, number: impl Fn(&lens::Cell) -> f64) -> Array {
    let positions = found.answers.len();
    let layers = found.cells.len() / positions.max(1);
    let mut values = vec![f32::NAN; layers * positions];
    // Cells are in the order of positions, then of layers.
    for (i, cell) in found.cells.iter().take(layers * positions).enumerate() {
        values[i % layers * positions + i / layers] = number(cell) as f32;
    }
    Array::new(values, &[layers, positions])
}

/// The weights of all heads as an array `[heads, queries, keys]`; nothing is looked at that comes
/// later.
fn weights(found: &attention::Attention) -> Array {
    let keys = found.ids.len();
    let queries = found.heads.iter().map(|head| head.weights.len()).max();
    let queries = queries.unwrap_or(0);
    let mut values = vec![0.0; found.heads.len() * queries * keys];
    for (head, of) in found
        .heads
        .iter()
        .zip(values.chunks_mut((queries * keys).max(1)))
    {
        for (row, place) in head.weights.iter().zip(of.chunks_mut(keys.max(1))) {
            let n = row.len().min(keys);
            place[..n].copy_from_slice(&row[..n]);
        }
    }
    Array::new(values, &[found.heads.len(), queries, keys])
}

#[pymethods]
impl Model {
    /// What the model would say if it stopped after a layer, at every position. `layers` and
    /// `positions` are lists of numbers, -1 the last; `token` is one to follow.
    #[pyo3(signature = (prompt, *, top=5, layers=None, positions=None, token=None, chat=false,
        system=None, special=true))]
    #[allow(clippy::too_many_arguments)]
    fn lens(
        &self,
        py: Python<'_>,
        prompt: Given,
        top: usize,
        layers: Option<Vec<i64>>,
        positions: Option<Vec<i64>>,
        token: Option<Named>,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Lens> {
        let reading = Reading::new(chat, system, special);
        let prepared = || -> Result<_> {
            let prompt = reading.prompt(self.model(), &prompt)?;
            let n_layer = self.model().facts().n_layer as usize;
            let options = lens::Options {
                layers: numbers(layers.as_deref(), n_layer, "layer")?,
                positions: numbers(positions.as_deref(), prompt.ids.len(), "position")?,
                top,
                token: token
                    .as_ref()
                    .map(|token| token.token(self.model()))
                    .transpose()?,
            };
            Ok((prompt, options))
        };
        let (prompt, options) = prepared().map_err(|error| raised(py, &error))?;
        let about = self.about("lens", &[&prompt.text]);
        let found = self.worker.ask(py, move |bench| {
            let session = bench.lens(prompt.ids.len())?;
            let found = lens::lens(session, &prompt, &options, &mut |_| {}).map_err(told)?;
            whole(found.complete)?;
            Ok(found)
        })?;
        let shown = Shown::new(LENS, about, &found).map_err(|error| raised(py, &error))?;
        let shown = shown
            .with(
                "entropy_bits",
                Py::new(py, self::layers(&found, |cell| cell.entropy_bits))?,
            )
            .with(
                "kl_to_final",
                Py::new(py, self::layers(&found, |cell| cell.kl_to_final))?,
            )
            .with(
                "answer_logprob",
                Py::new(py, self::layers(&found, |cell| cell.answer_logprob))?,
            );
        Ok(Lens(shown))
    }

    /// Where the heads of a layer look (-1 the last); without `layer` also all heads in numbers.
    /// `weights` is an array `[heads, queries, keys]`.
    #[pyo3(signature = (prompt, *, layer=None, head=None, chat=false, system=None, special=true))]
    #[allow(clippy::too_many_arguments)]
    fn attention(
        &self,
        py: Python<'_>,
        prompt: Given,
        layer: Option<i64>,
        head: Option<usize>,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Attention> {
        let reading = Reading::new(chat, system, special);
        let prepared = || -> Result<_> {
            let prompt = reading.prompt(self.model(), &prompt)?;
            let n_layer = self.model().facts().n_layer as usize;
            let layer = layer.map(|layer| [layer]);
            let layer = numbers(layer.as_ref().map(|layer| &layer[..]), n_layer, "layer")?;
            let layer = layer.and_then(|layers| layers.first().copied());
            let options = attention::Options {
                layer,
                head,
                overview: layer.is_none(),
                maps: false,
                rows: Rows::All,
            };
            // The weights are held here, as an array and as JSON for the page.
            let need = 3 * attention::bytes(self.model(), prompt.ids.len(), options);
            if host::free_memory().is_some_and(|free| need > free) {
                return Err(anyhow!(
                    "the weights over {} tokens take more memory than is free: head= keeps one head",
                    prompt.ids.len()
                ));
            }
            Ok((prompt, options))
        };
        let (prompt, options) = prepared().map_err(|error| raised(py, &error))?;
        let about = self.about("attention", &[&prompt.text]);
        let found = self.worker.ask(py, move |bench| {
            let n = prompt.ids.len();
            let base = bench.settings();
            if base.kv_type.is_quantized() || base.flash_attention == FlashAttention::On {
                let what = "flash attention keeps no weights to show: load the model without kv_type \
                            and flash_attn";
                return Err(UsageError(what.to_owned()).into());
            }
            let settings = attention::settings(&bench.model, n, base);
            let mut session = bench.own(n, settings)?;
            let found = attention::attention(&mut session, &prompt, options, &mut |_| {});
            let found = found.map_err(told)?;
            whole(found.complete)?;
            Ok(found)
        })?;
        let array = Py::new(py, weights(&found))?;
        let mut brief = found.clone();
        brief.heads.iter_mut().for_each(|head| head.weights.clear());
        let shown = Shown::new(ATTENTION, about, &brief).map_err(|error| raised(py, &error))?;
        Ok(Attention(shown.with("weights", array).part_of(found)))
    }

    /// The words an answer hangs on, and the parts of the model it is the sum of. `token` is the
    /// answer to explain and `against` the one it is held against; by default the two likeliest,
    /// and with `token` alone the mean of all.
    #[pyo3(signature = (prompt, *, token=None, against=None, tokens=false, chat=false, system=None,
        special=true))]
    #[allow(clippy::too_many_arguments)]
    fn why(
        &self,
        py: Python<'_>,
        prompt: Given,
        token: Option<Named>,
        against: Option<Named>,
        tokens: bool,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Why> {
        let reading = Reading::new(chat, system, special);
        let prompt = reading.prompt(self.model(), &prompt);
        let prompt = prompt.map_err(|error| raised(py, &error))?;
        let options = why::Options {
            asked: asked(token.as_ref(), against.as_ref()),
            by_token: tokens,
            ..why::Options::default()
        };
        let about = self.about("why", &[&prompt.text]);
        let found = self.worker.ask(py, move |bench| {
            let tokens = prompt.ids.len() + COMMON;
            let mut session =
                experiments::session(&bench.args, &bench.model, tokens, &bench.cancel)?;
            let found = why::why(&mut session, &prompt, &options, &mut |_, _| {});
            let found = found.map_err(experiments::told)?;
            whole(found.complete)?;
            Ok(found)
        })?;
        let shown = Shown::new(WHY, about, &found).map_err(|error| raised(py, &error))?;
        Ok(Why(shown))
    }

    /// Where what tells two prompts apart lies: each state of `clean` is put into the pass over
    /// `corrupt`. `what` is `residual`, `attention`, `mlp` or `head`.
    #[pyo3(signature = (clean, corrupt, *, token=None, against=None, what="residual", layers=None,
        positions=None, top=5, together=false, chat=false, system=None, special=true))]
    #[allow(clippy::too_many_arguments)]
    fn patch(
        &self,
        py: Python<'_>,
        clean: Given,
        corrupt: Given,
        token: Option<Named>,
        against: Option<Named>,
        what: &str,
        layers: Option<Vec<i64>>,
        positions: Option<Vec<i32>>,
        top: usize,
        together: bool,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Patch> {
        let reading = Reading::new(chat, system, special);
        let prepared = || -> Result<_> {
            let clean = reading.prompt(self.model(), &clean)?;
            let corrupt = reading.prompt(self.model(), &corrupt)?;
            let n_layer = self.model().facts().n_layer as usize;
            let options = patch::Options {
                asked: asked(token.as_ref(), against.as_ref()),
                what: kind(what)?,
                positions,
                layers: numbers(layers.as_deref(), n_layer, "layer")?,
                top,
                together,
            };
            Ok((clean, corrupt, options))
        };
        let (clean, corrupt, options) = prepared().map_err(|error| raised(py, &error))?;
        let about: About = self.about("patch", &[&clean.text, &corrupt.text]);
        let found = self.worker.ask(py, move |bench| {
            let tokens = clean.ids.len().max(corrupt.ids.len()) + COMMON;
            let mut session =
                experiments::session(&bench.args, &bench.model, tokens, &bench.cancel)?;
            let corrupt = Corrupt::Prompt(corrupt);
            let found = patch::patch(&mut session, &clean, &corrupt, &options, &mut |_, _| {});
            let found = found.map_err(experiments::told)?;
            whole(found.complete)?;
            Ok(found)
        })?;
        let recovered = Py::new(py, grid(&found.recovered))?;
        let values = Py::new(py, grid(&found.values))?;
        let shown = Shown::new(PATCH, about, &found).map_err(|error| raised(py, &error))?;
        Ok(Patch(
            shown.with("recovered", recovered).with("values", values),
        ))
    }
}

fn kind(name: &str) -> Result<What> {
    Ok(match name {
        "residual" => What::Residual,
        "attention" => What::Attention,
        "mlp" => What::Mlp,
        "head" => What::Head,
        other => {
            let what = format!("what={other:?}: there are residual, attention, mlp and head");
            return Err(UsageError(what).into());
        }
    })
}
