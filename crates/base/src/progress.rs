//! How long-running work reports its progress. The work knows only the trait [`Progress`]; the
//! caller chooses what displays it, or [`Silent`] for nothing.

/// What a step counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown in binary multiples (KiB, MiB, GiB).
    Bytes,
    /// Anything else, by its plural: tensors, rows, prompts.
    Items(&'static str),
}

/// Receives the progress of one piece of work, step after step.
///
/// A step begins with [`start`](Progress::start) and ends with [`finish`](Progress::finish);
/// between them any thread may advance it.
pub trait Progress: Send + Sync {
    /// A step begins: `what` says what it does ("fetching org/name"), and it has `total` units. Of
    /// these `done` are finished already, as when a download is resumed: they count for the bar,
    /// not for the speed.
    fn start(&self, what: &str, unit: Unit, total: u64, done: u64);

    /// `n` more units are done.
    fn advance(&self, n: u64);

    /// `n` units that were counted must be done again, as for a file whose checksum was wrong.
    fn rewind(&self, n: u64);

    /// Shows a sentence that stays on the screen, such as that another process is waited for.
    fn note(&self, text: &str);

    /// The step is over, whether it succeeded or not, and the bar is removed from the screen.
    fn finish(&self);
}

/// Progress that nobody sees: for tests, libraries and `--quiet`.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _: &str, _: Unit, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn rewind(&self, _: u64) {}
    fn note(&self, _: &str) {}
    fn finish(&self) {}
}
