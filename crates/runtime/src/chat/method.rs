//! The methods of strings, dicts, lists and `loop`.

use std::rc::Rc;

use super::eval::{Args, Result, Run};
use super::format;
use super::text::{Builder, Text};
use super::value::Value;

const OF_TEXT: &[&str] = &[
    "strip",
    "lstrip",
    "rstrip",
    "split",
    "rsplit",
    "splitlines",
    "startswith",
    "endswith",
    "replace",
    "upper",
    "lower",
    "capitalize",
    "title",
    "find",
    "rfind",
    "index",
    "count",
    "join",
    "format",
    "isdigit",
    "isnumeric",
    "isdecimal",
    "isalpha",
    "isalnum",
    "isspace",
    "isupper",
    "islower",
    "removeprefix",
    "removesuffix",
    "zfill",
    "ljust",
    "rjust",
    "center",
    "partition",
    "rpartition",
    "casefold",
];
const OF_MAP: &[&str] = &["get", "items", "keys", "values", "copy"];
const OF_LIST: &[&str] = &["index", "count", "copy"];
/// Methods that would modify their object, which templates must not do.
const CHANGING: &[&str] = &[
    "append",
    "extend",
    "insert",
    "remove",
    "pop",
    "clear",
    "update",
    "setdefault",
    "sort",
    "reverse",
    "popitem",
];

/// Returns whether a value has the method.
pub(super) fn exists(value: &Value<'_>, name: &str) -> bool {
    match value {
        Value::Text(_) => OF_TEXT.contains(&name),
        Value::Map(_) => OF_MAP.contains(&name) || CHANGING.contains(&name),
        Value::List(_) => OF_LIST.contains(&name) || CHANGING.contains(&name),
        Value::Tuple(_) => OF_LIST.contains(&name),
        _ => false,
    }
}

/// Calls a method.
pub(super) fn call<'t>(
    run: &mut Run<'t>,
    value: &Value<'t>,
    name: &str,
    args: &Args<'t>,
) -> Result<Value<'t>> {
    run.charge(value.weight())?;
    run.step(1 + value.weight() / 64)?;
    match value {
        Value::Text(text) => of_text(run, text, name, args),
        Value::Map(_) | Value::List(_) if CHANGING.contains(&name) => Err(format!(
            "{name} would change a {}, which templates cannot",
            value.kind()
        )
        .into()),
        Value::Map(map) => Ok(match name {
            "get" => {
                let found = value.get(args.need(0, "key")?);
                found.unwrap_or_else(|| args.get(1, "default").cloned().unwrap_or(Value::None))
            }
            "items" => Value::list(
                map.iter()
                    .map(|(k, v)| Value::Tuple(Rc::new(vec![k.clone(), v.clone()])))
                    .collect(),
            ),
            "keys" => Value::list(map.iter().map(|(k, _)| k.clone()).collect()),
            "values" => Value::list(map.iter().map(|(_, v)| v.clone()).collect()),
            _ => value.clone(),
        }),
        Value::List(items) | Value::Tuple(items) => {
            run.weigh(value)?;
            let wanted = args.get(0, "value");
            match (name, wanted) {
                ("index", Some(wanted)) => match items.iter().position(|i| i == wanted) {
                    Some(at) => Ok(Value::Int(at as i64)),
                    None => Err("index: the list does not have it".into()),
                },
                ("count", Some(wanted)) => Ok(Value::Int(
                    items.iter().filter(|i| *i == wanted).count() as i64,
                )),
                ("copy", _) => Ok(value.clone()),
                _ => Err(format!("{name} wants a value").into()),
            }
        }
        Value::Loop(this) => match name {
            "cycle" if args.list.is_empty() => Err("cycle wants values".into()),
            "cycle" => Ok(args.list[this.index % args.list.len()].clone()),
            _ => {
                let before = this.last.borrow_mut().replace(args.list.clone());
                Ok(Value::Bool(before.as_ref() != Some(&args.list)))
            }
        },
        other => Err(format!("{} has no method {name}", other.kind()).into()),
    }
}

fn text_arg<'a, 't>(args: &'a Args<'t>, at: usize, name: &str) -> Result<&'a Text> {
    match args.need(at, name)? {
        Value::Text(text) => Ok(text),
        other => Err(format!("{name} wants a str, not {}", other.kind()).into()),
    }
}

