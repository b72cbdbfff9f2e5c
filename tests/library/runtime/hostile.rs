//! Templates, schemas and grammars that were damaged at random: each gives a result or an error.
//!
//! `scripts/hostile-inputs` does more of them, in limited memory.

use std::time::Instant;

use modelve::runtime::Grammar;
use modelve::runtime::chat::{Message, render_chat};
use serde_json::Value;

/// Numbers at random, the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

fn count() -> usize {
    let asked = std::env::var("HOSTILE_INPUTS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(150)
}

/// A part of a text, between characters.
fn span(text: &str, random: &mut Random, longest: usize) -> std::ops::Range<usize> {
    let ends: Vec<usize> = text
        .char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect();
    let start = random.below(ends.len());
    let end = (start + random.below(longest)).min(ends.len() - 1);
    ends[start]..ends[end]
}

/// A text that was damaged in one to three ways; `words` are what its language is made of.
fn damaged(text: &str, words: &[&str], random: &mut Random) -> String {
    let mut text = text.to_owned();
    for _ in 0..=random.below(3) {
        match random.below(6) {
            0 => {
                let gone = span(&text, random, 30);
                text.replace_range(gone, "");
            }
            1 => {
                let copied = span(&text, random, 60);
                let copy = text[copied.clone()].repeat([1, 2, 50, 3000][random.below(4)]);
                text.insert_str(copied.end, &copy);
            }
            2 => {
                let at = span(&text, random, 1).start;
                let word = words[random.below(words.len())];
                text.insert_str(at, &word.repeat([1, 1, 2, 5000][random.below(4)]));
            }
            3 => {
                let number = [
                    "0",
                    "-1",
                    "1e308",
                    "99999999999999999999",
                    "4294967296",
                    "100000",
                ];
                match text.find(|c: char| c.is_ascii_digit()) {
                    Some(at) => text.replace_range(at..=at, number[random.below(number.len())]),
                    None => text.push_str(number[0]),
                }
            }
            4 => {
                let moved = span(&text, random, 40);
                let part = text[moved.clone()].to_owned();
                text.replace_range(moved, "");
                let at = span(&text, random, 1).start;
                text.insert_str(at, &part);
            }
            _ => {
                let at = span(&text, random, 2);
                let odd = ["\0", "\u{FEFF}", "é", "\u{10FFFF}", "\r", "\\", "\""];
                text.replace_range(at, odd[random.below(odd.len())]);
            }
        }
        if text.len() > 200_000 {
            let end = text
                .char_indices()
                .nth(100_000)
                .map_or(text.len(), |(at, _)| at);
            text.truncate(end);
        }
    }
    text
}

/// A schema in which values were exchanged for others: it stays JSON.
fn exchanged(text: &str, random: &mut Random) -> String {
    fn places(value: &Value, place: String, all: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                for (key, child) in map {
                    let key = key.replace('~', "~0").replace('/', "~1");
                    places(child, format!("{place}/{key}"), all);
                }
            }
            Value::Array(list) => {
                for (i, child) in list.iter().enumerate() {
                    places(child, format!("{place}/{i}"), all);
                }
            }
            _ => {}
        }
        all.push(place);
    }
    let Ok(mut schema) = serde_json::from_str::<Value>(text) else {
        return text.to_owned();
    };
    for _ in 0..=random.below(4) {
        let mut all = Vec::new();
        places(&schema, String::new(), &mut all);
        let from = schema.pointer(&all[random.below(all.len())]).cloned();
        let others = [
            Value::from(0),
            Value::from(7),
            Value::from(-1.5),
            Value::from(4_294_967_296_u64),
            Value::from(1e300),
            Value::from(true),
            Value::from("string"),
            Value::from("#/$defs/node"),
            serde_json::json!({}),
            serde_json::json!([]),
            serde_json::json!({"allOf": [{"minimum": 3}, {"multipleOf": 0.7}]}),
            serde_json::json!({"pattern": "^(a|b)*c{2,90}$", "maxLength": 40}),
            serde_json::json!({"minProperties": 1, "additionalProperties": {"$ref": "#"}}),
            serde_json::json!({"items": {"items": {"$ref": "#"}}, "minItems": 90}),
            from.unwrap_or(Value::Null),
        ];
        let to = all[random.below(all.len())].clone();
        if let Some(place) = schema.pointer_mut(&to) {
            match (place, random.below(3)) {
                (Value::Object(map), 0) => {
                    let keys = [
                        "not", "anyOf", "$ref", "minimum", "items", "required", "enum", "const",
                        "type",
                    ];
                    map.insert(
                        keys[random.below(keys.len())].to_owned(),
                        others[random.below(others.len())].clone(),
                    );
                }
                (place, _) => *place = others[random.below(others.len())].clone(),
            }
        }
    }
    schema.to_string()
}

fn run(what: &str, bases: &[String], words: &[&str], mut once: impl FnMut(&str) -> bool) {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut good, mut slowest) = (0, (0.0, String::new()));
    for _ in 0..count() {
        let base = &bases[random.below(bases.len())];
        let text = match what == "schemas" && random.below(3) > 0 {
            true => exchanged(base, &mut random),
            false => damaged(base, words, &mut random),
        };
        let start = Instant::now();
        good += usize::from(once(&text));
        let took = start.elapsed().as_secs_f64();
        if took > slowest.0 {
            slowest = (took, text.chars().take(300).collect());
        }
    }
    let memory = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let memory = memory
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or("");
    eprintln!(
        "{what}: {} damaged, {good} still work, slowest {:.2} s; {memory}\n  {:?}",
        count(),
        slowest.0,
        slowest.1
    );
    assert!(good > 0 && good < count());
}

