//! The metadata at the head of a model card (`README.md` on the Hub): licence, languages, tags.
//!
//! It is YAML between two lines of `---`. Only top-level keys whose value is a scalar or a list of
//! scalars are read.

use std::collections::BTreeMap;

/// Top-level scalars and lists of scalars of a model card.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelCard {
    values: BTreeMap<String, Vec<String>>,
}

impl ModelCard {
    /// Reads the head of a model card; a text without one gives an empty card.
    pub fn parse(text: &str) -> Self {
        let mut values: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut lines = text.lines();
        if lines.next().map(str::trim_end) != Some("---") {
            return Self::default();
        }
        let mut key: Option<String> = None;
        for line in lines {
            let line = line.trim_end();
            if line == "---" {
                break;
            }
            if line.trim_start().starts_with('#') || line.is_empty() {
                continue;
            }
            let item = line.trim_start().strip_prefix("- ");
            match (item, &key) {
                (Some(item), Some(key)) if !item.contains(": ") => {
                    let list = values.entry(key.clone()).or_default();
                    list.extend(scalar(item));
                }
                _ if line.starts_with([' ', '\t', '-']) => {}
                _ => {
                    let Some((name, value)) = line.split_once(':') else {
                        key = None;
                        continue;
                    };
                    let name = name.trim().to_owned();
                    let value = value.trim();
                    if let Some(list) = value.strip_prefix('[').and_then(|v| v.strip_suffix(']')) {
                        values.insert(name, list.split(',').filter_map(scalar).collect());
                        key = None;
                    } else if value.is_empty() {
                        key = Some(name);
                    } else {
                        // Block scalars (`|`, `>`) continue on lines that are skipped.
                        if !value.starts_with(['|', '>', '{']) {
                            values.insert(name, scalar(value).into_iter().collect());
                        }
                        key = None;
                    }
                }
            }
        }
        Self { values }
    }

    /// The value of a key; of a list, the first.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key)?.first().map(String::as_str)
    }

    /// All values of a key; a scalar is a list of one.
    pub fn list(&self, key: &str) -> &[String] {
        self.values.get(key).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Returns a scalar without quotes and trailing comment; `None` for null or an empty text.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.split(quote).next().map(str::to_owned);
        }
    }
    let text = text.split(" #").next().unwrap_or_default().trim();
    match text {
        "" | "null" | "~" => None,
        _ => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_head_of_a_card_and_nothing_below_it() {
        let card = ModelCard::parse(
            "---\nlicense: mit\nlicense_link: https://example.org/LICENSE # here\n\
             language:\n- en\n- \"no\"\ntags: [nlp, 'code']\npipeline_tag: text-generation\n\
             widget:\n  - messages:\n      - role: user\n        content: hi\n\
             inference:\n  parameters:\n    temperature: 0\n---\n\nlicense: false\n",
        );
        assert_eq!(card.get("license"), Some("mit"));
        assert_eq!(
            card.get("license_link"),
            Some("https://example.org/LICENSE")
        );
        assert_eq!(card.list("language"), ["en", "no"]);
        assert_eq!(card.list("tags"), ["nlp", "code"]);
        assert_eq!(card.get("temperature"), None);
        assert_eq!(
            ModelCard::parse("# A model\nlicense: mit"),
            ModelCard::default()
        );
    }
}
