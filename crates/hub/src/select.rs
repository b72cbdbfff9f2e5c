//! Which files of a repository are wanted. Pure: names in, names out.
//!
//! Names come from the Hub and from a shard index inside the repository: both are input, and
//! none of them may leave the snapshot's folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{DEFAULT_QUANT, Error};

/// A file or an index that names it cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// A path that would be written elsewhere.
    #[error("`{name}` is no plain file name below the model's folder")]
    UnsafeName {
        /// The name as it was stated.
        name: String,
    },
    /// `model.safetensors.index.json` is not what it should be.
    #[error("model.safetensors.index.json: {why}")]
    BadIndex {
        /// What is wrong with it.
        why: String,
    },
}

/// Small files of a checkpoint besides its weights: all that converting, tokenizing and stating
/// the licence can use.
const DESCRIPTION: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    INDEX,
];

/// Licence texts, fetched only while small.
const PROSE: &[&str] = &["README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"];
const PROSE_LIMIT: u64 = 1 << 20;

/// The index of a sharded checkpoint.
pub const INDEX: &str = "model.safetensors.index.json";
/// The weights of an unsharded one.
pub const SINGLE: &str = "model.safetensors";

/// Whether a file belongs to what is fetched before the weights.
pub fn is_description(name: &str, size: u64) -> bool {
    DESCRIPTION.contains(&name) || (PROSE.contains(&name) && size <= PROSE_LIMIT)
}

/// Refuses a name with `..`, a root, a drive, a backslash or an empty part.
pub fn safe_name(name: &str) -> Result<&str, SelectError> {
    let fine = !name.is_empty()
        && name.len() <= 1024
        && !name.contains(['\\', ':'])
        && !name.chars().any(char::is_control)
        && name
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if fine {
        Ok(name)
    } else {
        Err(SelectError::UnsafeName {
            name: name.to_owned(),
        })
    }
}

/// The shards that an index names, each once, in order.
pub fn shards_of_index(json: &[u8]) -> Result<Vec<String>, SelectError> {
    let bad = |why: String| SelectError::BadIndex { why };
    let index: serde_json::Value =
        serde_json::from_slice(json).map_err(|e| bad(format!("no JSON: {e}")))?;
    let map = index
        .get("weight_map")
        .and_then(|map| map.as_object())
        .ok_or_else(|| bad("it has no object `weight_map`".into()))?;
    let mut shards = BTreeSet::new();
    for (tensor, shard) in map {
        let shard = shard
            .as_str()
            .ok_or_else(|| bad(format!("the file of `{tensor}` is no text")))?;
        shards.insert(safe_name(shard)?.to_owned());
    }
    if shards.is_empty() {
        return Err(bad("`weight_map` is empty".into()));
    }
    Ok(shards.into_iter().collect())
}

/// A model in GGUF: one file, or all parts of a split one in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufModel {
    /// Its name without folder, part number and extension.
    pub stem: String,
    /// The quantization in its name, in capitals, where it ends in one that is known.
    pub quant: Option<String>,
    /// Its files.
    pub files: Vec<String>,
    /// Whether a split model has all its parts.
    pub complete: bool,
}

impl GgufModel {
    /// What tells it from its neighbours: the quantization, else the whole name.
    pub fn label(&self) -> &str {
        self.quant.as_deref().unwrap_or(&self.stem)
    }
}

/// Groups the GGUF files of a listing into models, leaving out what is none (projectors of
/// multimodal models, importance matrices).
pub fn gguf_models<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<GgufModel> {
    let mut models: Vec<(String, u32, GgufModel)> = Vec::new();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_unstable();
    for name in names {
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let Some(stem) = strip_suffix_ignore_case(file, ".gguf") else {
            continue;
        };
        let lower = stem.to_ascii_lowercase();
        if safe_name(name).is_err() || lower.contains("mmproj") || lower.contains("imatrix") {
            continue;
        }
        let (stem, of) = match split_part(stem) {
            Some((stem, _, of)) => (stem, of),
            None => (stem, 1),
        };
        let key = format!("{folder}/{stem}");
        match models.iter_mut().find(|(k, n, _)| *k == key && *n == of) {
            Some((_, _, model)) => model.files.push(name.to_owned()),
            None => models.push((
                key,
                of,
                GgufModel {
                    stem: stem.to_owned(),
                    quant: quant_of(stem),
                    files: vec![name.to_owned()],
                    complete: false,
                },
            )),
        }
    }
    models
        .into_iter()
        .map(|(_, of, mut model)| {
            model.complete = model.files.len() == of as usize;
            model
        })
        .collect()
}

