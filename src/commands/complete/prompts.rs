//! Where prompts come from: arguments, a file, JSON lines on standard input.

use std::io::BufRead;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;

use crate::commands::probing::{read_stdin, read_text};
use crate::hint::{Usage, WithHint};

/// A prompt as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Prompt {
    pub text: String,
    /// What the model is told before it, if the prompt says so itself.
    pub system: Option<String>,
}

impl Prompt {
    pub fn plain(text: impl Into<String>) -> Self {
        Prompt {
            text: text.into(),
            system: None,
        }
    }
}

/// A line of JSON: the prompt, or an object that holds it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Text(String),
    Object {
        prompt: String,
        system: Option<String>,
    },
}

/// All prompts, in order; `None` if none were asked for.
pub(super) fn gather(
    arguments: &[String],
    file: Option<&Path>,
) -> anyhow::Result<Option<Vec<Prompt>>> {
    if arguments.is_empty() && file.is_none() {
        return Ok(None);
    }
    let mut prompts = Vec::new();
    let mut stdin_read = false;
    for argument in arguments {
        if argument != "-" {
            prompts.push(Prompt::plain(argument));
            continue;
        }
        if std::mem::replace(&mut stdin_read, true) {
            return Err(Usage("`-` can be given only once".to_owned()).into());
        }
        let text = read_stdin()?;
        prompts.extend(json_lines(text.as_bytes(), "standard input")?);
    }
    if let Some(path) = file {
        let name = path.display().to_string();
        let text = read_text(path)?;
        let reader = text.as_bytes();
        if path
            .extension()
            .is_some_and(|extension| extension == "jsonl")
        {
            prompts.extend(json_lines(reader, &name)?);
        } else {
            for line in reader.lines() {
                let line = line.with_context(|| format!("cannot read {name}"))?;
                if !line.trim().is_empty() {
                    prompts.push(Prompt::plain(line));
                }
            }
        }
    }
    Ok(Some(prompts))
}

fn json_lines(reader: impl BufRead, name: &str) -> anyhow::Result<Vec<Prompt>> {
    let mut prompts = Vec::new();
    for (number, line) in reader.lines().enumerate() {
        let number = number + 1;
        let line = line.with_context(|| format!("cannot read line {number} of {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let prompt = match serde_json::from_str(&line) {
            Ok(Line::Text(text)) => Prompt::plain(text),
            Ok(Line::Object { prompt, system }) => Prompt {
                text: prompt,
                system,
            },
            Err(_) => {
                return Err(anyhow!("line {number} of {name} is not a JSON prompt")).with_hint(
                    || r#"a line is "a string" or {"prompt": "…"}; for plain lines use --file"#,
                );
            }
        };
        prompts.push(prompt);
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_strings_or_objects() {
        let text =
            b"\"a\\nb\"\n\n{\"prompt\": \"c\", \"system\": \"d\", \"other\": 1}\n" as &[u8];
        let prompts = json_lines(text, "x").unwrap();
        assert_eq!(
            prompts,
            [
                Prompt::plain("a\nb"),
                Prompt {
                    text: "c".to_owned(),
                    system: Some("d".to_owned())
                }
            ]
        );
    }

    #[test]
    fn rejects_a_line_that_is_no_prompt_by_its_number() {
        for bad in ["plain text", "{\"promt\": 1}", "[1]", "3"] {
            let text = format!("\"fine\"\n{bad}\n");
            let error = json_lines(text.as_bytes(), "x").unwrap_err();
            assert!(error.to_string().contains("line 2 of x"), "{error}");
        }
    }
}
