//! Choice of the files of a checkpoint, and the check of their names. The functions are pure.
//!
//! Names come from the Hub and from a shard index in the repository. Neither is trusted, and none
//! may lead out of the snapshot's folder.

use std::collections::BTreeSet;

/// The name of a file or the shard index cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// The path leads out of the model's folder.
    #[error("`{name}` is not a plain file name below the model's folder")]
    UnsafeName {
        /// The name as it was stated.
        name: String,
    },
    /// `model.safetensors.index.json` is malformed.
    #[error("model.safetensors.index.json: {why}")]
    BadIndex {
        /// What is wrong with it.
        why: String,
    },
}

/// Small files of a checkpoint besides its weights: all that conversion, tokenization and the
/// statement of the licence can use.
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

/// Licence texts, which are fetched up to [`PROSE_LIMIT`] bytes.
const PROSE: &[&str] = &["README.md", "LICENSE", "LICENSE.md", "LICENSE.txt"];
const PROSE_LIMIT: u64 = 1 << 20;

/// The index of a sharded checkpoint.
pub const INDEX: &str = "model.safetensors.index.json";
/// Limit in bytes of an index, which is read whole. That of the largest models has a few MiB.
pub const LARGEST_INDEX: u64 = 256 << 20;
/// The weights of an unsharded one.
pub const SINGLE: &str = "model.safetensors";

/// Returns whether a file belongs to the description of a checkpoint, which is fetched before the
/// weights.
pub fn is_description(name: &str, size: u64) -> bool {
    DESCRIPTION.contains(&name) || (PROSE.contains(&name) && size <= PROSE_LIMIT)
}

/// Checks that a file's name stays below its folder: it has no `..`, root, drive, backslash or
/// empty part.
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
}
