//! Writes the results of a probe: text or JSON on standard output, or an HTML page.

use std::io::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::command_line::{CommandLine, quote};
use crate::base::human;
use crate::base::outfile::{self, Existing, Outfile};
use crate::hint::{UsageError, hinted};
use crate::output::{self, Output};
use crate::probe::Subject;
use crate::probe::html::{About, Page};
use crate::runtime::Model;

/// The flags that say where a result is written.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Form {
    /// JSON instead of text
    #[arg(long)]
    pub json: bool,

    /// Write a page for a browser instead of text; it only replaces an earlier page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// With --html: replace any file of that name, except one that the command reads
    #[arg(long, requires = "html")]
    pub force: bool,
}

/// The flags of a command whose result is a file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct NewFile {
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,

    /// JSON instead of text
    #[arg(long)]
    pub json: bool,
}

impl NewFile {
    /// Checks where the file goes, and that it can be written there. Files that the command reads
    /// (`inputs`) are never replaced.
    ///
    /// # Errors
    /// The file exists, without `--force`, or its folder does not exist or cannot be written.
    pub fn judge(
        &self,
        inputs: impl IntoIterator<Item = PathBuf>,
    ) -> Result<Outfile, outfile::Error> {
        let existing = match self.force {
            true => Existing::Replace,
            false => Existing::Keep,
        };
        Outfile::judge(&self.output, existing, inputs)
    }
}

/// Where results are written, decided before the work.
#[derive(Debug)]
pub struct Results {
    json: bool,
    page: Option<Outfile>,
    about: About,
}

impl Form {
    /// Decides where the page is written, if one is requested. An earlier page by modelve is
    /// replaced, any other file only with `--force`, and files that the command reads (`inputs`)
    /// never.
    ///
    /// # Errors
    /// The file must not be replaced, or its folder does not exist or cannot be written.
    pub fn judge(&self, inputs: impl IntoIterator<Item = PathBuf>) -> anyhow::Result<Results> {
        let Some(path) = &self.html else {
            return Ok(Results {
                json: self.json,
                page: None,
                about: About::default(),
            });
        };
        let existing = match self.force {
            true => Existing::Replace,
            false => Existing::ReplaceIf(Page::is_one),
        };
        let page = Outfile::judge(path, existing, inputs);
        let page = page.and_then(|page| page.try_begin().map(|()| page));
        let page = page.map_err(page_error)?;
        if page.is_stdout() && self.json {
            let what =
                "--json and --html - would both write to standard output: name a file for one";
            return Err(UsageError(what.to_owned()).into());
        }
        Ok(Results {
            json: self.json,
            page: Some(page),
            about: About {
                models: Vec::new(),
                model: CommandLine::typed().model().map(str::to_owned),
                command: CommandLine::typed().to_string(),
                date: chrono::Local::now().format("%Y-%m-%d %H:%M").to_string(),
            },
        })
    }
}

impl Results {
    /// Adds a model that the page names.
    #[must_use]
    pub fn of(mut self, model: &Model) -> Self {
        self.about.models.push(Subject::of(model));
        self
    }

    /// Writes results as JSON, as a page, or by `print`. Writes nothing if Ctrl-C came before the
    /// first result.
    ///
    /// # Errors
    /// Writing failed.
    pub fn show<T: Serialize>(
        &self,
        page: Page,
        results: &[T],
        print: impl FnOnce(&mut Output) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        if results.is_empty() {
            return Ok(());
        }
        self.text(results, print)?;
        self.page(page, &results)
    }

    /// [`Results::show`] for a single result, whose page holds only that.
    ///
    /// # Errors
    /// Writing failed.
    pub fn show_one<T: Serialize>(
        &self,
        page: Page,
        result: &T,
        print: impl FnOnce(&mut Output) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        self.text(std::slice::from_ref(result), print)?;
        self.page(page, result)
    }

    /// Writes to standard output: JSON if requested, else text unless there is a page.
    ///
    /// # Errors
    /// Writing failed.
    pub fn text<T: Serialize>(
        &self,
        results: &[T],
        print: impl FnOnce(&mut Output) -> std::io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut out = Output::stdout();
        if self.json {
            for result in results {
                out.json_line(result)?;
            }
        } else if self.page.is_none() {
            print(&mut out)?;
        }
        Ok(out.flush()?)
    }

    /// Writes the page, if one was requested, and reports its path.
    ///
    /// # Errors
    /// Writing failed.
    pub fn page<T: Serialize>(&self, page: Page, data: &T) -> anyhow::Result<()> {
        let Some(file) = &self.page else {
            return Ok(());
        };
        file.write(page.render(data, &self.about)?.as_bytes())
            .map_err(page_error)?;
        if !file.is_stdout() {
            let path = file.path().display().to_string();
            output::note(&format!("wrote {}", human::escape(path.as_bytes())));
        }
        Ok(())
    }

    /// Returns whether a page was requested.
    pub fn has_page(&self) -> bool {
        self.page.is_some()
    }
}

/// Attaches a hint to an error of writing a page.
fn page_error(error: outfile::Error) -> anyhow::Error {
    match &error {
        outfile::Error::Exists { .. } => {
            let hint = "it is not a page that modelve made: choose another name, or replace it with --force";
            hinted(error, hint)
        }
        _ => file_error(error, "choose another name: --html page.html"),
    }
}

/// Attaches a hint to an error of writing a file that a flag names. `other_name` shows how to give
/// another name.
pub fn file_error(error: outfile::Error, other_name: &str) -> anyhow::Error {
    use outfile::Error;
    let hint = match &error {
        Error::Exists { .. } => {
            format!("to replace it: {}", CommandLine::typed().with(&["--force"]))
        }
        Error::IsInput { .. } | Error::IsStream { .. } | Error::NotAFile { .. } => {
            other_name.to_owned()
        }
        Error::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            let folder = outfile::folder_of(path).display().to_string();
            format!("mkdir -p {}", quote(&folder))
        }
        _ => return error.into(),
    };
    hinted(error, hint)
}
