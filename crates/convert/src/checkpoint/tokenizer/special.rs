//! Special tokens, tokens added around a text, stop tokens, and the chat template.
//!
//! The rules are those of gguf-py's `SpecialVocab`, with two additions: what it does not find is
//! looked up in the vocabulary, and all stop tokens of the checkpoint are kept.

use std::path::Path;

use serde_json::Value;

use super::bpe::steps;
use super::{Files, MOST_BYTES, Token, read_optional};
use crate::checkpoint::{Checkpoint, Error, Problem};
use modelve_base::infile;

/// Special tokens and flags, in the order in which llama.cpp's converter writes them.
#[derive(Clone, Debug, Default)]
pub struct Special {
    /// Kind (`bos`, `eos`, `unk`, `sep`, `pad`, `cls`, `mask`, `eot`, `eom`) and id.
    pub ids: Vec<(&'static str, u32)>,
    /// Kind (`bos`, `eos`, `sep`) and whether it is added around every text.
    pub add: Vec<(&'static str, bool)>,
    /// Ids at which generation stops, ascending, as listed in `generation_config.json` and
    /// `config.json`. It is empty where neither lists any: then the list may be incomplete, and
    /// llama.cpp's own rules are needed as well.
    pub stop: Vec<u32>,
    /// Whether white space after an added token is part of it, as in Phi-3.
    pub strips_after: bool,
    /// The template that turns a conversation into a prompt.
    pub chat_template: Option<ChatTemplate>,
}

/// One Jinja template, or several by name, of which `default` is used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ChatTemplate {
    One(String),
    Named(Vec<(String, String)>),
}

const KINDS: [&str; 7] = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];

impl Special {
    /// Returns the token id of a kind.
    pub fn id(&self, kind: &str) -> Option<u32> {
        let (_, id) = self.ids.iter().find(|(k, _)| *k == kind)?;
        Some(*id)
    }

    pub(super) fn read(
        checkpoint: &Checkpoint,
        files: &Files<'_>,
        tokens: &[Token],
        notes: &mut Vec<String>,
    ) -> Result<Self, Error> {
        let mut special = Self {
            add: added_around(files),
            strips_after: strips_after(files),
            chat_template: chat_template(files, notes)?,
            ..Self::default()
        };
        let content = |kind: &str| {
            let entry = files.config.get(&format!("{kind}_token"))?;
            entry.as_str().or_else(|| entry["content"].as_str())
        };
        for kind in KINDS {
            let text = content(kind);
            let of_json = text.and_then(|text| {
                let added = files.json.as_ref()?.get("added_tokens")?.as_array()?;
                added.iter().find(|token| token["content"] == text)?["id"].as_u64()
            });
            let of_config = of_text(checkpoint.config(), &format!("{kind}_token_id")).as_u64();
            let of_vocabulary = || {
                let text = text?.as_bytes();
                let at = tokens.iter().position(|token| token.text == text)?;
                Some(at as u64)
            };
            let Some(id) = of_json.or(of_config).or_else(of_vocabulary) else {
                continue;
            };
            match u32::try_from(id)
                .ok()
                .filter(|&id| (id as usize) < tokens.len())
            {
                Some(id) => special.ids.push((kind, id)),
                None => notes.push(format!(
                    "the {kind} token {id} left out: the vocabulary has {} tokens",
                    tokens.len()
                )),
            }
        }
        special.read_stop(checkpoint, tokens, notes);
        Ok(special)
    }

