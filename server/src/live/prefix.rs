//! What every text begins with that a regular expression matches.

use tidings_protocol::query::Regex;

/// The literal text behind the `^` of an expression; `None` if it promises none.
///
/// Parse's `startsWith` sends `^\Q…\E`. Anything that is not plainly literal ends the prefix; a prefix may be shorter
/// than it could be, never longer.
pub(super) fn literal_prefix(regex: &Regex) -> Option<String> {
    // Options change what `^` and letters mean; alternatives may lie beside the `^`.
    if !regex.options.is_empty() || regex.pattern.contains('|') {
        return None;
    }
    let mut rest = regex.pattern.strip_prefix('^')?;
    // A stray `\E` is dropped when the expression is compiled, so what stands behind it may repeat what stands before.
    if has_stray_end(rest) {
        return None;
    }
    let mut prefix = String::new();
    while let Some(letter) = rest.chars().next() {
        let (literal, length) = match letter {
            '\\' if rest.starts_with("\\Q") => {
                let quoted = &rest[2..];
                let end = quoted.find("\\E").unwrap_or(quoted.len());
                prefix.push_str(&quoted[..end]);
                rest = quoted[end..].strip_prefix("\\E").unwrap_or_default();
                if is_repeated(rest) {
                    prefix.pop();
                    break;
                }
                continue;
            }
            '\\' => match rest[1..].chars().next() {
                Some(escaped) if escaped.is_ascii_punctuation() => (escaped, 2),
                _ => break,
            },
            '.' | '^' | '$' | '*' | '+' | '?' | '(' | ')' | '[' | ']' | '{' | '}' => break,
            other => (other, other.len_utf8()),
        };
        rest = &rest[length..];
        // `ab?` promises only the `a`.
        if is_repeated(rest) {
            break;
        }
        prefix.push(literal);
    }
    (!prefix.is_empty()).then_some(prefix)
}

/// Whether there is a `\E` beside those that end a `\Q`.
fn has_stray_end(pattern: &str) -> bool {
    pattern.matches("\\E").count() > pattern.matches("\\Q").count()
        || pattern.find("\\E").is_some_and(|end| pattern.find("\\Q").is_none_or(|start| end < start))
}

fn is_repeated(rest: &str) -> bool {
    rest.starts_with(['*', '?', '{', '+'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        for (pattern, prefix) in [
            ("^abc", Some("abc")),
            (r"^\Qa.b\E", Some("a.b")),
            (r"^\Qa.b\Ec.*d", Some("a.bc")),
            (r"^\Qab", Some("ab")),
            (r"^\Qab\E*", Some("a")),
            (r"^a\.b\d", Some("a.b")),
            ("^ab?c", Some("a")),
            ("^ab{0,3}", Some("a")),
            ("^ü+", None),
            ("^(abc)", None),
            ("abc", None),
            ("^ab|c", None),
            (r"^\Q\E", None),
            (r"^a\E*b", None),
            (r"^a\E?b", None),
            (r"^\Qa\E\E*b", None),
            ("^", None),
        ] {
            let regex = Regex { pattern: pattern.into(), options: "".into() };
            assert_eq!(literal_prefix(&regex).as_deref(), prefix, "{pattern}");
        }
        assert_eq!(literal_prefix(&Regex { pattern: "^abc".into(), options: "i".into() }), None);
    }
}
