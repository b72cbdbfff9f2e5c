//! The values of templates, which are Python's.

use std::cell::RefCell;
use std::cmp::Ordering;
use std::fmt::Write;
use std::rc::Rc;

use minijinja::machinery::ast;

use super::text::{Builder, Text};

/// A value.
#[derive(Clone)]
pub(super) enum Value<'t> {
    /// A variable or attribute that does not exist, with its name.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Text),
    List(Rc<Vec<Value<'t>>>),
    /// An immutable list, written in parentheses.
    Tuple(Rc<Vec<Value<'t>>>),
    Map(Rc<Map<'t>>),
    /// The result of `namespace()`, the only mutable value.
    Namespace(Rc<RefCell<Map<'t>>>),
    Loop(Rc<Loop<'t>>),
    Macro(Rc<Macro<'t>>),
    /// A function by its name.
    Function(&'static str),
    /// A method of a value, to be called.
    Method(Box<Value<'t>>, Rc<str>),
    /// The body of a `call` block.
    Caller(Rc<Caller<'t>>),
}

/// Keys and values, in the order of insertion.
pub(super) type Map<'t> = Vec<(Value<'t>, Value<'t>)>;

/// The value of `loop`.
pub(super) struct Loop<'t> {
    pub items: Rc<Vec<Value<'t>>>,
    pub index: usize,
    pub depth: usize,
    /// The arguments of the last call of `changed`.
    pub last: RefCell<Option<Vec<Value<'t>>>>,
    /// The loop's statement, if it is recursive.
    pub node: Option<&'t ast::ForLoop<'t>>,
}

pub(super) struct Macro<'t> {
    pub node: &'t ast::Macro<'t>,
    /// The number of scopes that it can see.
    pub scopes: usize,
}

pub(super) struct Caller<'t> {
    pub node: &'t ast::Macro<'t>,
    pub scopes: Vec<super::eval::Scope<'t>>,
}

impl<'t> Value<'t> {
    pub fn own(text: &str) -> Value<'t> {
        Value::Text(Text::own(text))
    }

    pub fn undefined(name: &str) -> Value<'t> {
        Value::Undefined(name.into())
    }

    pub fn list(items: Vec<Value<'t>>) -> Value<'t> {
        Value::List(Rc::new(items))
    }

    /// Returns whether Python treats the value as true.
    pub fn is_true(&self) -> bool {
        match self {
            Value::Undefined(_) | Value::None => false,
            Value::Bool(b) => *b,
            Value::Int(i) => *i != 0,
            Value::Float(f) => *f != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(list) | Value::Tuple(list) => !list.is_empty(),
            Value::Map(map) => !map.is_empty(),
            _ => true,
        }
    }

    /// The value as a number, if it is one in Python.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::Bool(b) => Some(f64::from(u8::from(*b))),
            Value::Int(i) => Some(*i as f64),
            Value::Float(f) => Some(*f),
            _ => None,
        }
    }

    pub fn int(&self) -> Option<i64> {
        match self {
            Value::Bool(b) => Some(i64::from(*b)),
            Value::Int(i) => Some(*i),
            _ => None,
        }
    }

    /// Python's name of its type.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Undefined(_) => "Undefined",
            Value::None => "NoneType",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Float(_) => "float",
            Value::Text(_) => "str",
            Value::List(_) => "list",
            Value::Tuple(_) => "tuple",
            Value::Map(_) => "dict",
            Value::Namespace(_) => "Namespace",
            Value::Loop(_) => "LoopContext",
            Value::Macro(_) | Value::Caller(_) => "Macro",
            Value::Function(_) | Value::Method(..) => "function",
        }
    }

    pub fn get(&self, key: &Value<'t>) -> Option<Value<'t>> {
        match self {
            Value::Map(map) => find(map, key),
            Value::Namespace(map) => find(&map.borrow(), key),
            _ => None,
        }
    }

    /// Python's `str()` of the value.
    pub fn to_text(&self) -> Text {
        match self {
            Value::Undefined(_) => Text::default(),
            Value::Text(text) => text.clone(),
            other => {
                let mut out = Builder::default();
                other.write_repr(&mut out);
                out.finish()
            }
        }
    }

    /// Writes Python's `repr()` of the value.
    pub fn write_repr(&self, out: &mut Builder) {
        let list = |out: &mut Builder, items: &[Value<'t>]| {
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push_own(", ");
                }
                item.write_repr(out);
            }
        };
        match self {
            Value::Undefined(_) => out.push_own("Undefined"),
            Value::None => out.push_own("None"),
            Value::Bool(b) => out.push_own(if *b { "True" } else { "False" }),
            Value::Int(i) => out.push_own(&i.to_string()),
            Value::Float(f) => out.push_own(&float(*f)),
            Value::Text(text) => write_quoted(text, out),
            Value::List(items) => {
                out.push_own("[");
                list(out, items);
                out.push_own("]");
            }
            Value::Tuple(items) => {
                out.push_own("(");
                list(out, items);
                out.push_own(if items.len() == 1 { ",)" } else { ")" });
            }
            Value::Map(map) => {
                out.push_own("{");
                for (i, (key, value)) in map.iter().enumerate() {
                    if i > 0 {
                        out.push_own(", ");
                    }
                    key.write_repr(out);
                    out.push_own(": ");
                    value.write_repr(out);
                }
                out.push_own("}");
            }
            Value::Namespace(_) => out.push_own("<Namespace>"),
            Value::Loop(l) => {
                let text = format!("<LoopContext {}/{}>", l.index + 1, l.items.len());
                out.push_own(&text);
            }
            Value::Macro(m) => out.push_own(&format!("<Macro '{}'>", m.node.name)),
            Value::Caller(_) => out.push_own("<Macro 'caller'>"),
            Value::Function(name) => out.push_own(&format!("<function {name}>")),
            Value::Method(_, name) => out.push_own(&format!("<method {name}>")),
        }
    }

    /// The number of bytes or items that it has, which is the cost of a copy.
    pub fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::List(items) | Value::Tuple(items) => items.len() * 32,
            Value::Map(map) => map.len() * 64,
            _ => 8,
        }
    }
}

