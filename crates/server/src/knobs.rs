//! How tokens are chosen: the fields that all kinds of completions share.

use std::collections::BTreeMap;

use modelve_runtime::{ControlVector, Grammar, Options, Sampling, Token, Vocab};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::Means;
use crate::engine_thread::Control;
use crate::error::{ApiError, Result};

/// The most texts that end a completion, and the longest of them.
const MOST_STOPS: usize = 64;
/// The most tokens whose logits a request may change.
const MOST_BIASES: usize = 10_000;

/// How tokens are chosen.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct Knobs {
    /// 0 takes the likeliest token, 1 draws as the model believes.
    #[schema(minimum = 0)]
    pub temperature: Option<f32>,
    /// Draw from the likeliest tokens that make up this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Draw from so many of the likeliest tokens; 0 and below: from all.
    pub top_k: Option<i32>,
    /// Draw from tokens at least so many times as likely as the likeliest.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Draw from the most typical tokens that make up this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Divides the logits of the last 64 tokens.
    pub repeat_penalty: Option<f32>,
    /// Taken off the logits of tokens that occurred.
    pub presence_penalty: Option<f32>,
    /// Taken off the logits of tokens, times their occurrences.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of tokens, by their ids.
    pub logit_bias: Option<Biases>,
    /// Where the random numbers begin; below 0: anywhere.
    pub seed: Option<i64>,
    /// Texts that end the answer and are no part of it.
    pub stop: Option<Stops>,
    /// Go on where the model would end.
    pub ignore_eos: Option<bool>,
    /// A grammar (GBNF) that the answer follows.
    pub grammar: Option<String>,
    /// A JSON schema that the answer fits.
    pub json_schema: Option<Value>,
    /// Control vectors to add, of those that whoever started the server named.
    #[serde(default)]
    pub control_vectors: Vec<Share>,
}

/// How much of a control vector.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// What its directions are multiplied with; 1 if it is not said.
    pub scale: Option<f32>,
}

/// The most control vectors of one request.
const MOST_VECTORS: usize = 16;

/// The sum of control vectors, `None` of none.
///
/// # Errors
/// Names that are not known; scales that make values that are no numbers.
pub fn sum(shares: &[Share], means: &Means) -> Result<Option<ControlVector>> {
    let wrong = |message: String| ApiError::wrong("control_vectors", message);
    if shares.len() > MOST_VECTORS {
        return Err(wrong(format!(
            "at most {MOST_VECTORS}, not {}",
            shares.len()
        )));
    }
    let mut sum: Option<ControlVector> = None;
    for Share { name, scale } in shares {
        let Some(vector) = means.vectors.get(name) else {
            let names: Vec<&str> = means.vectors.keys().map(String::as_str).collect();
            return Err(wrong(match names.is_empty() {
                true => "this server was started without --control-vector".to_owned(),
                false => format!("no {name:?}; there are {}", names.join(", ")),
            }));
        };
        let added = vector.clone().scaled(scale.unwrap_or(1.0));
        let added = added.and_then(|vector| match sum.take() {
            Some(sum) => sum.plus(vector),
            None => Ok(vector),
        });
        sum = Some(added.map_err(|error| wrong(error.to_string()))?);
    }
    Ok(sum)
}

/// One text or several.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a string or a list of strings")]
pub enum Stops {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

/// Biases by token.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "an object of token ids and numbers")]
pub enum Biases {
    /// OpenAI's: ids as names.
    ById(BTreeMap<String, f32>),
    /// llama.cpp's: pairs of an id or a text and a number, or false for never.
    Pairs(Vec<(Whose, Bias)>),
}

/// A token, or a text whose tokens are meant.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a token id or a text")]
pub enum Whose {
    /// An id.
    Id(i32),
    /// A text.
    Text(String),
}

/// What is added.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number or false")]
pub enum Bias {
    /// A number.
    Number(f32),
    /// Never.
    Never(bool),
}

/// What is meant where a request does not say.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
}

