//! Translates ECMAScript's regular expressions, the syntax of `pattern`, to those of Rust's
//! `regex`.
//!
//! Syntax that has another meaning in the two (`.`, `\d`, `\w`, `\s`, brackets within classes) is
//! expanded; what a finite automaton cannot match (lookaround, back-references, `\b`) is rejected.

use std::fmt::Write;

/// White space and line terminators of ECMA-262.
const SPACE: &str = r"\t\n\x0B\x0C\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}";
const DIGIT: &str = "0-9";
const WORD: &str = "0-9A-Z_a-z";
/// Maximum length of a pattern, in bytes.
const MAX_BYTES: usize = 20_000;
/// Maximum nesting of groups.
const MAX_DEPTH: usize = 100;

/// Translates an expression to one for Rust's `regex`.
pub(super) fn translated(pattern: &str) -> Result<String, String> {
    if pattern.len() > MAX_BYTES {
        return Err("the pattern is too long".to_owned());
    }
    let mut reader = Reader {
        rest: pattern,
        out: String::new(),
        depth: 0,
        repeatable: false,
    };
    reader.all()?;
    Ok(reader.out)
}

/// The pattern of a date or time format, by RFC 3339 and the calendar. It excludes leap seconds,
/// because no pattern knows the days that have them.
pub(super) fn of_time(format: &str) -> Option<String> {
    const DATE: &str = "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|\
        (?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|\
        (?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)";
    const TIME: &str = "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:[.][0-9]+)?\
        (?:[Zz]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
    match format {
        "date" => Some(format!("^{DATE}$")),
        "time" => Some(format!("^{TIME}$")),
        "date-time" => Some(format!("^{DATE}[Tt]{TIME}$")),
        _ => None,
    }
}

struct Reader<'a> {
    rest: &'a str,
    out: String,
    /// The number of open groups.
    depth: usize,
    /// Whether the last item can be repeated.
    repeatable: bool,
}

