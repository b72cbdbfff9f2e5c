//! Computes the texts of a plan and writes each row to its place in the file.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;

use super::Plan;
use crate::error::{Error, Result};
use modelve_base::rawfile;
use modelve_runtime::graph::{Hook, Node, NodeInfo, Pass, Role};
use modelve_runtime::{
    Entry, Error as RuntimeError, RopeFactors, SeqId, Session, Sessions, Token, WantLogits,
};

/// Number of bytes moved at once when a file is shortened.
const PIECE: usize = 1 << 20;

/// The hook that writes rows as they are computed.
struct Writing<'a> {
    file: &'a File,
    /// For each role, the offset of its tensor in the file and the number of values in a row.
    places: BTreeMap<Role, (u64, usize)>,
    /// For each sequence, the row of its first token.
    rows: HashMap<SeqId, usize>,
    /// Whether the pass may stop after the last node of `places`.
    may_stop: bool,
    /// Number of nodes of `places` that are still to come in this pass.
    left: usize,
    bytes: Vec<u8>,
    failed: Option<io::Error>,
}

impl Writing<'_> {
    /// Prepares for a pass. A pass may end early if its sequences have no further pass, because
    /// then nothing needs their KV cache.
    fn begin(&mut self, may_stop: bool) {
        self.may_stop = may_stop;
        self.left = self.places.len();
    }

    fn write(&mut self, at: u64, values: &[f32]) -> ControlFlow<()> {
        self.bytes.clear();
        let bytes = values.iter().flat_map(|x| x.to_le_bytes());
        self.bytes.extend(bytes);
        match rawfile::write_all_at(self.file, &self.bytes, at) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }

    /// Checks how a pass ended. It is no error that the hook stopped it, unless writing failed.
    fn ended(&mut self, _: Pass) -> Result<()> {
        match self.failed.take() {
            Some(error) => Err(Error::Write(error)),
            None => Ok(()),
        }
    }
}

impl Hook for Writing<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        node.role
            .is_some_and(|role| self.places.contains_key(&role))
    }

    fn node(&mut self, node: &mut Node<'_>) -> modelve_runtime::Result<ControlFlow<()>> {
        let info = node.info();
        let place = info.role.and_then(|role| self.places.get(&role));
        let (Some(&(start, width)), Some(rows)) = (place, info.rows) else {
            return Ok(ControlFlow::Continue(()));
        };
        let values = node.read()?;
        let target = |i: usize| {
            let row = rows.of[i];
            let first = self.rows.get(&row.seq)?;
            Some(first + row.position.index())
        };
        // Rows that follow each other in the file are written together.
        let mut runs: Vec<(usize, usize, usize)> = Vec::new();
        for i in 0..rows.of.len() {
            let Some(to) = target(i) else { continue };
            match runs.last_mut() {
                Some((from, first, n)) if *from + *n == i && *first + *n == to => *n += 1,
                _ => runs.push((i, to, 1)),
            }
        }
        for (from, to, n) in runs {
            let at = start + 4 * (to * width) as u64;
            let values = &values[info.row(from).start..info.row(from + n - 1).end];
            if self.write(at, values).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        self.left = self.left.saturating_sub(1);
        Ok(match self.may_stop && self.left == 0 {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        })
    }
}

impl Plan {
    /// Computes all texts and writes the planned tensors to `file`, which must be empty. The
    /// sessions must have been made with [`settings`](super::settings); `on_progress` gets the
    /// number of tokens done. Returns the number of tokens in the file. That is fewer than planned
    /// when the sessions' [`Cancel`](modelve_runtime::Cancel) is set; the file then holds only
    /// those, and its metadata says that it is incomplete.
    ///
    /// # Errors
    /// [`Error::Write`], and the errors of the sessions.
    pub fn write(
        &self,
        file: &File,
        sessions: &mut Sessions,
        on_progress: &mut dyn FnMut(usize),
    ) -> Result<usize> {
        let (header, places) = self.header(self.tokens(), true);
        let start = header.len() as u64;
        let end = places.last().map_or(0, |&(_, end)| end);
        rawfile::allocate(file, start + end).map_err(Error::Write)?;
        rawfile::write_all_at(file, &header, 0).map_err(Error::Write)?;
        self.write_numbers(file, start, &places)
            .map_err(Error::Write)?;
        let tensors = self.tensors.iter().zip(&places);
        let of_roles = tensors.filter_map(|(tensor, (at, _))| {
            let place = (start + at, tensor.width());
            Some((tensor.role?, place))
        });
        let mut writing = Writing {
            file,
            places: of_roles.collect(),
            rows: HashMap::new(),
            may_stop: false,
            left: 0,
            bytes: Vec::new(),
            failed: None,
        };
        let mut done = 0;
        let complete = self.compute(sessions, &mut writing, &mut |n| {
            done += n;
            on_progress(done);
        })?;
        if !complete && done > 0 {
            self.shorten(file, &places, done).map_err(Error::Write)?;
        }
        Ok(done)
    }