/// OpenAI's defaults: as the model believes.
pub const OPENAI: Defaults = Defaults {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

/// Those of llama.cpp's server.
pub const LLAMA: Defaults = Defaults {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
};

impl Knobs {
    /// What is added to the states of the text.
    ///
    /// # Errors
    /// See [`sum`].
    pub fn control(&self, means: &Means) -> Result<Option<Control>> {
        Ok(sum(&self.control_vectors, means)?.map(Control::new))
    }

    /// The options of a completion, the number of tokens and what is told of them aside. A schema
    /// or grammar that stands elsewhere in the request comes as `follows`.
    ///
    /// # Errors
    /// The first field that makes no sense.
    pub fn options(
        &self,
        defaults: Defaults,
        vocab: &Vocab,
        follows: Option<Grammar>,
    ) -> Result<Options> {
        let grammar = match (follows, &self.json_schema, &self.grammar) {
            (Some(grammar), _, _) => Some(grammar),
            (None, Some(schema), _) if !schema.is_null() => Some(schema_of(schema, "json_schema")?),
            (None, _, Some(grammar)) if !grammar.is_empty() => Some(Grammar::gbnf(grammar)?),
            _ => None,
        };
        let sampling = Sampling {
            temperature: match self.temperature.unwrap_or(defaults.temperature) {
                // So low that only the likeliest token is drawn.
                t if t > 0.0 && t < 1e-6 => 0.0,
                t => t,
            },
            top_k: self
                .top_k
                .map_or(defaults.top_k, |k| u32::try_from(k).unwrap_or(0)),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            min_p: self.min_p.unwrap_or(defaults.min_p),
            typical_p: self.typical_p.unwrap_or(1.0),
            repeat_penalty: self.repeat_penalty.unwrap_or(1.0),
            presence_penalty: self.presence_penalty.unwrap_or(0.0),
            frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
            logit_bias: self.biases(vocab)?,
            grammar,
        };
        sampling.check(vocab)?;
        Ok(Options {
            sampling,
            stops: self.stops()?,
            ignore_end: self.ignore_eos.unwrap_or(false),
            ..Options::default()
        })
    }

    /// Where the random numbers begin.
    pub fn seed(&self) -> u32 {
        match self.seed {
            Some(seed) if seed >= 0 => seed as u32,
            _ => crate::random() as u32,
        }
    }

    fn stops(&self) -> Result<Vec<String>> {
        let stops = match &self.stop {
            None => Vec::new(),
            Some(Stops::One(stop)) => vec![stop.clone()],
            Some(Stops::Several(stops)) => stops.clone(),
        };
        if stops.len() > MOST_STOPS {
            let message = format!("at most {MOST_STOPS} texts can end a completion");
            return Err(ApiError::wrong("stop", message));
        }
        Ok(stops.into_iter().filter(|stop| !stop.is_empty()).collect())
    }

    fn biases(&self, vocab: &Vocab) -> Result<Vec<(Token, f32)>> {
        let wrong = |message: String| ApiError::wrong("logit_bias", message);
        let mut biases = Vec::new();
        match &self.logit_bias {
            None => {}
            Some(Biases::ById(by_id)) => {
                for (id, bias) in by_id {
                    let id = id
                        .parse()
                        .map_err(|_| wrong(format!("{id:?} is no token id")))?;
                    biases.push((id, *bias));
                }
            }
            Some(Biases::Pairs(pairs)) => {
                for (whose, bias) in pairs {
                    let bias = match bias {
                        Bias::Number(bias) => *bias,
                        Bias::Never(false) => f32::NEG_INFINITY,
                        Bias::Never(true) => {
                            return Err(wrong("a bias is a number or false".to_owned()));
                        }
                    };
                    match whose {
                        Whose::Id(id) => biases.push((Token(*id), bias)),
                        Whose::Text(text) => {
                            let reading = modelve_runtime::Reading::PromptPart;
                            let ids = vocab.tokenize(text, reading)?;
                            biases.extend(ids.into_iter().map(|id| (id, bias)));
                        }
                    }
                }
            }
        }
        if biases.len() > MOST_BIASES {
            return Err(wrong(format!(
                "at most {MOST_BIASES} tokens can have a bias"
            )));
        }
        for (id, _) in &biases {
            vocab
                .check(*id)
                .map_err(|error| ApiError::from(error).about("logit_bias"))?;
        }
        Ok(biases)
    }
}

/// The grammar of a schema that stands in `param`.
///
/// # Errors
/// A schema that cannot be followed, with the keyword and its place.
pub fn schema_of(schema: &Value, param: &str) -> Result<Grammar> {
    Grammar::json_schema(&schema.to_string()).map_err(|error| ApiError::from(error).about(param))
}
