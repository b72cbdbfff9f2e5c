//! Parses the name of a repository: `Phi-3-mini-128k-instruct` is the model `Phi-3` of size `mini`,
//! fine-tuned as `128k-instruct`.
//!
//! The heuristics are those of gguf-py (metadata.py, `get_model_id_components`), so that the
//! `general.*` keys equal those of llama.cpp's converter.

use std::sync::LazyLock;

use regex::Regex;

/// The parts of a model's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Components {
    pub(super) name: Option<String>,
    pub(super) organization: Option<String>,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// The possible meanings of one part between hyphens; a part can have several.
#[derive(Clone, Debug, Default)]
struct Part {
    text: String,
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    /// The name of a quantization, which is recognized and not used.
    quantization: bool,
}

impl Part {
    fn kinds(&self) -> usize {
        [
            self.basename,
            self.size_label,
            self.finetune,
            self.version,
            self.quantization,
        ]
        .iter()
        .filter(|kind| **kind)
        .count()
    }
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(r"(?:v|iter)?\d+(?:[.]\d+)*"));
static QUANTIZATION: LazyLock<Regex> = LazyLock::new(|| regex(r"i?q\d(?:_\w)*|b?fp?(?:16|32)"));
static SIZE: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(?:(?:[A]|\d+[x])?\d+(?:[._]\d+)?[KMBT]\d?|small|mini|medium|large|x?xl)")
});
static FINETUNE: LazyLock<Regex> = LazyLock::new(|| regex(r"chat|instruct|vision|lora"));

fn regex(pattern: &str) -> Regex {
    Regex::new(&format!("(?i)^(?:{pattern})$")).expect("a constant that the tests compile")
}

/// Splits a name into its components; `weights` is the number of weights, which distinguishes a
/// size (`7B`) from a context length (`128k`).
pub(super) fn components(id: &str, weights: u64) -> Components {
    if id.contains(' ') {
        return Components {
            name: Some(id.to_owned()),
            ..Components::default()
        };
    }
    let (organization, name) = match id.split_once('/') {
        Some((organization, name)) => (Some(organization), name),
        None => (None, id),
    };
    let organization = organization.filter(|o| !o.starts_with('.'));
    let mut parts: Vec<Part> = name
        .split('-')
        .filter(|part| !part.is_empty())
        .enumerate()
        .map(|(i, text)| annotate(i, text, weights))
        .collect();

    let has_digit = |part: &Part| part.text.chars().any(|c| c.is_ascii_digit());
    if parts.iter().any(|part| part.size_label && has_digit(part)) {
        for part in &mut parts {
            part.size_label &= !part.text.chars().all(char::is_alphabetic);
        }
    }
    let mut at_start = true;
    for part in &mut parts {
        let alphabetic = part.text.starts_with(char::is_alphabetic);
        if at_start && ((part.kinds() == 0 && alphabetic) || part.version) {
            part.basename = true;
        } else {
            at_start = false;
            part.finetune |= part.kinds() == 0;
        }
    }
    for part in parts.iter_mut().rev() {
        match part.basename && part.kinds() > 1 {
            true => part.basename = false,
            false => break,
        }
    }

    let join = |is: &dyn Fn(&Part) -> bool| {
        let texts: Vec<&str> = parts
            .iter()
            .filter(|p| is(p))
            .map(|p| p.text.as_str())
            .collect();
        (!texts.is_empty()).then_some(texts)
    };
    let joined = |is: &dyn Fn(&Part) -> bool| join(is).map(|texts| texts.join("-"));
    let size_label = join(&|part| part.size_label).map(|texts| {
        let mut unique: Vec<&str> = Vec::new();
        for text in texts {
            if !unique.contains(&text) {
                unique.push(text);
            }
        }
        unique.join("-")
    });
    let finetune = joined(&|part| part.finetune);
    let version = joined(&|part| part.version && !part.basename);
    let ambiguous = size_label.is_none() && finetune.is_none() && version.is_none();
    Components {
        name: Some(name.to_owned()).filter(|name| !name.is_empty()),
        organization: organization.map(str::to_owned),
        basename: joined(&|part| part.basename).filter(|_| !ambiguous),
        finetune,
        version,
        size_label,
    }
}

