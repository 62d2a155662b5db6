//! A report as Markdown with GitHub's tables.

use super::document::{Block, Document, Table};
use super::escape::markdown as escape;

pub(super) fn render(document: &Document) -> String {
    let mut text = format!("# {}\n", escape(&document.title));
    for section in &document.sections {
        text.push_str(&format!("\n## {}\n", escape(&section.title)));
        for block in &section.blocks {
            match block {
                Block::Paragraph(paragraph) => text.push_str(&format!("\n{}\n", escape(paragraph))),
                Block::List(items) => {
                    text.push('\n');
                    items.iter().for_each(|item| text.push_str(&format!("- {}\n", escape(item))));
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
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let header = line(table.columns.iter().map(|column| escape(column.name)).collect());
    let rules = line(
        table.columns.iter().map(|column| if column.is_number { "---:" } else { "---" }.to_owned()).collect(),
    );
    let rows = table.rows.iter().map(|row| line(row.iter().map(|cell| escape(cell)).collect()));
    format!("\n**{}**\n\n{header}{rules}{}", escape(&table.caption), rows.collect::<String>())
}
