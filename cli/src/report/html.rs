//! A report as one HTML page, which needs no network and no script.

use super::document::{Block, Document, Figure, Plot, Section, Table};
use super::escape::html as escape;
use super::svg;

const STYLE: &str = include_str!("style.css");

pub(super) fn render(document: &Document) -> String {
    let title = escape(&document.title);
    let links = document.sections.iter().enumerate().map(|(index, section)| {
        format!("<li><a href=\"#section-{index}\">{}</a></li>\n", escape(&section.title))
    });
    let sections = document.sections.iter().enumerate().map(|(index, of)| section(index, of));
    // The policy keeps the page from loading or running anything, whatever a name in it contains.
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<header>\n<h1>{title}</h1>\n<nav aria-label=\"Sections\">\n<ul>\n{}</ul>\n</nav>\n</header>\n<main>\n{}</main>\n\
         </body>\n</html>\n",
        links.collect::<String>(),
        sections.collect::<String>(),
    )
}

fn section(index: usize, section: &Section) -> String {
    let blocks: String = section.blocks.iter().map(block).collect();
    format!("<section id=\"section-{index}\">\n<h2>{}</h2>\n{blocks}</section>\n", escape(&section.title))
}

fn block(block: &Block) -> String {
    match block {
        Block::Paragraph(text) => format!("<p>{}</p>\n", escape(text)),
        Block::List(items) => {
            let items = items.iter().map(|item| format!("<li>{}</li>\n", escape(item)));
            format!("<ul>\n{}</ul>\n", items.collect::<String>())
        }
        Block::Table(of_block) => table(of_block),
        Block::Details(of_block) => details(&of_block.caption, of_block),
        Block::Figure(of_block) => figure(of_block),
    }
}

fn details(summary: &str, of: &Table) -> String {
    format!("<details>\n<summary>{}</summary>\n{}</details>\n", escape(summary), table(of))
}

/// A wide table scrolls in its own region, also with the keyboard, so that the page does not.
fn table(table: &Table) -> String {
    let caption = escape(&table.caption);
    let class = |index: usize| {
        let is_number = table.columns.get(index).is_some_and(|column| column.is_number);
        if is_number { " class=\"number\"" } else { "" }
    };
    let header = table
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| format!("<th scope=\"col\"{}>{}</th>", class(index), escape(column.name)));
    let rows = table.rows.iter().map(|row| {
        let cells = row.iter().enumerate();
        let cells = cells.map(|(index, cell)| format!("<td{}>{}</td>", class(index), escape(cell)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    });
    format!(
        "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\">\n<table>\n<caption><span>{caption}</span></caption>\n\
         <thead><tr>{}</tr></thead>\n<tbody>\n{}</tbody>\n</table>\n</div>\n",
        header.collect::<String>(),
        rows.collect::<String>(),
    )
}

fn figure(figure: &Figure) -> String {
    let (class, drawings) = match &figure.plot {
        Plot::Intervals(plot) => ("intervals", svg::intervals(plot)),
        Plot::Curve(plot) => ("curve", vec![svg::curve(plot)]),
    };
    format!(
        "<figure class=\"{class}\">\n<h3>{}</h3>\n<figcaption>{}</figcaption>\n<div class=\"plots\">\n{}</div>\n{}</figure>\n",
        escape(&figure.title),
        escape(&figure.caption),
        drawings.concat(),
        details("The numbers of this figure", &figure.table),
    )
}
