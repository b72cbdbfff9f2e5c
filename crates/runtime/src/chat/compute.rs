//! The operators of templates, with Python's rules, and the cost of applying them.

use std::rc::Rc;

use minijinja::machinery::ast::{self, BinOpKind, CompareOpKind};

use super::eval::{Fault, Result, Run};
use super::format;
use super::text::{Builder, Text};
use super::value::{Value, compare};

impl<'t> Run<'t> {
    pub(super) fn slice(
        &mut self,
        value: &Value<'t>,
        start: Option<i64>,
        stop: Option<i64>,
        step: i64,
    ) -> Result<Value<'t>> {
        if step == 0 {
            return Err("the step of a slice cannot be 0".into());
        }
        self.charge(value.weight())?;
        match value {
            Value::Undefined(_) => Ok(Value::list(Vec::new())),
            Value::List(items) | Value::Tuple(items) => {
                let picked = places(items.len(), start, stop, step);
                let picked: Vec<_> = picked.map(|at| items[at].clone()).collect();
                Ok(match value {
                    Value::Tuple(_) => Value::Tuple(Rc::new(picked)),
                    _ => Value::list(picked),
                })
            }
            Value::Text(text) => {
                let ends: Vec<usize> = text.as_str().char_indices().map(|(at, _)| at).collect();
                self.charge(ends.len() * 8)?;
                let end_of = |at: usize| ends.get(at + 1).copied().unwrap_or(text.len());
                let mut out = Builder::default();
                for at in places(ends.len(), start, stop, step) {
                    out.push(&text.slice(ends[at]..end_of(at)));
                }
                Ok(Value::Text(out.finish()))
            }
            other => Err(format!("{} cannot be sliced", other.kind()).into()),
        }
    }

    pub(super) fn binary(&mut self, node: &'t ast::BinOp<'t>) -> Result<Value<'t>> {
        let left = self.eval(&node.left)?;
        match node.op {
            BinOpKind::ScAnd => {
                return if left.is_true() {
                    self.eval(&node.right)
                } else {
                    Ok(left)
                };
            }
            BinOpKind::ScOr => {
                return if left.is_true() {
                    Ok(left)
                } else {
                    self.eval(&node.right)
                };
            }
            _ => {}
        }
        let right = self.eval(&node.right)?;
        let compared = match node.op {
            BinOpKind::Eq => Some(CompareOpKind::Eq),
            BinOpKind::Ne => Some(CompareOpKind::Ne),
            BinOpKind::Lt => Some(CompareOpKind::Lt),
            BinOpKind::Lte => Some(CompareOpKind::Lte),
            BinOpKind::Gt => Some(CompareOpKind::Gt),
            BinOpKind::Gte => Some(CompareOpKind::Gte),
            BinOpKind::In => Some(CompareOpKind::In),
            _ => None,
        };
        match compared {
            Some(op) => self.compares(op, &left, &right).map(Value::Bool),
            None => self.compute(node.op, &left, &right),
        }
    }

    pub fn compares(
        &mut self,
        op: CompareOpKind,
        left: &Value<'t>,
        right: &Value<'t>,
    ) -> Result<bool> {
        if let (Value::List(_) | Value::Tuple(_) | Value::Map(_), _)
        | (_, Value::List(_) | Value::Tuple(_) | Value::Map(_)) = (left, right)
        {
            self.weigh(left)?;
            self.weigh(right)?;
        } else {
            self.step(1 + (left.weight() + right.weight()) / 64)?;
        }
        self.look_at(left);
        self.look_at(right);
        let order = || {
            compare(left, right).ok_or_else(|| {
                let (left, right) = (left.kind(), right.kind());
                Fault::from(format!("{left} and {right} have no order"))
            })
        };
        Ok(match op {
            CompareOpKind::Eq => left == right,
            CompareOpKind::Ne => left != right,
            CompareOpKind::Lt => order()?.is_lt(),
            CompareOpKind::Lte => order()?.is_le(),
            CompareOpKind::Gt => order()?.is_gt(),
            CompareOpKind::Gte => order()?.is_ge(),
            CompareOpKind::In => contains(right, left)?,
            CompareOpKind::NotIn => !contains(right, left)?,
        })
    }

    fn compute(&mut self, op: BinOpKind, left: &Value<'t>, right: &Value<'t>) -> Result<Value<'t>> {
        if let BinOpKind::Concat = op {
            let (left, right) = (self.text_of(left)?, self.text_of(right)?);
            return self.concat(&left, &right);
        }
        match (op, left, right) {
            (BinOpKind::Add, Value::Text(a), Value::Text(b)) => return self.concat(a, b),
            (BinOpKind::Add, Value::List(a), Value::List(b)) => {
                self.charge((a.len() + b.len()) * 32)?;
                return Ok(Value::list(a.iter().chain(b.iter()).cloned().collect()));
            }
            (BinOpKind::Add, Value::Tuple(a), Value::Tuple(b)) => {
                self.charge((a.len() + b.len()) * 32)?;
                return Ok(Value::Tuple(Rc::new(
                    a.iter().chain(b.iter()).cloned().collect(),
                )));
            }
            (BinOpKind::Mul, Value::Text(text), n) | (BinOpKind::Mul, n, Value::Text(text))
                if n.int().is_some() =>
            {
                return self.repeat(text, n.int().unwrap_or(0)).map(Value::Text);
            }
            (BinOpKind::Mul, Value::List(list), n) | (BinOpKind::Mul, n, Value::List(list))
                if n.int().is_some() =>
            {
                let n = usize::try_from(n.int().unwrap_or(0)).unwrap_or(0);
                self.charge(n.saturating_mul(list.len()).saturating_mul(32))?;
                let items = std::iter::repeat_n(list.iter(), n).flatten();
                return Ok(Value::list(items.cloned().collect()));
            }
            (BinOpKind::Rem, Value::Text(text), value) => {
                return format::percent(self, text, value).map(Value::Text);
            }
            _ => {}
        }
        let fault = || {
            let (left, right) = (left.kind(), right.kind());
            Fault::from(format!(
                "{left} and {right} cannot be computed with each other"
            ))
        };
        if let (Some(a), Some(b)) = (left.int(), right.int()) {
            let done = match op {
                BinOpKind::Add => a.checked_add(b),
                BinOpKind::Sub => a.checked_sub(b),
                BinOpKind::Mul => a.checked_mul(b),
                BinOpKind::FloorDiv | BinOpKind::Rem | BinOpKind::Div if b == 0 => {
                    return Err("a division by zero".into());
                }
                BinOpKind::FloorDiv => a.checked_div(b).map(|q| {
                    if a % b != 0 && (a < 0) != (b < 0) {
                        q - 1
                    } else {
                        q
                    }
                }),
                BinOpKind::Rem => a.checked_rem(b).map(|r| {
                    if r != 0 && (r < 0) != (b < 0) {
                        r + b
                    } else {
                        r
                    }
                }),
                BinOpKind::Pow if b >= 0 => u32::try_from(b).ok().and_then(|b| a.checked_pow(b)),
                BinOpKind::Div => return Ok(Value::Float(a as f64 / b as f64)),
                BinOpKind::Pow => return Ok(Value::Float((a as f64).powf(b as f64))),
                _ => return Err(fault()),
            };
            return done
                .map(Value::Int)
                .ok_or_else(|| "a number becomes too large".into());
        }
        let (Some(a), Some(b)) = (left.number(), right.number()) else {
            return Err(fault());
        };
        Ok(Value::Float(match op {
            BinOpKind::Add => a + b,
            BinOpKind::Sub => a - b,
            BinOpKind::Mul => a * b,
            BinOpKind::Div | BinOpKind::FloorDiv | BinOpKind::Rem if b == 0.0 => {
                return Err("a division by zero".into());
            }
            BinOpKind::Div => a / b,
            BinOpKind::FloorDiv => (a / b).floor(),
            BinOpKind::Rem => a - b * (a / b).floor(),
            BinOpKind::Pow => a.powf(b),
            _ => return Err(fault()),
        }))
    }

    fn concat(&mut self, left: &Text, right: &Text) -> Result<Value<'t>> {
        self.charge(left.len() + right.len())?;
        let mut out = Builder::default();
        out.push(left);
        out.push(right);
        Ok(Value::Text(out.finish()))
    }

    pub fn repeat(&mut self, text: &Text, n: i64) -> Result<Text> {
        let n = usize::try_from(n).unwrap_or(0);
        self.charge(n.saturating_mul(text.len().max(1)))?;
        let mut out = Builder::default();
        for _ in 0..if text.is_empty() { 0 } else { n } {
            out.push(text);
        }
        Ok(out.finish())
    }
}

