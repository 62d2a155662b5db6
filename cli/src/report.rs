//! `report`: the scores of evaluations next to the paper's, and the curves of trainings.
//!
//! Gathering reads runs and files, the rest is pure: sources become a [`model::Report`], that becomes a
//! [`document::Document`] of tables and figures, and each output format renders the document.

mod assemble;
mod check_claims;
mod claim;
mod csv;
mod document;
mod escape;
mod estimate;
mod figures;
mod files;
mod gather;
mod html;
mod markdown;
mod model;
mod published;
mod svg;
mod tables;
mod text;

#[cfg(test)]
mod tests;

use crate::args::{ReportArgs, ReportFormat};
use crate::error::Result;
use crate::stdio;

pub(crate) fn report(args: &ReportArgs) -> Result<()> {
    let (source, runs) = gather::gather(args)?;
    let report = assemble::assemble(source, &runs, args.paper);
    let text = render(&report, args.output);
    stdio::print(text.trim_end())
}

fn render(report: &model::Report, format: ReportFormat) -> String {
    match format {
        ReportFormat::Text => text::render(&tables::document(report)),
        ReportFormat::Markdown => markdown::render(&tables::document(report)),
        ReportFormat::Csv => csv::render(report),
        ReportFormat::Html => html::render(&tables::document(report)),
    }
}
