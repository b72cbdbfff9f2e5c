//! GGUF models in a listing or a folder, and the choice among them by a label.
//!
//! Publishers write the quantization into the file's name, each in their own way: `Phi-3-mini-q4`,
//! `Phi-3-mini.i1-Q4_K_M`, `Phi-3-mini-UD-Q4_K_XL`, `BF16/Phi-3-mini-BF16-00001-of-00002`. A label
//! is what a person writes after the colon of a Hub id. One rule, [`choose`], decides which model a
//! label means, whether the model is to be fetched, looked up on this machine or suggested.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::id::DEFAULT_QUANT;
use crate::select::safe_name;

/// Depth to which folders are searched for models below a snapshot or a folder of the store.
const DEPTH: u32 = 2;

/// Maximum number of models that a message names.
const MOST_NAMED: usize = 12;

/// A model in GGUF: one file, or all parts of a split one in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufModel {
    /// Its path without part number and extension: `BF16/Phi-3-mini-BF16`.
    pub name: String,
    /// Its files.
    pub files: Vec<String>,
    /// Whether a split model has all its parts.
    pub complete: bool,
}

impl GgufModel {
    /// Its name without the folder.
    pub fn stem(&self) -> &str {
        self.name.rsplit('/').next().unwrap_or(&self.name)
    }

    /// The part of the name that distinguishes it from the other models of a repository, as its
    /// publisher writes it: the quantization in the file's name, else that in its folder's name,
    /// else the whole name.
    pub fn label(&self) -> &str {
        let folder = || {
            let folder = self.name.rsplit('/').nth(1)?;
            label_of(folder).filter(|label| *label == folder)
        };
        label_of(self.stem()).or_else(folder).unwrap_or(self.stem())
    }

    /// The name without folder and label, in lower case: quantizations of one model share it.
    pub fn base(&self) -> String {
        let stem = self.stem();
        let label = label_of(stem).map_or(0, str::len);
        let base = stem[..stem.len() - label].trim_end_matches(['-', '.', '_']);
        base.to_ascii_lowercase()
    }
}

impl AsRef<GgufModel> for GgufModel {
    fn as_ref(&self) -> &GgufModel {
        self
    }
}

/// Groups the GGUF files of a listing into models. Files that are not models (projectors of
/// multimodal models, importance matrices) are left out.
pub fn gguf_models<'a>(names: impl IntoIterator<Item = &'a str>) -> Vec<GgufModel> {
    let mut parts: BTreeMap<(&str, u32), BTreeMap<u32, &str>> = BTreeMap::new();
    for name in names {
        let Some(path) = strip_suffix_ignore_case(name, ".gguf") else {
            continue;
        };
        let stem = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        if safe_name(name).is_err() || stem.contains("mmproj") || stem.contains("imatrix") {
            continue;
        }
        let (model, part, of) = split_part(path).unwrap_or((path, 1, 1));
        parts.entry((model, of)).or_default().insert(part, name);
    }
    let models = parts.into_iter().map(|((name, of), files)| GgufModel {
        name: name.to_owned(),
        complete: files.len() == of as usize,
        files: files.into_values().map(str::to_owned).collect(),
    });
    models.collect()
}

/// The GGUF models in a folder and the folders in it. Links whose target is missing are left out.
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
    collect(folder, "", DEPTH, &mut names);
    gguf_models(names.iter().map(String::as_str))
}

/// A complete model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalGguf {
    /// Its name and files, below the folder it was found in.
    pub model: GgufModel,
    /// Its first file.
    pub path: PathBuf,
}

impl AsRef<GgufModel> for LocalGguf {
    fn as_ref(&self) -> &GgufModel {
        &self.model
    }
}

/// The complete models of [`gguf_models_in`].
pub fn local_ggufs(folder: &Path) -> Vec<LocalGguf> {
    let models = gguf_models_in(folder).into_iter();
    models
        .filter(|model| model.complete)
        .filter_map(|model| {
            let path = folder.join(model.files.first()?);
            Some(LocalGguf { model, path })
        })
        .collect()
}

