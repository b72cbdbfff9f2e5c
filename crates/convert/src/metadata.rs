//! The metadata of the GGUF: the keys of llama.cpp's converter, and the origin of the model.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value as Json;

use super::naming::{Components, components, size_label, title};
use super::{Imatrix, Provenance};
use crate::arch::Description;
use crate::checkpoint::tokenizer::{Algorithm, ChatTemplate, Tokenizer};
use crate::checkpoint::{Checkpoint, ModelCard};
use modelve_gguf::{Array, Value};
use modelve_quant::mix::Recipe;

/// The version of the quantized formats, `GGML_QNT_VERSION`.
const QUANTIZATION_VERSION: u32 = 2;

/// Keys and values in the order in which they are added; the first value of a key is kept.
#[derive(Default)]
struct Keys(Vec<(String, Value)>);

impl Keys {
    fn add(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        if !self.0.iter().any(|(k, _)| *k == key) {
            self.0.push((key, value));
        }
    }

    fn text(&mut self, key: impl Into<String>, text: Option<impl Into<String>>) {
        if let Some(text) = text {
            self.add(key, Value::String(text.into()));
        }
    }

    fn texts(&mut self, key: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.add(key, Value::Array(texts.iter().collect()));
        }
    }
}

/// The sources of the metadata.
pub(super) struct Inputs<'a> {
    pub(super) checkpoint: &'a Checkpoint,
    pub(super) description: &'a Description,
    pub(super) tokenizer: &'a Tokenizer,
    pub(super) recipe: &'a Recipe,
    pub(super) imatrix: Option<&'a Imatrix>,
    pub(super) provenance: &'a Provenance,
    /// Number of weights in all tensors.
    pub(super) weights: u64,
}

/// Returns all metadata of the file.
pub(super) fn metadata(inputs: &Inputs<'_>) -> Vec<(String, Value)> {
    let mut keys = Keys::default();
    keys.text(
        "general.architecture",
        Some(inputs.description.architecture),
    );
    keys.text("general.type", Some("model"));
    sampling(&mut keys, inputs.checkpoint.generation());
    general(&mut keys, inputs);
    for (key, value) in &inputs.description.metadata {
        keys.add(key.clone(), value.clone());
    }
    if inputs.description.states_space_prefix
        && let Some(stated) = inputs.tokenizer.space_prefix
    {
        keys.add("tokenizer.ggml.add_space_prefix", Value::Bool(stated));
    }
    tokenizer(&mut keys, inputs.tokenizer);
    keys.add(
        "general.quantization_version",
        Value::U32(QUANTIZATION_VERSION),
    );
    keys.add("general.file_type", Value::U32(inputs.recipe.file_type));
    if let Some(imatrix) = inputs.imatrix {
        // One that was measured on the way is in no file.
        let file = imatrix.path().file_name();
        keys.text(
            "quantize.imatrix.file",
            file.map(|file| file.to_string_lossy()),
        );
        keys.text("quantize.imatrix.dataset", imatrix.datasets().first());
        let counts = [
            ("entries", imatrix.entries().len() as u64),
            ("chunks", imatrix.chunks()),
        ];
        for (what, count) in counts {
            let count = u32::try_from(count).unwrap_or(u32::MAX);
            keys.add(format!("quantize.imatrix.{what}_count"), Value::U32(count));
        }
    }
    keys.text("modelve.version", Some(env!("CARGO_PKG_VERSION")));
    keys.text(
        "modelve.source.repository",
        inputs.provenance.repository.as_ref(),
    );
    keys.text("modelve.source.commit", inputs.provenance.commit.as_ref());
    let adapter = inputs.checkpoint.adapter();
    keys.text(
        "modelve.source.adapter",
        adapter.map(|adapter| adapter.name()),
    );
    keys.0
}

/// Adds the sampling parameters that `generation_config.json` recommends.
fn sampling(keys: &mut Keys, generation: &Json) {
    let float = |x: f64| Value::F32(x as f32);
    for (source, key) in [
        ("top_p", "top_p"),
        ("min_p", "min_p"),
        ("temperature", "temp"),
        ("penalty_repeat", "penalty_repeat"),
        ("repetition_penalty", "penalty_repeat"),
    ] {
        if let Some(value) = generation[source].as_f64() {
            keys.add(format!("general.sampling.{key}"), float(value));
        }
    }
    if let Some(k) = generation["top_k"]
        .as_i64()
        .and_then(|k| i32::try_from(k).ok())
    {
        keys.add("general.sampling.top_k", Value::I32(k));
    }
}

