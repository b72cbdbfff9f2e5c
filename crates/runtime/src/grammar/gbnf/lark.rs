//! Converts rules to llguidance's notation, a variant of Lark.
//!
//! Every terminal is one character. llguidance's lexer takes the longest terminal that matches and
//! does not backtrack to a shorter one; with terminals of equal length it accepts exactly the texts
//! that the rules describe.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Write;

use super::{Item, Rules, Sequence, TokenName};
use crate::error::{Error, Result};
use crate::token::Token;

/// Maximum number of alternatives that rewriting makes of one rule.
const MAX_ALTERNATIVES: usize = 1000;

impl Rules {
    /// Converts the grammar to llguidance's notation. `token` finds the token of a name.
    ///
    /// # Errors
    /// [`Error::Grammar`] if there is no such token, or if no text follows the grammar.
    pub fn to_lark(&self, token: &dyn Fn(&str) -> Option<Token>) -> Result<String> {
        let ends = self.that_end();
        if !ends[self.root] {
            return Err(Error::Grammar(
                "grammar: no text follows it: root always needs itself again".to_owned(),
            ));
        }
        let mut writer = Writer {
            ends: &ends,
            token,
            classes: HashMap::new(),
            rules: String::new(),
            made: 0,
        };
        writeln!(writer.rules, "start: r{}", self.root).ok();
        for (index, alternatives) in self.rules.iter().enumerate() {
            if ends[index] {
                writer.rule(index, alternatives)?;
            }
        }
        let mut text = writer.rules;
        for (class, name) in writer.classes {
            writeln!(text, "{name}: /{class}/").ok();
        }
        Ok(text)
    }

    /// For each rule, whether a finite text matches it.
    fn that_end(&self) -> Vec<bool> {
        let mut ends = vec![false; self.rules.len()];
        loop {
            let mut changed = false;
            for (index, alternatives) in self.rules.iter().enumerate() {
                if !ends[index] && alternatives.iter().any(|s| sequence_ends(s, &ends)) {
                    ends[index] = true;
                    changed = true;
                }
            }
            if !changed {
                return ends;
            }
        }
    }
}

fn sequence_ends(sequence: &[Item], ends: &[bool]) -> bool {
    sequence.iter().all(|item| item_ends(item, ends))
}

fn item_ends(item: &Item, ends: &[bool]) -> bool {
    match item {
        Item::Class { .. } | Item::Text(_) | Item::Token { .. } => true,
        Item::Rule(index) => ends[*index],
        Item::Group(alternatives) => alternatives.iter().any(|s| sequence_ends(s, ends)),
        Item::Repeat(item, least, _) => *least == 0 || item_ends(item, ends),
    }
}

struct Writer<'a> {
    ends: &'a [bool],
    token: &'a dyn Fn(&str) -> Option<Token>,
    /// Names of the terminals, by regular expression.
    classes: HashMap<String, String>,
    rules: String,
    /// The number of groups that became rules.
    made: usize,
}