/// The result of choosing a model by a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice<'a, T> {
    /// Exactly one model.
    One(&'a T),
    /// Several models that the label fits equally well.
    Several(Vec<&'a T>),
    /// No model.
    None,
}

/// Chooses the model that a label means. Without a label it is the only model, or the one in
/// [`DEFAULT_QUANT`].
pub fn choose<'a, T: AsRef<GgufModel>>(models: &'a [T], label: Option<&str>) -> Choice<'a, T> {
    let fitting = match label {
        Some(label) => fitting(models, label),
        None => {
            let all: Vec<&T> = models.iter().collect();
            let default = fitting(models, DEFAULT_QUANT);
            match (all.len(), default.len()) {
                (2.., 1) => default,
                _ => all,
            }
        }
    };
    match fitting.as_slice() {
        [] => Choice::None,
        [one] => Choice::One(one),
        _ => Choice::Several(fitting),
    }
}

/// The models that the label fits best, by the order of [`Fit`].
fn fitting<'a, T: AsRef<GgufModel>>(models: &'a [T], label: &str) -> Vec<&'a T> {
    let label = strip_suffix_ignore_case(label, ".gguf").unwrap_or(label);
    let label = split_part(label).map_or(label, |(name, ..)| name);
    let fits: Vec<Option<Fit>> = models
        .iter()
        .map(|model| fit(model.as_ref(), label))
        .collect();
    let best = fits.iter().flatten().min();
    models
        .iter()
        .zip(&fits)
        .filter(|(_, fit)| fit.is_some() && fit.as_ref() == best)
        .map(|(model, _)| model)
        .collect()
}

/// How well a label fits a model, the best first. Upper and lower case are the same, and so are
/// the separators `-`, `_` and `.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// The label is the whole name, with the folder.
    Name,
    /// The label is the model's own label, or its name without the folder.
    Same,
    /// The label is the model's own in another spelling: `FP16` for `F16`, `q4km` for `Q4_K_M`.
    Alike,
    /// The name ends in the label: `Q4_K_XL` in `UD-Q4_K_XL`.
    End,
    /// The name, or that of the folder, contains the label: `Q4_K_M` in `Q4_K_M-v2`.
    Within,
    /// The label states the number of bits of the model's type and nothing else: `q4` for `Q4_K_M`.
    Bits,
}

fn fit(model: &GgufModel, label: &str) -> Option<Fit> {
    let (wanted, own) = (fold(label), fold(model.label()));
    if wanted == fold(&model.name) {
        return Some(Fit::Name);
    }
    if wanted == own || wanted == fold(model.stem()) {
        return Some(Fit::Same);
    }
    let squeeze = |text: &str| respell(text).replace('_', "");
    if squeeze(&wanted) == squeeze(&own) {
        return Some(Fit::Alike);
    }
    // What follows an underscore belongs to the type, so `Q4_0` does not match in `Q4_0_4_4`. Both
    // texts have the same length; `raw` keeps the separators.
    let (wanted, name) = (respell(&wanted), respell(&fold(&model.name)));
    let raw = respell(&model.name.to_ascii_lowercase());
    let begins = |at: usize| at == 0 || name[..at].ends_with(['_', '/']);
    let places = || name.match_indices(&wanted).map(|(at, _)| at);
    let goes_on = |end: usize| raw[end..].chars().next();
    if name.ends_with(&wanted) && begins(name.len() - wanted.len()) {
        return Some(Fit::End);
    }
    let within = |at| begins(at) && matches!(goes_on(at + wanted.len()), Some('-' | '.' | '/'));
    if places().any(within) {
        return Some(Fit::Within);
    }
    let bits = is_type(&wanted) && !wanted.contains('_');
    let family = |at| begins(at) && goes_on(at + wanted.len()) == Some('_');
    (bits && places().any(family)).then_some(Fit::Bits)
}

/// Converts to lower case and to one separator.
fn fold(text: &str) -> String {
    text.to_ascii_lowercase().replace(['-', '.'], "_")
}

/// Replaces one of the two spellings of some type names by the other.
fn respell(text: &str) -> String {
    let mut spelled = String::with_capacity(text.len());
    for piece in text.split_inclusive(['_', '-', '.', '/']) {
        let word = piece.trim_end_matches(['_', '-', '.', '/']);
        spelled += match word {
            "fp16" => "f16",
            "fp32" => "f32",
            word => word,
        };
        spelled += &piece[word.len()..];
    }
    spelled
}

