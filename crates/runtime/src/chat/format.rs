//! Python's string formatting: `%` and `str.format`.

use super::eval::{Args, Fault, Result, Run};
use super::text::{Builder, Text};
use super::value::{Value, float};

/// Maximum width of a field.
const MAX_WIDTH: usize = 10_000;

/// The format of one value.
#[derive(Default)]
struct Field {
    left: bool,
    center: bool,
    right: bool,
    plus: bool,
    zero: bool,
    fill: Option<char>,
    width: usize,
    precision: Option<usize>,
}

/// Python's `%` operator on a string.
pub(super) fn percent<'t>(run: &mut Run<'t>, format: &Text, value: &Value<'t>) -> Result<Text> {
    let mut values = match value {
        Value::Tuple(items) => items.iter().cloned().collect(),
        other => vec![other.clone()],
    }
    .into_iter();
    let mut out = Builder::default();
    let text = format.as_str();
    let mut at = 0;
    while let Some(found) = text[at..].find('%') {
        let start = at + found;
        out.push(&format.slice(at..start));
        let mut reader = Reader {
            text,
            at: start + 1,
        };
        let name = match reader.eat('(') {
            true => Some(reader.until(')')?),
            false => None,
        };
        let mut field = Field::default();
        while let Some(flag) = reader.peek().filter(|c| "-+ 0#".contains(*c)) {
            reader.at += 1;
            match flag {
                '-' => field.left = true,
                '+' => field.plus = true,
                '0' => field.zero = true,
                _ => {}
            }
        }
        // Strings are right-aligned by default, unlike in `str.format`.
        field.right = !field.left;
        field.width = reader.number()?.unwrap_or(0);
        if reader.eat('.') {
            field.precision = Some(reader.number()?.unwrap_or(0));
        }
        let kind = reader.next().ok_or("a % is not complete")?;
        at = reader.at;
        if kind == '%' {
            out.push_own("%");
            continue;
        }
        let argument = match name {
            Some(name) => value
                .get(&Value::own(name))
                .ok_or_else(|| format!("there is no {name}"))?,
            None => values.next().ok_or("there are more places than values")?,
        };
        let written = write(run, kind, &field, &argument)?;
        run.charge(written.len())?;
        out.push(&written);
    }
    out.push(&format.slice(at..text.len()));
    let is_whole = matches!(value, Value::Map(_));
    if values.next().is_some() && !is_whole {
        return Err("there are more values than places".into());
    }
    Ok(out.finish())
}

/// Python's `str.format`.
pub(super) fn braces<'t>(run: &mut Run<'t>, format: &Text, args: &Args<'t>) -> Result<Text> {
    let mut out = Builder::default();
    let text = format.as_str();
    let (mut at, mut next) = (0, 0);
    while let Some(found) = text[at..].find(['{', '}']) {
        let start = at + found;
        out.push(&format.slice(at..start));
        let twice = &text[start..start + 1];
        if text[start + 1..].starts_with(twice) {
            out.push_own(twice);
            at = start + 2;
            continue;
        }
        if twice == "}" {
            return Err("a } stands alone in a format".into());
        }
        let end = text[start..]
            .find('}')
            .ok_or("a { is not closed in a format")?
            + start;
        let (name, spec) = text[start + 1..end]
            .split_once(':')
            .unwrap_or((&text[start + 1..end], ""));
        let (name, is_repr) = match name.strip_suffix("!r") {
            Some(name) => (name, true),
            None => (name.strip_suffix("!s").unwrap_or(name), false),
        };
        let first = name.find(['.', '[']).unwrap_or(name.len());
        let mut value = match &name[..first] {
            "" => {
                next += 1;
                args.list.get(next - 1).cloned()
            }
            index if index.bytes().all(|b| b.is_ascii_digit()) => index
                .parse()
                .ok()
                .and_then(|i: usize| args.list.get(i))
                .cloned(),
            name => args.get(usize::MAX, name).cloned(),
        }
        .ok_or_else(|| Fault::from(format!("there is no value for {{{name}}}")))?;
        let mut path = &name[first..];
        while !path.is_empty() {
            let (key, rest) = match path.strip_prefix('[') {
                Some(inner) => inner
                    .split_once(']')
                    .ok_or("a [ is not closed in a format")?,
                None => {
                    let inner = &path[1..];
                    inner.split_at(inner.find(['.', '[']).unwrap_or(inner.len()))
                }
            };
            value = match key.parse() {
                Ok(index) if path.starts_with('[') => run.item(&value, &Value::Int(index))?,
                _ => run.item(&value, &Value::own(key))?,
            };
            path = rest;
        }
        let written = match is_repr {
            true => write(run, 'r', &spec_of(spec)?.0, &value)?,
            false => {
                let (field, kind) = spec_of(spec)?;
                let by_default = match value {
                    Value::Float(_) if field.precision.is_some() => 'g',
                    Value::Int(_) => 'd',
                    _ => 's',
                };
                write(run, kind.unwrap_or(by_default), &field, &value)?
            }
        };
        run.charge(written.len())?;
        out.push(&written);
        at = end + 1;
    }
    out.push(&format.slice(at..text.len()));
    Ok(out.finish())
}

