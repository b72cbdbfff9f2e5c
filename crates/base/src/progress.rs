//! How long-running work tells where it stands. The work knows only the trait [`Progress`]; what
//! draws it, or whether anything does, is the caller's choice.

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
    /// A step begins: what it does ("fetching org/name"), and how many units it has, of which
    /// `done` were there before (they count for the bar, not for the speed).
    fn start(&self, what: &str, unit: Unit, total: u64, done: u64);

    /// `n` more units are done.
    fn advance(&self, n: u64);

    /// `n` units counted before must be done again (a file that failed its check).
    fn rewind(&self, n: u64);

    /// A sentence to keep on the screen: waiting for another process, trying again.
    fn note(&self, text: &str);

    /// The step is over, whether it succeeded or not: the bar leaves the screen.
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
