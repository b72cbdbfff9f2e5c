//! The filters of jinja2, and those that transformers adds.

use std::cmp::Ordering;
use std::rc::Rc;

use super::eval::{Args, Result, Run};
use super::text::{Builder, Text};
use super::value::{Value, compare};
use super::{format, json, method, test};

/// Applies a filter.
pub(super) fn apply<'t>(
    run: &mut Run<'t>,
    name: &str,
    value: Value<'t>,
    args: &Args<'t>,
) -> Result<Value<'t>> {
    run.step(1 + value.weight() / 64)?;
    run.charge(value.weight())?;
    let text = |run: &mut Run<'t>| run.text_of(&value);
    let int = |at: usize, name: &str| args.get(at, name).and_then(Value::int);
    let flag = |at: usize, name: &str| args.get(at, name).is_some_and(Value::is_true);
    Ok(match name {
        // Values.
        "default" | "d" => {
            let is_missing =
                matches!(value, Value::Undefined(_)) || flag(1, "boolean") && !value.is_true();
            match (is_missing, args.get(0, "default_value")) {
                (true, Some(other)) => other.clone(),
                (true, None) => Value::own(""),
                (false, _) => value,
            }
        }
        "string" | "safe" => Value::Text(text(run)?),
        "tojson" => Value::Text(json::written(run, &value, args)?),
        "int" => to_int(&value).map_or_else(
            || args.get(0, "default").cloned().unwrap_or(Value::Int(0)),
            Value::Int,
        ),
        "float" => to_float(&value).map_or_else(
            || args.get(0, "default").cloned().unwrap_or(Value::Float(0.0)),
            Value::Float,
        ),
        "abs" => match (&value, value.int()) {
            (_, Some(int)) => Value::Int(int.checked_abs().ok_or("a number becomes too large")?),
            (Value::Float(f), _) => Value::Float(f.abs()),
            _ => return Err(format!("abs wants a number, not {}", value.kind()).into()),
        },
        "round" => round(&value, args)?,
        "attr" => {
            let name = args.need(0, "name")?.to_text();
            run.attribute(&value, name.as_str())?
        }
        "length" | "count" => Value::Int(match &value {
            Value::Text(text) => text.as_str().chars().count(),
            Value::List(items) | Value::Tuple(items) => items.len(),
            Value::Map(map) => map.len(),
            Value::Undefined(_) => 0,
            other => return Err(format!("{} has no length", other.kind()).into()),
        } as i64),
        // Texts.
        "trim" => {
            let chars = match args.get(0, "chars") {
                Some(Value::Text(chars)) => Some(chars.clone()),
                _ => None,
            };
            Value::Text(method::strip(
                &text(run)?,
                chars.as_ref().map(Text::as_str),
                true,
                true,
            ))
        }
        "upper" => Value::Text(text(run)?.map(|c, out| out.extend(c.to_uppercase()))),
        "lower" => Value::Text(text(run)?.map(|c, out| out.extend(c.to_lowercase()))),
        "capitalize" => Value::Text(method::capitalize(&text(run)?)),
        "title" => Value::Text(title(&text(run)?)),
        "replace" => {
            let text = text(run)?;
            let (old, new) = (
                args.need(0, "old")?.to_text(),
                args.need(1, "new")?.to_text(),
            );
            Value::Text(method::replace(
                run,
                &text,
                old.as_str(),
                &new,
                int(2, "count"),
            )?)
        }
        "center" => {
            let text = text(run)?;
            Value::Text(method::pad(
                run,
                &text,
                int(0, "width").unwrap_or(80),
                &Text::own(" "),
                "center",
            )?)
        }
        "indent" => {
            let text = text(run)?;
            Value::Text(indent(run, &text, args)?)
        }
        "truncate" => Value::Text(truncate(&text(run)?, args)),
        "format" => {
            let text = text(run)?;
            let values = match args.named.is_empty() {
                true => Value::Tuple(Rc::new(args.list.clone())),
                false => Value::Map(Rc::new(
                    args.named
                        .iter()
                        .map(|(k, v)| (Value::Text(k.clone()), v.clone()))
                        .collect(),
                )),
            };
            Value::Text(format::percent(run, &text, &values)?)
        }
        "escape" | "e" | "forceescape" => Value::Text(text(run)?.map(|c, out| match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        })),
        "wordcount" => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let text = text(run)?;
            let words = text
                .as_str()
                .split(|c| !is_word(c))
                .filter(|word| !word.is_empty());
            Value::Int(words.count() as i64)
        }
        // Lists.
        "list" => Value::List(run.items(&value)?),
        "first" => run
            .items(&value)?
            .first()
            .cloned()
            .unwrap_or_else(|| Value::undefined("the first of nothing")),
        "last" => run
            .items(&value)?
            .last()
            .cloned()
            .unwrap_or_else(|| Value::undefined("the last of nothing")),
        "join" => {
            let items = run.items(&value)?;
            let between = args.get(0, "d").map_or_else(Text::default, Value::to_text);
            let items = match args.get(1, "attribute") {
                Some(path) => picked(run, &items, path)?,
                None => items.to_vec(),
            };
            Value::Text(method::join(run, &items, &between)?)
        }
        "reverse" => match &value {
            Value::Text(text) => {
                let mut out = Builder::default();
                for (at, c) in text.as_str().char_indices().rev() {
                    out.push(&text.slice(at..at + c.len_utf8()));
                }
                Value::Text(out.finish())
            }
            other => Value::list(run.items(other)?.iter().rev().cloned().collect()),
        },
        "sort" => {
            let mut items = run.items(&value)?.to_vec();
            let keys = match args.get(2, "attribute") {
                Some(path) => picked(run, &items, path)?,
                None => items.clone(),
            };
            sort(
                run,
                &mut items,
                keys,
                flag(1, "case_sensitive"),
                flag(0, "reverse"),
            )?;
            Value::list(items)
        }
        "dictsort" => {
            let Value::Map(map) = &value else {
                return Err(format!("dictsort wants a dict, not {}", value.kind()).into());
            };
            let by_value = args
                .get(1, "by")
                .is_some_and(|by| by.to_text().as_str() == "value");
            let mut items: Vec<_> = map
                .iter()
                .map(|(k, v)| Value::Tuple(Rc::new(vec![k.clone(), v.clone()])))
                .collect();
            let keys = map
                .iter()
                .map(|(k, v)| if by_value { v.clone() } else { k.clone() })
                .collect();
            sort(
                run,
                &mut items,
                keys,
                flag(0, "case_sensitive"),
                flag(2, "reverse"),
            )?;
            Value::list(items)
        }
        "items" => match &value {
            Value::Map(_) => method::call(run, &value, "items", args)?,
            Value::Undefined(_) => Value::list(Vec::new()),
            other => return Err(format!("items wants a dict, not {}", other.kind()).into()),
        },
        "unique" => {
            let mut kept: Vec<Value<'t>> = Vec::new();
            for item in run.items(&value)?.iter() {
                run.step(1 + kept.len())?;
                let key = folded(item, flag(0, "case_sensitive"));
                if !kept
                    .iter()
                    .any(|k| folded(k, flag(0, "case_sensitive")) == key)
                {
                    kept.push(item.clone());
                }
            }
            Value::list(kept)
        }
        "min" | "max" => {
            let items = run.items(&value)?;
            run.weigh(&value)?;
            let wanted = if name == "min" {
                Ordering::Less
            } else {
                Ordering::Greater
            };
            let mut best: Option<&Value<'t>> = None;
            for item in items.iter() {
                let better = match best {
                    None => true,
                    Some(best) => order(&folded(item, false), &folded(best, false))? == wanted,
                };
                if better {
                    best = Some(item);
                }
            }
            best.cloned()
                .unwrap_or_else(|| Value::undefined("the best of nothing"))
        }
        "sum" => {
            let items = run.items(&value)?;
            let items = match args.get(0, "attribute") {
                Some(path) => picked(run, &items, path)?,
                None => items.to_vec(),
            };
            sum(&items, args.get(1, "start"))?
        }
        "batch" | "slice" => pieces(run, name, &value, args)?,
        "map" => map(run, &value, args)?,
        "select" | "reject" | "selectattr" | "rejectattr" => select(run, name, &value, args)?,
        "groupby" => groupby(run, &value, args)?,
        _ => return Err(format!("there is no filter {name}").into()),
    })
}

