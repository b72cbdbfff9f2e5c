//! `modelve.load` and what a loaded model is asked.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use anyhow::Context as _;
use modelve::commands::engine::EngineArgs;
use modelve::commands::probing::told;
use modelve::commands::score::{WINDOW, windows};
use modelve::hint::UsageError;
use modelve::probe::html::{About, Page};
use modelve::probe::next::{self, candidate_ids, moved};
use modelve::probe::tree::Shape;
use modelve::probe::{Subject, score, text_of};
use modelve::runtime::{self, Settings, Token};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::complete::{Choosing, Prompts, Stream};
use crate::error::{Result, raised};
use crate::read::{Given, Named, OneOrMore, Reading, checked, conversation};
use crate::result::{Completion, Look, Next, Score, Shown, Table, whole};
use crate::tools;
use crate::vocab::Vocab;
use crate::worker::Worker;

const NEXT: Look = Look {
    page: Some(Page::NEXT),
    listed: true,
    table: Table::Rows("top"),
    brief: &["prompt", "entropy_bits"],
};
const SCORE: Look = Look {
    page: Some(Page::SCORE),
    listed: true,
    table: Table::Rows("tokens"),
    brief: &["text", "bits_per_byte", "perplexity"],
};
const COMPLETION: Look = Look {
    page: None,
    listed: true,
    table: Table::Rows("tokens"),
    brief: &["prompt", "text", "finish_reason"],
};

/// A conversation, or whether the prompt goes into the model's template.
#[derive(Debug, Clone, FromPyObject)]
pub enum Chat {
    /// Whether the prompt does.
    Template(bool),
    /// Messages in place of a prompt.
    Messages(Vec<HashMap<String, String>>),
}

/// A loaded model. It computes in a thread of its own, one question after the other; any thread may
/// ask.
#[pyclass(frozen, weakref, module = "modelve")]
pub struct Model {
    pub(crate) worker: Arc<Worker>,
    /// What names it on a command line.
    name: Option<String>,
    meta: OnceLock<Py<PyDict>>,
}

/// Loads a model: a .gguf file, a Hub id such as `org/name:Q4_K_M`, or `tiny`; by default
/// `$MODELVE_MODEL`, else Phi-3-mini-128k-instruct. The other arguments are the flags of the same
/// names.
#[pyfunction]
#[pyo3(signature = (model=None, *, threads=None, ctx_size=None, kv_type=None, flash_attn=None,
    weights=None, gpu_layers=None, device=None, trust=false))]
#[allow(clippy::too_many_arguments)]
pub fn load(
    py: Python<'_>,
    model: Option<std::path::PathBuf>,
    threads: Option<u32>,
    ctx_size: Option<u32>,
    kv_type: Option<String>,
    flash_attn: Option<String>,
    weights: Option<String>,
    gpu_layers: Option<GpuLayers>,
    device: Option<String>,
    trust: bool,
) -> PyResult<Model> {
    let name = model.map(|model| model.to_string_lossy().into_owned());
    let gpu_layers = gpu_layers.map(|layers| match layers {
        GpuLayers::Count(n) => n.to_string(),
        GpuLayers::Name(name) => name,
    });
    let flags = [
        ("--model", name.clone()),
        ("--threads", threads.map(|n| n.to_string())),
        ("--ctx-size", ctx_size.map(|n| n.to_string())),
        ("--kv-type", kv_type),
        ("--flash-attn", flash_attn),
        ("--weights", weights),
        ("--gpu-layers", gpu_layers),
        ("--device", device),
    ];
    let flags = flags
        .into_iter()
        .filter_map(|(flag, value)| Some(format!("{flag}={}", value?)));
    let flags = flags.chain(trust.then(|| "--trust".to_owned()));
    let args = EngineArgs::of_words(flags).map_err(|error| raised(py, &error.into()))?;
    Ok(Model {
        worker: Worker::start(py, args)?,
        name,
        meta: OnceLock::new(),
    })
}

/// `gpu_layers`.
#[derive(Debug, Clone, FromPyObject)]
pub enum GpuLayers {
    /// So many.
    Count(u32),
    /// `all` or `auto`.
    Name(String),
}

impl Model {
    pub(crate) fn model(&self) -> &runtime::Model {
        &self.worker.model
    }

    /// What a page says of itself; `command` asks the same on a command line.
    pub(crate) fn about(&self, command: &str, texts: &[&str]) -> About {
        let mut words = vec![command.to_owned()];
        if let Some(name) = &self.name {
            words.extend(["-m".to_owned(), name.clone()]);
        }
        words.extend(texts.iter().map(|text| (*text).to_owned()));
        About {
            models: vec![Subject::of(self.model())],
            model: self.name.clone(),
            command: modelve::commands::command_line::CommandLine::of(words).to_string(),
            date: chrono::Local::now().format("%Y-%m-%d %H:%M").to_string(),
        }
    }
}