/// The GGUF models in a folder and the folders in it, as far as their links lead somewhere.
pub fn gguf_models_in(folder: &Path) -> Vec<GgufModel> {
    fn collect(folder: &Path, prefix: &str, depth: u32, names: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, Ok(name)) = (entry.path(), entry.file_name().into_string()) else {
                continue;
            };
            if path.is_file() {
                names.push(format!("{prefix}{name}"));
            } else if path.is_dir() && depth > 0 {
                collect(&path, &format!("{prefix}{name}/"), depth - 1, names);
            }
        }
    }
    let mut names = Vec::new();
    collect(folder, "", 2, &mut names);
    gguf_models(names.iter().map(String::as_str))
}

/// The same, each complete one by its label and first file.
pub fn gguf_files_in(folder: &Path) -> Vec<(String, PathBuf)> {
    let first =
        |model: &GgufModel| Some((model.label().to_owned(), folder.join(model.files.first()?)));
    let models = gguf_models_in(folder);
    models
        .iter()
        .filter(|m| m.complete)
        .filter_map(first)
        .collect()
}

/// The one model that is meant: the one with that quantization; without any the only one, or
/// the one in [`DEFAULT_QUANT`].
pub fn choose_gguf<'a>(
    repo: &str,
    models: &'a [GgufModel],
    quant: Option<&str>,
) -> Result<&'a GgufModel, Error> {
    let fitting = match quant {
        Some(quant) => with_quant(models, quant),
        None => models.iter().collect(),
    };
    let default = with_quant(models, DEFAULT_QUANT);
    match (fitting.as_slice(), default.as_slice()) {
        ([one], _) => Ok(one),
        (_, [one]) if quant.is_none() => Ok(one),
        ([], _) => Err(Error::NothingThere {
            repo: repo.to_owned(),
            wanted: match quant {
                Some(quant) => format!("GGUF file in {quant}"),
                None => "GGUF file".to_owned(),
            },
            found: models.iter().map(|m| m.label().to_owned()).collect(),
        }),
        (several, _) => Err(Error::WhichGguf {
            repo: repo.to_owned(),
            names: several.iter().map(|model| model.files[0].clone()).collect(),
            example: several.iter().find_map(|model| model.quant.clone()),
        }),
    }
}

/// The models of a listing that a quantization names.
pub fn with_quant<'a>(models: &'a [GgufModel], quant: &str) -> Vec<&'a GgufModel> {
    let quant = quant.to_ascii_lowercase();
    models
        .iter()
        .filter(|model| {
            let stem = model.stem.to_ascii_lowercase();
            stem.strip_suffix(&quant)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
        })
        .collect()
}

/// `name-00001-of-00003` → (`name`, 1, 3).
pub fn split_part(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let number = |s: &str| {
        (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok())?
    };
    let (part, of) = (number(part)?, number(of)?);
    (1..=of).contains(&part).then_some((name, part, of))
}

/// The quantization at the end of a file's stem: `Phi-3-mini.Q4_K_M` → `Q4_K_M`.
pub fn quant_of(stem: &str) -> Option<String> {
    // Longest first: `x-IQ4_XS` must not be found as what follows its underscore.
    let starts = stem
        .char_indices()
        .filter(|&(i, _)| i == 0 || stem[..i].ends_with(['-', '.', '_']))
        .map(|(i, _)| i);
    for start in starts {
        let tail = stem[start..].to_ascii_uppercase();
        if looks_like_quant(&tail) {
            return Some(tail);
        }
    }
    None
}

