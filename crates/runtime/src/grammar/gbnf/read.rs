//! Parses the text of a grammar to rules.

use std::collections::HashMap;

use super::{Item, Rules, Sequence, TokenName};
use crate::error::{Error, Result};
use crate::grammar::MAX_BYTES;

/// Maximum nesting of parentheses, which are parsed by recursion.
const MAX_DEPTH: usize = 200;
/// Maximum number of repetition operators after one item.
const MAX_SIGNS: usize = 3;
/// Maximum number of repetitions of one item.
const MAX_REPEAT: u32 = 100_000;

impl Rules {
    /// Parses a grammar.
    ///
    /// # Errors
    /// [`Error::Grammar`] with line and column.
    pub fn read(text: &str) -> Result<Rules> {
        if text.len() > MAX_BYTES {
            return Err(Error::Grammar(
                "grammar: it is longer than 1 MiB".to_owned(),
            ));
        }
        let mut reader = Reader {
            text,
            at: 0,
            depth: 0,
            names: HashMap::new(),
            rules: Vec::new(),
            used: Vec::new(),
            names_tokens: false,
        };
        reader.space(true);
        while !reader.is_at_end() {
            reader.rule()?;
        }
        reader.finish()
    }
}

struct Reader<'a> {
    text: &'a str,
    /// The offset of the next byte.
    at: usize,
    depth: usize,
    names: HashMap<&'a str, usize>,
    /// The alternatives of each rule, once it is defined.
    rules: Vec<Option<Vec<Sequence>>>,
    /// The position of the first mention of each rule, and its name.
    used: Vec<(usize, &'a str)>,
    names_tokens: bool,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn is_at_end(&self) -> bool {
        self.at == self.text.len()
    }

    fn eat(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what);
        if there {
            self.at += what.len();
        }
        there
    }

    fn fault<T>(&self, what: &str) -> Result<T> {
        self.fault_at(self.at, what)
    }

    fn fault_at<T>(&self, at: usize, what: &str) -> Result<T> {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        Err(Error::Grammar(format!(
            "grammar: line {line}, column {column}: {what}"
        )))
    }

    /// Skips blanks and comments, and line breaks if `over_lines`.
    fn space(&mut self, over_lines: bool) {
        loop {
            match self.peek() {
                Some(' ' | '\t') => self.at += 1,
                Some('\r' | '\n') if over_lines => self.at += 1,
                Some('#') => {
                    let rest = self.rest();
                    self.at += rest.find(['\r', '\n']).unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<&'a str> {
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '-')
            .unwrap_or(rest.len());
        if end == 0 {
            return self.fault("a rule's name is expected, of letters, digits and hyphens");
        }
        self.at += end;
        Ok(&rest[..end])
    }

    /// The index of a rule, which is assigned at its first mention.
    fn index(&mut self, name: &'a str, at: usize) -> usize {
        let next = self.rules.len();
        let index = *self.names.entry(name).or_insert(next);
        if index == next {
            self.rules.push(None);
            self.used.push((at, name));
        }
        index
    }

    fn rule(&mut self) -> Result<()> {
        let start = self.at;
        let name = self.name()?;
        self.space(false);
        if !self.eat("::=") {
            return self.fault("::= is expected behind a rule's name");
        }
        self.space(true);
        let index = self.index(name, start);
        let alternatives = self.alternatives(false)?;
        if !self.is_at_end() && !self.eat("\r\n") && !self.eat("\n") && !self.eat("\r") {
            return self.fault("this cannot be part of a rule");
        }
        if self.rules[index].replace(alternatives).is_some() {
            return self.fault_at(start, &format!("the rule {name} is defined twice"));
        }
        self.space(true);
        Ok(())
    }

    fn alternatives(&mut self, nested: bool) -> Result<Vec<Sequence>> {
        let mut all = vec![self.sequence(nested)?];
        while self.eat("|") {
            self.space(true);
            all.push(self.sequence(nested)?);
        }
        Ok(all)
    }

    fn sequence(&mut self, nested: bool) -> Result<Sequence> {
        let mut items: Sequence = Vec::new();
        let mut signs = 0;
        while let Some(c) = self.peek() {
            let start = self.at;
            signs = if "*+?{".contains(c) { signs + 1 } else { 0 };
            if signs > MAX_SIGNS {
                return self.fault("too many repetitions of repetitions");
            }
            let item = match c {
                '"' => self.string()?,
                '[' => self.class()?,
                '.' => {
                    self.at += 1;
                    Item::Class {
                        ranges: Vec::new(),
                        negated: true,
                    }
                }
                '<' | '!' => self.token()?,
                '(' => self.group()?,
                'a'..='z' | 'A'..='Z' | '0'..='9' | '-' => {
                    let name = self.name()?;
                    Item::Rule(self.index(name, start))
                }
                '*' | '+' | '?' | '{' => {
                    let (least, most) = self.times(nested)?;
                    let Some(item) = items.pop() else {
                        return self.fault_at(start, "there is nothing before it to repeat");
                    };
                    Item::Repeat(Box::new(item), least, most)
                }
                _ => break,
            };
            items.push(item);
            self.space(nested);
        }
        Ok(items)
    }

    fn group(&mut self) -> Result<Item> {
        let start = self.at;
        self.at += 1;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fault("brackets are nested too deeply");
        }
        self.space(true);
        let alternatives = self.alternatives(true)?;
        if !self.eat(")") {
            return match self.is_at_end() {
                true => self.fault_at(start, "this bracket is not closed"),
                false => self.fault("this cannot be part of a group"),
            };
        }
        self.depth -= 1;
        Ok(Item::Group(alternatives))
    }

    /// Parses a repetition operator: `*`, `+`, `?`, `{m}`, `{m,}` or `{m,n}`.
    fn times(&mut self, nested: bool) -> Result<(u32, Option<u32>)> {
        let start = self.at;
        for (sign, times) in [("*", (0, None)), ("+", (1, None)), ("?", (0, Some(1)))] {
            if self.eat(sign) {
                return Ok(times);
            }
        }
        self.eat("{");
        self.space(nested);
        let least = self.count()?;
        self.space(nested);
        let mut most = Some(least);
        if self.eat(",") {
            self.space(nested);
            most = match self.peek() {
                Some('0'..='9') => Some(self.count()?),
                _ => None,
            };
            self.space(nested);
        }
        if !self.eat("}") {
            return self.fault("} is expected");
        }
        if most.is_some_and(|most| most < least) {
            return self.fault_at(start, "the most is less than the least");
        }
        Ok((least, most))
    }

    fn count(&mut self) -> Result<u32> {
        let start = self.at;
        let rest = self.rest();
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        if end == 0 {
            return self.fault("a number is expected");
        }
        self.at += end;
        match rest[..end].parse() {
            Ok(n) if n <= MAX_REPEAT => Ok(n),
            _ => self.fault_at(start, &format!("more than {MAX_REPEAT} repetitions")),
        }
    }

    fn string(&mut self) -> Result<Item> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        while !self.eat("\"") {
            if self.is_at_end() {
                return self.fault_at(start, "this string is not closed");
            }
            text.push(self.character()?);
        }
        Ok(Item::Text(text))
    }

    fn class(&mut self) -> Result<Item> {
        let start = self.at;
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            if self.is_at_end() {
                return self.fault_at(start, "this class is not closed");
            }
            let at = self.at;
            let first = self.character()?;
            let mut last = first;
            let rest = self.rest();
            if rest.starts_with('-') && !rest.starts_with("-]") {
                self.at += 1;
                last = self.character()?;
            }
            if last < first {
                return self.fault_at(at, "this range runs backwards");
            }
            ranges.push((first, last));
        }
        if ranges.is_empty() {
            return self.fault_at(start, "this class is empty");
        }
        Ok(Item::Class { ranges, negated })
    }

    /// Parses one character of a string or a class, which may be an escape.
    fn character(&mut self) -> Result<char> {
        let start = self.at;
        let Some(c) = self.peek() else {
            return self.fault("a character is expected");
        };
        self.at += c.len_utf8();
        if c != '\\' {
            return Ok(c);
        }
        let Some(escape) = self.peek() else {
            return self.fault_at(start, "an escape is not complete");
        };
        self.at += escape.len_utf8();
        let digits = match escape {
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'n' => return Ok('\n'),
            '\\' | '"' | '[' | ']' | '-' => return Ok(escape),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => return self.fault_at(start, &format!("\\{escape} is not an escape")),
        };
        let code = self.rest().get(..digits);
        let is_hex = |code: &&str| code.bytes().all(|b| b.is_ascii_hexdigit());
        let Some(code) = code.filter(is_hex) else {
            return self.fault_at(
                start,
                &format!("{digits} hexadecimal digits are expected behind \\{escape}"),
            );
        };
        self.at += digits;
        let code = u32::from_str_radix(code, 16).ok().and_then(char::from_u32);
        match code {
            Some(c) => Ok(c),
            None => self.fault_at(start, "this is not the code of a character"),
        }
    }

    fn token(&mut self) -> Result<Item> {
        let start = self.at;
        let negated = self.eat("!");
        let Some(end) = self
            .rest()
            .find('>')
            .filter(|_| self.rest().starts_with('<'))
        else {
            return self.fault_at(start, "a token is written <name> or <[number]>");
        };
        let text = &self.rest()[..=end];
        let name = match text.strip_prefix("<[").and_then(|t| t.strip_suffix("]>")) {
            None => TokenName::Text(text.to_owned()),
            Some(id) => match id.parse() {
                Ok(id) if id <= i32::MAX as u32 => TokenName::Id(id),
                _ => return self.fault_at(start, "this is not the number of a token"),
            },
        };
        self.at += end + 1;
        self.names_tokens = true;
        Ok(Item::Token { name, negated })
    }

    fn finish(self) -> Result<Rules> {
        let root = self.names.get("root").copied();
        let defined = root.is_some_and(|root| self.rules[root].is_some());
        let missing = self.rules.iter().position(Option::is_none);
        if let (Some(missing), true) = (missing, defined) {
            let (at, name) = self.used[missing];
            return self.fault_at(at, &format!("there is no rule named {name}"));
        }
        let (Some(root), true) = (root, defined) else {
            return Err(Error::Grammar(
                "grammar: it does not define a rule named root (root ::= …)".to_owned(),
            ));
        };
        Ok(Rules {
            root,
            names_tokens: self.names_tokens,
            rules: self.rules.into_iter().flatten().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_with_their_place() {
        let deep = format!(
            "root ::= {}\"a\"{}",
            "(".repeat(100_000),
            ")".repeat(100_000)
        );
        let long = format!("root ::= \"{}\"", "a".repeat(2 << 20));
        for (text, said) in [
            ("", "does not define a rule named root"),
            ("start ::= \"a\"", "does not define a rule named root"),
            ("rooted ::= \"a\"", "does not define a rule named root"),
            ("# root ::= \"a\"", "does not define a rule named root"),
            (
                "root ::= \"a\"{5,0}",
                "line 1, column 13: the most is less than the least",
            ),
            (
                "root ::= \"a\"{5,99999999999999999999}",
                "more than 100000 repetitions",
            ),
            ("root ::= \"a\"{", "a number is expected"),
            ("root ::= \"a\"????", "too many repetitions of repetitions"),
            ("root ::= \"a\"{1", "} is expected"),
            (
                "root ::= * \"a\"",
                "column 10: there is nothing before it to repeat",
            ),
            ("root ::= (\"a\"", "column 10: this bracket is not closed"),
            ("root ::= \"a", "column 10: this string is not closed"),
            ("root ::= [a", "column 10: this class is not closed"),
            ("root ::= []", "column 10: this class is empty"),
            ("root ::= [z-a]", "column 11: this range runs backwards"),
            ("root ::= \"\\q\"", "\\q is not an escape"),
            ("root ::= \"\\x4\"", "2 hexadecimal digits"),
            ("root ::= \"\\ud800\"", "not the code of a character"),
            ("root ::= \"\\U00110000\"", "not the code of a character"),
            (
                "root ::= a\na ::= b_c",
                "line 2, column 8: this cannot be part of a rule",
            ),
            (
                "root ::= \"a\"\n  missing",
                "line 2, column 10: ::= is expected",
            ),
            (
                "root ::= \"é\" missing",
                "column 14: there is no rule named missing",
            ),
            (
                "root ::= \"a\"\nroot ::= \"b\"",
                "line 2, column 1: the rule root is defined twice",
            ),
            ("root ::= <[x]>", "not the number of a token"),
            ("root ::= !a", "a token is written"),
            (&deep, "nested too deeply"),
            (&long, "longer than 1 MiB"),
        ] {
            let error = Rules::read(text).unwrap_err().to_string();
            let shown: String = text.chars().take(40).collect();
            assert!(error.starts_with("grammar: "), "{shown}: {error}");
            assert!(error.contains(said), "{shown}: {error}");
        }
    }

    #[test]
    fn lines_end_rules_only_outside_of_brackets_and_behind_bars() {
        let text = "# A comment.\r\nroot ::= # another\n  (\"a\"\n   | \"b\") |\n \"c\" \\\n";
        assert!(Rules::read(text).is_err());
        let rules = Rules::read(&text.replace('\\', "")).unwrap();
        assert_eq!(rules.rules[0].len(), 2);
        assert!(Rules::read("root ::= \"a\"\n | \"b\"").is_err());
    }
}