/// Adds `general.*`, from the model card, then the repository's name, `_name_or_path` of
/// `config.json`, and last the folder's name.
fn general(keys: &mut Keys, inputs: &Inputs<'_>) {
    let card = inputs.checkpoint.card();
    let config = inputs.checkpoint.config();
    let of_config = config["_name_or_path"]
        .as_str()
        .filter(|path| path.matches('/').count() <= 1);
    let folder = inputs.checkpoint.folder();
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let folder = folder.file_name().unwrap_or_default().to_string_lossy();
    let named: Vec<Components> = inputs
        .provenance
        .repository
        .as_deref()
        .into_iter()
        .chain(of_config)
        .chain([folder.as_ref()])
        .map(|id| components(id, inputs.weights))
        .collect();
    let first = |of_card: &[&str], of_name: fn(&Components) -> &Option<String>| {
        let mut stated = of_card.iter().filter_map(|key| card.get(key));
        let stated = stated.next().map(str::to_owned);
        stated.or_else(|| named.iter().find_map(|name| of_name(name).clone()))
    };
    let none: fn(&Components) -> &Option<String> = |_| &None;

    let name = first(&["name", "model_name"], |c| &c.name);
    keys.text(
        "general.name",
        name.map(|name| recognizable(name, inputs.tokenizer)),
    );
    let author = first(&["author", "model_author", "model_creator"], none);
    keys.text("general.author", author);
    let version = first(&["version", "model_version"], |c| &c.version);
    keys.text("general.version", version);
    let organization = first(&["organization", "model_organization"], |c| &c.organization);
    keys.text("general.organization", organization.as_deref().map(title));
    let finetune = first(&["finetune", "model_finetune"], |c| &c.finetune);
    keys.text("general.finetune", finetune);
    let basename = first(&["basename", "model_basename", "model_type"], |c| {
        &c.basename
    });
    keys.text("general.basename", basename);
    let description = first(&["description", "model_description"], none);
    keys.text("general.description", description);
    let size = first(&["size_label", "model_size_label"], |c| &c.size_label);
    let size = size.unwrap_or_else(|| size_label(inputs.weights));
    keys.text("general.size_label", Some(size));
    licence_and_origin(keys, card, inputs);
}

fn licence_and_origin(keys: &mut Keys, card: &ModelCard, inputs: &Inputs<'_>) {
    let licences = card.list("license");
    keys.text(
        "general.license",
        (!licences.is_empty()).then(|| licences.join(",")),
    );
    keys.text("general.license.name", card.get("license_name"));
    keys.text("general.license.link", card.get("license_link"));
    let repository = inputs.provenance.repository.as_ref();
    keys.text(
        "general.source.url",
        card.get("url").or(card.get("model_url")),
    );
    let url = repository.map(|repository| format!("https://huggingface.co/{repository}"));
    let stated = card.get("repo_url").or(card.get("model_repo_url"));
    keys.text("general.source.repo_url", stated.map(str::to_owned).or(url));

    for (kind, sources) in [
        (
            "base_model",
            ["base_model", "base_models", "base_model_sources"],
        ),
        ("dataset", ["datasets", "dataset", "dataset_sources"]),
    ] {
        let list = sources.iter().map(|key| card.list(key));
        if let Some(list) = list.into_iter().find(|list| !list.is_empty()) {
            references(keys, kind, list, inputs.weights);
        }
    }
    let tags = [card.list("tags"), card.list("pipeline_tag")].concat();
    keys.texts("general.tags", &tags);
    let languages = [card.list("languages"), card.list("language")].concat();
    keys.texts("general.languages", &languages);
}

/// Adds the models or data sets that a card names, as Hub ids or addresses.
fn references(keys: &mut Keys, kind: &str, ids: &[String], weights: u64) {
    const HUB: &str = "https://huggingface.co/";
    keys.add(
        format!("general.{kind}.count"),
        Value::U32(u32::try_from(ids.len()).unwrap_or(u32::MAX)),
    );
    for (i, id) in ids.iter().enumerate() {
        let is_url = ["http://", "https://", "ssh://"]
            .iter()
            .any(|p| id.starts_with(p));
        let on_hub = match is_url {
            true => id
                .strip_prefix(HUB)
                .filter(|id| id.matches('/').count() == 1),
            false => Some(id.as_str()),
        };
        let parts = on_hub.map(|id| components(id, weights)).unwrap_or_default();
        let url = match (is_url, &parts.organization) {
            (true, _) => Some(id.clone()),
            (false, Some(_)) => Some(format!("{HUB}{id}")),
            (false, None) => None,
        };
        let key = |field: &str| format!("general.{kind}.{i}.{field}");
        keys.text(key("name"), parts.name.as_deref().map(title));
        keys.text(key("version"), parts.version);
        keys.text(
            key("organization"),
            parts.organization.as_deref().map(title),
        );
        keys.text(key("repo_url"), url);
    }
}