#[test]
fn damaged_templates_give_a_text_or_an_error() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/chat/templates");
    let mut bases: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    bases.sort();
    let words = [
        "{{ ",
        " }}",
        "{% ",
        " %}",
        "{% endfor %}",
        "{% endif %}",
        "{% for x in messages %}",
        "{% if x %}",
        "not ",
        "- ",
        ".content",
        "|string",
        "|tojson(indent=9)",
        "|batch(9)",
        "[::-1]",
        " ~ ",
        " * ",
        " + ",
        "(",
        ")",
        "[",
        "]",
        "range(99999)",
        "{% set x = x ~ x %}",
        "loop(",
        "''",
        "{% elif x %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "|indent(99)",
        "{#",
    ];
    let messages = [
        Message::new("user", "What is a bat?"),
        Message::new("assistant", "Hm."),
        Message::new("user", "x<|end|>"),
    ];
    run("templates", &bases, &words, |text| {
        render_chat(text, &messages, Some("<s>"), Some("</s>")).is_ok()
    });
}

#[test]
fn damaged_schemas_are_followed_or_refused() {
    let bases = [
        r#"{"type":"object","properties":{"name":{"type":"string","minLength":1,"maxLength":20},"age":{"type":"integer","minimum":0,"maximum":150},"tags":{"type":"array","items":{"type":"string","pattern":"^[a-z]+$"},"minItems":1,"maxItems":5}},"required":["name","age"],"additionalProperties":false}"#,
        r##"{"$ref":"#/$defs/node","$defs":{"node":{"type":"object","properties":{"value":{"type":"number"},"left":{"$ref":"#/$defs/node"},"right":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["value"]}}}"##,
        r#"{"oneOf":[{"type":"object","properties":{"kind":{"const":"a"},"x":{"type":"integer","multipleOf":5}},"required":["kind"]},{"type":"object","properties":{"kind":{"const":"b"},"y":{"enum":["p","q",null,1.5,[1,2]]}},"required":["kind"]}]}"#,
        r#"{"allOf":[{"type":"object","properties":{"a":{"type":"string","format":"date-time"}}},{"type":"object","patternProperties":{"^x[0-9]{2}$":{"type":"boolean"}},"required":["a"]}],"minProperties":1,"maxProperties":4}"#,
        r#"{"type":"array","prefixItems":[{"type":"string"},{"type":"integer"}],"items":{"type":["number","null"]},"minItems":2,"maxItems":30}"#,
    ]
    .map(str::to_owned);
    let words = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\":",
        "{\"items\":",
        "{\"not\":true}",
        "\"minItems\":",
        "\"$ref\":\"#\",",
        "\"maxLength\":",
        "\"pattern\":\"(a|b)*c{9,99}\",",
        "\"enum\":[1],",
        "\"type\":\"object\",",
        "[[",
        "\"multipleOf\":0.01,",
        "\"allOf\":[{}],",
        "true,",
        "1e9",
        "\"minLength\":90000,",
        "(a*)*",
    ];
    run(
        "schemas",
        &bases,
        &words,
        |text| match Grammar::json_schema(text) {
            Ok(grammar) => {
                let _ =
                    grammar.accepts(br#"{"name":"a","age":3,"tags":["b"],"value":1,"kind":"a"}"#);
                true
            }
            Err(_) => false,
        },
    );
}

#[test]
fn damaged_grammars_are_followed_or_refused() {
    let bases = [
        "root ::= object\nvalue ::= object | array | string | number | (\"true\" | \"false\" | \"null\") ws\nobject ::= \"{\" ws (string \":\" ws value (\",\" ws string \":\" ws value)*)? \"}\" ws\narray ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\nstring ::= \"\\\"\" ([^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" ([\"\\\\bfnrt] | \"u\" [0-9a-fA-F]{4}))* \"\\\"\" ws\nnumber ::= (\"-\"? ([0-9] | [1-9] [0-9]{0,15})) (\".\" [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws\nws ::= | \" \" | \"\\n\" [ \\t]{0,20}\n",
        "root ::= (expr \"=\" ws term \"\\n\")+\nexpr ::= term ([-+*/] term)*\nterm ::= ident | num | \"(\" ws expr \")\" ws\nident ::= [a-z] [a-z0-9_]* ws\nnum ::= [0-9]+ ws\nws ::= [ \\t\\n]*\n",
        "# comment\nroot ::= item+\nitem ::= \"- \" [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ \"\\n\" | root2{2,5}\nroot2 ::= \"a\" root2 | \"b\"? .\n",
    ]
    .map(str::to_owned);
    let words = [
        "(",
        ")",
        "*",
        "+",
        "?",
        "{9,}",
        "{0,999}",
        "|",
        "\"a\"",
        "[a-z]",
        "root ",
        "::=",
        "\nx ::= x \"a\" | \"\"\n",
        "root root",
        "\\x",
        "[^",
        ".",
        "<[5]>",
        "!",
        "\n",
        "\"\" | ",
        "(\"a\" | \"a\")* ",
        "#",
    ];
    run("grammars", &bases, &words, |text| {
        match Grammar::gbnf(text) {
            Ok(grammar) => {
                let _ = grammar.accepts(b"{\"a\": [1, 2, {\"b\": null}]}");
                let _ = grammar.accepts("a".repeat(60).as_bytes());
                true
            }
            Err(_) => false,
        }
    });
}