/// A list of results where a list was asked for, else the only one.
pub(crate) fn one_or_all<'py, T>(
    py: Python<'py>,
    results: Vec<T>,
    listed: bool,
) -> PyResult<Bound<'py, PyAny>>
where
    T: pyo3::PyClass + Into<pyo3::PyClassInitializer<T>>,
{
    let mut objects = Vec::with_capacity(results.len());
    for result in results {
        objects.push(Py::new(py, result)?.into_bound(py).into_any());
    }
    match listed {
        true => Ok(PyList::new(py, objects)?.into_any()),
        false => Ok(objects.remove(0)),
    }
}

#[pymethods]
impl Model {
    /// What follows a prompt. A list of prompts gives a list; `stream=True` gives an iterator of
    /// pieces of text, `details=True` gives `Completion`s in place of texts. `chat=True` puts the
    /// prompt into the model's template, a list of messages takes its place.
    #[pyo3(signature = (prompt=None, *, max_tokens=128, temperature=None, top_k=None, top_p=None,
        min_p=None, seed=None, stop=None, chat=None, system=None, special=true, ignore_eos=false,
        json_schema=None, grammar=None, details=false, top=0, stream=false))]
    #[allow(clippy::too_many_arguments)]
    fn complete<'py>(
        &self,
        py: Python<'py>,
        prompt: Option<OneOrMore>,
        max_tokens: usize,
        temperature: Option<f32>,
        top_k: Option<u32>,
        top_p: Option<f32>,
        min_p: Option<f32>,
        seed: Option<u32>,
        stop: Option<OneOrMoreTexts>,
        chat: Option<Chat>,
        system: Option<String>,
        special: bool,
        ignore_eos: bool,
        json_schema: Option<Bound<'py, PyAny>>,
        grammar: Option<String>,
        details: bool,
        top: usize,
        stream: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let json_schema = json_schema
            .map(|schema| text_of_schema(py, &schema))
            .transpose()?;
        let choosing = Choosing {
            temperature,
            top_k,
            top_p,
            min_p,
            stop: stop.map(OneOrMoreTexts::all).unwrap_or_default(),
            ignore_eos,
            json_schema,
            grammar,
        };
        let prepared = || -> Result<(Prompts, bool)> {
            let options = choosing.options(max_tokens, details || top > 0, top)?;
            options
                .sampling
                .check(self.model().vocab())
                .map_err(modelve::commands::engine::explain)?;
            let (texts, tokens, listed) = self.prompts(prompt, chat, system, special)?;
            let seed = seed.unwrap_or_else(modelve::commands::complete::clock_seed);
            Ok((
                Prompts {
                    texts,
                    tokens,
                    seed,
                    options,
                },
                listed,
            ))
        };
        let (prompts, listed) = prepared().map_err(|error| raised(py, &error))?;
        if stream {
            if listed || details {
                let what = "stream=True takes one prompt, and gives its text";
                return Err(raised(py, &UsageError(what.to_owned()).into()));
            }
            let stream = Stream::begin(py, &self.worker, prompts)?;
            return Ok(Py::new(py, stream)?.into_bound(py).into_any());
        }
        if prompts.tokens.is_empty() {
            return Ok(PyList::empty(py).into_any());
        }
        let completed = self.worker.ask(py, move |bench| prompts.complete(bench))?;
        if !details && top == 0 {
            let mut texts = completed.into_iter().map(|completed| completed.text);
            return match listed {
                true => Ok(PyList::new(py, texts.collect::<Vec<_>>())?.into_any()),
                false => Ok(texts
                    .next()
                    .unwrap_or_default()
                    .into_pyobject(py)?
                    .into_any()),
            };
        }
        let shown = completed.iter();
        let shown = shown.map(|done| Shown::new(COMPLETION, About::default(), done));
        let shown = shown.map(|shown| Ok(Completion(shown?)));
        let shown: Result<Vec<Completion>> = shown.collect();
        one_or_all(py, shown.map_err(|error| raised(py, &error))?, listed)
    }

    /// What the model expects after a prompt: the `top` likeliest tokens, and the probability of
    /// `candidates`. A list of prompts gives a list. `then` are tokens to go on from, `tree=(depth,
    /// width)` adds the likeliest continuations.
    #[pyo3(signature = (prompt, *, top=10, candidates=vec![], then=vec![], tree=None, chat=false,
        system=None, special=true))]
    #[allow(clippy::too_many_arguments)]
    fn next<'py>(
        &self,
        py: Python<'py>,
        prompt: OneOrMore,
        top: usize,
        candidates: Vec<String>,
        then: Vec<Named>,
        tree: Option<(usize, usize)>,
        chat: bool,
        system: Option<String>,
        special: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (given, listed) = prompt.all();
        let reading = Reading::new(chat, system, special);
        let tree = tree.map(|(depth, width)| Shape { depth, width });
        let prepared = || -> Result<Vec<modelve::probe::Prompt>> {
            if let Some(shape) = tree {
                shape.check().map_err(told)?;
            }
            let then = then.iter().map(|token| token.token(self.model()));
            let then: Vec<Token> = then.collect::<Result<_>>()?;
            let prompts = given.iter().map(|given| {
                let mut prompt = reading.prompt(self.model(), given)?;
                prompt.text.push_str(&text_of(self.model().vocab(), &then));
                prompt.ids.extend(&then);
                Ok(prompt)
            });
            prompts.collect()
        };
        let prompts = prepared().map_err(|error| raised(py, &error))?;
        let found = self.worker.ask(py, move |bench| {
            let model = bench.model.clone();
            let mut results: Vec<next::Next> = Vec::with_capacity(prompts.len());
            for prompt in &prompts {
                let mut tried = 0;
                for (i, text) in candidates.iter().enumerate() {
                    let ids = candidate_ids(model.vocab(), prompt, text, i + 1).map_err(told)?;
                    // The last token of a candidate is not fed, only its probability is read.
                    tried = tried.max(ids.len() - 1);
                }
                let options = next::Options {
                    top,
                    candidates: &candidates,
                    tree,
                };
                let n = prompt.ids.len();
                let result = match tree.map(Shape::room) {
                    None => next::next(bench.next(n + tried)?, prompt, &options, &mut |_| {}),
                    Some((n_seq, nodes)) => {
                        let room = n + tried.max(nodes as usize);
                        let settings = Settings {
                            n_seq,
                            n_outputs: room.min(64) as u32 + n_seq,
                            ..bench.settings()
                        };
                        let mut session = bench.own(room, settings)?;
                        next::next(&mut session, prompt, &options, &mut |_| {})
                    }
                };
                let mut result = result.map_err(told)?;
                if let Some(first) = results.first() {
                    let n = top.max(1);
                    result.moved = moved(model.vocab(), &first.logits, &result.logits, n);
                }
                results.push(result);
            }
            next::beside(model.vocab(), &mut results);
            Ok(results)
        })?;
        let shown = found.iter().map(|next| {
            let shown = Shown::new(NEXT, self.about("next", &[&next.prompt]), next)?;
            Ok(Next(shown))
        });
        let shown: Result<Vec<Next>> = shown.collect();
        one_or_all(py, shown.map_err(|error| raised(py, &error))?, listed)
    }

    /// How likely the model finds a text, token by token. A list of texts gives a list. Control
    /// tokens written out in a text are plain characters unless `special`.
    #[pyo3(signature = (text, *, window=None, stride=None, special=false))]
    fn score<'py>(
        &self,
        py: Python<'py>,
        text: OneOrMore,
        window: Option<usize>,
        stride: Option<usize>,
        special: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (given, listed) = text.all();
        let reading = Reading::new(false, None, special);
        let prompts = given
            .iter()
            .map(|given| reading.prompt(self.model(), given));
        let prompts: Result<Vec<_>> = prompts.collect();
        let prompts = prompts.map_err(|error| raised(py, &error))?;
        let found = self.worker.ask(py, move |bench| {
            let windows = windows(&bench.args, &bench.model, window, stride, WINDOW)?;
            let mut results = Vec::with_capacity(prompts.len());
            for prompt in &prompts {
                let session = bench.score(windows.size.min(prompt.ids.len()))?;
                let result = score::score(session, prompt, windows, &mut |_| {}).map_err(told)?;
                whole(result.complete)?;
                results.push(result);
            }
            Ok(results)
        })?;
        let shown = found.iter().map(|score| {
            let shown = Shown::new(SCORE, self.about("score", &[&score.text]), score)?;
            Ok(Score(shown))
        });
        let shown: Result<Vec<Score>> = shown.collect();
        one_or_all(py, shown.map_err(|error| raised(py, &error))?, listed)
    }

    /// The token ids of a text, with the special tokens that the model needs around it. With
    /// `special`, control tokens written out in it are those tokens; without `bos` none is added.
    #[pyo3(signature = (text, *, special=true, bos=true))]
    fn tokenize(&self, py: Python<'_>, text: &str, special: bool, bos: bool) -> PyResult<Vec<i32>> {
        let mut reading = runtime::Reading::Prompt;
        if !bos {
            reading = reading.part();
        }
        if !special {
            reading = reading.plain();
        }
        let ids = self.model().vocab().tokenize(text, reading);
        let ids = ids.map_err(|error| raised(py, &modelve::commands::engine::explain(error)))?;
        Ok(ids.into_iter().map(|id| id.0).collect())
    }

    /// The text of token ids. Bytes that are no characters become U+FFFD; `as_bytes` keeps them.
    #[pyo3(signature = (ids, *, special=true, as_bytes=false))]
    fn detokenize<'py>(
        &self,
        py: Python<'py>,
        ids: Vec<i32>,
        special: bool,
        as_bytes: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let decoded = checked(self.model(), &ids).and_then(|ids| {
            let text = self.model().vocab().detokenize(&ids, special);
            text.map_err(modelve::commands::engine::explain)
        });
        let text = decoded.map_err(|error| raised(py, &error))?;
        Ok(match as_bytes {
            true => PyBytes::new(py, &text).into_any(),
            false => String::from_utf8_lossy(&text).into_pyobject(py)?.into_any(),
        })
    }

    /// What `modelve meta --json` tells of its file.
    #[getter]
    fn meta(&self, py: Python<'_>) -> PyResult<Py<PyDict>> {
        if let Some(meta) = self.meta.get() {
            return Ok(meta.clone_ref(py));
        }
        let meta = tools::meta(py, self.model().path())?;
        Ok(self.meta.get_or_init(|| meta).clone_ref(py))
    }

    /// Its vocabulary.
    #[getter]
    fn vocab(&self) -> Vocab {
        Vocab::of(self.model())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        match self.meta.get() {
            Some(meta) => visit.call(meta),
            None => Ok(()),
        }
    }

    fn __repr__(&self) -> String {
        let subject = Subject::of(self.model());
        format!("Model({}, {})", subject.name, subject.quantization)
    }
}

