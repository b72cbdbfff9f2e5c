//! Assembles text from the bytes of tokens: whole characters, and nothing of a stop string.

/// Assembles a text from pieces, which may end inside a character. Bytes that may be part of a stop
/// string or of an incomplete character are held back until later pieces decide.
#[derive(Debug, Clone, Default)]
pub struct Assembler {
    stops: Vec<Vec<u8>>,
    held: Vec<u8>,
}

impl Assembler {
    /// Makes an assembler that ends the text before the first of `stops` to appear. Empty stops are
    /// ignored.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(|stop| stop.as_ref().as_bytes().to_vec());
        Assembler {
            stops: stops.filter(|stop| !stop.is_empty()).collect(),
            held: Vec::new(),
        }
    }

    /// Adds a piece. Returns the text that is now certain, and whether a stop string ended it.
    pub fn push(&mut self, piece: &[u8]) -> (String, bool) {
        self.held.extend_from_slice(piece);
        let found = self
            .stops
            .iter()
            .filter_map(|stop| find(&self.held, stop))
            .min();
        if let Some(at) = found {
            self.held.truncate(at);
            return (self.finish(), true);
        }
        let sure = self.held.len()
            - self
                .stops
                .iter()
                .map(|s| overlap(&self.held, s))
                .max()
                .unwrap_or(0);
        let sure = sure - unfinished(&self.held[..sure]);
        let text = String::from_utf8_lossy(&self.held[..sure]).into_owned();
        self.held.drain(..sure);
        (text, false)
    }

    /// Returns what was held back, when no more pieces follow.
    pub fn finish(&mut self) -> String {
        let text = String::from_utf8_lossy(&self.held).into_owned();
        self.held.clear();
        text
    }
}

fn find(text: &[u8], pattern: &[u8]) -> Option<usize> {
    text.windows(pattern.len())
        .position(|window| window == pattern)
}

/// The length of the longest suffix of `text` that is a proper prefix of `stop`.
fn overlap(text: &[u8], stop: &[u8]) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| text.ends_with(&stop[..n]))
        .unwrap_or(0)
}

/// The number of bytes at the end of `text` that are an incomplete character.
fn unfinished(text: &[u8]) -> usize {
    let tail = &text[text.len().saturating_sub(3)..];
    // The first byte of a character determines its length; the bytes after it start with bits 10.
    for (i, &byte) in tail.iter().enumerate().rev() {
        let length = match byte {
            0x80..=0xBF => continue,
            0xC2..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xF4 => 4,
            _ => 1,
        };
        let rest = tail.len() - i;
        let open = std::str::from_utf8(&tail[i..]).is_err_and(|e| e.error_len().is_none());
        return if rest < length && open { rest } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&[u8]]) -> (Vec<String>, bool) {
        let mut assembler = Assembler::new(stops);
        let mut out = Vec::new();
        for piece in pieces {
            let (text, stopped) = assembler.push(piece);
            out.push(text);
            if stopped {
                return (out, true);
            }
        }
        out.push(assembler.finish());
        (out, false)
    }

    #[test]
    fn a_character_comes_out_whole() {
        let (out, _) = run(
            &[],
            &[b"a\xE2", b"\x82", b"\xACb", b"\xF0\x9F", b"\x98\x80"],
        );
        assert_eq!(out, ["a", "", "€b", "", "😀", ""]);
    }

    #[test]
    fn bytes_that_are_no_character_do_not_hold_up_the_rest() {
        let (out, _) = run(&[], &[b"a\xFF", b"b\xE2\x82", b"c", b"\xE2"]);
        assert_eq!(out.concat(), "a\u{FFFD}b\u{FFFD}c\u{FFFD}");
        assert_eq!(out[0], "a\u{FFFD}");
        // No character starts with 0xC0 or 0xF5.
        assert_eq!(run(&[], &[b"\xC0", b"\xF5"]).0[0], "\u{FFFD}");
    }

    #[test]
    fn a_stop_string_over_several_pieces_is_not_shown() {
        let (out, stopped) = run(&["\n\nQ:"], &[b"42.", b"\n", b"\n", b"Q", b": next"]);
        assert!(stopped);
        assert_eq!(out, ["42.", "", "", "", ""]);
    }

    #[test]
    fn the_beginning_of_a_stop_string_that_goes_on_otherwise_is_shown() {
        let (out, stopped) = run(&["\n\nQ:"], &[b"42.\n", b"\nQ", b"uick", b"\n"]);
        assert!(!stopped);
        assert_eq!(out, ["42.", "", "\n\nQuick", "", "\n"]);
    }

    #[test]
    fn the_first_stop_string_in_the_text_ends_it() {
        let (out, stopped) = run(&["cd", "b"], &[b"abcd"]);
        assert!(stopped);
        assert_eq!(out, ["a"]);
        // "aab" after "aa": the overlap moves.
        assert_eq!(run(&["aab"], &[b"aa", b"a", b"b"]).0.concat(), "a");
    }

    #[test]
    fn a_stop_string_may_begin_within_a_piece_and_hold_a_character_in_parts() {
        let (out, stopped) = run(&["é!"], &[b"x\xC3", b"\xA9", b"!y"]);
        assert!(stopped);
        assert_eq!(out.concat(), "x");
    }

    proptest! {
        #[test]
        fn cutting_a_text_anywhere_changes_nothing(
            text in "[ab€😀]{0,12}", cuts in proptest::collection::vec(1usize..4, 0..12)
        ) {
            let stop = "b€";
            let expected = text.split(stop).next().unwrap();
            let mut assembler = Assembler::new(&[stop]);
            let (mut rest, mut out, mut stopped) = (text.as_bytes(), String::new(), false);
            for cut in cuts.iter().chain(std::iter::repeat(&1)) {
                if rest.is_empty() || stopped { break; }
                let (piece, tail) = rest.split_at(rest.len().min(*cut));
                rest = tail;
                let (text, stop) = assembler.push(piece);
                out += &text;
                stopped = stop;
            }
            if !stopped { out += &assembler.finish(); }
            prop_assert_eq!(out, expected);
            prop_assert_eq!(stopped, text.contains(stop));
        }
    }
}