/// Converts a Python index, which counts from the back if negative, to an index from the front;
/// `None` if it is out of range.
pub(super) fn place(at: i64, len: usize) -> Option<usize> {
    let from_back = at < 0;
    let at = if from_back {
        at.checked_add(len as i64)?
    } else {
        at
    };
    usize::try_from(at).ok().filter(|&at| at < len)
}

/// The indices that a slice selects, by Python's rules.
fn places(
    len: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let len = len as i64;
    let (least, most) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let bound = |value: Option<i64>, absent: i64| match value {
        None => absent,
        Some(v) if v < 0 => v.saturating_add(len).max(least),
        Some(v) => v.min(most),
    };
    let (first, last) = if step > 0 {
        (least, most)
    } else {
        (most, least)
    };
    let mut at = bound(start, first);
    let stop = bound(stop, last);
    std::iter::from_fn(move || {
        let inside = if step > 0 { at < stop } else { at > stop };
        let here = at;
        at = at.saturating_add(step);
        inside.then_some(here as usize)
    })
}

/// Python's `in` operator.
pub(super) fn contains<'t>(whole: &Value<'t>, part: &Value<'t>) -> Result<bool> {
    match (whole, part) {
        (Value::Text(whole), Value::Text(part)) => Ok(whole.as_str().contains(part.as_str())),
        (Value::Text(_), other) => Err(format!("a {} cannot be in a str", other.kind()).into()),
        (Value::List(items) | Value::Tuple(items), part) => Ok(items.iter().any(|i| i == part)),
        (Value::Map(map), part) => Ok(map.iter().any(|(key, _)| key == part)),
        (Value::Undefined(_), _) => Ok(false),
        (other, _) => Err(format!("nothing can be in a {}", other.kind()).into()),
    }
}