/// `[[fill]align][sign][0][width][.precision][type]`
fn spec_of(spec: &str) -> Result<(Field, Option<char>)> {
    let mut field = Field::default();
    let mut reader = Reader { text: spec, at: 0 };
    let mut chars = spec.chars();
    let (first, second) = (chars.next(), chars.next());
    let align = match (first, second) {
        (Some(fill), Some(align)) if "<>^".contains(align) => {
            field.fill = Some(fill);
            reader.at = fill.len_utf8() + 1;
            Some(align)
        }
        (Some(align), _) if "<>^".contains(align) => {
            reader.at = 1;
            Some(align)
        }
        _ => None,
    };
    field.left = align == Some('<');
    field.center = align == Some('^');
    field.right = align == Some('>');
    field.plus = reader.eat('+');
    field.zero = reader.eat('0');
    field.width = reader.number()?.unwrap_or(0);
    if reader.eat('.') {
        field.precision = Some(reader.number()?.unwrap_or(0));
    }
    let kind = reader.next();
    match reader.next() {
        Some(_) => Err(format!("{spec:?} is not understood in a format").into()),
        None => Ok((field, kind)),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn eat(&mut self, c: char) -> bool {
        let there = self.peek() == Some(c);
        if there {
            self.at += c.len_utf8();
        }
        there
    }

    fn until(&mut self, end: char) -> Result<&'a str> {
        let rest = &self.text[self.at..];
        let len = rest
            .find(end)
            .ok_or("a bracket is not closed in a format")?;
        self.at += len + end.len_utf8();
        Ok(&rest[..len])
    }

    fn number(&mut self) -> Result<Option<usize>> {
        let rest = &self.text[self.at..];
        let len = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        self.at += len;
        match &rest[..len] {
            "" => Ok(None),
            digits => match digits.parse() {
                Ok(n) if n <= MAX_WIDTH => Ok(Some(n)),
                _ => Err(format!("a width of {digits} is too large").into()),
            },
        }
    }
}

fn write<'t>(run: &mut Run<'t>, kind: char, field: &Field, value: &Value<'t>) -> Result<Text> {
    let number = || {
        value
            .number()
            .ok_or_else(|| Fault::from(format!("%{kind} wants a number, not {}", value.kind())))
    };
    let mut is_number = true;
    let text = match kind {
        's' | 'r' | 'a' => {
            is_number = false;
            run.weigh(value)?;
            let text = match kind {
                's' => value.to_text(),
                _ => {
                    let mut out = Builder::default();
                    value.write_repr(&mut out);
                    out.finish()
                }
            };
            match field.precision {
                Some(most) => {
                    let end = text.as_str().char_indices().nth(most);
                    text.slice(0..end.map_or(text.len(), |(at, _)| at))
                }
                None => text,
            }
        }
        'd' | 'i' | 'u' => {
            let number = number()?.trunc();
            match value.int() {
                Some(int) => Text::own(&int.to_string()),
                None => Text::own(&format!("{number:.0}")),
            }
        }
        'x' | 'X' | 'o' | 'b' => {
            let int = value.int().ok_or("a whole number is expected")?;
            let sign = if int < 0 { "-" } else { "" };
            let digits = match kind {
                'x' => format!("{:x}", int.unsigned_abs()),
                'X' => format!("{:X}", int.unsigned_abs()),
                'o' => format!("{:o}", int.unsigned_abs()),
                _ => format!("{:b}", int.unsigned_abs()),
            };
            Text::own(&format!("{sign}{digits}"))
        }
        'f' | 'F' => Text::own(&format!("{:.*}", field.precision.unwrap_or(6), number()?)),
        'e' | 'g' | 'G' | 'E' => {
            let number = number()?;
            let digits = field.precision.unwrap_or(6);
            Text::own(&match kind {
                'e' | 'E' => exponent(number, digits),
                _ => general(number, digits.max(1)),
            })
        }
        'c' => {
            is_number = false;
            match value {
                Value::Text(text) => text.clone(),
                value => {
                    let c = value
                        .int()
                        .and_then(|c| u32::try_from(c).ok())
                        .and_then(char::from_u32);
                    Text::own(&c.ok_or("%c wants a character")?.to_string())
                }
            }
        }
        kind => return Err(format!("%{kind} is not understood in a format").into()),
    };
    let mut out = Builder::default();
    let signed = is_number && field.plus && !text.as_str().starts_with('-');
    if signed {
        out.push_own("+");
    }
    out.push(&text);
    let text = out.finish();
    let missing = field.width.saturating_sub(text.as_str().chars().count());
    let to_right = field.right || is_number && !field.left;
    let mut out = Builder::default();
    let fill = field.fill.unwrap_or(' ').to_string();
    if is_number && field.zero && !field.left {
        let sign = usize::from(text.as_str().starts_with(['-', '+']));
        out.push(&text.slice(0..sign));
        out.push_own(&"0".repeat(missing));
        out.push(&text.slice(sign..text.len()));
        return Ok(out.finish());
    }
    let left = match (field.center, to_right) {
        (true, _) => missing / 2,
        (false, true) => missing,
        (false, false) => 0,
    };
    out.push_own(&fill.repeat(left));
    out.push(&text);
    out.push_own(&fill.repeat(missing - left));
    Ok(out.finish())
}

fn exponent(number: f64, digits: usize) -> String {
    let text = format!("{number:.digits$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn general(number: f64, digits: usize) -> String {
    if !number.is_finite() {
        return float(number);
    }
    let rounded = format!("{number:.*e}", digits - 1);
    let power: i32 = rounded
        .split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0);
    let trim = |text: String| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    if power < -4 || power >= digits as i32 {
        let text = exponent(number, digits - 1);
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "+00"));
        return format!("{}e{power}", trim(mantissa.to_owned()));
    }
    let decimals = usize::try_from(digits as i32 - 1 - power).unwrap_or(0);
    trim(format!("{number:.decimals$}"))
}