fn to_int(value: &Value<'_>) -> Option<i64> {
    match value {
        Value::Float(f) if f.is_finite() => Some(f.trunc() as i64),
        Value::Text(text) => {
            let text = text.as_str().trim();
            let whole = text.parse().ok();
            whole.or_else(|| {
                text.parse::<f64>()
                    .ok()
                    .filter(|f| f.is_finite())
                    .map(|f| f.trunc() as i64)
            })
        }
        value => value.int(),
    }
}

fn to_float(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Text(text) => text.as_str().trim().parse().ok(),
        value => value.number(),
    }
}

fn round<'t>(value: &Value<'t>, args: &Args<'t>) -> Result<Value<'t>> {
    let number = value.number().ok_or("round wants a number")?;
    let precision = args
        .get(0, "precision")
        .and_then(Value::int)
        .unwrap_or(0)
        .clamp(-300, 300);
    let scale = 10f64.powi(precision as i32);
    let how = args.get(1, "method").map(Value::to_text);
    let is_common = how.as_ref().is_none_or(|how| how.as_str() == "common");
    if let (Some(_), true, 0..) = (value.int(), is_common, precision) {
        return Ok(value.clone());
    }
    Ok(Value::Float(match how.as_ref().map(Text::as_str) {
        Some("ceil") => (number * scale).ceil() / scale,
        Some("floor") => (number * scale).floor() / scale,
        _ => match usize::try_from(precision) {
            // Formatting rounds the exact value, ties to even.
            Ok(digits) => format!("{number:.digits$}").parse().unwrap_or(number),
            Err(_) => (number * scale).round_ties_even() / scale,
        },
    }))
}