impl Model {
    /// The texts and tokens of what is to be completed, and whether it was given as a list.
    #[allow(clippy::type_complexity)]
    fn prompts(
        &self,
        prompt: Option<OneOrMore>,
        chat: Option<Chat>,
        system: Option<String>,
        special: bool,
    ) -> Result<(Vec<String>, Vec<Vec<Token>>, bool)> {
        let usage = |what: &str| Err(UsageError(what.to_owned()).into());
        let template = match (chat, &prompt) {
            (Some(Chat::Messages(_)), Some(_)) => {
                return usage("a prompt or a conversation, not both: chat=True takes a prompt");
            }
            (Some(Chat::Messages(messages)), None) => {
                let system = system.map(|system| ("system".to_owned(), system));
                let mut all: Vec<(String, String)> = system.into_iter().collect();
                for (i, mut message) in messages.into_iter().enumerate() {
                    let mut take = |key: &str| {
                        let value = message.remove(key);
                        value.with_context(|| format!("message {} of chat has no {key:?}", i + 1))
                    };
                    all.push((take("role")?, take("content")?));
                }
                let last = all.last().map(|(_, content)| content.clone());
                let tokens = conversation(self.model(), &all)?;
                return Ok((last.into_iter().collect(), vec![tokens], false));
            }
            (Some(Chat::Template(chat)), _) => chat,
            (None, _) => false,
        };
        let Some(prompt) = prompt else {
            return usage("no prompt: m.complete(\"Today is\")");
        };
        let (given, listed) = prompt.all();
        let reading = Reading::new(template, system, special);
        let mut texts = Vec::with_capacity(given.len());
        let mut tokens = Vec::with_capacity(given.len());
        for given in &given {
            let ids = reading.tokens(self.model(), given)?;
            texts.push(match given {
                Given::Text(text) => text.clone(),
                Given::Ids(_) => text_of(self.model().vocab(), &ids),
            });
            tokens.push(ids);
        }
        Ok((texts, tokens, listed))
    }
}

/// One text, or several.
#[derive(Debug, FromPyObject)]
pub enum OneOrMoreTexts {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

impl OneOrMoreTexts {
    fn all(self) -> Vec<String> {
        match self {
            OneOrMoreTexts::One(text) => vec![text],
            OneOrMoreTexts::More(texts) => texts,
        }
    }
}

/// A schema as text: a `str` as it is, anything else as `json.dumps` writes it.
fn text_of_schema(py: Python<'_>, schema: &Bound<'_, PyAny>) -> PyResult<String> {
    match schema.extract::<String>() {
        Ok(text) => Ok(text),
        Err(_) => (py.import("json")?)
            .call_method1("dumps", (schema,))?
            .extract(),
    }
}
