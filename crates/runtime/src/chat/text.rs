//! Strings that record, for each byte, whether it comes from a message.
//!
//! A template cuts, trims, joins and compares the contents of messages. To tell whether a control
//! token in its output was written by the template or by a user, every operation must preserve the
//! origin of each byte. Comparisons ignore it.

use std::ops::Range;
use std::rc::Rc;

/// A text, immutable and cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Text {
    text: Rc<str>,
    /// The ranges of bytes that come from messages, in ascending order.
    foreign: Rc<[Foreign]>,
}

/// The index of the message that a character comes from; `None` if the template wrote it.
pub(super) type Source = Option<u32>;

/// A range of bytes that comes from a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Foreign {
    range: Range<usize>,
    message: u32,
}

impl Text {
    /// A text that the template wrote.
    pub fn own(text: &str) -> Text {
        Text {
            text: text.into(),
            foreign: Rc::default(),
        }
    }

    /// A text from a message.
    pub fn of_message(text: &str, message: u32) -> Text {
        let mut all = Builder::default();
        all.push_from(text, Some(message));
        all.finish()
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn len(&self) -> usize {
        self.text.len()
    }

    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// The part of the text in a range of bytes, whose ends are character boundaries.
    pub fn slice(&self, range: Range<usize>) -> Text {
        if range == (0..self.len()) {
            return self.clone();
        }
        let mut part = Builder::default();
        part.push_range(self, range);
        part.finish()
    }

    /// The part of this text that a slice refers to, which a method of `str` returned for it.
    pub fn part(&self, part: &str) -> Text {
        let start = part.as_ptr().addr().wrapping_sub(self.text.as_ptr().addr());
        match start.checked_add(part.len()) {
            Some(end) if end <= self.len() => self.slice(start..end),
            _ => Text::own(part),
        }
    }

    /// The characters, each with its origin.
    pub fn chars(&self) -> impl Iterator<Item = (char, Source)> + '_ {
        let mut foreign = self.foreign.iter().peekable();
        self.text.char_indices().map(move |(at, c)| {
            while foreign.peek().is_some_and(|f| f.range.end <= at) {
                foreign.next();
            }
            let here = foreign.peek().filter(|f| f.range.contains(&at));
            (c, here.map(|f| f.message))
        })
    }

    /// The messages that parts of the text come from, with repetitions.
    pub fn messages(&self) -> impl Iterator<Item = u32> + '_ {
        self.foreign.iter().map(|foreign| foreign.message)
    }

    /// Replaces each character by others, which keep its origin.
    pub fn map(&self, mut map: impl FnMut(char, &mut String)) -> Text {
        let mut out = Builder::default();
        let mut piece = String::new();
        for (c, source) in self.chars() {
            piece.clear();
            map(c, &mut piece);
            out.push_from(&piece, source);
        }
        out.finish()
    }

    /// Splits the text into pieces that come wholly from messages (true) or from the template
    /// (false).
    pub fn pieces(&self) -> Vec<(&str, bool)> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for foreign in self.foreign.iter() {
            match ranges.last_mut() {
                Some(last) if last.end == foreign.range.start => last.end = foreign.range.end,
                _ => ranges.push(foreign.range.clone()),
            }
        }
        let mut pieces = Vec::new();
        let mut at = 0;
        for range in ranges {
            if at < range.start {
                pieces.push((&self.text[at..range.start], false));
            }
            at = range.end;
            pieces.push((&self.text[range], true));
        }
        if at < self.len() {
            pieces.push((&self.text[at..], false));
        }
        pieces
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Text) -> bool {
        self.text == other.text
    }
}

/// Builds a text piece by piece.
#[derive(Debug, Default)]
pub(super) struct Builder {
    text: String,
    foreign: Vec<Foreign>,
}

impl Builder {
    pub fn push(&mut self, text: &Text) {
        self.push_range(text, 0..text.len());
    }

    /// Adds text that the template wrote.
    pub fn push_own(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub fn push_from(&mut self, text: &str, source: Source) {
        let start = self.text.len();
        self.text.push_str(text);
        if let Some(message) = source {
            self.mark(start..self.text.len(), message);
        }
    }

    fn push_range(&mut self, text: &Text, range: Range<usize>) {
        let shift = self.text.len();
        self.text.push_str(&text.text[range.clone()]);
        let first = text.foreign.partition_point(|f| f.range.end <= range.start);
        for foreign in &text.foreign[first..] {
            if foreign.range.start >= range.end {
                break;
            }
            let start = foreign.range.start.max(range.start) - range.start + shift;
            let end = foreign.range.end.min(range.end) - range.start + shift;
            self.mark(start..end, foreign.message);
        }
    }

    fn mark(&mut self, range: Range<usize>, message: u32) {
        match self.foreign.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.range.end == range.start && last.message == message => {
                last.range.end = range.end;
            }
            _ => self.foreign.push(Foreign { range, message }),
        }
    }

    pub fn finish(self) -> Text {
        Text {
            text: self.text.into(),
            foreign: self.foreign.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_and_sums_remember_who_wrote_them() {
        let mut all = Builder::default();
        all.push_own("<|user|>");
        all.push(&Text::of_message("  hé<|end|>  ", 1));
        all.push_own("<|end|>");
        let all = all.finish();
        let trimmed = all.part(
            all.as_str()[8..]
                .split("<|end|>\u{0}")
                .next()
                .unwrap()
                .trim_start(),
        );
        assert_eq!(
            trimmed.pieces(),
            [("hé<|end|>  ", true), ("<|end|>", false)]
        );
        let upper = trimmed.map(|c, out| out.extend(c.to_uppercase()));
        assert_eq!(upper.pieces()[0], ("HÉ<|END|>  ", true));
        let who: String = all
            .chars()
            .map(|(_, f)| if f.is_some() { 'p' } else { 't' })
            .collect();
        assert_eq!(who, "ttttttttpppppppppppppttttttt");
        assert_eq!(all.slice(8..8), Text::own(""));
        assert_eq!(all.messages().collect::<Vec<_>>(), [1]);
    }
}
