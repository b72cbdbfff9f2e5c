//! Columns for [`crate::output`]: no borders, colour only where the output has any.

use anstyle::Style;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use crate::output::{ACCENT, BAD, BOLD, DIM, GOOD, Output, WARN};

/// Rows to be printed in columns.
pub struct Columns {
    table: Table,
    right: Vec<bool>,
}

impl Columns {
    /// Makes columns with these titles. Columns whose title ends in `>` are right-aligned; if all
    /// titles are empty, there is no line of titles.
    pub fn new(out: &Output, titles: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_content_arrangement(ContentArrangement::Disabled);
        if out.has_colour() {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        let names = titles.iter().map(|title| title.trim_end_matches('>'));
        if names.clone().any(|name| !name.is_empty()) {
            table.set_header(names.map(|name| cell(name, DIM)));
        }
        let right = titles.iter().map(|title| title.ends_with('>')).collect();
        Self { table, right }
    }

    /// Adds a row.
    pub fn add(&mut self, row: impl IntoIterator<Item = Cell>) {
        self.table.add_row(row.into_iter().collect::<Vec<_>>());
    }

    /// Returns whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The number of characters in the longest line.
    pub fn width(&self) -> usize {
        let columns = self.table.column_max_content_widths();
        // Two spaces between columns, and none after the last.
        let between = 2 * columns.len().saturating_sub(1);
        columns
            .iter()
            .map(|&width| usize::from(width))
            .sum::<usize>()
            + between
    }

    /// The lines, each with a line feed and without trailing spaces.
    pub fn lines(mut self) -> String {
        // Columns exist only once there are rows.
        for (index, &right) in self.right.iter().enumerate() {
            if let Some(column) = self.table.column_mut(index) {
                column.set_padding((u16::from(index > 0), 1));
                if right {
                    column.set_cell_alignment(CellAlignment::Right);
                }
            }
        }
        let mut text = self.table.trim_fmt();
        text.push('\n');
        text
    }
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
