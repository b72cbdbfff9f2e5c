//! JSON schemas against the JSON-Schema-Test-Suite.
//!
//! The suite is not part of this project: `scripts/json-schema-suite` fetches it and runs this
//! test, which is skipped where `JSON_SCHEMA_TEST_SUITE` names no folder.

use std::path::{Path, PathBuf};

use modelve::runtime::Grammar;
use serde_json::Value;

/// What of the suite came out how.
#[derive(Default)]
struct Tally {
    followed: usize,
    refused: usize,
    instances: usize,
    /// Instances that fit and are not written so: `format` is asserted.
    narrower: usize,
    wrong: Vec<String>,
}

#[test]
fn what_the_suite_says_is_followed_or_refused() {
    let Some(folder) = std::env::var_os("JSON_SCHEMA_TEST_SUITE") else {
        eprintln!(
            "skipped: JSON_SCHEMA_TEST_SUITE does not name a folder, see scripts/json-schema-suite"
        );
        return;
    };
    let mut files = Vec::new();
    collect(Path::new(&folder), &mut files);
    assert!(files.len() > 40, "{} files", files.len());
    let mut tally = Tally::default();
    for file in &files {
        let cases: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy().into_owned();
        for case in cases.as_array().unwrap() {
            check(&name, case, &mut tally);
        }
    }
    eprintln!(
        "{} schemas followed with {} instances ({} narrower), {} refused",
        tally.followed, tally.instances, tally.narrower, tally.refused
    );
    assert!(tally.wrong.is_empty(), "{}", tally.wrong.join("\n"));
    assert!(tally.followed > 200, "{} followed", tally.followed);
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "json") {
            files.push(path);
        }
    }
}

fn check(file: &str, case: &Value, tally: &mut Tally) {
    let schema = &case["schema"];
    let about = format!(
        "{file}: {}",
        case["description"].as_str().unwrap_or_default()
    );
    let grammar = match Grammar::json_schema(&schema.to_string()) {
        Ok(grammar) => grammar,
        Err(error) => {
            tally.refused += 1;
            let error = error.to_string();
            if !error.starts_with("JSON schema: /") {
                tally
                    .wrong
                    .push(format!("{about}: refused without a place: {error}"));
            }
            let fits = |test: &Value| test["valid"] == Value::Bool(true);
            let any = case["tests"].as_array().unwrap().iter().any(fits);
            if any && error.contains("nothing fits it") {
                tally
                    .wrong
                    .push(format!("{about}: something fits: {error}"));
            }
            return;
        }
    };
    tally.followed += 1;
    for test in case["tests"].as_array().unwrap() {
        tally.instances += 1;
        let valid = test["valid"] == Value::Bool(true);
        let mut accepted = false;
        for text in spellings(&test["data"]) {
            match grammar.accepts(text.as_bytes()) {
                Ok(fits) => accepted |= fits,
                Err(error) => tally.wrong.push(format!("{about}: {text}: {error}")),
            }
        }
        let about = format!("{about}: {}: {}", test["description"], test["data"]);
        match (valid, accepted) {
            (false, true) => tally
                .wrong
                .push(format!("{about}: accepted, does not fit {schema}")),
            (true, false) if is_narrower(schema, &test["data"]) => tally.narrower += 1,
            (true, false) => tally
                .wrong
                .push(format!("{about}: not accepted, fits {schema}")),
            _ => {}
        }
    }
}

/// Where less than all that fits is written: formats are asserted, which is optional in the
/// draft, control characters that have no short escape are not written, nor are exponents of
/// numbers that have bounds.
fn is_narrower(schema: &Value, data: &Value) -> bool {
    let is_large = data.as_f64().is_some_and(|n| n.abs() > 1e300);
    schema.to_string().contains("\"format\"") || data.to_string().contains("\\u00") || is_large
}

/// The ways to write a value: properties in every order, whole numbers without a fraction.
fn spellings(value: &Value) -> Vec<String> {
    match value {
        Value::Number(number) => {
            let mut all = vec![number.to_string()];
            if let Some(f) = number
                .as_f64()
                .filter(|f| f.fract() == 0.0 && f.abs() < 1e300)
            {
                all.push(format!("{f:.0}"));
            }
            all
        }
        Value::Array(items) => {
            let items = items.iter().map(spellings).collect::<Vec<_>>();
            products(&items)
                .into_iter()
                .map(|items| format!("[{}]", items.join(",")))
                .collect()
        }
        Value::Object(map) => {
            let members: Vec<Vec<String>> = map
                .iter()
                .map(|(key, value)| {
                    let key = Value::from(key.as_str());
                    spellings(value)
                        .into_iter()
                        .map(|value| format!("{key}:{value}"))
                        .collect()
                })
                .collect();
            let mut all = Vec::new();
            for members in products(&members) {
                for order in orders(members) {
                    all.push(format!("{{{}}}", order.join(",")));
                }
            }
            all
        }
        other => vec![other.to_string()],
    }
}

/// One of each, in all ways, up to a few hundred.
fn products(choices: &[Vec<String>]) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new()];
    for choice in choices {
        let longer = all.iter().flat_map(|before| {
            choice
                .iter()
                .map(move |one| [before.as_slice(), std::slice::from_ref(one)].concat())
        });
        all = longer.take(500).collect();
    }
    all
}

fn orders(items: Vec<String>) -> Vec<Vec<String>> {
    if items.len() <= 1 || items.len() > 5 {
        return vec![items];
    }
    let mut all = Vec::new();
    for i in 0..items.len() {
        let mut rest = items.clone();
        let first = rest.remove(i);
        for mut order in orders(rest) {
            order.insert(0, first.clone());
            all.push(order);
        }
    }
    all
}