fn title(text: &Text) -> Text {
    let mut begins = true;
    text.map(|c, out| {
        match begins {
            true => out.extend(c.to_uppercase()),
            false => out.extend(c.to_lowercase()),
        }
        begins = c.is_whitespace() || "-([{<".contains(c);
    })
}

fn indent<'t>(run: &mut Run<'t>, text: &Text, args: &Args<'t>) -> Result<Text> {
    let margin = match args.get(0, "width") {
        Some(Value::Text(margin)) => margin.clone(),
        Some(width) => run.repeat(&Text::own(" "), width.int().unwrap_or(4))?,
        None => Text::own("    "),
    };
    let first = args.get(1, "first").is_some_and(Value::is_true);
    let blank = args.get(2, "blank").is_some_and(Value::is_true);
    let mut out = Builder::default();
    // A text that ends with a line break has an empty line after it.
    let plain = text.as_str();
    let mut lines = method::lines(plain, false);
    if lines.is_empty() || method::lines(plain, true).last().copied() != lines.last().copied() {
        lines.push("");
    }
    for (i, line) in lines.into_iter().enumerate() {
        if i > 0 {
            out.push_own("\n");
        }
        if if i == 0 {
            first
        } else {
            blank || !line.is_empty()
        } {
            run.charge(margin.len())?;
            out.push(&margin);
        }
        out.push(&text.part(line));
    }
    Ok(out.finish())
}