    /// Collects the stop tokens. llama.cpp has three keys for them: `eos` is set already; `eot`
    /// gets the one that ends a turn, `eom` another. It recognizes further ones only by their text.
    fn read_stop(&mut self, checkpoint: &Checkpoint, tokens: &[Token], notes: &mut Vec<String>) {
        let of_generation = &checkpoint.generation()["eos_token_id"];
        let of_config = of_text(checkpoint.config(), "eos_token_id");
        // A single token in `config.json` is the tokenizer's `eos` and does not exclude others.
        let is_complete = !of_generation.is_null() || of_config.is_array();
        let stated = [of_generation, of_config].into_iter();
        let list = stated.flat_map(|stated| match stated {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        });
        let in_vocabulary = |id: &u32| (*id as usize) < tokens.len();
        let ids = list.filter_map(|id| u32::try_from(id.as_u64()?).ok());
        let mut stop: Vec<u32> = ids.filter(in_vocabulary).chain(self.id("eos")).collect();
        stop.sort_unstable();
        stop.dedup();
        if is_complete {
            self.stop.clone_from(&stop);
        }

        const ENDS_A_TURN: [&[u8]; 3] = [b"<|end|>", b"<|im_end|>", b"<|eot_id|>"];
        let mut others = stop;
        others.retain(|&id| Some(id) != self.id("eos"));
        others.sort_by_key(|&id| !ENDS_A_TURN.contains(&tokens[id as usize].text.as_slice()));
        for (kind, id) in ["eot", "eom"].into_iter().zip(&others) {
            self.ids.push((kind, *id));
        }
        for id in others.iter().skip(2) {
            let text = String::from_utf8_lossy(&tokens[*id as usize].text);
            notes.push(format!(
                "a GGUF has no key for a fourth stop token: {id} `{text}`"
            ));
        }
    }
}

/// Reads a value of `config.json` or, if missing, of the text part of a multimodal model.
fn of_text<'a>(config: &'a Value, key: &str) -> &'a Value {
    match &config[key] {
        Value::Null => &config["text_config"][key],
        stated => stated,
    }
}

/// Returns whether a special added token has `rstrip`.
fn strips_after(files: &Files<'_>) -> bool {
    let decoder = files
        .config
        .get("added_tokens_decoder")
        .and_then(Value::as_object);
    let of_config = decoder.into_iter().flatten().map(|(_, token)| token);
    let list = files
        .json
        .as_ref()
        .and_then(|json| json.get("added_tokens")?.as_array());
    let mut tokens = of_config.chain(list.into_iter().flatten());
    tokens.any(|token| token["rstrip"] == true && token["special"] == true)
}

/// Returns whether `bos`, `eos` and `sep` are added around a text, by the post-processor of
/// `tokenizer.json`, else by `add_…_token` of `tokenizer_config.json`.
fn added_around(files: &Files<'_>) -> Vec<(&'static str, bool)> {
    let mut add: Vec<(&'static str, bool)> = Vec::new();
    let mut set = |kind: &'static str, value: bool, over: bool| match add
        .iter_mut()
        .find(|(k, _)| *k == kind)
    {
        Some(slot) if over => slot.1 = value,
        Some(_) => {}
        None => add.push((kind, value)),
    };
    let token = |kind: &str| {
        let entry = files.config.get(kind)?;
        entry.as_str().or_else(|| entry["content"].as_str())
    };
    let post_processor = files
        .json
        .as_ref()
        .and_then(|json| json.get("post_processor"));
    for step in steps(post_processor) {
        match step["type"].as_str() {
            Some("ByteLevel") => {
                set("bos", false, false);
                set("eos", false, false);
            }
            Some("RobertaProcessing") => {
                for kind in ["bos", "eos", "sep"] {
                    set(kind, true, true);
                }
            }
            Some("TemplateProcessing") => {
                let single = step["single"].as_array().map(Vec::as_slice);
                let Some([first, .., last]) = single else {
                    continue;
                };
                let name = special_name;
                if let Some(first) = name(first) {
                    let known = [token("bos_token"), token("cls_token")];
                    let absent = known.iter().all(Option::is_none);
                    set("bos", absent || known.contains(&Some(first)), true);
                }
                if let Some(last) = name(last) {
                    let eos = token("eos_token");
                    set("eos", eos.is_none() || eos == Some(last), true);
                }
                if let Some(between) = separator(step, name(first), name(last)) {
                    let known = [token("sep_token"), token("eos_token")];
                    set(
                        "sep",
                        name(last).is_none() && known.contains(&Some(between)),
                        true,
                    );
                }
            }
            _ => {}
        }
    }
    for kind in KINDS {
        let stated = files.config.get(&format!("add_{kind}_token"));
        if let Some(value) = stated.and_then(Value::as_bool)
            && matches!(kind, "bos" | "eos" | "sep")
        {
            set(kind, value, false);
        }
    }
    add
}

/// Returns the special token at one place of a post-processor's template.
fn special_name(item: &Value) -> Option<&str> {
    item["SpecialToken"]["id"].as_str()
}

/// Returns the separator in a template for a pair of texts; empty if it is not a special token,
/// `None` if there is none.
fn separator<'a>(step: &'a Value, first: Option<&str>, last: Option<&str>) -> Option<&'a str> {
    let mut pair = step["pair"].as_array()?.as_slice();
    if first.is_some() && special_name(pair.first()?) == first {
        pair = &pair[1..];
    }
    if last.is_some() && special_name(pair.last()?) == last {
        pair = &pair[..pair.len() - 1];
    }
    match pair {
        [_, between, .., _] => Some(special_name(between).unwrap_or_default()),
        _ => None,
    }
}

