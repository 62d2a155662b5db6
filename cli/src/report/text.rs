//! A report for a terminal.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement};

use super::document::{Block, Document, Table};
use super::escape::terminal;

pub(super) fn render(document: &Document) -> String {
    let mut text = format!("{}\n", terminal(&document.title));
    for section in &document.sections {
        let title = terminal(&section.title);
        text.push_str(&format!("\n{title}\n{}\n", "=".repeat(title.chars().count())));
        for block in &section.blocks {
            match block {
                Block::Paragraph(paragraph) => text.push_str(&format!("\n{}\n", wrap(&terminal(paragraph)))),
                Block::List(items) => {
                    text.push('\n');
                    items.iter().for_each(|item| text.push_str(&format!("- {}\n", terminal(item))));
                }
                Block::Table(of_block) => text.push_str(&table(of_block)),
                Block::Figure(figure) if figure.is_only_place => text.push_str(&table(&figure.table)),
                Block::Details(_) | Block::Figure(_) => {}
            }
        }
    }
    text
}

fn table(table: &Table) -> String {
    let mut drawn = comfy_table::Table::new();
    drawn.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    drawn.set_header(table.columns.iter().map(|column| column.name.to_uppercase()));
    for row in &table.rows {
        drawn.add_row(row.iter().map(|cell| terminal(cell)));
    }
    for (index, _) in table.columns.iter().enumerate().filter(|(_, column)| column.is_number) {
        if let Some(column) = drawn.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines = drawn.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()));
    format!("\n{}:\n\n{}", terminal(&table.caption), lines.collect::<String>())
}

/// Lines of at most 100 characters.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
