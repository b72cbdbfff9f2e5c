//! Short names for texts or files that are shown side by side: what they have in common is cut,
//! what differs is kept.

use std::path::Path;

use super::probing::tail;
use crate::base::human;

/// A line for each text, of at most `most` characters if possible. What all texts have in common,
/// at the start and at the end, is cut; what differs is kept whole, even if the line becomes
/// longer. A single text keeps its end.
pub fn headings(texts: &[&str], most: usize) -> Vec<String> {
    let lines: Vec<Vec<char>> = texts
        .iter()
        .map(|text| human::escape(text.as_bytes()).chars().collect())
        .collect();
    let whole = |line: &[char]| line.iter().collect::<String>();
    if lines.iter().all(|line| line.len() <= most) {
        return lines.iter().map(|line| whole(line)).collect();
    }
    let shortest = lines.iter().map(Vec::len).min().unwrap_or(0);
    let common = |at: &dyn Fn(&[char], usize) -> char| {
        let same = |i: usize| lines.iter().all(|line| at(line, i) == at(&lines[0], i));
        (0..shortest).take_while(|&i| same(i)).count()
    };
    let mut before = common(&|line, i| line[i]);
    if lines.iter().all(|line| line.len() == before) {
        return texts.iter().map(|text| tail(text, most)).collect();
    }
    let mut after = common(&|line, i| line[line.len() - 1 - i]).min(shortest - before);
    // Words are not cut.
    while before > 0 && !lines[0][before - 1].is_whitespace() {
        before -= 1;
    }
    let end = |line: &[char], after: usize| line.len() - after;
    while after > 0 && !lines[0][end(&lines[0], after)].is_whitespace() {
        after -= 1;
    }
    let longest = lines
        .iter()
        .map(|line| line.len() - before - after)
        .max()
        .unwrap_or(0);
    let room = most.saturating_sub(longest);
    // The end of a prompt matters more for the next token, so it gets the room that the beginning
    // does not need, and at least half.
    let for_after = after.min(room.saturating_sub(before).max(room / 2));
    let for_before = before.min(room - for_after);
    lines
        .iter()
        .map(|line| {
            let (beginning, rest) = line.split_at(before);
            let (middle, ending) = rest.split_at(rest.len() - after);
            [
                kept(beginning, for_before),
                whole(middle),
                kept(ending, for_after),
            ]
            .concat()
        })
        .collect()
}

/// Cuts a part to its last characters; the first of `most` is an ellipsis.
fn kept(part: &[char], most: usize) -> String {
    if part.len() <= most {
        return part.iter().collect();
    }
    let last = &part[part.len() - most.saturating_sub(1)..];
    std::iter::once(&'…').chain(last).collect()
}

/// Names for files: as many components from the end of each path as are needed to distinguish them.
pub fn file_names(paths: &[&str]) -> Vec<String> {
    let parts = |path: &str| -> Vec<String> {
        let parts = Path::new(path).components();
        parts
            .map(|part| part.as_os_str().to_string_lossy().into_owned())
            .collect()
    };
    let all: Vec<Vec<String>> = paths.iter().map(|path| parts(path)).collect();
    let ending = |parts: &[String], n: usize| parts[parts.len().saturating_sub(n)..].join("/");
    let most = all.iter().map(Vec::len).max().unwrap_or(1);
    let tell_apart = |n: &usize| {
        let endings = all.iter().map(|parts| ending(parts, *n));
        let distinct: std::collections::HashSet<String> = endings.collect();
        distinct.len() == all.len()
    };
    let n = (1..=most).find(tell_apart).unwrap_or(1);
    let endings = all.iter().map(|parts| ending(parts, n));
    endings.map(|name| human::escape(name.as_bytes())).collect()
}

/// Breaks a line into lines of at most `most` characters, at spaces if possible.
pub fn wrap(line: &str, most: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in line.split_inclusive(' ') {
        let length = word.trim_end().chars().count();
        if used > 0 && used + length > most {
            lines.push(String::new());
            used = 0;
        }
        for c in word.chars() {
            if used == most && c != ' ' {
                lines.push(String::new());
                used = 0;
            }
            if let Some(last) = lines.last_mut() {
                last.push(c);
            }
            used += 1;
        }
    }
    lines
        .into_iter()
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_stays() {
        let texts = [
            "They were playing cricket in the park. The ball hit the bat, and it",
            "It was night in the cave. The ball hit the bat, and it",
        ];
        assert_eq!(
            headings(&texts, 46),
            [
                "They were playing cricket in the park.… and it",
                "It was night in the cave.… and it",
            ]
        );
        assert_eq!(headings(&texts, 100), texts);
        // The difference is shown even if it does not fit.
        assert_eq!(
            headings(&texts, 10),
            [
                "They were playing cricket in the park.…",
                "It was night in the cave.…",
            ]
        );
        let ends = [
            "It was a long day, and the bat",
            "It was a long day, and the ball",
        ];
        assert_eq!(
            headings(&ends, 12),
            ["…nd the bat", "…nd the ball"].map(|s| s.to_owned())
        );
    }

    #[test]
    fn texts_that_are_alike_keep_their_end() {
        assert_eq!(headings(&["abcdef"], 4), ["…def"]);
        assert_eq!(headings(&["abcdef", "abcdef"], 4), ["…def", "…def"]);
        assert_eq!(
            headings(&["a b", "a b c d e f g"], 5),
            ["…b", "…b c d e f g"]
        );
        assert_eq!(headings(&[], 5), [""; 0]);
    }

    #[test]
    fn files_are_told_apart() {
        assert_eq!(file_names(&["a/x.gguf", "b/y.gguf"]), ["x.gguf", "y.gguf"]);
        assert_eq!(
            file_names(&["a/x.gguf", "b/x.gguf"]),
            ["a/x.gguf", "b/x.gguf"]
        );
        assert_eq!(file_names(&["a/x.gguf", "a/x.gguf"]), ["x.gguf", "x.gguf"]);
    }

    #[test]
    fn long_lines_are_wrapped_at_spaces() {
        assert_eq!(wrap("the ball hit", 8), ["the ball", "hit"]);
        assert_eq!(wrap("abcdefgh ij", 3), ["abc", "def", "gh", "ij"]);
        assert_eq!(wrap("", 3), [""]);
    }
}
