//! JSON schemas.
//!
//! llguidance supports a large part of JSON Schema, but some of it with another meaning. `keyword`
//! rewrites a schema so that it contains only what llguidance supports exactly: keywords that
//! cannot be enforced during generation are rejected with their name and position, references are
//! resolved, and patterns are translated from ECMAScript's regular expressions.

mod keyword;
mod pattern;
mod reference;

use llguidance::Matcher;
use llguidance::api::TopLevelGrammar;
use serde_json::{Map, Value, json};

use super::MAX_BYTES;
use super::engine::Engine;
use crate::error::{Error, Result};
use keyword::Writer;

/// Maximum number of subschemas that are compiled one by one to find the one at fault.
const MAX_TRIED: usize = 200;
/// Maximum number of parser items at one position of a text: four for each property that may
/// follow.
const MOST_ITEMS: usize = 100_000;
const UNSATISFIABLE: &str = "Unsatisfiable schema: ";

/// A schema, rewritten in the form that llguidance supports.
pub(super) struct Schema {
    /// The targets of references, by their number, with their positions in the document.
    definitions: Vec<(String, Value)>,
    root: Value,
}

impl Schema {
    /// Parses a schema.
    ///
    /// # Errors
    /// [`Error::Grammar`] with the keyword and its position as a JSON pointer.
    pub fn read(text: &str) -> Result<Schema> {
        let fault = |what: &str| Err(Error::Grammar(format!("JSON schema: {what}")));
        if text.len() > MAX_BYTES {
            return fault("it is longer than 1 MiB");
        }
        let schema: Value = match serde_json::from_str(text) {
            Ok(schema) => schema,
            Err(error) => return fault(&format!("it is no JSON: {error}")),
        };
        match Writer::new(&schema).whole() {
            Ok(schema) => Ok(schema),
            Err(reason) => fault(&reason),
        }
    }

    /// Makes a parser at the start of a text; the error is the reason why it cannot.
    pub fn compile(&self, engine: &Engine) -> Result<Matcher, String> {
        self.try_one(engine, &self.root).map_err(|reason| {
            let mut tries = MAX_TRIED;
            let (place, reason) = self.blame(engine, &self.root, "", reason, &mut tries);
            let place = if place.is_empty() { "/" } else { &place };
            format!("{place}: {}", in_words(&reason))
        })
    }

    fn try_one(&self, engine: &Engine, schema: &Value) -> Result<Matcher, String> {
        let mut whole = match schema {
            Value::Object(map) => map.clone(),
            Value::Bool(false) => return Err(format!("{UNSATISFIABLE}it is false")),
            _ => Map::new(),
        };
        whole.insert("x-guidance".to_owned(), options());
        let definitions: Map<String, Value> = (self.definitions.iter().enumerate())
            .map(|(n, (_, schema))| (n.to_string(), schema.clone()))
            .collect();
        whole.insert("$defs".to_owned(), Value::Object(definitions));
        engine.compile(
            TopLevelGrammar::from_json_schema(Value::Object(whole)),
            MOST_ITEMS,
        )
    }

    /// Finds the innermost subschema that fails for a reason of the same kind, because llguidance
    /// does not report its position; returns it and the reason.
    fn blame(
        &self,
        engine: &Engine,
        schema: &Value,
        place: &str,
        reason: String,
        tries: &mut usize,
    ) -> (String, String) {
        for (inner, child) in self.children(schema, place) {
            if *tries == 0 || !child.is_object() {
                continue;
            }
            *tries -= 1;
            if let Err(why) = self.try_one(engine, child)
                && why.starts_with(UNSATISFIABLE) == reason.starts_with(UNSATISFIABLE)
            {
                return self.blame(engine, child, &inner, why, tries);
            }
        }
        (place.to_owned(), reason)
    }

    /// The direct subschemas of a schema, with their positions.
    fn children<'a>(&'a self, schema: &'a Value, place: &str) -> Vec<(String, &'a Value)> {
        let mut children = Vec::new();
        for (key, value) in schema.as_object().into_iter().flatten() {
            match (key.as_str(), value) {
                ("properties" | "patternProperties", Value::Object(map)) => {
                    children.extend(map.iter().map(|(name, child)| {
                        (format!("{place}/{key}/{}", reference::escaped(name)), child)
                    }));
                }
                ("allOf" | "anyOf" | "oneOf" | "prefixItems", Value::Array(list)) => {
                    let list = list.iter().enumerate();
                    children.extend(list.map(|(i, child)| (format!("{place}/{key}/{i}"), child)));
                }
                ("items" | "additionalProperties", child) => {
                    children.push((format!("{place}/{key}"), child));
                }
                ("$ref", Value::String(target)) => {
                    let number = keyword::definition(target);
                    let found = number.and_then(|number| self.definitions.get(number));
                    children.extend(found.map(|(place, child)| (place.clone(), child)));
                }
                _ => {}
            }
        }
        children
    }
}

