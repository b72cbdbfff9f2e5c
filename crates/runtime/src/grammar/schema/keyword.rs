//! Checks each keyword of a schema, and rewrites it in the form that llguidance supports.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Number, Value, json};

use super::reference::{self, escaped, has_id};
use super::{Schema, pattern};

type Result<T> = std::result::Result<T, String>;

/// Maximum number of subschemas, including those that references lead to.
const MAX_SCHEMAS: usize = 20_000;
/// The largest integer up to which doubles represent all integers exactly.
const LARGEST: f64 = 9_007_199_254_740_991.0;
/// Smaller numbers are not distinguished from zero in decimal notation.
const SMALLEST: f64 = 1e-9;

const UNWRITABLE: &str = "it has a control character that is not written";

const TYPES: [&str; 7] = [
    "null", "boolean", "integer", "number", "string", "array", "object",
];
const FORMATS: [&str; 10] = [
    "date-time",
    "time",
    "date",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uuid",
    "uri",
];
const DRAFTS: [&str; 5] = [
    "json-schema.org/draft/2020-12/schema",
    "json-schema.org/draft/2019-09/schema",
    "json-schema.org/draft-07/schema",
    "json-schema.org/draft-06/schema",
    "json-schema.org/draft-04/schema",
];

/// Rewrites a schema.
pub(super) struct Writer<'a> {
    document: &'a Value,
    /// The number of each position that a reference leads to.
    numbers: HashMap<String, usize>,
    /// The positions and their schemas, by number.
    targets: Vec<(String, &'a Value)>,
    schemas: usize,
}

/// The number of the definition that a rewritten reference leads to.
pub(super) fn definition(reference: &str) -> Option<usize> {
    reference.strip_prefix("#/$defs/")?.parse().ok()
}

impl<'a> Writer<'a> {
    pub fn new(document: &'a Value) -> Writer<'a> {
        Writer {
            document,
            numbers: HashMap::new(),
            targets: Vec::new(),
            schemas: 0,
        }
    }

    pub fn whole(mut self) -> Result<Schema> {
        let root = self.schema(self.document, "", "")?;
        let mut definitions: Vec<(String, Value)> = Vec::new();
        // Definitions may contain references that add to the list.
        while let Some((place, value)) = self.targets.get(definitions.len()).cloned() {
            let base = self.base_of(&place);
            definitions.push((place.clone(), self.schema(value, &place, &base)?));
        }
        straighten(&mut definitions)?;
        if !ends(&root, &that_end(&definitions)) {
            return Err("/: no text that fits it ends, or nothing fits it".to_owned());
        }
        Ok(Schema { definitions, root })
    }

    /// The position of the nearest enclosing schema that is a resource of its own.
    fn base_of(&self, place: &str) -> String {
        let ends = place.match_indices('/').map(|(at, _)| at);
        ends.chain([place.len()])
            .map(|end| &place[..end])
            .rfind(|place| self.document.pointer(place).is_some_and(has_id))
            .unwrap_or("")
            .to_owned()
    }

    fn schema(&mut self, value: &'a Value, place: &str, base: &str) -> Result<Value> {
        self.schemas += 1;
        if self.schemas > MAX_SCHEMAS {
            return Err(format!("it has more than {MAX_SCHEMAS} schemas"));
        }
        let map = match value {
            Value::Bool(_) => return Ok(value.clone()),
            Value::Object(map) => map,
            _ => return Err(at(place, "", "a schema is an object, true or false")),
        };
        let base = if has_id(value) { place } else { base };
        let mut out = Map::new();
        for (key, value) in map {
            let mut keyword = Keyword {
                writer: self,
                map,
                key,
                value,
                place,
                base,
            };
            keyword.write(&mut out)?;
        }
        Ok(Value::Object(out))
    }
}

fn at(place: &str, key: &str, what: &str) -> String {
    match (place, key) {
        ("", "") => format!("/: {what}"),
        (place, "") => format!("{place}: {what}"),
        (place, key) => format!("{place}/{}: {what}", escaped(key)),
    }
}

/// A keyword of a schema.
struct Keyword<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// The schema that contains it.
    map: &'a Map<String, Value>,
    key: &'a str,
    value: &'a Value,
    place: &'w str,
    base: &'w str,
}

