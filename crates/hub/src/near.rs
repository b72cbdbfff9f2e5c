//! Suggestions for a mistyped name.

use std::fs;
use std::path::Path;

/// Models and folders on this machine whose paths are similar to `text`, which may be a mistyped
/// path even where it has the form of a Hub id.
pub fn paths_like(text: &str) -> Vec<String> {
    near_paths(Path::new(text), &[])
}

/// Files beside a mistyped path, and those of the Hub ids in `known` with similar names.
pub(crate) fn near_paths(path: &Path, known: &[String]) -> Vec<String> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let beside: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let path = entry.path();
            let is_model = |extension| extension == "gguf" || extension == "safetensors";
            path.is_dir() || path.extension().is_some_and(is_model)
        })
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    let name = file_name(path);
    let mut found: Vec<String> = like(&name, &beside, |name| name)
        .into_iter()
        // The folder lists links whose target is missing, too, and `name` may be one.
        .filter(|near| *near != name)
        .map(|name| path.with_file_name(name).display().to_string())
        .collect();
    found.extend(like(&name, known, |repo| {
        repo.split_once('/').map_or(repo, |(_, name)| name)
    }));
    found
}

/// Up to three of the candidates that are most similar to `text`, the closest first, compared by
/// the part of each that `key` picks.
pub(crate) fn like(text: &str, candidates: &[String], key: impl Fn(&str) -> &str) -> Vec<String> {
    let text = text.to_lowercase();
    let mut scored: Vec<(f64, &String)> = candidates
        .iter()
        .map(|candidate| {
            let score = strsim::jaro_winkler(&text, &key(candidate).to_lowercase());
            (score, candidate)
        })
        .filter(|(score, _)| *score > 0.85)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(3).map(|(_, c)| c.clone()).collect()
}

/// The last part of a path, with replacement characters where it is not UTF-8; empty where there is
/// none.
pub(crate) fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}