/// Returns a name by which llama.cpp recognizes the tokenizer.
///
/// llama.cpp strips white space after special tokens, as Phi-3's reference tokenizer does, only if
/// the name contains `phi-3` or `phi3`; and it then cannot load a vocabulary without the four
/// tokens that it excepts (llama-vocab.cpp). Its own converter writes the name as a title, `Phi 3
/// Mini`, and so loses the stripping. Here the name stays as in the repository; a fine-tune with
/// another name gets an addition that llama.cpp recognizes, and only a name with which the
/// vocabulary could not be loaded becomes a title.
fn recognizable(name: String, tokenizer: &Tokenizer) -> String {
    static KNOWN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new("(?i)phi-?3").expect("a constant that the tests compile"));
    let exceptions: [&[u8]; 4] = [b"</s>", b"<unk>", b"<s>", b"<|endoftext|>"];
    let loadable = exceptions
        .iter()
        .all(|text| tokenizer.tokens.iter().any(|token| token.text == *text));
    let known = KNOWN.is_match(&name);
    match (known, loadable) {
        (true, false) => KNOWN.replace_all(&name, "Phi 3").into_owned(),
        (false, true) if tokenizer.special.strips_after && tokenizer.model() == "llama" => {
            format!("{name} (Phi-3)")
        }
        _ => name,
    }
}

fn tokenizer(keys: &mut Keys, tokenizer: &Tokenizer) {
    let tokens = &tokenizer.tokens;
    keys.text("tokenizer.ggml.model", Some(tokenizer.model()));
    let pre = match &tokenizer.algorithm {
        Algorithm::SentencePiece { .. } => "default",
        Algorithm::Bpe { pre, .. } => pre,
    };
    keys.text("tokenizer.ggml.pre", Some(pre));
    let texts = tokens.iter().map(|token| token.text.clone()).collect();
    keys.add("tokenizer.ggml.tokens", Value::Array(Array::String(texts)));
    if let Algorithm::SentencePiece { .. } = tokenizer.algorithm {
        let scores = tokens.iter().map(|token| token.score).collect();
        keys.add("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    }
    let types = tokens.iter().map(|token| token.kind as i32).collect();
    keys.add("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    match &tokenizer.algorithm {
        Algorithm::Bpe { merges, .. } => {
            keys.add(
                "tokenizer.ggml.merges",
                Value::Array(merges.iter().collect()),
            );
        }
        // llama.cpp's default is true, and its converter leaves the key out.
        Algorithm::SentencePiece {
            add_space_prefix: false,
        } => {
            keys.add("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        }
        Algorithm::SentencePiece { .. } => {}
    }
    for (kind, id) in &tokenizer.special.ids {
        let kind = match *kind {
            "unk" => "unknown",
            // The format's spelling.
            "sep" => "seperator",
            "pad" => "padding",
            other => other,
        };
        keys.add(format!("tokenizer.ggml.{kind}_token_id"), Value::U32(*id));
    }
    for (kind, add) in &tokenizer.special.add {
        keys.add(
            format!("tokenizer.ggml.add_{kind}_token"),
            Value::Bool(*add),
        );
    }
    match &tokenizer.special.chat_template {
        Some(ChatTemplate::One(text)) => keys.text("tokenizer.chat_template", Some(text)),
        Some(ChatTemplate::Named(list)) => chat_templates(keys, list),
        None => {}
    }
    let stop = &tokenizer.special.stop;
    if !stop.is_empty() {
        keys.add(
            "modelve.stop_token_ids",
            Value::Array(Array::U32(stop.clone())),
        );
    }
}

fn chat_templates(keys: &mut Keys, list: &[(String, String)]) {
    let mut names = Vec::new();
    for (name, template) in list {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        if name == "default" {
            keys.text("tokenizer.chat_template", Some(template));
        } else {
            keys.text(format!("tokenizer.chat_template.{name}"), Some(template));
            names.push(name);
        }
    }
    keys.texts("tokenizer.chat_templates", &names);
}