fn of_text<'t>(run: &mut Run<'t>, text: &Text, name: &str, args: &Args<'t>) -> Result<Value<'t>> {
    let plain = text.as_str();
    let count = |at: usize, name: &str| args.get(at, name).and_then(Value::int);
    Ok(match name {
        "strip" | "lstrip" | "rstrip" => {
            let chars = match args.get(0, "chars") {
                Some(Value::Text(chars)) => Some(chars.as_str()),
                _ => None,
            };
            Value::Text(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => {
            let sep = match args.get(0, "sep") {
                None | Some(Value::None) => None,
                Some(Value::Text(sep)) if sep.is_empty() => {
                    return Err("split: an empty separator".into());
                }
                Some(Value::Text(sep)) => Some(sep.as_str()),
                Some(other) => {
                    return Err(format!("split wants a str, not {}", other.kind()).into());
                }
            };
            let most = count(1, "maxsplit").and_then(|n| usize::try_from(n).ok());
            let parts = split(plain, sep, most, name == "rsplit");
            run.charge(parts.len() * 32)?;
            Value::list(
                parts
                    .into_iter()
                    .map(|part| Value::Text(text.part(part)))
                    .collect(),
            )
        }
        "splitlines" => {
            let keep = args.get(0, "keepends").is_some_and(Value::is_true);
            let lines = lines(plain, keep);
            run.charge(lines.len() * 32)?;
            Value::list(
                lines
                    .into_iter()
                    .map(|part| Value::Text(text.part(part)))
                    .collect(),
            )
        }
        "startswith" | "endswith" => {
            run.look_at(&Value::Text(text.clone()));
            let is = |what: &Value<'t>| match what {
                Value::Text(what) if name == "startswith" => Ok(plain.starts_with(what.as_str())),
                Value::Text(what) => Ok(plain.ends_with(what.as_str())),
                other => Err(format!("{name} wants a str, not {}", other.kind())),
            };
            match args.need(0, "prefix")? {
                Value::Tuple(all) => {
                    let mut any = false;
                    for what in all.iter() {
                        any |= is(what)?;
                    }
                    Value::Bool(any)
                }
                what => Value::Bool(is(what)?),
            }
        }
        "replace" => {
            let (old, new) = (text_arg(args, 0, "old")?, text_arg(args, 1, "new")?);
            Value::Text(replace(run, text, old.as_str(), new, count(2, "count"))?)
        }
        "upper" => Value::Text(text.map(|c, out| out.extend(c.to_uppercase()))),
        "lower" | "casefold" => Value::Text(text.map(|c, out| out.extend(c.to_lowercase()))),
        "capitalize" => Value::Text(capitalize(text)),
        "title" => Value::Text(title(text)),
        "find" | "rfind" | "index" => {
            let what = text_arg(args, 0, "sub")?.as_str();
            let at = if name == "rfind" {
                plain.rfind(what)
            } else {
                plain.find(what)
            };
            match at {
                Some(at) => Value::Int(plain[..at].chars().count() as i64),
                None if name == "index" => return Err("index: the text does not have it".into()),
                None => Value::Int(-1),
            }
        }
        "count" => {
            let what = text_arg(args, 0, "sub")?.as_str();
            Value::Int(plain.matches(what).count() as i64)
        }
        "join" => {
            let items = run.items(args.need(0, "iterable")?)?;
            Value::Text(join(run, &items, text)?)
        }
        "format" => Value::Text(format::braces(run, text, args)?),
        "isdigit" | "isnumeric" | "isdecimal" => all(plain, char::is_numeric),
        "isalpha" => all(plain, char::is_alphabetic),
        "isalnum" => all(plain, char::is_alphanumeric),
        "isspace" => all(plain, is_space),
        "isupper" => Value::Bool(
            plain.chars().any(char::is_uppercase) && !plain.chars().any(char::is_lowercase),
        ),
        "islower" => Value::Bool(
            plain.chars().any(char::is_lowercase) && !plain.chars().any(char::is_uppercase),
        ),
        "removeprefix" => {
            let part = plain.strip_prefix(text_arg(args, 0, "prefix")?.as_str());
            Value::Text(text.part(part.unwrap_or(plain)))
        }
        "removesuffix" => {
            let part = plain.strip_suffix(text_arg(args, 0, "suffix")?.as_str());
            Value::Text(text.part(part.unwrap_or(plain)))
        }
        "zfill" => {
            let width = count(0, "width").unwrap_or(0);
            let sign = usize::from(plain.starts_with(['+', '-']));
            let missing = width.saturating_sub(plain.chars().count() as i64).max(0);
            let zeros = run.repeat(&Text::own("0"), missing)?;
            let mut out = Builder::default();
            out.push(&text.slice(0..sign));
            out.push(&zeros);
            out.push(&text.slice(sign..text.len()));
            Value::Text(out.finish())
        }
        "ljust" | "rjust" | "center" => {
            let width = count(0, "width").unwrap_or(0);
            let fill = match args.get(1, "fillchar") {
                Some(Value::Text(fill)) => fill.clone(),
                _ => Text::own(" "),
            };
            Value::Text(pad(run, text, width, &fill, name)?)
        }
        "partition" | "rpartition" => {
            let sep = text_arg(args, 0, "sep")?;
            let at = match name {
                "partition" => plain.find(sep.as_str()),
                _ => plain.rfind(sep.as_str()),
            };
            let parts = match at {
                Some(at) => {
                    let end = at + sep.len();
                    [
                        text.slice(0..at),
                        text.slice(at..end),
                        text.slice(end..text.len()),
                    ]
                }
                None if name == "partition" => [text.clone(), Text::default(), Text::default()],
                None => [Text::default(), Text::default(), text.clone()],
            };
            Value::Tuple(Rc::new(parts.map(Value::Text).to_vec()))
        }
        _ => return Err(format!("str has no method {name}").into()),
    })
}

/// Returns whether Python's `str` treats the character as white space.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn all<'t>(text: &str, test: impl Fn(char) -> bool) -> Value<'t> {
    Value::Bool(!text.is_empty() && text.chars().all(test))
}