fn annotate(i: usize, text: &str, weights: u64) -> Part {
    let mut part = Part {
        text: text.to_owned(),
        ..Part::default()
    };
    if VERSION.is_match(text) {
        part.version = true;
    } else if QUANTIZATION.is_match(text) {
        part.quantization = true;
        part.text = text.to_uppercase();
    } else if i > 0 && text.is_ascii() && SIZE.is_match(text) {
        let mut label = text.replace('_', ".");
        // BLOOM writes 7b1 for 7.1 billion.
        if label.ends_with(|c: char| c.is_ascii_digit()) {
            let (rest, end) = label.split_at(label.len() - 2);
            let (unit, digit) = end.split_at(1);
            label = format!("{rest}.{digit}{unit}");
        }
        let (number, unit) = label.split_at(label.len() - 1);
        let unit = unit.to_owned();
        let ends_in_digit = number.ends_with(|c: char| c.is_ascii_digit());
        if ends_in_digit && matches!(unit.as_str(), "k" | "m" | "b" | "t") {
            label = format!("{number}{}", unit.to_uppercase());
        }
        let (number, unit) = label.split_at(label.len() - 1);
        let power = " KMBT".find(unit).unwrap_or(0) as i32;
        if let Ok(number) = number.parse::<f64>()
            && weights > 0
            && (number * 1000f64.powi(power) - weights as f64).abs() > weights as f64 * 0.875
        {
            part.finetune = true;
            label = label.to_lowercase();
        }
        part.size_label = !part.finetune;
        part.text = label;
    } else if i > 0 && FINETUNE.is_match(text) {
        part.finetune = true;
    }
    part
}

/// Turns a name into a title: `mistral-v0.1-community` becomes `Mistral v0.1 Community`.
pub(super) fn title(name: &str) -> String {
    let capitalized = |word: &str| {
        let lower = word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase);
        let version = word
            .strip_prefix('v')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let mut chars = word.chars();
        match chars.next() {
            Some(first) if lower && !version && !first.is_ascii_digit() => {
                first.to_uppercase().chain(chars).collect()
            }
            _ => word.to_owned(),
        }
    };
    let words: Vec<String> = name
        .replace('-', " ")
        .split_whitespace()
        .map(capitalized)
        .collect();
    words.join(" ")
}

/// Formats a number of weights with at least two digits: `3.8B`.
pub(super) fn size_label(weights: u64) -> String {
    let (scale, unit) = match weights {
        n if n > 1_000_000_000_000 => (1e-12, "T"),
        n if n > 1_000_000_000 => (1e-9, "B"),
        n if n > 1_000_000 => (1e-6, "M"),
        _ => (1e-3, "K"),
    };
    let scaled = weights as f64 * scale;
    let digits = match format!("{scaled:.0}").as_str() {
        "0" => 0,
        digits => digits.len(),
    };
    let decimals = 2usize.saturating_sub(digits);
    format!("{scaled:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(id: &str, weights: u64) -> [String; 5] {
        let c = components(id, weights);
        [
            c.organization,
            c.basename,
            c.size_label,
            c.finetune,
            c.version,
        ]
        .map(Option::unwrap_or_default)
    }

    /// The results of gguf-py 0.19 for the same names and numbers of weights.
    #[test]
    fn names_are_taken_apart_as_gguf_py_does() {
        let phi3 = 3_821_079_648;
        let parts = of("microsoft/Phi-3-mini-128k-instruct", phi3);
        assert_eq!(parts, ["microsoft", "Phi-3", "mini", "128k-instruct", ""]);
        let parts = of("Phi-3.5-mini-instruct", phi3);
        assert_eq!(parts, ["", "Phi-3.5", "mini", "instruct", ""]);
        let parts = of("Phi-3-medium-4k-instruct", 13_960_000_000);
        assert_eq!(parts, ["", "Phi-3", "medium", "4k-instruct", ""]);
        assert_eq!(of("microsoft/phi-4", 14_659_507_200)[4], "4");
        let parts = of("mistralai/Mixtral-8x7B-Instruct-v0.1", 46_702_792_704);
        assert_eq!(parts, ["mistralai", "Mixtral", "8x7B", "Instruct", "v0.1"]);
        assert_eq!(of("bloom-7b1-petals", 7_069_016_064)[2], "7.1B");
        assert_eq!(of("../phi", 1)[0], "");
        assert_eq!(
            components("some model", 1).name.as_deref(),
            Some("some model")
        );
        assert_eq!(of("-", 1), ["", "", "", "", ""].map(str::to_owned));
    }

    #[test]
    fn titles_and_sizes() {
        assert_eq!(title("phi-3-mini-v0.1"), "Phi 3 Mini v0.1");
        assert_eq!(size_label(3_821_079_648), "3.8B");
        assert_eq!(size_label(14_659_507_200), "15B");
        assert_eq!(size_label(499_000), "499K");
        assert_eq!(size_label(400), "0.40K");
    }
}