fn looks_like_quant(text: &str) -> bool {
    if matches!(
        text,
        "F32" | "F16" | "BF16" | "FP16" | "FP32" | "MXFP4" | "MXFP4_MOE"
    ) {
        return true;
    }
    let Some(rest) = ["IQ", "TQ", "Q"].iter().find_map(|p| text.strip_prefix(p)) else {
        return false;
    };
    let mut parts = rest.split('_');
    let bits = parts.next().unwrap_or_default();
    matches!(bits, "1" | "2" | "3" | "4" | "5" | "6" | "8")
        && parts.all(|part| {
            matches!(
                part,
                "0" | "1" | "K" | "S" | "M" | "L" | "XS" | "XXS" | "NL" | "XL"
            )
        })
}

fn strip_suffix_ignore_case<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(suffix.len())?;
    let (head, tail) = (text.get(..at)?, text.get(at..)?);
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_names_each_shard_once() {
        let json = br#"{"metadata":{}, "weight_map": {"a": "x-2.safetensors", "b": "x-1.safetensors", "c": "x-2.safetensors"}}"#;
        assert_eq!(
            shards_of_index(json).unwrap(),
            ["x-1.safetensors", "x-2.safetensors"]
        );
    }

    #[test]
    fn rejects_shards_outside_the_folder() {
        for name in [
            "../x.safetensors",
            "/etc/passwd",
            "a/../../x",
            "a\\\\b",
            "C:x",
            "",
            "a//b",
            "./x",
            "a\\u0000b",
        ] {
            let json = format!(r#"{{"weight_map": {{"t": "{name}"}}}}"#);
            let error = shards_of_index(json.as_bytes()).unwrap_err();
            assert!(
                matches!(error, SelectError::UnsafeName { .. }),
                "{name}: {error}"
            );
        }
    }

    #[test]
    fn rejects_an_index_that_is_none() {
        for json in [
            "",
            "[]",
            "{}",
            r#"{"weight_map": []}"#,
            r#"{"weight_map": {}}"#,
            r#"{"weight_map": {"t": 1}}"#,
        ] {
            let error = shards_of_index(json.as_bytes()).unwrap_err();
            assert!(
                matches!(error, SelectError::BadIndex { .. }),
                "{json}: {error}"
            );
        }
    }

    #[test]
    fn finds_quantizations_in_the_names_people_use() {
        for (stem, quant) in [
            ("Phi-3-mini-4k-instruct-q4", Some("Q4")),
            ("Phi-3-mini-128k-instruct.Q4_K_M", Some("Q4_K_M")),
            ("Phi-3-mini-128k-instruct-IQ4_XS", Some("IQ4_XS")),
            ("model_q8_0", Some("Q8_0")),
            ("Phi-3-mini-4k-instruct-fp16", Some("FP16")),
            ("x-UD-Q4_K_XL", Some("Q4_K_XL")),
            ("Phi-3-mini-128k-instruct", None),
            ("Q4_K_M", Some("Q4_K_M")),
            ("Qwen2", None),
        ] {
            assert_eq!(quant_of(stem).as_deref(), quant, "{stem}");
        }
    }

    #[test]
    fn groups_split_files_and_tells_incomplete_ones() {
        let models = gguf_models([
            "b/x-Q4_0-00002-of-00002.gguf",
            "b/x-Q4_0-00001-of-00002.gguf",
            "x-Q4_K_M.gguf",
            "x-Q8_0-00001-of-00002.gguf",
            "mmproj-x-f16.gguf",
            "x.imatrix.gguf",
            "README.md",
            "x-Q4_K_S.GGUF",
        ]);
        let seen: Vec<_> = models
            .iter()
            .map(|m| (m.quant.as_deref().unwrap(), m.files.len(), m.complete))
            .collect();
        assert_eq!(
            seen,
            [
                ("Q4_0", 2, true),
                ("Q4_K_M", 1, true),
                ("Q4_K_S", 1, true),
                ("Q8_0", 1, false)
            ]
        );
        assert_eq!(models[0].files[0], "b/x-Q4_0-00001-of-00002.gguf");
        assert_eq!(with_quant(&models, "q4_k_m").len(), 1);
        assert_eq!(with_quant(&models, "Q4_K").len(), 0);
    }
}