pub(super) fn strip(text: &Text, chars: Option<&str>, left: bool, right: bool) -> Text {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let mut part = text.as_str();
    if left {
        part = part.trim_start_matches(goes);
    }
    if right {
        part = part.trim_end_matches(goes);
    }
    text.part(part)
}

fn split<'a>(
    text: &'a str,
    sep: Option<&str>,
    most: Option<usize>,
    from_right: bool,
) -> Vec<&'a str> {
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    match (sep, from_right) {
        (Some(sep), false) => text.splitn(most, sep).collect(),
        (Some(sep), true) => {
            let mut parts: Vec<_> = text.rsplitn(most, sep).collect();
            parts.reverse();
            parts
        }
        (None, false) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_start_matches(is_space);
            while !rest.is_empty() {
                if parts.len() + 1 == most {
                    parts.push(rest.trim_end_matches(is_space));
                    break;
                }
                let end = rest.find(is_space).unwrap_or(rest.len());
                parts.push(&rest[..end]);
                rest = rest[end..].trim_start_matches(is_space);
            }
            parts
        }
        (None, true) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_end_matches(is_space);
            while !rest.is_empty() {
                if parts.len() + 1 == most {
                    parts.push(rest.trim_start_matches(is_space));
                    break;
                }
                let last = rest.char_indices().rfind(|&(_, c)| is_space(c));
                let start = last.map_or(0, |(at, c)| at + c.len_utf8());
                parts.push(&rest[start..]);
                rest = rest[..start].trim_end_matches(is_space);
            }
            parts.reverse();
            parts
        }
    }
}

pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    while !rest.is_empty() {
        let Some(at) = rest.find(ends) else {
            lines.push(rest);
            break;
        };
        let width = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    lines
}

pub(super) fn replace<'t>(
    run: &mut Run<'t>,
    text: &Text,
    old: &str,
    new: &Text,
    count: Option<i64>,
) -> Result<Text> {
    let most = count
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(usize::MAX);
    let mut out = Builder::default();
    let mut at = 0;
    for (start, found) in text.as_str().match_indices(old).take(most) {
        run.charge(start - at + new.len())?;
        out.push(&text.slice(at..start));
        out.push(new);
        at = start + found.len();
    }
    run.charge(text.len() - at)?;
    out.push(&text.slice(at..text.len()));
    Ok(out.finish())
}

pub(super) fn join<'t>(run: &mut Run<'t>, items: &[Value<'t>], between: &Text) -> Result<Text> {
    let mut out = Builder::default();
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            run.charge(between.len())?;
            out.push(between);
        }
        let item = run.text_of(item)?;
        run.charge(item.len())?;
        run.step(1)?;
        out.push(&item);
    }
    Ok(out.finish())
}

pub(super) fn pad<'t>(
    run: &mut Run<'t>,
    text: &Text,
    width: i64,
    fill: &Text,
    how: &str,
) -> Result<Text> {
    let missing = width
        .saturating_sub(text.as_str().chars().count() as i64)
        .max(0);
    let left = match how {
        "ljust" => 0,
        "rjust" => missing,
        // If the padding is odd, Python puts the extra character on the left if the width is odd.
        _ => missing / 2 + (missing & width & 1),
    };
    let mut out = Builder::default();
    out.push(&run.repeat(fill, left)?);
    out.push(text);
    out.push(&run.repeat(fill, missing - left)?);
    Ok(out.finish())
}

pub(super) fn capitalize(text: &Text) -> Text {
    let mut first = true;
    text.map(|c, out| {
        match first {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        first = false;
    })
}

fn title(text: &Text) -> Text {
    let mut begins = true;
    text.map(|c, out| {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = !c.is_alphabetic();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_split_as_python_splits_them() {
        assert_eq!(split(" a  b c ", None, None, false), ["a", "b", "c"]);
        assert_eq!(split(" a  b c ", None, Some(1), false), ["a", "b c"]);
        assert_eq!(split(" a  b c ", None, Some(1), true), ["a  b", "c"]);
        assert_eq!(split("a,b,,c", Some(","), Some(2), false), ["a", "b", ",c"]);
        assert_eq!(split("a,b,c", Some(","), Some(1), true), ["a,b", "c"]);
        assert_eq!(split("", Some(","), None, false), [""]);
        assert_eq!(lines("a\r\nb\n\nc", false), ["a", "b", "", "c"]);
        assert_eq!(lines("a\n", true), ["a\n"]);
    }
}
