//! The tables of docs/benchmarks/tables.md, read back.

use super::super::part::Part;

/// The text of tables.md.
pub struct Tables {
    /// See above.
    pub text: String,
}

/// One table: its head and its lines, as cells.
struct Table<'a> {
    head: Vec<&'a str>,
    lines: Vec<Vec<&'a str>>,
}

impl Tables {
    /// The first table of `part`: what each row has under `column`, where it is a number.
    pub fn column(&self, part: &Part, column: &str) -> Option<Vec<(String, f64)>> {
        Table::first(part.of(&self.text)?)?.column(column)
    }
}

impl<'a> Table<'a> {
    fn first(text: &'a str) -> Option<Table<'a>> {
        let lines = text.lines().skip_while(|line| !line.starts_with('|'));
        let lines = lines.take_while(|line| line.starts_with('|'));
        let cells = |line: &'a str| line.trim_matches('|').split('|').map(str::trim).collect();
        let mut lines = lines.map(cells);
        let head = lines.next()?;
        Some(Table { head, lines: lines.skip(1).collect() })
    }

    fn column(&self, name: &str) -> Option<Vec<(String, f64)>> {
        let column = self.head.iter().position(|head| *head == name)?;
        let cell = |line: &Vec<&str>| {
            let value = line.get(column)?.trim_matches('*').parse().ok()?;
            Some(((*line.first()?).to_owned(), value))
        };
        Some(self.lines.iter().filter_map(cell).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::part;
    use super::*;

    #[test]
    fn a_column_has_the_rows_with_a_number() {
        let text = "<!-- memory-idle: begin -->\nWords.\n\n| idle after | rsalloc | glibc |\n|---|--:|--:|\n\
                    | churn-512 | 2.21 | **1.10** |\n| larson | failed | 3.0 |\n\n<!-- memory-idle: end -->\n";
        let tables = Tables { text: text.to_owned() };
        let column = |name| tables.column(&part::MEMORY_IDLE, name);
        assert_eq!(column("rsalloc"), Some(vec![("churn-512".to_owned(), 2.21)]));
        assert_eq!(column("glibc").map(|rows| rows.len()), Some(2));
        assert_eq!((column("other"), tables.column(&part::C, "rsalloc")), (None, None));
    }
}
