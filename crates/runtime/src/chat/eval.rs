//! The interpreter of templates.
//!
//! minijinja parses templates; this module runs them, with Python's values and the rules of jinja2
//! as transformers configures it (only namespaces are mutable), with texts that record who wrote
//! them, and within limits of steps, memory and depth.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;

use minijinja::machinery::ast::{self, CallArg, Expr, Stmt, UnaryOpKind};

use super::compute::place;
use super::text::{Builder, Text};
use super::value::{Loop, Map, Value};
use super::{filter, function, method, test};

/// An error in a template.
#[derive(Debug)]
pub(super) struct Fault {
    pub what: String,
    /// The line of the template, once it is known.
    pub line: Option<u16>,
}

impl<T: Into<String>> From<T> for Fault {
    fn from(what: T) -> Fault {
        Fault {
            what: what.into(),
            line: None,
        }
    }
}

pub(super) type Result<T, E = Fault> = std::result::Result<T, E>;

pub(super) type Scope<'t> = HashMap<&'t str, Value<'t>>;

/// Maximum nesting of expressions and statements.
const MAX_DEPTH: usize = 1000;
/// Maximum number of steps for a short conversation; longer ones get more.
const STEPS: u64 = 1_000_000;
/// Maximum number of bytes of all values that are built, including intermediate ones.
const BYTES: u64 = 256 << 20;

/// The arguments of a call.
#[derive(Default)]
pub(super) struct Args<'t> {
    pub list: Vec<Value<'t>>,
    pub named: Vec<(Text, Value<'t>)>,
}

impl<'t> Args<'t> {
    /// The argument at an index or with a name.
    pub fn get(&self, at: usize, name: &str) -> Option<&Value<'t>> {
        self.list.get(at).or_else(|| {
            let found = self.named.iter().find(|(n, _)| n.as_str() == name);
            found.map(|(_, value)| value)
        })
    }

    /// [`Args::get`] for an argument that is required.
    pub fn need(&self, at: usize, name: &str) -> Result<&Value<'t>> {
        self.get(at, name)
            .ok_or_else(|| format!("the argument {name} is missing").into())
    }
}

/// The state of a running template.
pub(super) struct Run<'t> {
    source: &'t str,
    pub(super) scopes: Vec<Scope<'t>>,
    out: Vec<Builder>,
    depth: usize,
    pub(super) loops: usize,
    steps: u64,
    bytes: u64,
    /// The messages whose texts were compared with something.
    looked_at: BTreeSet<u32>,
}

/// The result of running a template on a conversation.
pub(super) struct Rendered {
    pub text: Text,
    /// The messages whose texts influenced the result, whether they are in the text or not.
    pub looked_at: BTreeSet<u32>,
}

impl<'t> Run<'t> {
    /// Runs a template, parsed from `source`, with its variables, whose size is about `size` bytes.
    pub fn render(
        source: &'t str,
        template: &'t Stmt<'t>,
        globals: Scope<'t>,
        size: usize,
    ) -> Result<Rendered> {
        let size = size as u64;
        let mut run = Run {
            source,
            scopes: vec![globals, Scope::new()],
            out: vec![Builder::default()],
            depth: 0,
            loops: 0,
            steps: STEPS.saturating_add(size.saturating_mul(100)),
            bytes: BYTES.saturating_add(size.saturating_mul(100)),
            looked_at: BTreeSet::new(),
        };
        run.statement(template)?;
        Ok(Rendered {
            text: run.out.pop().unwrap_or_default().finish(),
            looked_at: run.looked_at,
        })
    }

    /// Subtracts steps from the limit.
    pub fn step(&mut self, n: usize) -> Result<()> {
        match self.steps.checked_sub(n as u64) {
            Some(left) => self.steps = left,
            None => return Err("it takes too many steps".into()),
        }
        Ok(())
    }

