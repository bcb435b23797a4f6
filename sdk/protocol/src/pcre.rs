//! What of a regular expression PCRE, which MongoDB asks, would understand in another way than our engines do.
//!
//! Both engines (`regex`, and `fancy-regex` for what the first cannot read) know most of PCRE's notation, and a little of
//! it means something else to them. Who writes such an expression would get other objects, and no word about it.

use crate::error::{Error, Result};

/// What the choice of an engine has to know of an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Traits {
    /// The linear engine takes a possessive quantifier (`a++`) for a quantifier of a quantifier.
    pub(crate) is_possessive: bool,
    /// The engine that backtracks lets an option that is set within a group (`((?i)a)b`) hold behind it, too.
    pub(crate) sets_options_in_groups: bool,
    /// Where a `{`, or a `[` in a class, is text without saying so: our engines want it said.
    text: Vec<usize>,
}

impl Traits {
    /// The expression with a backslash before all that is text.
    pub(crate) fn write(&self, pattern: &str, out: &mut String) {
        let mut written = 0;
        for &at in &self.text {
            out.push_str(&pattern[written..at]);
            out.push('\\');
            written = at;
        }
        out.push_str(&pattern[written..]);
    }
}

/// Reads an expression without `\Q…\E`. Whether it is well-formed is the engine's to say.
///
/// # Errors
/// 102 for what would mean something else here, by its name.
pub(crate) fn check(pattern: &str, is_extended: bool) -> Result<Traits> {
    let traits = Traits::default();
    let mut scan = Scan { rest: pattern, length: pattern.len(), is_extended, groups: Vec::new(), traits };
    while let Some(letter) = scan.next() {
        match letter {
            '\\' => scan.escape()?,
            '[' => scan.class()?,
            '(' => scan.group()?,
            ')' => scan.is_extended = scan.groups.pop().unwrap_or(scan.is_extended),
            '*' | '+' | '?' => scan.behind_quantifier()?,
            '{' if scan.counts()? => scan.behind_quantifier()?,
            '{' => scan.is_text(),
            '#' if scan.is_extended => scan.skip_comment('\n')?,
            letter if scan.is_extended && letter.is_whitespace() && !BLANKS.contains(&letter) => {
                return Err(refused("such white space under option x"));
            }
            _ => {}
        }
    }
    Ok(scan.traits)
}

/// The white space that all engines skip under option `x`.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];

struct Scan<'a> {
    rest: &'a str,
    /// Of all.
    length: usize,
    /// Whether white space and comments say nothing here (option `x`).
    is_extended: bool,
    /// The same for what is around each group that is open.
    groups: Vec<bool>,
    traits: Traits,
}

fn refused(construct: &str) -> Error {
    Error::invalid_query(format!("Invalid regular expression: {construct} is not supported."))
}

