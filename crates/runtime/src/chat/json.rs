//! The filter `tojson` as transformers defines it: Python's `json.dumps`, without escapes for HTML.

use std::fmt::Write;

use super::eval::{Args, Result, Run};
use super::text::{Builder, Text};
use super::value::{Value, compare, float};

struct Writer {
    out: Builder,
    ascii: bool,
    /// The indentation of one level; `None` writes everything on one line.
    indent: Option<Text>,
    between: Text,
    colon: Text,
    sorted: bool,
}

/// Converts a value to JSON, with `ensure_ascii`, `indent`, `separators` and `sort_keys`.
pub(super) fn written<'t>(run: &mut Run<'t>, value: &Value<'t>, args: &Args<'t>) -> Result<Text> {
    let indent = match args.get(1, "indent") {
        None | Some(Value::None) => None,
        Some(Value::Text(indent)) => Some(indent.clone()),
        Some(n) => Some(run.repeat(&Text::own(" "), n.int().ok_or("indent wants a number")?)?),
    };
    let (between, colon) = match args.get(2, "separators") {
        None | Some(Value::None) => {
            let between = if indent.is_some() { "," } else { ", " };
            (Text::own(between), Text::own(": "))
        }
        Some(both) => match run.items(both)?.as_slice() {
            [between, colon] => (between.to_text(), colon.to_text()),
            _ => return Err("separators wants two texts".into()),
        },
    };
    let mut writer = Writer {
        out: Builder::default(),
        ascii: args.get(0, "ensure_ascii").is_some_and(Value::is_true),
        indent,
        between,
        colon,
        sorted: args.get(3, "sort_keys").is_some_and(Value::is_true),
    };
    run.weigh(value)?;
    writer.value(run, value, 0)?;
    Ok(writer.out.finish())
}

impl Writer {
    fn value<'t>(&mut self, run: &mut Run<'t>, value: &Value<'t>, level: usize) -> Result<()> {
        run.step(1)?;
        if level > 500 {
            return Err("tojson: the value is nested too deeply".into());
        }
        match value {
            Value::None => self.out.push_own("null"),
            Value::Bool(b) => self.out.push_own(if *b { "true" } else { "false" }),
            Value::Int(int) => self.out.push_own(&int.to_string()),
            Value::Float(f) => self.out.push_own(&number(*f)),
            Value::Text(text) => self.text(run, text)?,
            Value::List(items) | Value::Tuple(items) => {
                self.out.push_own("[");
                for (i, item) in items.iter().enumerate() {
                    self.begin(run, i, level + 1)?;
                    self.value(run, item, level + 1)?;
                }
                self.end(run, items.len(), level)?;
                self.out.push_own("]");
            }
            Value::Map(map) => {
                let mut members: Vec<_> = map.iter().collect();
                if self.sorted {
                    let mut unordered = false;
                    members.sort_by(|(a, _), (b, _)| {
                        compare(a, b).unwrap_or_else(|| {
                            unordered = true;
                            std::cmp::Ordering::Equal
                        })
                    });
                    if unordered {
                        return Err("tojson: the keys have no order".into());
                    }
                }
                self.out.push_own("{");
                for (i, (key, value)) in members.into_iter().enumerate() {
                    self.begin(run, i, level + 1)?;
                    let key = match key {
                        Value::Text(key) => key.clone(),
                        Value::None => Text::own("null"),
                        Value::Bool(b) => Text::own(if *b { "true" } else { "false" }),
                        Value::Int(int) => Text::own(&int.to_string()),
                        Value::Float(f) => Text::own(&number(*f)),
                        other => return Err(format!("tojson: {} is no key", other.kind()).into()),
                    };
                    self.text(run, &key)?;
                    self.out.push(&self.colon);
                    self.value(run, value, level + 1)?;
                }
                self.end(run, map.len(), level)?;
                self.out.push_own("}");
            }
            other => return Err(format!("tojson: {} is not JSON", other.kind()).into()),
        }
        Ok(())
    }

    fn begin<'t>(&mut self, run: &mut Run<'t>, index: usize, level: usize) -> Result<()> {
        if index > 0 {
            run.charge(self.between.len())?;
            self.out.push(&self.between);
        }
        self.line(run, level)
    }

    fn end<'t>(&mut self, run: &mut Run<'t>, count: usize, level: usize) -> Result<()> {
        match count {
            0 => Ok(()),
            _ => self.line(run, level),
        }
    }

    fn line<'t>(&mut self, run: &mut Run<'t>, level: usize) -> Result<()> {
        let Some(indent) = &self.indent else {
            return Ok(());
        };
        self.out.push_own("\n");
        run.charge(indent.len().saturating_mul(level))?;
        for _ in 0..level {
            self.out.push(indent);
        }
        Ok(())
    }

    fn text<'t>(&mut self, run: &mut Run<'t>, text: &Text) -> Result<()> {
        run.charge(text.len().saturating_mul(if self.ascii { 6 } else { 2 }))?;
        let ascii = self.ascii;
        self.out.push_own("\"");
        self.out.push(&text.map(|c, out| match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || ascii && !c.is_ascii() => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}").ok();
                }
            }
            c => out.push(c),
        }));
        self.out.push_own("\"");
        Ok(())
    }
}

/// Formats a number as `json.dumps` does.
fn number(f: f64) -> String {
    match f {
        f if f.is_nan() => "NaN".to_owned(),
        f if f == f64::INFINITY => "Infinity".to_owned(),
        f if f == f64::NEG_INFINITY => "-Infinity".to_owned(),
        f => float(f),
    }
}