/// Reads the template of `tokenizer_config.json`, else `chat_template.jinja`, else
/// `chat_template.json`, as gguf-py does; and those of the folder `additional_chat_templates`, by
/// their file names.
fn chat_template(
    files: &Files<'_>,
    notes: &mut Vec<String>,
) -> Result<Option<ChatTemplate>, Error> {
    let stated = files.config.get("chat_template").and_then(template_of);
    let jinja = read_text(&files.folder.join("chat_template.jinja"))?;
    let main = match (stated, jinja) {
        (Some(stated), jinja) => {
            if jinja.is_some_and(|text| stated != ChatTemplate::One(text)) {
                notes.push(
                    "tokenizer_config.json and chat_template.jinja hold different chat templates: \
                     the first is used, as by llama.cpp's converter; transformers uses the second"
                        .to_owned(),
                );
            }
            Some(stated)
        }
        (None, Some(text)) => Some(ChatTemplate::One(text)),
        (None, None) => {
            let json = read_optional(&files.folder.join("chat_template.json"))?;
            json.and_then(|json| template_of(json.get("chat_template")?))
        }
    };
    let more = additional_templates(&files.folder.join("additional_chat_templates"))?;
    if more.is_empty() {
        return Ok(main);
    }
    let mut named = match main {
        Some(ChatTemplate::One(text)) => vec![("default".to_owned(), text)],
        Some(ChatTemplate::Named(list)) => list,
        None => Vec::new(),
    };
    for (name, text) in more {
        if !named.iter().any(|(known, _)| *known == name) {
            named.push((name, text));
        }
    }
    Ok(Some(ChatTemplate::Named(named)))
}

/// Reads every `NAME.jinja` of a folder, in order of the names; empty if there is no folder.
fn additional_templates(folder: &Path) -> Result<Vec<(String, String)>, Error> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let error = |e: std::io::Error| Error::new(folder, e);
    let mut templates = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(error)? {
        let path = entry.map_err(error)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "jinja")
            && let Some(name) = path.file_stem().and_then(|name| name.to_str())
            && let Some(text) = read_text(&path)?
        {
            templates.push((name.to_owned(), text));
        }
    }
    templates.sort();
    Ok(templates)
}

/// Reads a text file; `None` if there is none.
fn read_text(path: &Path) -> Result<Option<String>, Error> {
    let bytes = infile::optional(path, MOST_BYTES).map_err(|e| Error::new(path, e))?;
    let text = |bytes| {
        String::from_utf8(bytes)
            .map_err(|_| Error::new(path, Problem::Tokenizer("is not UTF-8 text".into())))
    };
    bytes.map(text).transpose()
}

fn template_of(value: &Value) -> Option<ChatTemplate> {
    match value {
        Value::String(text) => Some(ChatTemplate::One(text.clone())),
        Value::Array(list) => {
            let text = |item: &Value, key: &str| item[key].as_str().map(str::to_owned);
            let named = list
                .iter()
                .filter_map(|item| Some((text(item, "name")?, text(item, "template")?)))
                .collect();
            Some(ChatTemplate::Named(named))
        }
        _ => None,
    }
}