impl Scan<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.chars().next()?;
        self.rest = &self.rest[letter.len_utf8()..];
        Some(letter)
    }

    fn take(&mut self, text: &str) -> bool {
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    /// What was just taken is text, and one byte.
    fn is_text(&mut self) {
        self.traits.text.push(self.length - self.rest.len() - 1);
    }

    /// Drops everything up to `end`, and `end` itself.
    fn skip_through(&mut self, end: char) {
        self.rest = self.rest.split_once(end).map_or("", |(_, rest)| rest);
    }

    /// Engines do not agree on where a comment ends behind a backslash, so nothing that matters may hide in one.
    fn skip_comment(&mut self, end: char) -> Result<()> {
        let comment = self.rest.split_once(end).map_or(self.rest, |(comment, _)| comment);
        if comment.contains(['\\', '(']) {
            return Err(refused("a comment with a backslash or a ("));
        }
        self.skip_through(end);
        Ok(())
    }

    /// Skips what says nothing. True if there was such.
    fn skip_blanks(&mut self) -> Result<bool> {
        let length = self.rest.len();
        loop {
            if self.take("(?#") {
                self.skip_comment(')')?;
            } else if self.is_extended && self.take("#") {
                self.skip_comment('\n')?;
            } else if self.is_extended && self.rest.starts_with(BLANKS) {
                self.next();
            } else {
                return Ok(self.rest.len() != length);
            }
        }
    }

    /// Behind a backslash outside a class.
    fn escape(&mut self) -> Result<()> {
        match self.next() {
            // White space, hexadecimal digits here; vertical white space, one letter of it here.
            Some(letter @ ('h' | 'H' | 'v' | 'V')) => return Err(refused(&format!("\\{letter}"))),
            // A back-reference, a subroutine here; no such thing, any letter here.
            Some(letter @ ('g' | 'O')) => return Err(refused(&format!("\\{letter}"))),
            // Before the last line break, before any number of them here.
            Some('Z') => return Err(refused("\\Z")),
            // A special boundary here.
            Some('b' | 'B')
                if self.rest.strip_prefix('{').is_some_and(|inside| {
                    !inside.starts_with(|letter: char| letter.is_ascii_digit() || letter == ',')
                }) =>
            {
                return Err(refused("\\b{"));
            }
            // Braces that count nothing.
            Some('x' | 'p' | 'P' | 'u' | 'U') if self.rest.starts_with('{') => self.skip_through('}'),
            _ => {}
        }
        Ok(())
    }

    /// Behind the `[` of a class, to its end.
    fn class(&mut self) -> Result<()> {
        self.take("^");
        self.take("]");
        loop {
            if self.take_posix() {
                continue;
            }
            if ["[:", "[.", "[="].into_iter().any(|opening| self.rest.starts_with(opening)) {
                return Err(refused("[:, [. or [= in a character class"));
            }
            if let Some(operator) = ["&&", "--", "~~"].into_iter().find(|operator| self.rest.starts_with(operator)) {
                return Err(refused(&format!("{operator} in a character class")));
            }
            match self.next() {
                None | Some(']') => return Ok(()),
                Some('[') => self.is_text(),
                Some('\\') => {
                    if let Some(letter @ ('h' | 'H' | 'v' | 'V')) = self.next() {
                        return Err(refused(&format!("\\{letter}")));
                    }
                }
                // Members there, nothing here.
                Some(letter) if self.is_extended && (letter.is_whitespace() || letter == '#') => {
                    return Err(refused("unescaped white space or # in a character class under option x"));
                }
                Some(_) => {}
            }
        }
    }

    /// `[:alpha:]`
    fn take_posix(&mut self) -> bool {
        const NAMES: [&str; 14] = [
            "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper",
            "word", "xdigit",
        ];
        let named = self.rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]"));
        let Some((name, rest)) = named else { return false };
        let is_known = NAMES.contains(&name.strip_prefix('^').unwrap_or(name));
        if is_known {
            self.rest = rest;
        }
        is_known
    }

    /// Behind a `(`.
    fn group(&mut self) -> Result<()> {
        if self.take("?#") {
            return self.skip_comment(')');
        }
        // A group of another kind here, although nothing may stand between.
        if (self.skip_blanks()? && self.rest.starts_with('?')) || self.rest.starts_with('*') {
            return Err(refused("(*, or anything between ( and ?"));
        }
        let outside = self.is_extended;
        if self.take("?") && self.kind()? {
            return Ok(());
        }
        self.groups.push(outside);
        Ok(())
    }

    /// Behind `(?`. True if it sets options for what follows, and is no group.
    fn kind(&mut self) -> Result<bool> {
        let is_number = |rest: &str| rest.starts_with(|letter: char| letter.is_ascii_digit());
        let is_recursion = self.rest.starts_with(['&', '+', 'R'])
            || self.rest.starts_with("P>")
            || is_number(self.rest.strip_prefix('-').unwrap_or(self.rest));
        if is_recursion {
            return Err(refused("recursion"));
        }
        // Names in conditions are expressions here, and the number of a group that is not there is a panic.
        if self.rest.starts_with('(') {
            return Err(refused("a conditional group"));
        }
        let is_plain = ["=", "!", ">", "<=", "<!", "P="].into_iter().any(|kind| self.rest.starts_with(kind));
        if is_plain || self.take_name() {
            return Ok(false);
        }
        let end = self.rest.find(|letter: char| !"imsxU-".contains(letter)).unwrap_or(self.rest.len());
        let (letters, rest) = self.rest.split_at(end);
        let Some(closing @ (')' | ':')) = rest.chars().next() else { return Err(refused("an unknown (?")) };
        let (on, off) = letters.split_once('-').unwrap_or((letters, ""));
        self.is_extended = (self.is_extended || on.contains('x')) && !off.contains('x');
        self.rest = &rest[1..];
        let is_option = closing == ')';
        self.traits.sets_options_in_groups |= is_option && !self.groups.is_empty();
        Ok(is_option)
    }

    /// `<name>`, `P<name>` or `'name'`
    fn take_name(&mut self) -> bool {
        let rest = self.rest.strip_prefix('P').unwrap_or(self.rest);
        let Some(opening @ ('<' | '\'')) = rest.chars().next() else { return false };
        let closing = if opening == '<' { '>' } else { opening };
        let Some((name, behind)) = rest[1..].split_once(closing) else { return false };
        let is_name = name.chars().all(|letter| letter.is_alphanumeric() || letter == '_');
        if is_name {
            self.rest = behind;
        }
        is_name
    }

    /// Behind a `{`: whether it begins a quantifier, which is taken then. Anything else is text.
    fn counts(&mut self) -> Result<bool> {
        let behind = behind_count(self.rest)?;
        self.rest = behind.unwrap_or(self.rest);
        Ok(behind.is_some())
    }

    fn behind_quantifier(&mut self) -> Result<()> {
        self.skip_blanks()?;
        if self.take("+") {
            self.traits.is_possessive = true;
        } else {
            self.take("?");
        }
        self.skip_blanks()?;
        let counts = self.rest.strip_prefix('{').map(behind_count).transpose()?.flatten().is_some();
        // Malformed there; here one engine takes the second for text.
        if counts || self.rest.starts_with(['*', '+', '?']) {
            return Err(refused("a quantifier behind a quantifier"));
        }
        Ok(())
    }
}