impl Writer<'_> {
    fn rule(&mut self, index: usize, alternatives: &[Sequence]) -> Result<()> {
        let name = format!("r{index}");
        let Some((again, last)) = unrolled(index, alternatives, self.ends) else {
            let body = self.alternatives(alternatives)?;
            writeln!(self.rules, "{name}: {body}").ok();
            return Ok(());
        };
        let (again, last) = (self.alternatives(&again)?, self.alternatives(&last)?);
        writeln!(self.rules, "{name}: {name}again* {name}last").ok();
        writeln!(self.rules, "{name}again: {again}").ok();
        writeln!(self.rules, "{name}last: {last}").ok();
        Ok(())
    }

    /// Converts the alternatives that a finite text can match, of which there is at least one.
    fn alternatives(&mut self, alternatives: &[Sequence]) -> Result<String> {
        let mut texts = Vec::new();
        for sequence in alternatives {
            if sequence_ends(sequence, self.ends) {
                let text = self.sequence(sequence)?;
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        Ok(texts.join(" | "))
    }

    fn sequence(&mut self, sequence: &[Item]) -> Result<String> {
        let mut text = String::new();
        for item in sequence {
            let item = self.item(item)?;
            if !item.is_empty() {
                text.push_str(&item);
                text.push(' ');
            }
        }
        match text.trim_end() {
            "" => Ok("\"\"".to_owned()),
            text => Ok(text.to_owned()),
        }
    }

    /// Converts an item; the result is empty if it matches only the empty text.
    fn item(&mut self, item: &Item) -> Result<String> {
        Ok(match item {
            Item::Class { ranges, negated } => self.class(ranges, *negated),
            Item::Text(text) => {
                let characters = text.chars().map(|c| self.class(&[(c, c)], false));
                characters.collect::<Vec<_>>().join(" ")
            }
            Item::Token { name, negated } => {
                let sign = if *negated { "^" } else { "" };
                format!("<[{sign}{}]>", self.token(name)?)
            }
            Item::Rule(index) => format!("r{index}"),
            Item::Group(alternatives) => self.made_of(alternatives)?,
            Item::Repeat(_, _, Some(0)) => String::new(),
            // No finite text matches the item, but it may occur zero times.
            Item::Repeat(item, _, _) if !item_ends(item, self.ends) => String::new(),
            Item::Repeat(item, least, most) => {
                let inner = match &**item {
                    Item::Class { .. } | Item::Rule(_) => self.item(item)?,
                    item => self.made_of(&[vec![item.clone()]])?,
                };
                match (least, most) {
                    _ if inner.is_empty() => String::new(),
                    (0, None) => format!("{inner}*"),
                    (1, None) => format!("{inner}+"),
                    (0, Some(1)) => format!("{inner}?"),
                    (least, None) => format!("{inner}{{{least},}}"),
                    (least, Some(most)) => format!("{inner}{{{least},{most}}}"),
                }
            }
        })
    }

    /// Makes a rule for a group, so that the output is not nested.
    fn made_of(&mut self, alternatives: &[Sequence]) -> Result<String> {
        let body = self.alternatives(alternatives)?;
        if body == "\"\"" {
            return Ok(String::new());
        }
        let name = format!("g{}", self.made);
        self.made += 1;
        writeln!(self.rules, "{name}: {body}").ok();
        Ok(name)
    }

    fn class(&mut self, ranges: &[(char, char)], negated: bool) -> String {
        let mut class = match (negated, ranges.is_empty()) {
            (true, true) => r"[\x{0}-\x{10FFFF}".to_owned(),
            (true, false) => "[^".to_owned(),
            (false, _) => "[".to_owned(),
        };
        for &(first, last) in ranges {
            let (first, last) = (u32::from(first), u32::from(last));
            write!(class, "\\x{{{first:X}}}-\\x{{{last:X}}}").ok();
        }
        class.push(']');
        let next = self.classes.len();
        match self.classes.entry(class) {
            Entry::Occupied(name) => name.get().clone(),
            Entry::Vacant(place) => place.insert(format!("C{next}")).clone(),
        }
    }

    fn token(&self, name: &TokenName) -> Result<Token> {
        let found = match name {
            TokenName::Id(id) => Token::try_from(*id).ok(),
            TokenName::Text(name) => (self.token)(name),
        };
        found.ok_or_else(|| {
            let TokenName::Text(name) = name else {
                return Error::Grammar("grammar: this is not the number of a token".to_owned());
            };
            Error::Grammar(format!("grammar: {name} is not one token of this model"))
        })
    }
}

/// Rewrites a rule that refers to itself only at its end as a repetition: `x ::= a x | b` becomes
/// any number of `a`, then `b`. An Earley parser takes quadratic time for right recursion, because
/// every item stays open until the end of the text.
fn unrolled(
    index: usize,
    alternatives: &[Sequence],
    ends: &[bool],
) -> Option<(Vec<Sequence>, Vec<Sequence>)> {
    let mut flat = Vec::new();
    for sequence in alternatives {
        flatten(index, sequence, &mut flat)?;
    }
    let (mut again, mut last) = (Vec::new(), Vec::new());
    for mut sequence in flat {
        if !sequence_ends(&sequence, ends) {
            continue;
        }
        let returns = sequence.last() == Some(&Item::Rule(index));
        if returns {
            sequence.pop();
        }
        if sequence.iter().any(|item| names(item, index)) {
            return None;
        }
        match returns {
            true if sequence.is_empty() => {}
            true => again.push(sequence),
            false => last.push(sequence),
        }
    }
    (!again.is_empty()).then_some((again, last))
}

/// Expands groups at the end of a sequence that refer to the rule. Returns `None` if there are too
/// many alternatives.
fn flatten(index: usize, sequence: &[Item], flat: &mut Vec<Sequence>) -> Option<()> {
    if flat.len() > MAX_ALTERNATIVES {
        return None;
    }
    let (alternatives, may_lack) = match sequence.last() {
        Some(item) if !names(item, index) => (None, false),
        Some(Item::Group(alternatives)) => (Some(alternatives), false),
        Some(Item::Repeat(item, 0, Some(1))) => match &**item {
            Item::Group(alternatives) => (Some(alternatives), true),
            _ => (None, false),
        },
        _ => (None, false),
    };
    let Some(alternatives) = alternatives else {
        flat.push(sequence.to_vec());
        return Some(());
    };
    let before = &sequence[..sequence.len() - 1];
    for inner in alternatives {
        flatten(index, &[before, inner].concat(), flat)?;
    }
    if may_lack {
        flat.push(before.to_vec());
    }
    Some(())
}

fn names(item: &Item, index: usize) -> bool {
    match item {
        Item::Rule(other) => *other == index,
        Item::Group(alternatives) => alternatives.iter().flatten().any(|i| names(i, index)),
        Item::Repeat(item, _, _) => names(item, index),
        Item::Class { .. } | Item::Text(_) | Item::Token { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lark(text: &str) -> Result<String> {
        Rules::read(text)?.to_lark(&|name| (name == "<|end|>").then_some(Token(7)))
    }

    #[test]
    fn what_cannot_end_is_left_out_or_an_error() {
        let error = lark("root ::= root \"a\"").unwrap_err().to_string();
        assert!(error.contains("no text follows it"), "{error}");
        let text = lark("root ::= \"a\" | x \"b\"\nx ::= x \"c\"").unwrap();
        assert!(!text.contains("r1"), "{text}");
    }

    #[test]
    fn a_rule_that_ends_in_itself_becomes_a_repetition() {
        let text = lark("root ::= \"a\" (\",\" root)?").unwrap();
        assert!(text.contains("r0: r0again* r0last"), "{text}");
        let text = lark("root ::= \"(\" root \")\" | \"\"").unwrap();
        assert!(!text.contains("again"), "{text}");
    }

    #[test]
    fn tokens_are_those_of_the_model() {
        assert!(
            lark("root ::= <|end|> !<[3]>")
                .unwrap()
                .contains("<[7]> <[^3]>")
        );
        let error = lark("root ::= <|no|>").unwrap_err().to_string();
        assert!(
            error.contains("<|no|> is not one token of this model"),
            "{error}"
        );
    }
}