fn find<'t>(map: &Map<'t>, key: &Value<'t>) -> Option<Value<'t>> {
    let found = map.iter().find(|(k, _)| k == key);
    found.map(|(_, value)| value.clone())
}

impl PartialEq for Value<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
            (Value::Text(a), Value::Text(b)) => a == b,
            (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => a == b,
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| find(b, k).as_ref() == Some(v))
            }
            (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
            (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
            (Value::Function(a), Value::Function(b)) => a == b,
            (Value::Int(a), Value::Int(b)) => a == b,
            (a, b) => match (a.number(), b.number()) {
                (Some(a), Some(b)) => a == b,
                _ => false,
            },
        }
    }
}

/// The order of two values; `None` if Python cannot order them.
pub(super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => Some(a.as_str().cmp(b.as_str())),
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.iter().zip(b.iter()) {
                match compare(a, b)? {
                    Ordering::Equal => {}
                    other => return Some(other),
                }
            }
            Some(a.len().cmp(&b.len()))
        }
        (a, b) => a.number()?.partial_cmp(&b.number()?),
    }
}

/// Formats a number as Python does.
pub(super) fn float(f: f64) -> String {
    if f.is_nan() {
        return "nan".to_owned();
    }
    if f.is_infinite() {
        return if f > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if f != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = format!("{f}");
    match plain.contains('.') {
        true => plain,
        false => plain + ".0",
    }
}

/// Returns whether Python's `repr()` writes a character unescaped: not one that controls, formats
/// or separates, or is for private use.
fn is_printable(c: char) -> bool {
    c == ' '
        || !(c.is_control()
            || c.is_whitespace()
            || matches!(c,
                '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{180e}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{e000}'..='\u{f8ff}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{10ffff}'))
}

fn write_quoted(text: &Text, out: &mut Builder) {
    let plain = text.as_str();
    let quote = match plain.contains('\'') && !plain.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push_own(quote.encode_utf8(&mut [0; 4]));
    let quoted = text.map(|c, out| match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\\' => out.push_str("\\\\"),
        c if c == quote => {
            out.push('\\');
            out.push(c);
        }
        c if !is_printable(c) => {
            match c as u32 {
                code @ ..0x100 => write!(out, "\\x{code:02x}"),
                code @ ..0x10000 => write!(out, "\\u{code:04x}"),
                code => write!(out, "\\U{code:08x}"),
            }
            .ok();
        }
        c => out.push(c),
    });
    out.push(&quoted);
    out.push_own(quote.encode_utf8(&mut [0; 4]));
}

#[cfg(test)]
mod tests {
    use super::float;

    #[test]
    fn numbers_are_written_as_python_writes_them() {
        for (f, text) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1.5e-7, "1.5e-07"),
            (123456789.125, "123456789.125"),
            (1e15, "1000000000000000.0"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
        ] {
            assert_eq!(float(f), text);
        }
    }
}