impl<'a> Keyword<'_, 'a> {
    fn fault<T>(&self, what: &str) -> Result<T> {
        Err(at(self.place, self.key, what))
    }

    fn refused<T>(&self) -> Result<T> {
        self.fault(&format!("{} cannot be followed", self.key))
    }

    fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    fn write(&mut self, out: &mut Map<String, Value>) -> Result<()> {
        let value = match self.key {
            "$schema" => return self.draft(),
            "$ref" => self.reference()?,
            "$dynamicRef" | "$recursiveRef" => return self.refused(),
            "type" => self.types()?,
            "enum" => self.checked_values(self.list()?)?,
            "const" => self.checked_values(std::slice::from_ref(self.value))?,
            "anyOf" | "oneOf" | "prefixItems" => self.schemas()?,
            "properties" => self.named_schemas(|name| match is_writable(name) {
                true => Ok(name.to_owned()),
                false => Err(UNWRITABLE.to_owned()),
            })?,
            "patternProperties" => self.named_schemas(pattern::translated)?,
            "additionalProperties" => self.one_schema()?,
            "items" if self.value.is_array() => {
                // Drafts before 2020-12.
                let items = self.schemas()?;
                out.insert("prefixItems".to_owned(), items);
                return Ok(());
            }
            "items" => self.one_schema()?,
            "additionalItems" => {
                if self.map.get("items").is_some_and(Value::is_array) {
                    let items = self.one_schema()?;
                    out.insert("items".to_owned(), items);
                }
                return Ok(());
            }
            "unevaluatedProperties" => return self.unevaluated("additionalProperties", out),
            "unevaluatedItems" => return self.unevaluated("items", out),
            "required" => self.names()?,
            "minLength" | "maxLength" | "minItems" | "maxItems" | "maxProperties" => {
                self.count()?
            }
            "minProperties" => self.least_properties()?,
            "minimum" | "maximum" | "multipleOf" => self.number()?,
            "exclusiveMinimum" => self.exclusive("minimum")?,
            "exclusiveMaximum" => self.exclusive("maximum")?,
            "pattern" => match pattern::translated(self.text()?) {
                Ok(pattern) => json!(pattern),
                Err(why) => return self.fault(&why),
            },
            "format" => {
                let format = self.text()?;
                if !FORMATS.contains(&format) {
                    let known = FORMATS.join(", ");
                    return self.fault(&format!("{format:?} is not among {known}"));
                }
                match pattern::of_time(format) {
                    None => self.value.clone(),
                    Some(pattern) => {
                        let all = out.entry("allOf").or_insert_with(|| json!([]));
                        if let Value::Array(all) = all {
                            all.push(json!({ "pattern": pattern }));
                        }
                        return Ok(());
                    }
                }
            }
            "allOf" => {
                let mut all = self.schemas()?;
                if let (Value::Array(all), Some(Value::Array(before))) =
                    (&mut all, out.get("allOf"))
                {
                    all.extend(before.iter().cloned());
                }
                out.insert("allOf".to_owned(), all);
                return Ok(());
            }
            _ => return self.without_effect(),
        };
        if out.get(self.key).is_some_and(|already| *already != value) {
            return self.refused();
        }
        out.insert(self.key.to_owned(), value);
        Ok(())
    }

    /// Accepts keywords that cannot be enforced only if they require nothing.
    fn without_effect(&self) -> Result<()> {
        let is_empty = self.value.as_object().is_some_and(Map::is_empty);
        let allows_all = is_empty || *self.value == Value::Bool(true);
        let idle = match self.key {
            "not" => *self.value == Value::Bool(false),
            "if" => !self.has("then") && !self.has("else"),
            "contains" => {
                self.map.get("minContains").and_then(Value::as_f64) == Some(0.0)
                    && !self.has("maxContains")
            }
            "uniqueItems" => *self.value == Value::Bool(false),
            "propertyNames" => allows_all,
            "dependentRequired" | "dependentSchemas" | "dependencies" => is_empty,
            // Annotations, definitions, and keywords of other tools.
            _ => true,
        };
        if idle { Ok(()) } else { self.refused() }
    }

    fn draft(&self) -> Result<()> {
        let address = self.text()?.trim_end_matches('#');
        let name = address.split_once("://").map_or(address, |(_, name)| name);
        if DRAFTS.contains(&name) {
            return Ok(());
        }
        self.fault("this dialect of JSON Schema is not known")
    }

    fn reference(&mut self) -> Result<Value> {
        let text = self.text()?;
        let found = reference::resolve(self.writer.document, self.base, text);
        let (place, target) = match found {
            Ok(found) => found,
            Err(why) => return self.fault(&why),
        };
        let next = self.writer.targets.len();
        let number = *self.writer.numbers.entry(place.clone()).or_insert(next);
        if number == next {
            self.writer.targets.push((place, target));
        }
        Ok(json!(format!("#/$defs/{number}")))
    }

    fn types(&self) -> Result<Value> {
        let is_type = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
        let sound = match self.value {
            Value::Array(list) => !list.is_empty() && list.iter().all(is_type),
            value => is_type(value),
        };
        match sound {
            true => Ok(self.value.clone()),
            false => self.fault(&format!("a type is one of {}", TYPES.join(", "))),
        }
    }

    fn list(&self) -> Result<&'a [Value]> {
        match self.value {
            Value::Array(list) => Ok(list),
            _ => self.fault("a list is expected"),
        }
    }

    fn text(&self) -> Result<&'a str> {
        match self.value {
            Value::String(text) => Ok(text),
            _ => self.fault("a text is expected"),
        }
    }

    fn names(&self) -> Result<Value> {
        match self.list()?.iter().all(Value::is_string) {
            true => self.checked_values(self.list()?),
            false => self.fault("a list of names is expected"),
        }
    }

    /// Checks literal values, which are kept only if generated texts can have exactly these.
    fn checked_values(&self, values: &[Value]) -> Result<Value> {
        fn fault(value: &Value) -> Option<&'static str> {
            match value {
                Value::Number(number) if !is_exact(number) => {
                    Some("it has a number that is too large or too small to be exact")
                }
                Value::String(text) if !is_writable(text) => Some(UNWRITABLE),
                Value::Array(list) => list.iter().find_map(fault),
                Value::Object(map) => {
                    let names = map.keys().find(|name| !is_writable(name));
                    names
                        .map(|_| UNWRITABLE)
                        .or_else(|| map.values().find_map(fault))
                }
                _ => None,
            }
        }
        match values.iter().find_map(fault) {
            Some(what) => self.fault(what),
            None => Ok(self.value.clone()),
        }
    }

    fn one_schema(&mut self) -> Result<Value> {
        let place = format!("{}/{}", self.place, self.key);
        self.writer.schema(self.value, &place, self.base)
    }

    fn schemas(&mut self) -> Result<Value> {
        let list = self.list()?;
        if list.is_empty() {
            return self.fault("at least one schema is expected");
        }
        let mut out = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            let place = format!("{}/{}/{i}", self.place, self.key);
            out.push(self.writer.schema(value, &place, self.base)?);
        }
        Ok(Value::Array(out))
    }

    fn named_schemas(&mut self, rename: impl Fn(&str) -> Result<String>) -> Result<Value> {
        let Value::Object(map) = self.value else {
            return self.fault("an object with schemas is expected");
        };
        let mut out = Map::new();
        for (name, value) in map {
            let place = format!("{}/{}/{}", self.place, self.key, escaped(name));
            let renamed = rename(name).map_err(|why| at(&place, "", &why))?;
            let schema = self.writer.schema(value, &place, self.base)?;
            if out.insert(renamed, schema).is_some() {
                return self.fault("two of its patterns fit the same names");
            }
        }
        Ok(Value::Object(out))
    }

    /// Rewrites `unevaluatedProperties` and `unevaluatedItems`. If the schema has only keywords
    /// for single properties or items, what they leave unevaluated is what is additional.
    fn unevaluated(&mut self, additional: &str, out: &mut Map<String, Value>) -> Result<()> {
        if *self.value == Value::Bool(true) || self.has(additional) {
            return Ok(());
        }
        let applicators = [
            "$ref",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "if",
            "dependentSchemas",
            "contains",
        ];
        if applicators.iter().any(|key| self.has(key)) {
            return self.refused();
        }
        let schema = self.one_schema()?;
        out.insert(additional.to_owned(), schema);
        Ok(())
    }

    fn count(&self) -> Result<Value> {
        let number = self.value.as_f64();
        match number {
            Some(n) if n >= 0.0 && n.fract() == 0.0 && n <= f64::from(u32::MAX) => {
                Ok(json!(n as u64))
            }
            Some(n) if n >= 0.0 && n.fract() == 0.0 => self.fault("it is too large"),
            _ => self.fault("a whole number from 0 on is expected"),
        }
    }

    /// Checks `minProperties`. A text may repeat the name of a property, so only the required ones
    /// and one more are certain to be distinct.
    fn least_properties(&self) -> Result<Value> {
        let least = self.count()?;
        let required = self.map.get("required").and_then(Value::as_array);
        let certain: HashSet<&Value> = required.into_iter().flatten().collect();
        match least.as_u64() {
            Some(n) if n <= certain.len() as u64 + 1 => Ok(least),
            _ => {
                self.fault("minProperties cannot be followed beyond the required ones and one more")
            }
        }
    }

    fn number(&self) -> Result<Value> {
        let Value::Number(number) = self.value else {
            return self.fault("a number is expected");
        };
        if !is_exact(number) {
            return self.fault("the number is too large or too small to be exact");
        }
        if self.key == "multipleOf" && number.as_f64().is_none_or(|n| n <= 0.0) {
            return self.fault("a number above 0 is expected");
        }
        Ok(self.value.clone())
    }

    /// An exclusive bound. In draft 4 it is a flag beside the bound.
    fn exclusive(&self, bound: &str) -> Result<Value> {
        match (self.value, self.map.get(bound)) {
            (Value::Bool(false), _) => Ok(Value::Bool(false)),
            (Value::Bool(true), Some(Value::Number(_))) => Ok(Value::Bool(true)),
            (Value::Bool(true), _) => self.fault(&format!("there is no {bound} to exclude")),
            _ => self.number(),
        }
    }
}