/// The labels of some of `models` for a message: the first dozen, and how many more there are.
pub fn unique_labels<'a, T: AsRef<GgufModel> + 'a>(
    models: &'a [T],
    some: impl IntoIterator<Item = &'a T>,
) -> Vec<String> {
    let mut some = some.into_iter();
    let first = some.by_ref().take(MOST_NAMED);
    let mut named: Vec<String> = first.map(|model| unique_label(models, model)).collect();
    match some.count() {
        0 => {}
        more => named.push(format!("{more} more")),
    }
    named
}

/// The shortest label that means this model and no other of `models`. Where there is none it is the
/// whole name.
pub fn unique_label<T: AsRef<GgufModel>>(models: &[T], model: &T) -> String {
    let model = model.as_ref();
    let means_it = |label: &str| matches!(choose(models, Some(label)), Choice::One(one) if one.as_ref() == model);
    if means_it(model.label()) {
        return model.label().to_owned();
    }
    let starts = model.name.char_indices().rev();
    let mut ends = starts
        .filter(|&(at, _)| at == 0 || model.name[..at].ends_with(['-', '_', '.', '/']))
        .map(|(at, _)| &model.name[at..])
        .filter(|end| end.len() > model.label().len());
    match ends.find(|end| means_it(end)) {
        Some(label) => label.to_owned(),
        None => model.name.clone(),
    }
}

/// Splits the file stem of a part of a split model: `name-00001-of-00003` gives (`name`, 1, 3).
pub fn split_part(stem: &str) -> Option<(&str, u32, u32)> {
    let (rest, of) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let number = |s: &str| {
        (s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit())).then(|| s.parse::<u32>().ok())?
    };
    let (part, of) = (number(part)?, number(of)?);
    (1..=of).contains(&part).then_some((name, part, of))
}

/// The label at the end of a file's stem, from the last name of a type on: `Phi-3-mini.Q4_K_M`
/// gives `Q4_K_M`. The mark of Unsloth's dynamic mixes belongs to it: `x-UD-Q4_K_XL` gives
/// `UD-Q4_K_XL`.
pub fn label_of(stem: &str) -> Option<&str> {
    let starts = stem.char_indices().rev().map(|(at, _)| at);
    let at = starts
        .filter(|&at| at == 0 || stem[..at].ends_with(['-', '.', '_']))
        .find(|&at| {
            let word = stem[at..].split(['-', '.', '_']).next();
            word.is_some_and(|word| is_type(&word.to_ascii_lowercase()))
        })?;
    let head = &stem[..at];
    let marked = ["UD-", "ud-"].iter().find(|mark| {
        head.strip_suffix(**mark)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with(['-', '.', '_']))
    });
    Some(&stem[at - marked.map_or(0, |mark| mark.len())..])
}

/// Returns whether a word in lower case is the name of a type, or the beginning of one that
/// continues after an underscore: `q4` of `q4_k_m`, `f16`, `mxfp4`.
fn is_type(word: &str) -> bool {
    let numbered = |prefix: &str| {
        let bits = word.strip_prefix(prefix).map(str::as_bytes);
        matches!(bits, Some([b'1'..=b'8', rest @ ..]) if rest.iter().all(|b| b.is_ascii_alphanumeric()))
    };
    matches!(word, "f16" | "bf16" | "fp16" | "f32" | "fp32" | "f64")
        || matches!(
            word,
            "fp8" | "fp4" | "mxfp4" | "nvfp4" | "int4" | "int8" | "i2"
        )
        || ["q", "iq", "tq"].into_iter().any(numbered)
}

fn strip_suffix_ignore_case<'a>(text: &'a str, suffix: &str) -> Option<&'a str> {
    let at = text.len().checked_sub(suffix.len())?;
    let (head, tail) = (text.get(..at)?, text.get(at..)?);
    tail.eq_ignore_ascii_case(suffix).then_some(head)
}

#[cfg(test)]
#[path = "ggufs_tests.rs"]
mod tests;