    /// Writes the token ids, text numbers and positions.
    fn write_numbers(&self, file: &File, start: u64, places: &[(u64, u64)]) -> io::Result<()> {
        for (tensor, (at, _)) in self.tensors.iter().zip(places) {
            let mut at = start + at;
            for (number, text) in self.texts.iter().enumerate() {
                let numbers: Vec<i32> = match tensor.name.as_str() {
                    "ids" => text.iter().map(|id| id.0).collect(),
                    "text" => vec![i32::try_from(number).unwrap_or(i32::MAX); text.len()],
                    "position" => (0..).take(text.len()).collect(),
                    _ => break,
                };
                let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
                rawfile::write_all_at(file, &bytes, at)?;
                at += bytes.len() as u64;
            }
        }
        Ok(())
    }

    /// Computes text after text, several short ones together; `done` gets the number of tokens of
    /// each batch. Returns whether all texts were computed.
    fn compute(
        &self,
        sessions: &mut Sessions,
        writing: &mut Writing<'_>,
        done: &mut dyn FnMut(usize),
    ) -> Result<bool> {
        let (mut at, mut first_row) = (0, 0);
        let mut most = usize::MAX;
        while at < self.texts.len() {
            let session = sessions.of(self.texts[at].len())?;
            let n = together(session, &self.texts[at..]).min(most);
            let texts = &self.texts[at..at + n];
            let pass = match texts {
                [text] => self.one(session, text, first_row, writing, done),
                texts => self.several(session, texts, first_row, writing, done),
            };
            match pass {
                // A recurrent memory can only be hooked with one sequence at a time.
                Err(Error::Runtime(RuntimeError::HookOnSeveral { .. })) => {
                    most = 1;
                    continue;
                }
                Err(Error::Runtime(RuntimeError::Cancelled)) => return Ok(false),
                pass => pass?,
            }
            first_row += texts.iter().map(Vec::len).sum::<usize>();
            at += n;
        }
        Ok(true)
    }

    /// Computes one text, batch by batch.
    fn one(
        &self,
        session: &mut Session,
        text: &[Token],
        first_row: usize,
        writing: &mut Writing<'_>,
        done: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let seq = session.open()?;
        writing.rows = HashMap::from([(seq.id(), first_row)]);
        let want = match self.needs_outputs {
            true => WantLogits::All,
            false => WantLogits::None,
        };
        let n_batch = session.settings().n_batch as usize;
        for chunk in text.chunks(n_batch) {
            writing.begin(text.len() <= n_batch);
            let pass = session.feed_hooked(&seq, chunk, want, writing, &mut |_, _| {})?;
            writing.ended(pass)?;
            done(chunk.len());
        }
        session.close(seq);
        Ok(())
    }

    /// Computes several texts in one batch.
    fn several(
        &self,
        session: &mut Session,
        texts: &[Vec<Token>],
        first_row: usize,
        writing: &mut Writing<'_>,
        done: &mut dyn FnMut(usize),
    ) -> Result<()> {
        let mut seqs = Vec::with_capacity(texts.len());
        for _ in texts {
            seqs.push(session.open()?);
        }
        writing.rows.clear();
        let mut row = first_row;
        let mut entries = Vec::new();
        for (seq, text) in seqs.iter().zip(texts) {
            writing.rows.insert(seq.id(), row);
            row += text.len();
            entries.extend(text.iter().map(|&token| Entry {
                seq,
                token,
                output: self.needs_outputs,
            }));
        }
        writing.begin(true);
        let pass = session.step_hooked(&entries, writing, &mut |_, _| {})?;
        writing.ended(pass)?;
        done(row - first_row);
        Ok(())
    }

    /// Shortens a file to the `done` tokens that were computed: each tensor is moved to the end of
    /// the one before it.
    fn shorten(&self, file: &File, before: &[(u64, u64)], done: usize) -> io::Result<()> {
        let (header, after) = self.header(done, false);
        let start = header.len() as u64;
        let mut piece = Vec::new();
        for ((from, _), (to, end)) in before.iter().zip(&after) {
            let mut moved = 0;
            while to + moved < *end {
                let n = (end - to - moved).min(PIECE as u64);
                piece.resize(n as usize, 0);
                rawfile::read_exact_at(file, &mut piece, start + from + moved)?;
                rawfile::write_all_at(file, &piece, start + to + moved)?;
                moved += n;
            }
        }
        rawfile::write_all_at(file, &header, 0)?;
        file.set_len(start + after.last().map_or(0, |&(_, end)| end))
    }
}

/// Returns how many of these texts, from the first on, fit into one batch.
fn together(session: &mut Session, texts: &[Vec<Token>]) -> usize {
    let model = session.model().clone();
    let settings = session.settings();
    let cells = settings.n_batch.min(settings.n_outputs) as usize;
    let cells = cells.min(session.free_cells());
    let sequences = session.free_sequences();
    let mut sum = 0;
    let fitting = texts.iter().take_while(|text| {
        sum += text.len();
        sum <= cells && model.rope_factors(text.len()) == RopeFactors::Short
    });
    fitting.take(sequences).count().max(1)
}