/// Returns whether a text can be written in JSON without `\u` escapes.
fn is_writable(text: &str) -> bool {
    let has_escape = |c: char| matches!(c, '\u{8}' | '\t' | '\n' | '\u{c}' | '\r');
    text.chars().all(|c| has_escape(c) || !c.is_ascii_control())
}

fn is_exact(number: &Number) -> bool {
    number
        .as_f64()
        .is_some_and(|n| n == 0.0 || n.abs() <= LARGEST && n.abs() >= SMALLEST)
}

/// Replaces references to definitions that are only references by their targets.
fn straighten(definitions: &mut [(String, Value)]) -> Result<()> {
    let next: Vec<Option<usize>> = definitions
        .iter()
        .map(|(_, schema)| match schema.as_object() {
            Some(map) if map.len() == 1 => {
                map.get("$ref").and_then(Value::as_str).and_then(definition)
            }
            _ => None,
        })
        .collect();
    let mut last = Vec::with_capacity(next.len());
    for (start, (place, _)) in definitions.iter().enumerate() {
        let mut at = start;
        let mut steps = 0;
        while let Some(further) = next[at] {
            at = further;
            steps += 1;
            if steps > next.len() {
                return Err(format!("{place}/$ref: it leads back to itself"));
            }
        }
        last.push(at);
    }
    for (number, at) in last.into_iter().enumerate() {
        if at != number {
            definitions[number].1 = definitions[at].1.clone();
        }
    }
    Ok(())
}