    /// Subtracts the bytes of a value that is about to be built from the limit.
    pub fn charge(&mut self, bytes: usize) -> Result<()> {
        match self.bytes.checked_sub(bytes as u64) {
            Some(left) => self.bytes = left,
            None => return Err("it builds more text than is allowed".into()),
        }
        Ok(())
    }

    /// Records that a text influences the result.
    pub fn look_at(&mut self, value: &Value<'t>) {
        if let Value::Text(text) = value {
            self.looked_at.extend(text.messages());
        }
    }

    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.step(1)?;
        if self.depth >= MAX_DEPTH {
            return Err("it is nested too deeply".into());
        }
        self.depth += 1;
        let result = work(self);
        self.depth -= 1;
        result
    }

    pub(super) fn emit(&mut self, text: &Text) -> Result<()> {
        self.charge(text.len())?;
        if let Some(out) = self.out.last_mut() {
            out.push(text);
        }
        Ok(())
    }

    /// Runs statements and returns their output instead of writing it.
    pub(super) fn capture(&mut self, body: &'t [Stmt<'t>]) -> Result<Text> {
        self.out.push(Builder::default());
        let flow = self.statements(body);
        let text = self.out.pop().unwrap_or_default().finish();
        flow.map(|_| text)
    }

    pub(super) fn within_scope<T>(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        self.scopes.push(Scope::new());
        let result = work(self);
        self.scopes.pop();
        result
    }

    pub(super) fn set(&mut self, name: &'t str, value: Value<'t>) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, value);
        }
    }

    fn lookup(&self, name: &str) -> Value<'t> {
        for scope in self.scopes.iter().rev() {
            if let Some(value) = scope.get(name) {
                return value.clone();
            }
        }
        match function::NAMES.iter().find(|n| **n == name) {
            Some(name) => Value::Function(name),
            None => Value::undefined(name),
        }
    }

    /// The items of a value that can be iterated over.
    pub fn items(&mut self, value: &Value<'t>) -> Result<Rc<Vec<Value<'t>>>> {
        self.charge(value.weight())?;
        match value {
            Value::Undefined(_) => Ok(Rc::default()),
            Value::List(items) | Value::Tuple(items) => Ok(Rc::clone(items)),
            Value::Map(map) => Ok(Rc::new(map.iter().map(|(key, _)| key.clone()).collect())),
            Value::Text(text) => {
                self.charge(text.len() * 32)?;
                let ends = text.as_str().char_indices();
                let parts = ends.map(|(at, c)| Value::Text(text.slice(at..at + c.len_utf8())));
                Ok(Rc::new(parts.collect()))
            }
            other => Err(format!("{} cannot be iterated over", other.kind()).into()),
        }
    }

    /// A value as text, charged to the limits.
    pub fn text_of(&mut self, value: &Value<'t>) -> Result<Text> {
        if let Value::Text(text) = value {
            return Ok(text.clone());
        }
        self.weigh(value)?;
        Ok(value.to_text())
    }

    /// Charges the limits for visiting all of a value.
    pub fn weigh(&mut self, value: &Value<'t>) -> Result<()> {
        let mut rest = vec![value.clone()];
        while let Some(value) = rest.pop() {
            self.step(1)?;
            self.charge(value.weight())?;
            match value {
                Value::List(items) | Value::Tuple(items) => rest.extend(items.iter().cloned()),
                Value::Map(map) => {
                    rest.extend(map.iter().flat_map(|(k, v)| [k.clone(), v.clone()]))
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub fn eval(&mut self, expr: &'t Expr<'t>) -> Result<Value<'t>> {
        self.deeper(|run| run.eval_inner(expr))
    }

    fn eval_inner(&mut self, expr: &'t Expr<'t>) -> Result<Value<'t>> {
        match expr {
            Expr::Var(var) => Ok(self.lookup(var.id)),
            Expr::Const(node) => constant(&node.value),
            Expr::List(list) => {
                let mut items = Vec::with_capacity(list.items.len());
                for item in &list.items {
                    items.push(self.eval(item)?);
                }
                self.charge(items.len() * 32)?;
                // minijinja parses tuples as lists.
                let start = list.span().start_offset as usize;
                Ok(match self.source.as_bytes().get(start) {
                    Some(b'[') => Value::list(items),
                    _ => Value::Tuple(Rc::new(items)),
                })
            }
            Expr::Map(node) => {
                let mut map: Map<'t> = Vec::with_capacity(node.keys.len());
                for (key, value) in node.keys.iter().zip(&node.values) {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    self.step(map.len())?;
                    match map.iter_mut().find(|(k, _)| *k == key) {
                        Some((_, place)) => *place = value,
                        None => map.push((key, value)),
                    }
                }
                Ok(Value::Map(Rc::new(map)))
            }
            Expr::GetAttr(node) => {
                let value = self.eval(&node.expr)?;
                self.attribute(&value, node.name)
            }
            Expr::GetItem(node) => {
                let value = self.eval(&node.expr)?;
                let key = self.eval(&node.subscript_expr)?;
                self.item(&value, &key)
            }
            Expr::Slice(node) => {
                let value = self.eval(&node.expr)?;
                let mut bound = |expr: &'t Option<Expr<'t>>| match expr {
                    None => Ok(None),
                    Some(expr) => match self.eval(expr)? {
                        Value::None => Ok(None),
                        value => match value.int() {
                            Some(int) => Ok(Some(int)),
                            None => Err(Fault::from("a slice wants whole numbers")),
                        },
                    },
                };
                let (start, stop, step) =
                    (bound(&node.start)?, bound(&node.stop)?, bound(&node.step)?);
                self.slice(&value, start, stop, step.unwrap_or(1))
            }
            Expr::UnaryOp(node) => {
                let value = self.eval(&node.expr)?;
                match (&node.op, value) {
                    (UnaryOpKind::Not, value) => Ok(Value::Bool(!value.is_true())),
                    (UnaryOpKind::Neg, Value::Float(f)) => Ok(Value::Float(-f)),
                    (UnaryOpKind::Neg, value) => match value.int().and_then(i64::checked_neg) {
                        Some(int) => Ok(Value::Int(int)),
                        None => Err(format!("- wants a number, not {}", value.kind()).into()),
                    },
                }
            }
            Expr::BinOp(node) => self.binary(node),
            Expr::Compare(node) => {
                let mut left = self.eval(&node.expr)?;
                for op in &node.ops {
                    let right = self.eval(&op.expr)?;
                    if !self.compares(op.op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::IfExpr(node) => {
                if self.eval(&node.test_expr)?.is_true() {
                    return self.eval(&node.true_expr);
                }
                match &node.false_expr {
                    Some(expr) => self.eval(expr),
                    None => Ok(Value::undefined("the value of an if without else")),
                }
            }
            Expr::Filter(node) => {
                let Some(expr) = &node.expr else {
                    return Err("a filter is applied to nothing".into());
                };
                let value = self.eval(expr)?;
                let args = self.args(&node.args)?;
                filter::apply(self, node.name, value, &args)
            }
            Expr::Test(node) => {
                let value = self.eval(&node.expr)?;
                let args = self.args(&node.args)?;
                test::passes(self, node.name, &value, &args).map(Value::Bool)
            }
            Expr::Call(node) => {
                let callee = self.eval(&node.expr)?;
                let args = self.args(&node.args)?;
                self.call(&callee, args)
            }
        }
    }

    pub(super) fn args(&mut self, args: &'t [CallArg<'t>]) -> Result<Args<'t>> {
        let mut out = Args::default();
        for arg in args {
            match arg {
                CallArg::Pos(expr) => out.list.push(self.eval(expr)?),
                CallArg::Kwarg(name, expr) => out.named.push((Text::own(name), self.eval(expr)?)),
                CallArg::PosSplat(expr) => {
                    let items = self.eval(expr)?;
                    out.list.extend(self.items(&items)?.iter().cloned());
                }
                CallArg::KwargSplat(expr) => match self.eval(expr)? {
                    Value::Map(map) => {
                        for (key, value) in map.iter() {
                            out.named.push((key.to_text(), value.clone()));
                        }
                    }
                    other => return Err(format!("** wants a dict, not {}", other.kind()).into()),
                },
            }
        }
        Ok(out)
    }

    pub fn attribute(&mut self, value: &Value<'t>, name: &str) -> Result<Value<'t>> {
        match value {
            Value::Undefined(what) => Err(format!("{what} is undefined, it has no {name}").into()),
            Value::Loop(this) => Ok(loop_member(this, name)),
            _ if method::exists(value, name) => {
                Ok(Value::Method(Box::new(value.clone()), name.into()))
            }
            Value::Map(map) => {
                self.step(map.len())?;
                let found = map
                    .iter()
                    .find(|(k, _)| matches!(k, Value::Text(t) if t.as_str() == name));
                Ok(found.map_or_else(|| Value::undefined(name), |(_, value)| value.clone()))
            }
            Value::Namespace(_) => {
                let found = value.get(&Value::own(name));
                Ok(found.unwrap_or_else(|| Value::undefined(name)))
            }
            _ => Ok(Value::undefined(name)),
        }
    }

    pub fn item(&mut self, value: &Value<'t>, key: &Value<'t>) -> Result<Value<'t>> {
        let missing = || Value::undefined(key.to_text().as_str());
        match (value, key) {
            (Value::Undefined(what), _) => {
                Err(format!("{what} is undefined, it has no {}", key.to_text().as_str()).into())
            }
            (Value::List(items) | Value::Tuple(items), key) if key.int().is_some() => {
                let at = place(key.int().unwrap_or(0), items.len());
                Ok(at.map_or_else(missing, |at| items[at].clone()))
            }
            (Value::Text(text), key) if key.int().is_some() => {
                self.step(1 + text.len() / 64)?;
                let count = text.as_str().chars().count();
                let Some(at) = place(key.int().unwrap_or(0), count) else {
                    return Ok(missing());
                };
                let found = text.as_str().char_indices().nth(at);
                let range = found.map_or(0..0, |(start, c)| start..start + c.len_utf8());
                Ok(Value::Text(text.slice(range)))
            }
            (Value::Map(map), key) => {
                self.step(map.len())?;
                if let Some(value) = value.get(key) {
                    return Ok(value);
                }
                match key {
                    Value::Text(name) if method::exists(value, name.as_str()) => {
                        self.attribute(value, name.as_str())
                    }
                    _ => Ok(missing()),
                }
            }
            (_, Value::Text(name)) => self.attribute(value, name.as_str()),
            _ => Ok(missing()),
        }
    }

    pub fn call(&mut self, callee: &Value<'t>, mut args: Args<'t>) -> Result<Value<'t>> {
        match callee {
            Value::Function(name) => function::call(self, name, &args),
            Value::Method(value, name) => method::call(self, value, name, &args),
            Value::Macro(found) => {
                let outer = self.scopes.split_off(found.scopes.min(self.scopes.len()));
                let result = self.deeper(|run| run.call_macro(found.node, &mut args, true));
                self.scopes.extend(outer);
                result
            }
            Value::Caller(found) => {
                let outer = std::mem::replace(&mut self.scopes, found.scopes.clone());
                let result = self.deeper(|run| run.call_macro(found.node, &mut args, false));
                self.scopes = outer;
                result
            }
            Value::Loop(this) => {
                let Some(node) = this.node else {
                    return Err("loop can be called where it is recursive only".into());
                };
                let items = args.need(0, "iterable")?.clone();
                self.out.push(Builder::default());
                let done = self.deeper(|run| run.run_loop(node, &items));
                let text = self.out.pop().unwrap_or_default().finish();
                done.map(|()| Value::Text(text))
            }
            Value::Undefined(name) => {
                Err(format!("{name} is undefined, it cannot be called").into())
            }
            other => Err(format!("{} cannot be called", other.kind()).into()),
        }
    }

    fn call_macro(
        &mut self,
        node: &'t ast::Macro<'t>,
        args: &mut Args<'t>,
        is_macro: bool,
    ) -> Result<Value<'t>> {
        self.within_scope(|run| {
            let mut given = args.list.drain(..);
            let first_default = node.args.len() - node.defaults.len();
            let mut targets = Vec::new();
            for target in &node.args {
                targets.push((target, given.next()));
            }
            let more: Vec<_> = given.collect();
            run.set("varargs", Value::Tuple(Rc::new(more)));
            for (at, (target, value)) in targets.into_iter().enumerate() {
                let Expr::Var(var) = target else {
                    return Err("this cannot be the argument of a macro".into());
                };
                let named = args
                    .named
                    .iter()
                    .position(|(name, _)| name.as_str() == var.id);
                let value = match (value, named) {
                    (Some(value), _) => value,
                    (None, Some(named)) => args.named.swap_remove(named).1,
                    (None, None) => match at.checked_sub(first_default) {
                        Some(at) => run.eval(&node.defaults[at])?,
                        None => Value::undefined(var.id),
                    },
                };
                run.set(var.id, value);
            }
            if is_macro {
                let caller = args
                    .named
                    .iter()
                    .position(|(name, _)| name.as_str() == "caller");
                if let Some(caller) = caller {
                    run.set("caller", args.named.swap_remove(caller).1);
                }
                let rest = args
                    .named
                    .drain(..)
                    .map(|(name, value)| (Value::Text(name), value));
                run.set("kwargs", Value::Map(Rc::new(rest.collect())));
            }
            run.capture(&node.body).map(Value::Text)
        })
    }
}

fn loop_member<'t>(this: &Rc<Loop<'t>>, name: &str) -> Value<'t> {
    let (index, len) = (this.index as i64, this.items.len() as i64);
    let near = |at: i64| {
        let at = usize::try_from(at).ok();
        let found = at.and_then(|at| this.items.get(at)).cloned();
        found.unwrap_or_else(|| Value::undefined(name))
    };
    match name {
        "index" => Value::Int(index + 1),
        "index0" => Value::Int(index),
        "revindex" => Value::Int(len - index),
        "revindex0" => Value::Int(len - index - 1),
        "first" => Value::Bool(index == 0),
        "last" => Value::Bool(index + 1 == len),
        "length" => Value::Int(len),
        "depth" => Value::Int(this.depth as i64),
        "depth0" => Value::Int(this.depth as i64 - 1),
        "previtem" => near(index - 1),
        "nextitem" => near(index + 1),
        "cycle" | "changed" => Value::Method(Box::new(Value::Loop(Rc::clone(this))), name.into()),
        _ => Value::undefined(name),
    }
}

/// Converts a constant that minijinja parsed.
fn constant<'t>(value: &minijinja::Value) -> Result<Value<'t>> {
    use minijinja::value::ValueKind;
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Undefined => Value::None,
        ValueKind::Bool => Value::Bool(value.is_true()),
        ValueKind::Number => match i64::try_from(value.clone()) {
            Ok(int) if value.is_integer() => Value::Int(int),
            _ if value.is_integer() => return Err("a number is too large".into()),
            _ => match f64::try_from(value.clone()) {
                Ok(float) => Value::Float(float),
                Err(_) => return Err("a number is too large".into()),
            },
        },
        _ => match value.as_str() {
            Some(text) => Value::own(text),
            None => return Err("it has a constant that is not known".into()),
        },
    })
}
