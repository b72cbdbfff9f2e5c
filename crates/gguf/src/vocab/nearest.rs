//! Search for the tokens most like a text, to suggest what a word that is no token was meant to be.

use super::Vocabulary;

impl Vocabulary<'_> {
    /// Up to `n` tokens whose texts are most like `wanted`, the most alike first. They are compared
    /// by edit distance, ignoring case and leading spaces; at most a third of the characters may
    /// differ.
    pub fn nearest(&self, wanted: &str, n: usize) -> Vec<u32> {
        let plain = |text: &str| text.trim_start_matches(['▁', 'Ġ', ' ']).to_lowercase();
        let goal: Vec<char> = plain(wanted).chars().collect();
        if goal.is_empty() || goal.len() > 64 {
            return Vec::new();
        }
        let most = goal.len().div_ceil(3);
        let mut found: Vec<(usize, usize, u32)> = Vec::new();
        for (id, text) in (0..).zip(&self.texts) {
            let Ok(text) = std::str::from_utf8(text) else {
                continue;
            };
            let candidate: Vec<char> = plain(text).chars().collect();
            if candidate.len().abs_diff(goal.len()) > most {
                continue;
            }
            let distance = strsim::generic_levenshtein(&goal, &candidate);
            if distance <= most {
                let marks = text.chars().count().abs_diff(wanted.chars().count());
                found.push((distance, marks, id));
            }
        }
        found.sort_unstable();
        found.into_iter().take(n).map(|(_, _, id)| id).collect()
    }
}
