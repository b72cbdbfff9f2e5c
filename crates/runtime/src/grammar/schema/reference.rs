//! Resolves `$ref` within one document.

use serde_json::Value;

/// Resolves a reference in a schema whose nearest `$id` is at the position `base`. Returns the
/// value and its position as a JSON pointer.
pub(super) fn resolve<'a>(
    document: &'a Value,
    base: &str,
    reference: &str,
) -> Result<(String, &'a Value), String> {
    let (uri, fragment) = reference.split_once('#').unwrap_or((reference, ""));
    let base = match uri {
        "" => base.to_owned(),
        uri => resource(document, "", uri).ok_or_else(|| {
            format!("{reference:?} is not in this document, and no other is read")
        })?,
    };
    let missing = || format!("{reference:?} leads nowhere");
    let fragment = percent_decoded(fragment).ok_or_else(missing)?;
    let start = document.pointer(&base).ok_or_else(missing)?;
    let place = match fragment.as_str() {
        "" => base,
        pointer if pointer.starts_with('/') => {
            start.pointer(pointer).ok_or_else(missing)?;
            format!("{base}{pointer}")
        }
        name => anchor(start, &base, name, true).ok_or_else(missing)?,
    };
    let value = document.pointer(&place).ok_or_else(missing)?;
    // Different pointers may refer to the same position (`~01`, array indices): use only one.
    Ok((place, value))
}

/// The position of the schema whose `$id` is the absolute address `uri`.
fn resource(value: &Value, place: &str, uri: &str) -> Option<String> {
    let is_absolute = uri.contains("://") || uri.starts_with("urn:");
    find(value, place, &|schema| {
        let id = schema.get("$id").or_else(|| schema.get("id"))?.as_str()?;
        (is_absolute && id.trim_end_matches('#') == uri).then_some(())
    })
}

/// The position of the schema with an anchor, in the resource that starts at `value`.
fn anchor(value: &Value, place: &str, name: &str, first: bool) -> Option<String> {
    let schema = value.as_object();
    if let Some(schema) = schema {
        if !first && has_id(value) {
            return None;
        }
        let named = ["$anchor", "$dynamicAnchor"]
            .iter()
            .any(|key| schema.get(*key).and_then(Value::as_str) == Some(name));
        // In drafts 4 to 7, anchors are identifiers that start with `#`.
        let old = ["$id", "id"].iter().any(|key| {
            let id = schema.get(*key).and_then(Value::as_str);
            id.and_then(|id| id.strip_prefix('#')) == Some(name)
        });
        if named || old {
            return Some(place.to_owned());
        }
    }
    children(value)
        .find_map(|(key, child)| anchor(child, &format!("{place}/{}", escaped(&key)), name, false))
}

/// Returns whether a schema is a resource of its own, which references within it are relative to.
pub(super) fn has_id(schema: &Value) -> bool {
    let id = schema.get("$id").or_else(|| schema.get("id"));
    id.and_then(Value::as_str)
        .is_some_and(|id| !id.is_empty() && !id.starts_with('#'))
}

fn find(value: &Value, place: &str, test: &dyn Fn(&Value) -> Option<()>) -> Option<String> {
    if value.is_object() && test(value).is_some() {
        return Some(place.to_owned());
    }
    children(value)
        .find_map(|(key, child)| find(child, &format!("{place}/{}", escaped(&key)), test))
}

/// The children of a value, with their keys; without those of `enum` and `const`, which are not
/// schemas.
fn children(value: &Value) -> Box<dyn Iterator<Item = (String, &Value)> + '_> {
    match value {
        Value::Object(map) => Box::new(
            map.iter()
                .filter(|(key, _)| !matches!(key.as_str(), "enum" | "const"))
                .map(|(key, child)| (key.clone(), child)),
        ),
        Value::Array(list) => Box::new(
            list.iter()
                .enumerate()
                .map(|(i, child)| (i.to_string(), child)),
        ),
        _ => Box::new(std::iter::empty()),
    }
}

/// Escapes a key for use in a JSON pointer.
pub(super) fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let code = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(code, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_lead_to_pointers_anchors_and_identifiers() {
        let document = json!({
            "$id": "https://example.org/root",
            "$defs": {
                "a/b": {"const": 1},
                "c%d": {"const": 2},
                "e": {"$anchor": "here"},
                "f": {"$id": "https://example.org/f", "$defs": {"g": {"$anchor": "there"}}},
                "h": {"enum": [{"$anchor": "not"}]}
            }
        });
        let place = |base: &str, text: &str| resolve(&document, base, text).map(|(place, _)| place);
        assert_eq!(place("", "#").unwrap(), "");
        assert_eq!(place("", "https://example.org/root").unwrap(), "");
        assert_eq!(place("", "#/$defs/a~1b").unwrap(), "/$defs/a~1b");
        assert_eq!(place("", "#/%24defs/c%25d").unwrap(), "/$defs/c%d");
        assert_eq!(place("", "#here").unwrap(), "/$defs/e");
        assert_eq!(place("", "https://example.org/f").unwrap(), "/$defs/f");
        assert_eq!(place("/$defs/f", "#there").unwrap(), "/$defs/f/$defs/g");
        assert_eq!(place("/$defs/f", "#/$defs/g").unwrap(), "/$defs/f/$defs/g");
        for missing in ["#there", "#not", "#/$defs/z", "#/%zz", "f", "other#"] {
            assert!(place("", missing).is_err(), "{missing}");
        }
    }
}
