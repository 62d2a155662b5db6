//! The help texts of the programs.

use std::path::PathBuf;

use clap::{Command, CommandFactory as _};

use crate::markdown;

/// Columns of the help texts. clap would take the terminal's, so that pages would differ from machine to machine.
const WIDTH: usize = 100;

pub(crate) fn pages() -> Vec<(PathBuf, String)> {
    [
        ("kubectl-stic", kubectl_stic::command()),
        ("stic-trainer", stic_trainer::cli::command()),
        ("stic-operator", stic_operator::settings::Args::command()),
    ]
    .map(|(name, command)| (format!("docs/reference/{name}.md").into(), page(name, command)))
    .into()
}

fn page(name: &'static str, command: Command) -> String {
    let mut command = reproducible(command.name(name).bin_name(name));
    command.build();
    let mut text = format!("{}# {name}\n", markdown::DO_NOT_EDIT);
    add(&mut command, &mut text);
    text
}

/// Leaves out what differs between two machines: the terminal's width and the values of environment variables.
fn reproducible(command: Command) -> Command {
    command
        .term_width(WIDTH)
        .disable_help_subcommand(true)
        .mut_args(|argument| argument.hide_env_values(true))
        .mut_subcommands(reproducible)
}

fn add(command: &mut Command, text: &mut String) {
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    text.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", help.join("\n").trim_end()));
    for subcommand in command.get_subcommands_mut() {
        add(subcommand, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subcommand_has_a_section_and_no_value_of_the_environment_is_shown() {
        let pages = pages();
        let text = |name: &str| {
            let page = pages.iter().find(|(path, _)| path.ends_with(name)).map(|(_, text)| text.as_str());
            page.unwrap_or_default()
        };
        assert!(text("kubectl-stic.md").contains("\n## kubectl-stic logs\n"));
        assert!(text("stic-trainer.md").contains("\n## stic-trainer step\n"));
        assert!(text("stic-trainer.md").contains("[env: JOB_COMPLETION_INDEX]"));
    }
}