/// How generated JSON is written: with no or little white space, and without `\u` escapes, so that
/// there is only one way to write the name of a property.
fn options() -> Value {
    json!({
        "whitespace_flexible": false,
        "whitespace_pattern": r" |\n[ \t]{0,40}",
        "json_allowed_escapes": "nrbtf\\\"",
    })
}

/// Replaces messages of llguidance by clearer ones.
fn in_words(reason: &str) -> String {
    if let Some(why) = reason.strip_prefix(UNSATISFIABLE) {
        return format!("nothing fits it: {why}");
    }
    for (said, words) in [
        (
            "oneOf constraints are not supported",
            "oneOf cannot be followed, as two of its schemas may fit the same value; anyOf can",
        ),
        (
            "min/maxProperties only supported",
            "minProperties and maxProperties cannot be followed where properties may be left out",
        ),
        (
            "circular references with sibling keys",
            "$ref leads back to its own schema, which is not followed beside other keywords",
        ),
        ("schema too large", "it is too large"),
        ("grammar size", "it is too large"),
        ("initial lexer configuration", "it is too large"),
    ] {
        if reason.starts_with(said) {
            return words.to_owned();
        }
    }
    if reason.starts_with("regex parse error") {
        return "a pattern is no regular expression that can be followed".to_owned();
    }
    if reason.contains("not disjoint") || reason.contains("are disjoint") {
        return "patternProperties cannot be followed, as two of its patterns may fit the same name"
            .to_owned();
    }
    reason.to_owned()
}

#[cfg(test)]
mod tests {
    use crate::grammar::Grammar;

