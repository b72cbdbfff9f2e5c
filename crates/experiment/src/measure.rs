//! The measure of an experiment: the difference between the logits of two next tokens.
//!
//! `logit(T) − logit(U)` needs no softmax and is linear in the last normed state, so the
//! contributions of the model's parts add up to it. Without a second token, the mean logit of the
//! vocabulary is subtracted. Logits are taken before a soft cap where the model has one, because
//! capped logits are not linear.

use serde::Serialize;

use super::error::{Error, Result};
use modelve_gguf::GgmlType;
use modelve_probe::math::Distribution;
use modelve_probe::next::candidate_ids;
use modelve_probe::{Piece, Prompt, piece};
use modelve_runtime::{Model, Token, Vocab};

/// The name of a token of the measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name {
    /// A word or text, read like the candidates of `next`: see [`candidate_ids`].
    Text(String),
    /// The id of a token.
    Id(Token),
}

/// The tokens that the measure compares, as given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    /// The token whose logit is measured; `None` means the likeliest.
    pub token: Option<Name>,
    /// The token it is compared with. `None` means the second likeliest if `token` is `None` as
    /// well, else the mean of the vocabulary.
    pub against: Option<Name>,
}

/// A token with its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The token's id.
    pub id: Token,
    /// Its text.
    pub piece: Piece,
}

impl Named {
    /// Returns a token with its text.
    pub fn new(vocab: &Vocab, id: Token) -> Self {
        Named {
            id,
            piece: piece(vocab, id),
        }
    }
}

/// The tokens of the measure, as far as the tokenizer alone determines them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The tokens that both texts begin with. They are appended to the prompt, so that the next
    /// token is the first one that differs.
    pub common: Vec<Token>,
    /// The token whose logit is measured.
    pub token: Option<Token>,
    /// The token it is compared with.
    pub against: Option<Token>,
    /// Names that consist of more tokens than the one that is measured.
    pub longer: Vec<Longer>,
}

/// A name of several tokens, of which only the first that differs from the other name is measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Longer {
    /// The whole name.
    pub named: String,
    /// Number of tokens in the name.
    pub tokens: usize,
    /// The token that is measured.
    pub measured: Named,
}

impl Asked {
    /// Returns the tokens that the names stand for after `prompt`: for texts of several tokens, the
    /// first that differ.
    ///
    /// # Errors
    /// [`Error::EmptyName`], [`Error::SameTokens`], or a token outside the vocabulary.
    pub fn names(&self, vocab: &Vocab, prompt: &Prompt) -> Result<Names> {
        let read = |name: &Option<Name>, flag: &'static str| -> Result<Option<Vec<Token>>> {
            Ok(match name {
                None => None,
                Some(Name::Id(id)) => {
                    vocab.check(*id)?;
                    Some(vec![*id])
                }
                Some(Name::Text(text)) if text.is_empty() => {
                    return Err(Error::EmptyName { flag });
                }
                Some(Name::Text(text)) => Some(candidate_ids(vocab, prompt, text, 1)?),
            })
        };
        let (token, against) = (
            read(&self.token, "--token")?,
            read(&self.against, "--against")?,
        );
        let common = match (&token, &against) {
            (Some(a), Some(b)) => a.iter().zip(b).take_while(|(a, b)| a == b).count(),
            _ => 0,
        };
        let at = |ids: &Option<Vec<Token>>| match ids {
            None => Ok(None),
            Some(ids) => ids.get(common).copied().map(Some).ok_or(()),
        };
        let (Ok(first), Ok(second)) = (at(&token), at(&against)) else {
            let text = |ids: &Option<Vec<Token>>| {
                let ids = ids.as_deref().unwrap_or_default();
                modelve_probe::text_of(vocab, ids)
            };
            return Err(Error::SameTokens {
                token: text(&token),
                against: text(&against),
            });
        };
        let longer = [&token, &against].into_iter().flatten();
        let longer = longer.filter(|ids| ids.len() > 1).filter_map(|ids| {
            Some(Longer {
                named: modelve_probe::text_of(vocab, ids),
                tokens: ids.len(),
                measured: Named::new(vocab, *ids.get(common)?),
            })
        });
        Ok(Names {
            longer: longer.collect(),
            common: token.map_or_else(Vec::new, |ids| ids[..common].to_vec()),
            token: first,
            against: second,
        })
    }
}

/// The measure of an experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measure {
    /// The token whose logit is measured.
    pub token: Named,
    /// The token it is compared with; `None` means the mean logit of the vocabulary.
    pub against: Option<Named>,
    /// A description of the measure in words.
    pub measure: String,
    /// The unit of all its values.
    pub unit: &'static str,
    /// The soft cap of the model's logits; the measure uses the logits before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_cap: Option<f64>,
    /// Names of several tokens, of which one is measured.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub longer: Vec<Longer>,
}

/// Returns the soft cap of a model's logits, if it has one.
pub fn soft_cap(model: &Model) -> Option<f64> {
    let cap = model.gguf().arch("final_logit_softcapping")?.as_f64()?;
    Some(cap).filter(|&cap| cap > 0.0)
}

/// Returns the logit before the cap. A logit equal to the cap is treated as slightly smaller.
pub fn uncapped(logit: f64, cap: Option<f64>) -> f64 {
    match cap {
        // The nearest value below 1 in 32 bits, the precision of logits.
        Some(cap) => cap * (logit / cap).clamp(-0.999_999_94, 0.999_999_94).atanh(),
        None => logit,
    }
}