/// For each definition, whether a text of finite length may match it.
fn that_end(definitions: &[(String, Value)]) -> Vec<bool> {
    let mut known = vec![false; definitions.len()];
    loop {
        let mut changed = false;
        for (number, (_, schema)) in definitions.iter().enumerate() {
            if !known[number] && ends(schema, &known) {
                known[number] = true;
                changed = true;
            }
        }
        if !changed {
            return known;
        }
    }
}

/// Returns whether a text of finite length may match a schema, given what is known about the
/// definitions. False is certain, true is not.
fn ends(schema: &Value, known: &[bool]) -> bool {
    let Value::Object(map) = schema else {
        return *schema != Value::Bool(false);
    };
    let list = |key: &str| map.get(key).and_then(Value::as_array);
    let target = map.get("$ref").and_then(Value::as_str).and_then(definition);
    if target.is_some_and(|number| !known[number])
        || list("allOf").is_some_and(|all| !all.iter().all(|s| ends(s, known)))
        || list("anyOf").is_some_and(|any| !any.iter().any(|s| ends(s, known)))
        || list("oneOf").is_some_and(|any| !any.iter().any(|s| ends(s, known)))
    {
        return false;
    }
    match map.get("type").and_then(Value::as_str) {
        Some("object") => {
            let properties = map.get("properties").and_then(Value::as_object);
            let required = list("required").into_iter().flatten();
            required
                .filter_map(|name| properties?.get(name.as_str()?))
                .all(|schema| ends(schema, known))
        }
        Some("array") => {
            let least = map.get("minItems").and_then(Value::as_u64).unwrap_or(0);
            let least = usize::try_from(least).unwrap_or(usize::MAX);
            let first = list("prefixItems").map_or(&[][..], Vec::as_slice);
            let items = map.get("items").unwrap_or(&Value::Bool(true));
            first.iter().take(least).all(|schema| ends(schema, known))
                && (least <= first.len() || ends(items, known))
        }
        _ => true,
    }
}
