//! A report as headings, paragraphs, tables and figures, which text, Markdown and HTML have in common.

use super::estimate::Interval;

/// A report, ready to be rendered.
#[derive(Debug)]
pub(super) struct Document {
    pub title: String,
    pub sections: Vec<Section>,
}

#[derive(Debug)]
pub(super) struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

#[derive(Debug)]
pub(super) enum Block {
    Paragraph(String),
    List(Vec<String>),
    Table(Table),
    /// A table that is long: in HTML it is closed at first, elsewhere it is left out.
    Details(Table),
    /// Only HTML draws figures.
    Figure(Figure),
}

#[derive(Debug)]
pub(super) struct Table {
    pub caption: String,
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub name: &'static str,
    pub is_number: bool,
}

/// A column of words.
pub(super) const fn words(name: &'static str) -> Column {
    Column { name, is_number: false }
}

/// A column of numbers, aligned to the right.
pub(super) const fn number(name: &'static str) -> Column {
    Column { name, is_number: true }
}

#[derive(Debug)]
pub(super) struct Figure {
    pub title: String,
    /// What the figure shows and how to read it.
    pub caption: String,
    pub plot: Plot,
    /// The numbers that are drawn.
    pub table: Table,
    /// Whether no other table has them, so that they are in every format.
    pub is_only_place: bool,
}

#[derive(Debug)]
pub(super) enum Plot {
    Intervals(Intervals),
    Curve(Curve),
}

/// Points with intervals on one horizontal axis, in groups.
#[derive(Debug)]
pub(super) struct Intervals {
    /// The name of the axis, with its unit.
    pub axis: &'static str,
    /// Whether the axis includes 0, with a line.
    pub from_zero: bool,
    pub groups: Vec<Group>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub name: String,
    pub marks: Vec<Mark>,
}

#[derive(Debug)]
pub(super) struct Mark {
    pub name: String,
    pub points: f64,
    pub interval: Option<Interval>,
    /// Which colour and shape; `None` for a published number.
    pub series: Option<usize>,
}

/// A value by step.
#[derive(Debug)]
pub(super) struct Curve {
    /// The name of the vertical axis, with its unit.
    pub axis: String,
    /// Step and value, by step.
    pub values: Vec<(f64, f64)>,
}