impl Measure {
    /// Makes the measure of these tokens.
    pub fn new(model: &Model, token: Token, against: Option<Token>) -> Self {
        let vocab = model.vocab();
        let (token, against) = (
            Named::new(vocab, token),
            against.map(|id| Named::new(vocab, id)),
        );
        let soft_cap = soft_cap(model);
        let rival = match &against {
            Some(named) => format!("logit({})", quoted(&named.piece)),
            None => "the mean logit of the vocabulary".to_owned(),
        };
        let mut measure = format!("logit({}) − {rival}", quoted(&token.piece));
        if let Some(cap) = soft_cap {
            measure += &format!(", of logits before the soft cap of {cap}");
        }
        Measure {
            token,
            against,
            measure,
            unit: "logits",
            soft_cap,
            longer: Vec::new(),
        }
    }

    /// Makes the measure of the named tokens. Unnamed ones are taken from the logits of `row`: the
    /// likeliest token and the second likeliest.
    ///
    /// # Errors
    /// [`Error::SameTokens`] if the token to compare with is the likeliest itself.
    pub fn of(model: &Model, names: &Names, row: &[f32]) -> Result<Self> {
        let likeliest = |rank: usize| {
            let top = Distribution::new(row).top(rank + 1);
            top.get(rank).copied().unwrap_or_default()
        };
        let (token, against) = match (names.token, names.against) {
            (Some(token), against) => (token, against),
            (None, None) => (likeliest(0), Some(likeliest(1))),
            (None, Some(against)) => (likeliest(0), Some(against)),
        };
        if Some(token) == against {
            let text = piece(model.vocab(), token).to_string();
            return Err(Error::SameTokens {
                against: text.clone(),
                token: text,
            });
        }
        Ok(Measure {
            longer: names.longer.clone(),
            ..Measure::new(model, token, against)
        })
    }

    /// Returns its value for a row of logits, one per vocabulary entry, as the model computes them.
    pub fn value(&self, logits: &[f32]) -> f64 {
        let logit = |named: &Named| {
            let at = named.id.index();
            let logit = logits.get(at).copied().unwrap_or(f32::NAN);
            uncapped(f64::from(logit), self.soft_cap)
        };
        let rival = match &self.against {
            Some(named) => logit(named),
            None => {
                let all = logits
                    .iter()
                    .map(|&logit| uncapped(f64::from(logit), self.soft_cap));
                all.sum::<f64>() / logits.len().max(1) as f64
            }
        };
        logit(&self.token) - rival
    }

    /// Returns the log-probability of the measured token.
    pub fn logprob(&self, logits: &[f32]) -> f64 {
        Distribution::new(logits).logprob(self.token.id)
    }
}

/// Returns a text in quotes, with invisible characters escaped.
fn quoted(piece: &str) -> String {
    format!("{piece:?}")
}

/// The difference of two measures, in logits, that rounded activations can cause in a quantized
/// model: usually a tenth or less, sometimes several tenths (SmolLM2-135M in Q4_1).
const ROUNDING: f64 = 0.25;

/// A sentence on why shares of this difference between two measures mean little: it is small, and
/// the weights of the model are quantized. `None` otherwise, and if the measures are equal, as
/// there are no shares then.
pub(crate) fn doubt(model: &Model, difference: f64) -> Option<String> {
    let is_quantized = |ty: GgmlType| ty.block_size().is_some_and(|weights| weights > 1);
    let quantized = model
        .facts()
        .weights
        .iter()
        .any(|&(ty, _)| is_quantized(ty));
    let small = difference != 0.0 && difference.abs() < ROUNDING;
    (quantized && small).then(|| {
        format!(
            "the measures of the prompts differ by only {:.3} logits; in a quantized model, rounded activations alone can cause that, so these shares mean little; measure two tokens whose logits differ more between the prompts, or use a file in 16 or 32 bits",
            difference.abs()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: Token) -> Named {
        Named {
            id,
            piece: Piece::new(b"x".to_vec()),
        }
    }

    fn measure(against: Option<i32>, soft_cap: Option<f64>) -> Measure {
        Measure {
            token: named(Token(0)),
            against: against.map(|id| named(Token(id))),
            measure: String::new(),
            unit: "logits",
            soft_cap,
            longer: Vec::new(),
        }
    }

    #[test]
    fn a_measure_is_a_difference_of_logits() {
        let row = [3.0, 1.0, -1.0, 5.0];
        assert_eq!(measure(Some(2), None).value(&row), 4.0);
        assert_eq!(measure(None, None).value(&row), 1.0);
    }

    #[test]
    fn a_soft_cap_is_undone() {
        let capped = |x: f64| 30.0 * (x / 30.0).tanh();
        for x in [-80.0, -10.0, 0.0, 1e-3, 25.0, 90.0] {
            let back = uncapped(capped(x), Some(30.0));
            assert!((back - x).abs() < 1e-6 * (1.0 + x.abs()), "{x} {back}");
        }
        assert!(uncapped(30.0, Some(30.0)).is_finite());
        let row = [capped(12.0) as f32, capped(-4.0) as f32];
        let value = measure(Some(1), Some(30.0)).value(&row);
        assert!((value - 16.0).abs() < 1e-5, "{value}");
    }
}