/// A member of a class.
enum Atom {
    Char(char),
    /// A nested class, translated.
    Class(String),
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn eat(&mut self, what: &str) -> bool {
        match self.rest.strip_prefix(what) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn all(&mut self) -> Result<(), String> {
        while let Some(c) = self.next() {
            let repeats = matches!(c, '*' | '+' | '?' | '{');
            if repeats && !self.repeatable {
                return Err(format!("there is nothing before {c} to repeat"));
            }
            self.repeatable = !repeats && !matches!(c, '^' | '$' | '|' | '(');
            match c {
                '^' | '$' | '|' => self.out.push(c),
                '(' => self.group()?,
                ')' if self.depth == 0 => return Err("a ) has no (".to_owned()),
                ')' => {
                    self.depth -= 1;
                    self.out.push(c);
                }
                '*' | '+' | '?' => {
                    self.out.push(c);
                    // Greediness does not change which texts match.
                    self.eat("?");
                }
                '{' => {
                    let bounds = self.bounds()?;
                    self.out.push_str(&bounds);
                    self.eat("?");
                }
                '.' => self.out.push_str(r"[^\n\r\x{2028}\x{2029}]"),
                '[' => {
                    let class = self.class()?;
                    self.out.push_str(&class);
                }
                '\\' => match self.escape(false)? {
                    Atom::Char(c) => self.out.push_str(&written(c)),
                    Atom::Class(class) => self.out.push_str(&class),
                },
                c => self.out.push_str(&written(c)),
            }
        }
        match self.depth {
            0 => Ok(()),
            _ => Err("a ( is not closed".to_owned()),
        }
    }

    fn group(&mut self) -> Result<(), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("groups are nested too deeply".to_owned());
        }
        if !self.rest.starts_with('?') || self.eat("?:") {
            self.out.push_str("(?:");
            return Ok(());
        }
        for (start, what) in [
            ("?=", "looking ahead"),
            ("?!", "looking ahead"),
            ("?<=", "looking behind"),
            ("?<!", "looking behind"),
        ] {
            if self.rest.starts_with(start) {
                return Err(format!("{what}, ({start}…), cannot be followed"));
            }
        }
        match self
            .rest
            .strip_prefix("?<")
            .and_then(|rest| rest.split_once('>'))
        {
            Some((_, rest)) => {
                self.rest = rest;
                self.out.push_str("(?:");
                Ok(())
            }
            None => Err("groups that begin with (? are not followed".to_owned()),
        }
    }

    /// Parses `{m}`, `{m,}` or `{m,n}` after its opening brace.
    fn bounds(&mut self) -> Result<String, String> {
        let fault = || "behind { two numbers and } are expected".to_owned();
        let (inner, rest) = self.rest.split_once('}').ok_or_else(fault)?;
        self.rest = rest;
        let number = |text: &str| match text.len() {
            0 => Err(fault()),
            _ if !text.bytes().all(|b| b.is_ascii_digit()) => Err(fault()),
            _ => match text.parse::<u32>() {
                Ok(n) if n <= 100_000 => Ok(n),
                _ => Err(format!("{text} repetitions are too many")),
            },
        };
        Ok(match inner.split_once(',') {
            None => format!("{{{}}}", number(inner)?),
            Some((least, "")) => format!("{{{},}}", number(least)?),
            Some((least, most)) => {
                let (least, most) = (number(least)?, number(most)?);
                if most < least {
                    return Err(format!("{{{least},{most}}} runs backwards"));
                }
                format!("{{{least},{most}}}")
            }
        })
    }

    /// Parses a class after its opening bracket.
    fn class(&mut self) -> Result<String, String> {
        let unclosed = || "a [ is not closed".to_owned();
        let negated = self.eat("^");
        let mut inner = String::new();
        while !self.eat("]") {
            let first = self.member().ok_or_else(unclosed)??;
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            match first {
                Atom::Char(first) if is_range => {
                    self.eat("-");
                    let Atom::Char(last) = self.member().ok_or_else(unclosed)?? else {
                        return Err("a range in [] ends in more than one character".to_owned());
                    };
                    if last < first {
                        return Err(format!("the range {first}-{last} runs backwards"));
                    }
                    write!(inner, "{}-{}", written(first), written(last)).ok();
                }
                Atom::Char(c) => inner.push_str(&written(c)),
                Atom::Class(_) if is_range => {
                    return Err("a range in [] begins with more than one character".to_owned());
                }
                Atom::Class(class) => inner.push_str(&class),
            }
        }
        match (negated, inner.is_empty()) {
            (false, true) => Err("[] fits nothing".to_owned()),
            (true, true) => Ok(r"[\x{0}-\x{10FFFF}]".to_owned()),
            (false, false) => Ok(format!("[{inner}]")),
            (true, false) => Ok(format!("[^{inner}]")),
        }
    }

    fn member(&mut self) -> Option<Result<Atom, String>> {
        Some(match self.next()? {
            '\\' => self.escape(true),
            c => Ok(Atom::Char(c)),
        })
    }

    /// Parses an escape after its backslash.
    fn escape(&mut self, in_class: bool) -> Result<Atom, String> {
        let Some(c) = self.next() else {
            return Err("it ends in a backslash".to_owned());
        };
        let class = |inner: &str, negated: bool| {
            let sign = if negated { "^" } else { "" };
            Ok(Atom::Class(format!("[{sign}{inner}]")))
        };
        let character = match c {
            'd' | 'D' => return class(DIGIT, c == 'D'),
            'w' | 'W' => return class(WORD, c == 'W'),
            's' | 'S' => return class(SPACE, c == 'S'),
            'p' | 'P' => return self.property(c),
            'b' if in_class => '\u{8}',
            'b' | 'B' => return Err(format!("\\{c} cannot be followed")),
            't' => '\t',
            'n' => '\n',
            'r' => '\r',
            'f' => '\u{C}',
            'v' => '\u{B}',
            '0' if !self.rest.starts_with(|c: char| c.is_ascii_digit()) => '\0',
            '0'..='9' | 'k' => return Err("references back cannot be followed".to_owned()),
            'c' => match self.next() {
                Some(letter) if letter.is_ascii_alphabetic() => char::from(letter as u8 % 32),
                _ => return Err("\\c wants a letter".to_owned()),
            },
            'x' => self
                .code(2)
                .and_then(char::from_u32)
                .ok_or("\\x wants two digits")?,
            'u' => self.unicode()?,
            c if c.is_ascii_alphabetic() => return Err(format!("\\{c} is not an escape")),
            c => c,
        };
        Ok(Atom::Char(character))
    }

    fn property(&mut self, c: char) -> Result<Atom, String> {
        let inner = self
            .rest
            .strip_prefix('{')
            .and_then(|rest| rest.split_once('}'));
        let Some((name, rest)) = inner else {
            return Err(format!("\\{c} wants a property in braces"));
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '=';
        if name.is_empty() || !name.chars().all(is_name) {
            return Err(format!("\\{c}{{{name}}} is no property"));
        }
        self.rest = rest;
        Ok(Atom::Class(format!("\\{c}{{{name}}}")))
    }

    /// Parses `digits` hexadecimal digits.
    fn code(&mut self, digits: usize) -> Option<u32> {
        let text = self.rest.get(..digits)?;
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        self.rest = &self.rest[digits..];
        u32::from_str_radix(text, 16).ok()
    }

    /// Parses the rest of `\uXXXX`, of a pair of these for a character beyond 0xFFFF, or of
    /// `\u{X…}`.
    fn unicode(&mut self) -> Result<char, String> {
        let fault = || "\\u wants the code of a character".to_owned();
        if let Some(rest) = self.rest.strip_prefix('{') {
            let (code, rest) = rest.split_once('}').ok_or_else(fault)?;
            self.rest = rest;
            let code = u32::from_str_radix(code, 16).map_err(|_| fault())?;
            return char::from_u32(code).ok_or_else(fault);
        }
        let code = self.code(4).ok_or_else(fault)?;
        if (0xD800..0xDC00).contains(&code) && self.eat("\\u") {
            let low = self.code(4).filter(|low| (0xDC00..0xE000).contains(low));
            let low = low.ok_or_else(fault)?;
            let code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
            return char::from_u32(code).ok_or_else(fault);
        }
        char::from_u32(code).ok_or_else(fault)
    }
}

