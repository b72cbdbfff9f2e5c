//! Detects arguments that are models or files where texts are expected.

use std::path::Path;

use super::Input;
use crate::base::human;
use crate::commands::command_line::{CommandLine, quote};
use crate::hint::{UsageError, hinted};
use crate::hub::locate::{self, ModelRef};

/// Extensions of text files. A prompt without white space rarely ends like that.
const TEXT_FILES: [&str; 9] = [
    "txt", "md", "json", "jsonl", "csv", "tsv", "log", "html", "xml",
];

/// Returns an error for arguments that can only be meant as a model or a file.
pub(super) fn check(arguments: &[String], input: &Input, names_model: bool) -> anyhow::Result<()> {
    for (at, argument) in arguments.iter().enumerate() {
        let first_of_several = at == 0 && (arguments.len() > 1 || input.is_given());
        if !names_model && is_model(argument, first_of_several) {
            let again = CommandLine::typed().without(argument).on_model(argument);
            return Err(hinted(
                UsageError(format!("{} is a model, not a text", shown(argument))),
                format!("the model is named with -m: {again}"),
            ));
        }
        if !looks_like_a_file(argument) {
            continue;
        }
        let again = CommandLine::typed().without(argument);
        if Path::new(argument).is_file() {
            let again = again.with(&["--file", argument.as_str()]);
            return Err(hinted(
                UsageError(format!("{} is a file, not a text", shown(argument))),
                format!("to read it: {again}"),
            ));
        }
        return Err(hinted(
            UsageError(format!("no such file: {}", shown(argument))),
            format!(
                "files are read with --file; to use the name as text: printf %s {} | {again}",
                quote(argument)
            ),
        ));
    }
    Ok(())
}

fn shown(argument: &str) -> String {
    human::escape(argument.as_bytes())
}

/// Returns whether an argument is a GGUF file or, if it is the first of several, names a model on
/// this machine.
fn is_model(argument: &str, first_of_several: bool) -> bool {
    let path = Path::new(argument);
    let is_gguf = path
        .extension()
        .is_some_and(|extension| extension.eq_ignore_ascii_case("gguf"));
    if is_gguf && (path.is_file() || !argument.contains(char::is_whitespace)) {
        return true;
    }
    if !first_of_several || argument.contains(char::is_whitespace) {
        return false;
    }
    match ModelRef::parse(argument) {
        ModelRef::Tiny => true,
        ModelRef::Hub(_) => locate::locate(Some(argument)).is_ok(),
        ModelRef::Path(path) => argument.contains('/') && path.is_dir(),
    }
}

/// Returns whether an argument without white space is the path of an existing file, or has the
/// extension of a text file.
fn looks_like_a_file(argument: &str) -> bool {
    if argument.is_empty() || argument.contains(char::is_whitespace) {
        return false;
    }
    let path = Path::new(argument);
    let extension = path.extension().and_then(|extension| extension.to_str());
    let known = extension.is_some_and(|extension| TEXT_FILES.contains(&extension));
    known || (argument.contains(['.', '/']) && path.is_file())
}
