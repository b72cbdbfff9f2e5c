//! The functions that templates can call.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use super::eval::{Args, Result, Run};
use super::value::{Map, Value};

/// Their names.
pub(super) const NAMES: &[&str] = &[
    "range",
    "dict",
    "namespace",
    "raise_exception",
    "strftime_now",
];

/// Maximum number of numbers in one `range`.
const MAX_RANGE: i64 = 100_000;

/// Calls a function.
pub(super) fn call<'t>(run: &mut Run<'t>, name: &str, args: &Args<'t>) -> Result<Value<'t>> {
    match name {
        "range" => range(run, args),
        "dict" => Ok(Value::Map(Rc::new(map(run, args)?))),
        "namespace" => Ok(Value::Namespace(Rc::new(RefCell::new(map(run, args)?)))),
        "raise_exception" => {
            let message = args.need(0, "message")?.to_text();
            Err(format!("it refuses: {}", message.as_str()).into())
        }
        _ => {
            let format = args.need(0, "format")?.to_text();
            let mut now = String::new();
            match write!(now, "{}", chrono::Local::now().format(format.as_str())) {
                Ok(()) => Ok(Value::own(&now)),
                Err(_) => Err(format!("{:?} is no format of dates", format.as_str()).into()),
            }
        }
    }
}

fn map<'t>(run: &mut Run<'t>, args: &Args<'t>) -> Result<Map<'t>> {
    let mut map = Map::new();
    if let Some(Value::Map(first)) = args.list.first() {
        run.charge(first.len() * 64)?;
        map.extend(first.iter().cloned());
    }
    for (name, value) in &args.named {
        let key = Value::Text(name.clone());
        match map.iter_mut().find(|(k, _)| *k == key) {
            Some((_, place)) => *place = value.clone(),
            None => map.push((key, value.clone())),
        }
    }
    Ok(map)
}

fn range<'t>(run: &mut Run<'t>, args: &Args<'t>) -> Result<Value<'t>> {
    let numbers: Option<Vec<i64>> = args.list.iter().map(Value::int).collect();
    let (start, stop, step) = match numbers.as_deref() {
        Some([stop]) => (0, *stop, 1),
        Some([start, stop]) => (*start, *stop, 1),
        Some([start, stop, step]) if *step != 0 => (*start, *stop, *step),
        _ => return Err("range wants one to three whole numbers".into()),
    };
    let span = if step > 0 {
        stop.saturating_sub(start)
    } else {
        start.saturating_sub(stop)
    };
    if span > 0 && span / step.saturating_abs() > MAX_RANGE {
        return Err("a range is too large".into());
    }
    let mut items = Vec::new();
    let mut at = start;
    while if step > 0 { at < stop } else { at > stop } {
        items.push(Value::Int(at));
        at = at.saturating_add(step);
    }
    run.charge(items.len() * 32)?;
    Ok(Value::list(items))
}