/// What is behind `2}`, `2,}` or `2,3}`; `None` where the brace in front is text.
fn behind_count(text: &str) -> Result<Option<&str>> {
    let Some((inside, rest)) = text.split_once('}') else { return Ok(None) };
    let is_digits = |text: &str| text.bytes().all(|letter| letter.is_ascii_digit());
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    if !least.is_empty() && is_digits(least) && is_digits(most) {
        return Ok(Some(rest));
    }
    // Text there, a quantifier here.
    let is_loose = |letter: char| letter.is_ascii_digit() || letter.is_whitespace() || letter == ',';
    if !inside.is_empty() && inside.chars().all(is_loose) {
        return Err(refused(&format!("{{{inside}}}")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Regex;

    fn regex(pattern: &str) -> Regex {
        Regex { pattern: pattern.into(), options: Default::default() }
    }

    /// What the engines say without the check; `None` where they cannot read it.
    fn unchecked(pattern: &str, text: &str) -> Option<bool> {
        match regex::Regex::new(pattern) {
            Ok(regex) => Some(regex.is_match(text)),
            Err(_) => fancy_regex::Regex::new(pattern).ok().map(|regex| regex.is_match(text).unwrap()),
        }
    }

    /// Each with a text, and whether PCRE 10.42 finds it there; `None` where it refuses the expression, too.
    #[test]
    fn what_would_mean_something_else_is_refused() {
        let mut wrong = Vec::new();
        for (pattern, text, in_pcre) in [
            (r"^\h$", " ", Some(true)),
            (r"^\H$", "a", Some(true)),
            (r"^[\h]$", "a", Some(false)),
            (r"^\v$", "\n", Some(true)),
            (r"^[\v]$", "\n", Some(true)),
            (r"^(a|b)\g1$", "ab", Some(false)),
            (r"^a\Z", "a\n\n", Some(false)),
            (r"^\b{start}a", "a", Some(false)),
            (r"^a{,2}$", "aa", Some(false)),
            (r"^a{ 1,2 }$", "aa", Some(false)),
            (r"^(?=a)a{,}$", "aa", Some(false)),
            (r"^[a&&b]$", "&", Some(true)),
            (r"^[--a]$", "_", Some(true)),
            (r"^[a~~b]$", "~", Some(true)),
            (r"^[[:^foo]]$", ":", Some(false)),
            (r"^[[:<:]]a", "a", Some(true)),
            (r"^(?:a|b(?R))", "b", Some(false)),
            (r"^(a|b)c(?1)$", "aca", Some(true)),
            (r"(?x)^[a b]$", " ", Some(true)),
            ("(?x)^[a#\nb]$", "#", Some(true)),
            (r"^(?(R)a|b)$", "Ra", Some(false)),
            (r"^(?=(?i)A)a|B$", "b", Some(false)),
            (r"^(a)\1((?i)b)c$", "aabC", Some(false)),
        ] {
            let refused = regex(pattern).compile().is_err();
            let here = unchecked(pattern, text);
            if !refused || here == in_pcre {
                wrong.push((pattern, refused, here, in_pcre));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    #[test]
    fn what_is_refused_is_named() {
        for (pattern, construct) in [
            (r"a\hb", r"\h"),
            (r"[\h]", r"\h"),
            (r"\g{1}", r"\g"),
            ("x{,2}", "{,2}"),
            ("x{, 2}", "{, 2}"),
            ("x{,}", "{,}"),
            ("[a&&b]", "&& in a character class"),
            ("[^a--b]", "-- in a character class"),
            ("[a~~b]", "~~ in a character class"),
            ("[[.a.]]", "[:, [. or [= in a character class"),
            ("[[:alpha:][:x]", "[:, [. or [= in a character class"),
            ("(a)(?1)", "recursion"),
            ("(?<n>a)(?&n)", "recursion"),
            ("(?<n>a)(?P>n)", "recursion"),
            ("(a)(?-1)", "recursion"),
            ("(?+1)(a)", "recursion"),
            ("(?R)a", "recursion"),
            ("(?iR)a", "an unknown (?"),
            ("(?~a)", "an unknown (?"),
            ("(?i(?#)x)a", "an unknown (?"),
            ("(?<[>a)]", "an unknown (?"),
            ("(*ACCEPT)a", "(*, or anything between ( and ?"),
            ("((?#)?(1)a)b", "(*, or anything between ( and ?"),
            ("(?x)( ?(1)a)b", "(*, or anything between ( and ?"),
            (r"(?#\)[)(?(1)a)b]", "a comment with a backslash or a ("),
            ("(?x)# (?(1)a)b", "a comment with a backslash or a ("),
            ("(?x)a\u{b}", "such white space under option x"),
            ("(?<n>a)?(?(n)b|c)", "a conditional group"),
            ("a**", "a quantifier behind a quantifier"),
            ("a{2}{3}", "a quantifier behind a quantifier"),
            ("a+(?#)?+", "a quantifier behind a quantifier"),
            ("a+?+", "a quantifier behind a quantifier"),
            ("(?x)a+ *", "a quantifier behind a quantifier"),
        ] {
            let error = check(pattern, false).unwrap_err();
            let message = format!("Invalid regular expression: {construct} is not supported.");
            assert_eq!((error.code.number(), &*error.message), (102, &*message), "{pattern}");
        }
        assert!(check("[a b]", true).is_err() && check("(?-x)[a b]", true).is_ok());
        assert!(check("(?:(?x)a)[a b]", false).is_ok() && check("(?x:a)[a b]", false).is_ok());
        assert!(check("(?x)# it's [a&&b]\n[a]", false).is_ok() && check("(?#[[)a", false).is_ok());
        assert!(check("( ?a)(?x)( a)", false).is_ok());
    }

    /// PCRE agrees to all of these.
    #[test]
    fn the_rest_means_what_it_says() {
        for (pattern, text, expected) in [
            (r"^a++b$", "aaab", true),
            (r"^a++a$", "aaa", false),
            (r"^a*+a$", "aa", false),
            (r"^a?+a$", "a", false),
            (r"^a{1,2}+a$", "aa", false),
            (r"^a{2}+a$", "aaa", true),
            (r"^[ab]++b$", "aab", false),
            (r"^(?:ab)++b$", "ababb", true),
            (r"^\x{61}+a$", "aa", true),
            (r"^\p{Lu}+A$", "AA", true),
            (r"(?x)^a+ +a$", "aa", false),
            (r"^a\++a$", "a++a", true),
            (r"^\Qa+\E+$", "a++", true),
            (r"^[\Q[&&\E]+$", "&[", true),
            (r"^\Q{,2}\E$", "{,2}", true),
            (r"^a\{,2}$", "a{,2}", true),
            (r"^(?=a)a{x}$", "a{x}", true),
            (r"^a{x}{{}$", "a{x}{{}", true),
            (r"^[a[b]]$", "b", false),
            (r"^[a[b]]$", "b]", true),
            (r"^[[:alpha:][b]]$", "[]", true),
            (r"^[^[b]]$", "x", false),
            (r"^a+?a$", "aa", true),
            (r"^[[:alpha:]]+$", "ab", true),
            (r"^[[:^alpha:]_]+$", "1_", true),
            (r"^[]a]+$", "]a", true),
            (r"^[^]a]$", "b", true),
            (r"^[a&b~c-]+$", "&~-", true),
            (r"^[\[\]]+$", "[]", true),
            (r"^[a\-\-b\&\&]+$", "-&", true),
            (r"(?i)^a(?-i)b(?s:.)$", "Ab\n", true),
            (r"^(?:(?i)a)b$", "Ab", true),
            (r"^(?:(?i)a)b$", "AB", false),
            (r"(?i)^(a)\1(?-i:b)c$", "AAbC", true),
            (r"^a+(?#greedy)+a$", "aa", false),
            (r"^(?<n>a)\k<n>$", "aa", true),
            (r"^\x41\x{42}\p{Lu}{2}$", "ABCD", true),
            (r"^\b\w+\b$", "ab", true),
        ] {
            assert_eq!(regex(pattern).compile().map(|it| it.is_match(text)), Ok(expected), "{pattern} in {text:?}");
        }
        assert!(!regex("Hello {name}").compile().unwrap().backtracks());
        assert!(regex("^a++b").compile().unwrap().backtracks() && !regex("^a+b").compile().unwrap().backtracks());
    }
}
