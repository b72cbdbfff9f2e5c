//! The tests (`is …`) of jinja2.

use minijinja::machinery::ast::CompareOpKind;

use super::compute::contains;
use super::eval::{Args, Fault, Result, Run};
use super::value::Value;

/// Returns whether a value passes a test.
pub(super) fn passes<'t>(
    run: &mut Run<'t>,
    name: &str,
    value: &Value<'t>,
    args: &Args<'t>,
) -> Result<bool> {
    let other = || args.need(0, "other");
    let int = || {
        let int = value.int();
        int.ok_or_else(|| Fault::from(format!("{name} wants a whole number, not {}", value.kind())))
    };
    Ok(match name {
        "defined" => !matches!(value, Value::Undefined(_)),
        "undefined" => matches!(value, Value::Undefined(_)),
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "true" => matches!(value, Value::Bool(true)),
        "false" => matches!(value, Value::Bool(false)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => value.number().is_some(),
        "string" => matches!(value, Value::Text(_)),
        "mapping" => matches!(value, Value::Map(_)),
        "sequence" => matches!(
            value,
            Value::Text(_) | Value::List(_) | Value::Tuple(_) | Value::Map(_) | Value::Undefined(_)
        ),
        "iterable" => matches!(
            value,
            Value::Text(_)
                | Value::List(_)
                | Value::Tuple(_)
                | Value::Map(_)
                | Value::Undefined(_)
                | Value::Loop(_)
        ),
        "callable" => matches!(
            value,
            Value::Function(_) | Value::Macro(_) | Value::Caller(_) | Value::Method(..)
        ),
        "odd" => int()?.rem_euclid(2) == 1,
        "even" => int()?.rem_euclid(2) == 0,
        "divisibleby" => {
            let by = other()?
                .int()
                .filter(|by| *by != 0)
                .ok_or("a division by zero")?;
            int()?.checked_rem(by) == Some(0)
        }
        "upper" => {
            let text = value.to_text();
            text.as_str().chars().any(char::is_uppercase)
                && !text.as_str().chars().any(char::is_lowercase)
        }
        "lower" => {
            let text = value.to_text();
            text.as_str().chars().any(char::is_lowercase)
                && !text.as_str().chars().any(char::is_uppercase)
        }
        "escaped" => false,
        "in" => {
            run.weigh(other()?)?;
            contains(other()?, value)?
        }
        "sameas" => match (value, other()?) {
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::None, Value::None) => true,
            (Value::Bool(_) | Value::None, _) | (_, Value::Bool(_) | Value::None) => false,
            (a, b) => a.kind() == b.kind() && a == b,
        },
        "eq" | "equalto" | "==" => run.compares(CompareOpKind::Eq, value, other()?)?,
        "ne" | "!=" => run.compares(CompareOpKind::Ne, value, other()?)?,
        "lt" | "lessthan" | "<" => run.compares(CompareOpKind::Lt, value, other()?)?,
        "le" | "<=" => run.compares(CompareOpKind::Lte, value, other()?)?,
        "gt" | "greaterthan" | ">" => run.compares(CompareOpKind::Gt, value, other()?)?,
        "ge" | ">=" => run.compares(CompareOpKind::Gte, value, other()?)?,
        _ => return Err(format!("there is no test {name}").into()),
    })
}