fn truncate<'t>(text: &Text, args: &Args<'t>) -> Text {
    let number = |at, name| {
        args.get(at, name)
            .and_then(Value::int)
            .and_then(|n| usize::try_from(n).ok())
    };
    let length = number(0, "length").unwrap_or(255);
    let killwords = args.get(1, "killwords").is_some_and(Value::is_true);
    let end = args
        .get(2, "end")
        .map_or_else(|| Text::own("..."), Value::to_text);
    let leeway = number(3, "leeway").unwrap_or(5);
    let count = text.as_str().chars().count();
    if count <= length.saturating_add(leeway) {
        return text.clone();
    }
    let keep = length.saturating_sub(end.as_str().chars().count());
    let cut = text
        .as_str()
        .char_indices()
        .nth(keep)
        .map_or(text.len(), |(at, _)| at);
    let mut kept = &text.as_str()[..cut];
    if !killwords {
        kept = kept.rsplit_once(' ').map_or(kept, |(before, _)| before);
    }
    let mut out = Builder::default();
    out.push(&text.part(kept));
    out.push(&end);
    out.finish()
}

/// The attribute at a dotted path, of each item.
fn picked<'t>(run: &mut Run<'t>, items: &[Value<'t>], path: &Value<'t>) -> Result<Vec<Value<'t>>> {
    let mut out = Vec::with_capacity(items.len());
    for item in items {
        out.push(member(run, item, path)?);
    }
    Ok(out)
}

fn member<'t>(run: &mut Run<'t>, item: &Value<'t>, path: &Value<'t>) -> Result<Value<'t>> {
    let Value::Text(path) = path else {
        return run.item(item, path);
    };
    let mut found = item.clone();
    for part in path.as_str().split('.') {
        found = match part.parse() {
            Ok(index) => run.item(&found, &Value::Int(index))?,
            Err(_) => run.item(&found, &Value::own(part))?,
        };
    }
    Ok(found)
}

/// The sort key of a value: in lower case, unless case matters.
fn folded<'t>(value: &Value<'t>, case_sensitive: bool) -> Value<'t> {
    match value {
        Value::Text(text) if !case_sensitive => Value::own(&text.as_str().to_lowercase()),
        value => value.clone(),
    }
}

fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Ordering> {
    compare(a, b).ok_or_else(|| format!("{} and {} have no order", a.kind(), b.kind()).into())
}

fn sort<'t>(
    run: &mut Run<'t>,
    items: &mut Vec<Value<'t>>,
    keys: Vec<Value<'t>>,
    case_sensitive: bool,
    reverse: bool,
) -> Result<()> {
    for key in &keys {
        run.step(20)?;
        run.weigh(key)?;
    }
    let mut both: Vec<_> = keys
        .iter()
        .map(|key| folded(key, case_sensitive))
        .zip(items.drain(..))
        .collect();
    let mut fault = None;
    both.sort_by(|(a, _), (b, _)| {
        let order = order(a, b).unwrap_or_else(|why| {
            fault = Some(why);
            Ordering::Equal
        });
        if reverse { order.reverse() } else { order }
    });
    items.extend(both.into_iter().map(|(_, item)| item));
    fault.map_or(Ok(()), Err)
}

fn sum<'t>(items: &[Value<'t>], start: Option<&Value<'t>>) -> Result<Value<'t>> {
    let all = items.iter().chain(start);
    let whole: Option<i64> = all
        .clone()
        .try_fold(0i64, |sum, item| sum.checked_add(item.int()?));
    if let Some(whole) = whole {
        return Ok(Value::Int(whole));
    }
    let sum: Option<f64> = all.map(Value::number).sum();
    sum.map(Value::Float)
        .ok_or_else(|| "sum wants numbers".into())
}

