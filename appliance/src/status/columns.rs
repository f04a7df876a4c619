//! Text in aligned columns.

use std::fmt::Write as _;

/// Rows of one section.
pub(crate) struct Columns {
    title: &'static str,
    rows: Vec<Vec<String>>,
}

impl Columns {
    pub(crate) fn new(title: &'static str) -> Self {
        Self { title, rows: Vec::new() }
    }

    /// Adds a row. A row of one cell spans the width.
    pub(crate) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// The section: its title and its rows, or nothing when it has none.
    pub(crate) fn print(&self, out: &mut String) {
        if !self.rows.is_empty() {
            out.push('\n');
            out.push_str(self.title);
            out.push('\n');
            self.print_rows("  ", out);
        }
    }

    /// The rows alone, behind a margin.
    pub(crate) fn print_rows(&self, margin: &str, out: &mut String) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            let aligned = self.rows.iter().filter(|row| row.len() > 1);
            aligned.filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for row in &self.rows {
            let mut line = String::from(margin);
            for (column, cell) in row.iter().enumerate() {
                let width = if row.len() > 1 { widths[column] } else { 0 };
                // Writing into a string cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
}

/// A span of time for people: the two largest units.
pub(crate) fn span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m{:02}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h{:02}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d{:02}h", secs / 86_400, secs / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_aligned_and_lines_end_where_their_text_does() {
        let mut columns = Columns::new("PEERS");
        columns.row(["a".into(), "up".into()]);
        columns.row(["longer".into(), String::new()]);
        let mut out = String::new();
        columns.print(&mut out);
        assert_eq!(out, "\nPEERS\n  a       up\n  longer\n");
    }

    #[test]
    fn an_empty_section_is_left_out() {
        let mut out = String::new();
        Columns::new("PEERS").print(&mut out);
        assert!(out.is_empty());
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        assert_eq!(span(59), "59s");
        assert_eq!(span(61), "1m01s");
        assert_eq!(span(3600 + 120), "1h02m");
        assert_eq!(span(86_400 * 3 + 3600), "3d01h");
    }
}
