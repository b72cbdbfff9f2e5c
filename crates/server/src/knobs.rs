//! Sampling parameters, which all kinds of completions share.

use std::collections::BTreeMap;

use modelve_runtime::{ControlVector, Grammar, Options, Sampling, Token, Vocab};
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::Means;
use crate::engine_thread::Control;
use crate::error::{ApiError, Result};

/// Maximum number of stop texts.
const MOST_STOPS: usize = 64;
/// Maximum number of tokens in a request's logit bias.
const MOST_BIASES: usize = 10_000;

/// Sampling parameters.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
pub struct Knobs {
    /// 0 always takes the likeliest token, 1 samples from the model's distribution.
    #[schema(minimum = 0)]
    pub temperature: Option<f32>,
    /// Sample from the likeliest tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Sample from this many of the likeliest tokens; 0 or less means all.
    pub top_k: Option<i32>,
    /// Sample from tokens whose probability is at least this share of the likeliest token's.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Sample from the most typical tokens that together have this probability.
    #[schema(minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Divides positive logits of the last 64 tokens, and multiplies negative ones.
    pub repeat_penalty: Option<f32>,
    /// Subtracted from the logits of tokens that have occurred.
    pub presence_penalty: Option<f32>,
    /// Subtracted from the logits of tokens for each time they have occurred.
    pub frequency_penalty: Option<f32>,
    /// Added to the logits of tokens.
    pub logit_bias: Option<Biases>,
    /// Seed of the random numbers; negative means a random one.
    pub seed: Option<i64>,
    /// Texts that end the answer and are not part of it.
    pub stop: Option<Stops>,
    /// Continue where the model would end the answer.
    pub ignore_eos: Option<bool>,
    /// A grammar (GBNF) that the answer must follow.
    pub grammar: Option<String>,
    /// A JSON schema that the answer must match.
    pub json_schema: Option<Value>,
    /// Control vectors to add, by the names given on the server's command line.
    #[serde(default)]
    pub control_vectors: Vec<Share>,
}

/// A control vector and its scale.
#[derive(Debug, Clone, Deserialize, ToSchema)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// The factor of its directions; default: 1.
    pub scale: Option<f32>,
}

/// Maximum number of control vectors in one request.
const MOST_VECTORS: usize = 16;

/// Returns the sum of control vectors; `None` if there are none.
///
/// # Errors
/// Unknown names, or scales that make a value infinite.
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
                false => format!(
                    "there is no control vector {name:?}, only {}",
                    names.join(", ")
                ),
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

/// Logit biases.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "an object of token ids and numbers")]
pub enum Biases {
    /// OpenAI's form: an object with token ids as keys.
    ById(BTreeMap<String, f32>),
    /// llama.cpp's form: pairs of a token id or text and a number, or false for −infinity.
    Pairs(Vec<(Whose, Bias)>),
}

/// A token id, or a text whose tokens are meant.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a token id or a text")]
pub enum Whose {
    /// An id.
    Id(i32),
    /// A text.
    Text(String),
}

/// The value of a bias.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(untagged, expecting = "a number or false")]
pub enum Bias {
    /// A number to add.
    Number(f32),
    /// False: the token is never sampled.
    Never(bool),
}

/// Values for parameters that a request leaves out.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    temperature: f32,
    top_k: u32,
    top_p: f32,
    min_p: f32,
}

/// OpenAI's defaults, which sample from the model's distribution.
pub const OPENAI: Defaults = Defaults {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};

/// The defaults of llama.cpp's server.
pub const LLAMA: Defaults = Defaults {
    temperature: 0.8,
    top_k: 40,
    top_p: 0.95,
    min_p: 0.05,
};

impl Knobs {
    /// Returns the control vector of the request.
    ///
    /// # Errors
    /// See [`sum`].
    pub fn control(&self, means: &Means) -> Result<Option<Control>> {
        Ok(sum(&self.control_vectors, means)?.map(Control::new))
    }

    /// Returns the options of a completion except for the number of tokens and the reported
    /// probabilities. A schema or grammar from another part of the request is passed as `follows`.
    ///
    /// # Errors
    /// The first field with an invalid value.
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
                // So low that only the likeliest token can be sampled.
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

    /// Returns the seed of the random numbers.
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
                        .map_err(|_| wrong(format!("{id:?} is not a token id")))?;
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

/// Compiles a JSON schema, given in `param`, to a grammar.
///
/// # Errors
/// A schema that cannot be followed, with the keyword and its place.
pub fn schema_of(schema: &Value, param: &str) -> Result<Grammar> {
    Grammar::json_schema(&schema.to_string()).map_err(|error| ApiError::from(error).about(param))
}
