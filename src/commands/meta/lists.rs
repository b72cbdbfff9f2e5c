//! Lists of all tensors and of all metadata keys.

use std::io::Write;

use regex::Regex;

use crate::base::human;
use crate::gguf::{Gguf, TensorInfo, ValueRef};
use crate::output::{ACCENT, BOLD, DIM, Output};
use crate::table::{Columns, cell, plain};

/// The order of tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// The largest first
    Size,
    /// By name, with numbers in numeric order
    Name,
    /// In the order of the file
    File,
}

/// What to list, and how much of it.
pub struct Show<'a> {
    /// Only names that match, if given.
    pub filter: Option<&'a Regex>,
    /// The order of tensors.
    pub sort: Sort,
    /// Whether to print long values completely.
    pub full: bool,
}

/// Longer arrays are shortened to [`CUT`] elements, unless `--full` is given.
const LONG: usize = 64;
/// Number of elements shown of a shortened array.
pub const CUT: usize = 8;
/// Number of characters shown of a string, unless `--full` is given.
const STRING: usize = 120;

impl Show<'_> {
    /// Returns whether the filter accepts a name.
    pub fn wants(&self, name: &str) -> bool {
        self.filter.is_none_or(|filter| filter.is_match(name))
    }

    /// Returns the metadata to list.
    pub fn metadata<'g>(&self, gguf: &'g Gguf) -> impl Iterator<Item = (&'g str, ValueRef<'g>)> {
        gguf.metadata().filter(|(key, _)| self.wants(key))
    }

    /// Returns the tensors to list, sorted.
    pub fn tensors<'g>(&self, gguf: &'g Gguf) -> Vec<&'g TensorInfo> {
        let all = gguf.tensors().iter();
        let mut tensors: Vec<_> = all.filter(|tensor| self.wants(&tensor.name)).collect();
        match self.sort {
            Sort::File => {}
            Sort::Size => tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes)),
            Sort::Name => tensors.sort_by_cached_key(|tensor| natural(&tensor.name)),
        }
        tensors
    }

    /// Returns the number of elements to show of an array of `len`.
    pub fn shown(&self, len: usize) -> usize {
        if self.full || len <= LONG { len } else { CUT }
    }
}

/// Splits a name into alternating texts and numbers, as a sort key with which `blk.10` comes after
/// `blk.9`.
pub fn natural(name: &str) -> Vec<(String, u64)> {
    let mut parts = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits);
        let end = tail
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (number, tail) = tail.split_at(end);
        parts.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = tail;
    }
    parts
}

/// Prints one row per tensor.
pub fn tensors(gguf: &Gguf, show: &Show<'_>, out: &mut Output) -> anyhow::Result<()> {
    let split = gguf.paths().len() > 1;
    let mut header = vec!["name", "shape (fastest first)", "type", "bytes>", "offset>"];
    if split {
        header.push("part>");
    }
    let mut rows = Columns::new(out, &header);
    let tensors = show.tensors(gguf);
    for tensor in &tensors {
        let sizes: Vec<String> = tensor.shape.iter().map(u64::to_string).collect();
        let mut row = vec![
            plain(human::escape(tensor.name.as_bytes())),
            plain(sizes.join(" × ")),
            cell(tensor.ty, ACCENT),
            plain(tensor.bytes.map_or("?".to_owned(), human::count)),
            cell(tensor.offset, DIM),
        ];
        if split {
            row.push(plain(tensor.part + 1));
        }
        rows.add(row);
    }
    if tensors.is_empty() {
        return Ok(writeln!(out, "no tensors")?);
    }
    Ok(out.write_all(rows.lines().as_bytes())?)
}

/// Prints one line per key.
pub fn metadata(gguf: &Gguf, show: &Show<'_>, out: &mut Output) -> anyhow::Result<()> {
    let rows: Vec<(String, String, ValueRef<'_>)> = show
        .metadata(gguf)
        .map(|(key, value)| (human::escape(key.as_bytes()), type_name(&value), value))
        .collect();
    let width = |of: usize| {
        let texts = rows
            .iter()
            .map(|(key, ty, _)| [key, ty][of].chars().count());
        texts.max().unwrap_or(0)
    };
    let (keys, types) = (width(0), width(1));
    for (key, ty, value) in &rows {
        let (key, ty) = (format!("{key:keys$}"), format!("{ty:types$}"));
        write!(out, "{}  {}  ", out.paint(BOLD, key), out.paint(DIM, ty))?;
        print_value(value, show, out)?;
        writeln!(out)?;
    }
    if rows.is_empty() {
        writeln!(out, "no metadata")?;
    }
    Ok(())
}

fn type_name(value: &ValueRef<'_>) -> String {
    match value.as_array() {
        Some(array) => format!("{}[{}]", array.element_type().name(), array.len()),
        None => value.ty().name().to_owned(),
    }
}

fn print_value(value: &ValueRef<'_>, show: &Show<'_>, out: &mut Output) -> anyhow::Result<()> {
    let Some(array) = value.as_array() else {
        return Ok(write!(out, "{}", scalar(value, show.full))?);
    };
    let shown = show.shown(array.len());
    write!(out, "[")?;
    for (index, item) in array.iter().take(shown).enumerate() {
        if index > 0 {
            write!(out, ", ")?;
        }
        match item.as_bytes() {
            Some(bytes) => write!(out, "\"{}\"", human::escape(bytes).replace('"', "\\\""))?,
            None => print_value(&item, show, out)?,
        }
    }
    if shown < array.len() {
        let more = human::count((array.len() - shown) as u64);
        write!(out, ", {}", out.paint(DIM, format!("… {more} more")))?;
    }
    Ok(write!(out, "]")?)
}

fn scalar(value: &ValueRef<'_>, full: bool) -> String {
    match *value {
        ValueRef::String(bytes) => string(bytes, full),
        ValueRef::F32(number) => number.to_string(),
        ValueRef::F64(number) => number.to_string(),
        ValueRef::Bool(truth) => truth.to_string(),
        _ => value
            .as_i64()
            .map(|number| number.to_string())
            .or_else(|| value.as_u64().map(|number| number.to_string()))
            .unwrap_or_default(),
    }
}

fn string(bytes: &[u8], full: bool) -> String {
    let text = human::escape(bytes);
    match text.char_indices().nth(STRING) {
        Some((end, _)) if !full => {
            format!(
                "{}… ({} bytes)",
                &text[..end],
                human::count(bytes.len() as u64)
            )
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_sort_as_numbers() {
        let mut names = [
            "blk.10.x",
            "blk.9.x",
            "a",
            "blk.9.a",
            "blk.99999999999999999999.a",
        ];
        names.sort_by_cached_key(|name| natural(name));
        let expected = [
            "a",
            "blk.9.a",
            "blk.9.x",
            "blk.10.x",
            "blk.99999999999999999999.a",
        ];
        assert_eq!(names, expected);
    }
}
