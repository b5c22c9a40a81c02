//! The help text in Japanese: the English one is in the arguments' own doc comments, the Japanese one in
//! `locale/help.ja.ftl`, under the command's path. A test finds every command and option that lacks one.

use clap::Command;
use fluent_bundle::{FluentBundle, FluentResource};

use crate::ui::Language;

const JAPANESE: &str = include_str!("../locale/help.ja.ftl");

/// Ids that clap adds and words itself.
#[cfg(test)]
const BUILT_IN: [&str; 2] = ["help", "version"];

/// The command tree with its help in the given language.
pub(crate) fn localized(command: Command, language: Language) -> Command {
    match language {
        Language::En => command,
        Language::Ja => japanese(command, &catalogue(), "kuramori"),
    }
}

/// The keys of commands and options without Japanese help.
#[cfg(test)]
pub(crate) fn missing(command: &Command) -> Vec<String> {
    fn walk(
        command: &Command,
        catalogue: &FluentBundle<FluentResource>,
        path: &str,
        missing: &mut Vec<String>,
    ) {
        let keys = command
            .get_arguments()
            .map(|argument| argument.get_id().as_str())
            .filter(|id| !BUILT_IN.contains(id))
            .map(|id| key(path, id, catalogue))
            .chain([path.to_owned()]);
        missing.extend(keys.filter(|key| !catalogue.has_message(key)));
        for child in command.get_subcommands() {
            walk(child, catalogue, &format!("{path}-{}", child.get_name()), missing);
        }
    }
    let mut found = Vec::new();
    walk(command, &catalogue(), "kuramori", &mut found);
    found
}

fn catalogue() -> FluentBundle<FluentResource> {
    let resource = match FluentResource::try_new(JAPANESE.to_owned()) {
        // A broken line costs that line only; the test finds what is missing.
        Ok(resource) | Err((resource, _)) => resource,
    };
    let mut bundle = FluentBundle::new(vec![]);
    bundle.set_use_isolating(false);
    let _ = bundle.add_resource(resource);
    bundle
}

/// An option's key: its own below the command, or the one that all commands share (`option-NAME`).
fn key(path: &str, id: &str, catalogue: &FluentBundle<FluentResource>) -> String {
    let id = id.to_ascii_lowercase().replace('_', "-");
    let own = format!("{path}--{id}");
    if catalogue.has_message(&own) { own } else { format!("option-{id}") }
}

fn text(catalogue: &FluentBundle<FluentResource>, key: &str) -> Option<String> {
    let pattern = catalogue.get_message(key)?.value()?;
    Some(catalogue.format_pattern(pattern, None, &mut Vec::new()).into_owned())
}

fn japanese(command: Command, catalogue: &FluentBundle<FluentResource>, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|child| child.get_name().to_owned()).collect();
    let mut command = match text(catalogue, path) {
        Some(about) => command.about(about),
        None => command,
    };
    command = command.mut_args(|argument| {
        match text(catalogue, &key(path, argument.get_id().as_str(), catalogue)) {
            Some(help) => argument.help(help),
            None => argument,
        }
    });
    for name in names {
        command =
            command.mut_subcommand(&name, |child| japanese(child, catalogue, &format!("{path}-{name}")));
    }
    command
}