    fn refused(schema: &str) -> String {
        match Grammar::json_schema(schema) {
            Ok(_) => panic!("{schema} is accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_schema_accepts_what_fits_and_nothing_else() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("true", &["1", "{\"a\":[null]}", "\"x\""], &["", "{", "tru"]),
            (
                r#"{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},
                    "required":["a"]}"#,
                &[
                    r#"{"a":1}"#,
                    r#"{"a": -5, "b": "é"}"#,
                    "{\n  \"a\": 1\n}",
                    r#"{"a":1,"c":2}"#,
                ],
                &[
                    "{}",
                    r#"{"b":"x"}"#,
                    r#"{"a":1.5}"#,
                    r#"{"a":1,"\u0062":2}"#,
                    r#"{"a":1"#,
                ],
            ),
            (
                r#"{"type":"string","pattern":"^\\d{3}-\\d{4}$"}"#,
                &["\"555-1234\""],
                &["\"٣٣٣-1234\"", "\"a\""],
            ),
            (
                r#"{"type":"string","minLength":2,"maxLength":3}"#,
                &["\"éé\"", "\"\\n\\n\\n\""],
                &["\"a\"", "\"abcd\""],
            ),
            (
                r#"{"type":"integer","multipleOf":10}"#,
                &["0", "-20"],
                &["5", "21"],
            ),
            (
                r#"{"type":"integer","minimum":5,"maximum":12}"#,
                &["5", "12"],
                &["4", "13"],
            ),
            (
                r#"{"type":"array","items":{"type":"integer"},"minItems":2,"maxItems":3}"#,
                &["[1,2]", "[1, 2, 3]"],
                &["[1]", "[1,2,3,4]"],
            ),
            (
                r#"{"properties":{},"required":["ghost"],"type":"object"}"#,
                &[r#"{"ghost":1}"#],
                &["{}"],
            ),
            (
                r#"{"type":"object","properties":{"any":true},"required":["any"]}"#,
                &[r#"{"any":[]}"#],
                &["{}"],
            ),
            (
                r##"{"$ref":"#/definitions/a~1b","definitions":{"a/b":{"const":1}}}"##,
                &["1"],
                &["2"],
            ),
            (
                r##"{"type":"object","properties":{"next":{"$ref":"#"}}}"##,
                &["{}", r#"{"next":{"next":{}}}"#],
                &[r#"{"next":1}"#],
            ),
            (
                r#"{"enum":["a",{"b":[1]}]}"#,
                &["\"a\"", r#"{"b":[1]}"#],
                &["\"b\"", r#"{"b":[2]}"#],
            ),
            (
                r#"{"minimum":1,"exclusiveMinimum":true,"type":"integer","$schema":"http://json-schema.org/draft-04/schema#"}"#,
                &["2"],
                &["1"],
            ),
            (
                r#"{"type":"string","format":"date"}"#,
                &["\"2024-02-29\"", "\"2000-02-29\""],
                &["\"2023-02-29\"", "\"1900-02-29\"", "\"2024-04-31\""],
            ),
            (
                r#"{"type":"string","format":"date-time","allOf":[{"pattern":"^2"}]}"#,
                &["\"2024-02-29T23:59:59.5+01:00\""],
                &["\"1998-12-31T23:58:60Z\"", "\"1998-12-31T23:58:00Z\""],
            ),
            (
                r#"{"type":"array","items":[{"const":1}],"additionalItems":false}"#,
                &["[]", "[1]"],
                &["[2]", "[1,2]"],
            ),
        ];
        for (schema, good, bad) in cases {
            let grammar = Grammar::json_schema(schema).unwrap();
            for good in *good {
                assert!(
                    grammar.accepts(good.as_bytes()).unwrap(),
                    "{schema} accepts {good}"
                );
            }
            for bad in *bad {
                assert!(
                    !grammar.accepts(bad.as_bytes()).unwrap(),
                    "{schema} refuses {bad}"
                );
            }
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_its_name_and_place() {
        for (schema, said) in [
            ("", "it is no JSON"),
            ("{", "it is no JSON"),
            ("[]", "a schema is an object, true or false"),
            ("3", "a schema is an object, true or false"),
            ("false", "nothing fits it"),
            (
                r#"{"not":{"type":"number"}}"#,
                "/not: not cannot be followed",
            ),
            (
                r#"{"properties":{"a":{"uniqueItems":true}}}"#,
                "/properties/a/uniqueItems: ",
            ),
            (r#"{"if":{"const":1},"then":{"const":1}}"#, "/if: "),
            (r#"{"type":"nonsense"}"#, "/type: "),
            (
                r#"{"type":"integer","minimum":5,"maximum":2}"#,
                "nothing fits it",
            ),
            (
                r#"{"type":"object","properties":{"x":{"type":"array","minItems":5,"maxItems":2}},"required":["x"]}"#,
                "/properties/x: nothing fits it: minItems (5)",
            ),
            (
                r#"{"type":"string","minLength":5,"maxLength":2}"#,
                "nothing fits it: minLength (5)",
            ),
            (
                r#"{"type":"integer","maximum":123456789012345678901234567890}"#,
                "/maximum: ",
            ),
            (r#"{"const":9007199254740993}"#, "/const: "),
            (r#"{"type":"string","pattern":"(?=a)b"}"#, "/pattern: "),
            (r#"{"type":"string","pattern":"\\bword"}"#, "/pattern: "),
            (r#"{"type":"string","pattern":"[z-a]"}"#, "/pattern: "),
            (r#"{"type":"string","pattern":"("}"#, "/pattern: "),
            (r#"{"type":"string","format":"phone"}"#, "/format: "),
            (r##"{"$ref":"#/no"}"##, "/$ref: "),
            (r##"{"$ref":"other.json"}"##, "/$ref: "),
            (
                r##"{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}"##,
                "leads back to itself",
            ),
            (
                r##"{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}"##,
                "no text that fits it ends",
            ),
            (
                r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#,
                "oneOf cannot be followed",
            ),
            (r#"{"minProperties":3}"#, "/minProperties: "),
            (r#"{"type":"object","properties":[]}"#, "/properties: "),
            (r#"{"minLength":-1}"#, "/minLength: "),
            (r#"{"multipleOf":0}"#, "/multipleOf: "),
            (r#"{"required":"a"}"#, "/required: "),
            (
                r#"{"const":"a\u0000"}"#,
                "/const: it has a control character",
            ),
            (r#"{"properties":{"a\u0007":true}}"#, "/properties/"),
        ] {
            let error = refused(schema);
            assert!(error.starts_with("JSON schema: "), "{schema}: {error}");
            assert!(error.contains(said), "{schema}: {error}");
        }
        let deep = format!("{}{}", r#"{"items":"#.repeat(100_000), "}".repeat(100_000));
        assert!(refused(&deep).contains("recursion limit"));
    }

    #[test]
    fn large_schemas_are_followed_or_refused_at_once() {
        let many: Vec<String> = (0..3000)
            .map(|i| format!(r#""p{i}":{{"type":"integer"}}"#))
            .collect();
        let text = format!(r#"{{"type":"object","properties":{{{}}}}}"#, many.join(","));
        if let Ok(grammar) = Grammar::json_schema(&text) {
            assert!(grammar.accepts(br#"{"p7":1,"p2999":2}"#).unwrap());
        }
        let chain: Vec<String> = (0..10_000)
            .map(|i| format!(r##""d{i}":{{"$ref":"#/$defs/d{}"}}"##, i + 1))
            .collect();
        let text = format!(
            r##"{{"$ref":"#/$defs/d0","$defs":{{{},"d10000":{{"const":1}}}}}}"##,
            chain.join(",")
        );
        if let Ok(grammar) = Grammar::json_schema(&text) {
            assert!(grammar.accepts(b"1").unwrap());
        }
        let grammar =
            Grammar::json_schema(r#"{"type":"array","items":{"type":"integer"},"minItems":3000}"#)
                .unwrap();
        let text = format!("[{}1]", "1,".repeat(2999));
        assert!(grammar.accepts(text.as_bytes()).unwrap());
        assert!(!grammar.accepts(b"[1,1]").unwrap());
    }
}
