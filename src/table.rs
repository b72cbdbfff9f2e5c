//! Columns for [`crate::output`]: no borders, colour only where the output has any.

use anstyle::Style;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::output::{ACCENT, BAD, BOLD, DIM, GOOD, Output, WARN};

/// A table whose first row is `header`; a name that ends in `>` is a column aligned to the right.
pub fn table(out: &Output, header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    if out.has_colour() {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    let titles = header.iter().map(|title| title.trim_end_matches('>'));
    if titles.clone().any(|title| !title.is_empty()) {
        table.set_header(titles.map(|title| cell(title, DIM)));
    }
    for (index, title) in header.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            if title.ends_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            column.set_padding((if index == 0 { 0 } else { 1 }, 1));
        }
    }
    table
}

/// A cell in one of the styles of [`crate::output`].
pub fn cell(text: impl ToString, style: Style) -> Cell {
    use comfy_table::{Attribute, Color};
    let cell = Cell::new(text);
    match style {
        BOLD => cell.add_attribute(Attribute::Bold),
        DIM => cell.add_attribute(Attribute::Dim),
        ACCENT => cell.fg(Color::DarkCyan),
        GOOD => cell.fg(Color::DarkGreen),
        WARN => cell.fg(Color::DarkYellow),
        BAD => cell.fg(Color::DarkRed).add_attribute(Attribute::Bold),
        _ => cell,
    }
}

/// An unstyled cell.
pub fn plain(text: impl ToString) -> Cell {
    Cell::new(text)
}

/// The table's lines, each with a line feed and none with spaces at its end.
pub fn lines(table: &Table) -> String {
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}