/// A character as an expression that matches it, escaped if necessary.
fn written(c: char) -> String {
    match c {
        '0'..='9' | 'A'..='Z' | 'a'..='z' => c.to_string(),
        c => format!("\\x{{{:X}}}", u32::from(c)),
    }
}

#[cfg(test)]
mod tests {
    use super::translated;

    #[test]
    fn what_means_something_else_is_written_out() {
        for (pattern, expected) in [
            ("^a.c$", r"^a[^\n\r\x{2028}\x{2029}]c$"),
            (r"\d+?\/", r"[0-9]+\x{2F}"),
            (r"[\d&&a]", r"[[0-9]\x{26}\x{26}a]"),
            (r"[^\w-]", r"[^[0-9A-Z_a-z]\x{2D}]"),
            (r"[a-f]{2,}", "[a-f]{2,}"),
            (r"(?<year>\cA)", r"(?:\x{1})"),
            (r"\ud83d\ude00\u{1F600}\x41", r"\x{1F600}\x{1F600}A"),
            (r"[[]]", r"[\x{5B}]\x{5D}"),
            (r"\p{Lu}", r"\p{Lu}"),
            ("é", r"\x{E9}"),
        ] {
            assert_eq!(translated(pattern).unwrap(), expected, "{pattern}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused() {
        for pattern in [
            "(",
            "(a",
            "a)",
            "*",
            "a**",
            "^*",
            "(?:|+)",
            "(?=a)",
            "(?!a)",
            "(?<=a)",
            "(?<!a)",
            "(?i:a)",
            r"\b",
            r"\1",
            r"\k<a>",
            "[]",
            "[a",
            "[z-a]",
            r"[\d-z]",
            "a{",
            "a{x}",
            "a{3,1}",
            "a{1000000}",
            r"\u12",
            r"\xg0",
            r"\y",
            "\\",
            r"\p{}",
            r"\p",
            r"\ud800",
        ] {
            assert!(translated(pattern).is_err(), "{pattern}");
        }
    }
}