fn pieces<'t>(
    run: &mut Run<'t>,
    name: &str,
    value: &Value<'t>,
    args: &Args<'t>,
) -> Result<Value<'t>> {
    let items = run.items(value)?;
    let count = args.get(0, "linecount").and_then(Value::int);
    let count = count
        .and_then(|n| usize::try_from(n).ok())
        .filter(|n| *n > 0);
    let count = count.ok_or_else(|| format!("{name} wants a number above 0"))?;
    let fill = args
        .get(1, "fill_with")
        .filter(|fill| !matches!(fill, Value::None));
    run.charge(count.saturating_mul(32))?;
    run.step(items.len())?;
    let mut out = Vec::new();
    if name == "batch" {
        for chunk in items.chunks(count) {
            let mut chunk = chunk.to_vec();
            if let Some(fill) = fill {
                chunk.resize(count, fill.clone());
            }
            out.push(Value::list(chunk));
        }
        return Ok(Value::list(out));
    }
    run.step(count)?;
    let (least, more) = (items.len() / count, items.len() % count);
    let mut at = 0;
    for column in 0..count {
        let len = least + usize::from(column < more);
        let mut part = items[at..at + len].to_vec();
        if let Some(fill) = fill.filter(|_| more > 0 && column >= more) {
            part.push(fill.clone());
        }
        at += len;
        out.push(Value::list(part));
    }
    Ok(Value::list(out))
}

fn map<'t>(run: &mut Run<'t>, value: &Value<'t>, args: &Args<'t>) -> Result<Value<'t>> {
    let items = run.items(value)?;
    if let Some(path) = args.get(usize::MAX, "attribute") {
        let default = args.get(usize::MAX, "default");
        let found = picked(run, &items, path)?.into_iter();
        let found = found.map(|item| match (item, default) {
            (Value::Undefined(_), Some(default)) => default.clone(),
            (item, _) => item,
        });
        return Ok(Value::list(found.collect()));
    }
    let name = args.need(0, "filter")?.to_text();
    let rest = rest_of(args, 1);
    let mut out = Vec::with_capacity(items.len());
    for item in items.iter() {
        out.push(apply(run, name.as_str(), item.clone(), &rest)?);
    }
    Ok(Value::list(out))
}

fn rest_of<'t>(args: &Args<'t>, from: usize) -> Args<'t> {
    Args {
        list: args.list.iter().skip(from).cloned().collect(),
        named: args.named.clone(),
    }
}

fn select<'t>(
    run: &mut Run<'t>,
    name: &str,
    value: &Value<'t>,
    args: &Args<'t>,
) -> Result<Value<'t>> {
    let items = run.items(value)?;
    let by_member = name.ends_with("attr");
    let wanted = name.starts_with("select");
    let path = if by_member {
        Some(args.need(0, "attribute")?)
    } else {
        None
    };
    let at = usize::from(by_member);
    let name = args.list.get(at).map(Value::to_text);
    let rest = rest_of(args, at + 1);
    let mut kept = Vec::new();
    for item in items.iter() {
        let looked_at = match path {
            Some(path) => member(run, item, path)?,
            None => item.clone(),
        };
        run.step(1)?;
        let passes = match &name {
            Some(name) => test::passes(run, name.as_str(), &looked_at, &rest)?,
            None => looked_at.is_true(),
        };
        if passes == wanted {
            kept.push(item.clone());
        }
    }
    Ok(Value::list(kept))
}

fn groupby<'t>(run: &mut Run<'t>, value: &Value<'t>, args: &Args<'t>) -> Result<Value<'t>> {
    let mut items = run.items(value)?.to_vec();
    let path = args.need(0, "attribute")?;
    let keys = picked(run, &items, path)?;
    sort(run, &mut items, keys, false, false)?;
    let mut groups: Vec<(Value<'t>, Vec<Value<'t>>)> = Vec::new();
    for item in items {
        let key = member(run, &item, path)?;
        match groups
            .last_mut()
            .filter(|(k, _)| folded(k, false) == folded(&key, false))
        {
            Some((_, group)) => group.push(item),
            None => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter();
    Ok(Value::list(
        groups
            .map(|(key, group)| Value::Tuple(Rc::new(vec![key, Value::list(group)])))
            .collect(),
    ))
}
