//! Plain text out of text that may hold HTML.

use std::cell::OnceCell;

/// Removes tags, comments, and `script` and `style` elements with their content. What only looks like a tag (`<3`,
/// `a < b`, `</3`), `&`, entities and emoji stay as they are: the result is text, to be escaped by whoever shows it.
///
/// The result never holds a tag, so a second pass changes nothing: where the removal of one tag would join its
/// neighbours to another (`<<b>b>`), and where a tag is never closed (`a <b`), a space is put behind the `<`.
/// Linear in the length of the text.
///
/// ```
/// use tidings_cloud_code::strip_tags;
/// assert_eq!(strip_tags("<b>Hi</b> & <3 <script>steal()</script>"), "Hi & <3 ");
/// ```
pub fn strip_tags(text: &str) -> String {
    let mut out = Output(String::with_capacity(text.len()));
    let limits = Limits {
        text,
        tag: OnceCell::new(),
        comment: OnceCell::new(),
        script: OnceCell::new(),
        style: OnceCell::new(),
    };
    let mut rest = 0;
    while let Some(offset) = text[rest..].find('<') {
        let at = rest + offset;
        out.push(&text[rest..at]);
        rest = match markup_end(text, at, &limits) {
            Some(end) => end,
            None => {
                out.push("<");
                at + 1
            }
        };
    }
    out.push(&text[rest..]);
    out.0
}

struct Output(String);

impl Output {
    /// Appends text; what came before must not become the beginning of a tag by it.
    fn push(&mut self, text: &str) {
        let Some(first) = text.bytes().next() else { return };
        let opens = match first {
            b'!' | b'?' => self.0.ends_with('<'),
            b'/' => self.0.ends_with('<') && text[1..].starts_with(|c: char| c.is_ascii_alphabetic()),
            _ => first.is_ascii_alphabetic() && (self.0.ends_with('<') || self.0.ends_with("</")),
        };
        if opens {
            self.0.push(' ');
        }
        self.0.push_str(text);
    }
}

/// Where the last of each closing mark stands, found when first asked for: nothing is searched for behind it, which
/// keeps hostile text linear.
struct Limits<'a> {
    text: &'a str,
    tag: OnceCell<Option<usize>>,
    comment: OnceCell<Option<usize>>,
    script: OnceCell<Option<usize>>,
    style: OnceCell<Option<usize>>,
}

impl Limits<'_> {
    fn tag(&self) -> Option<usize> {
        *self.tag.get_or_init(|| self.text.rfind('>'))
    }

    fn comment(&self) -> Option<usize> {
        *self.comment.get_or_init(|| self.text.rfind("-->"))
    }

    /// For an element whose content is no text.
    fn closing(&self, element: &[u8]) -> Option<(&'static str, Option<usize>)> {
        let (name, last) = if element.eq_ignore_ascii_case(b"script") {
            ("script", &self.script)
        } else if element.eq_ignore_ascii_case(b"style") {
            ("style", &self.style)
        } else {
            return None;
        };
        Some((name, *last.get_or_init(|| last_closing(self.text, name))))
    }
}

/// A closing quote of an attribute is looked for this far, in bytes.
const LONGEST_ATTRIBUTE: usize = 4_096;

/// The position behind the markup that begins with the `<` at `at`, or `None` if that is only text.
fn markup_end(text: &str, at: usize, limits: &Limits<'_>) -> Option<usize> {
    let bytes = text.as_bytes();
    let reaches = |limit: Option<usize>| limit.is_some_and(|last| last > at);
    match bytes.get(at + 1)? {
        b'!' if text[at..].starts_with("<!--") => {
            // `<!-->` and `<!--->` are whole comments.
            let from = at + 2;
            reaches(limits.comment()).then(|| text[from..].find("-->").map(|end| from + end + 3))?
        }
        b'!' | b'?' => reaches(limits.tag()).then(|| text[at..].find('>').map(|end| at + end + 1))?,
        b'/' if bytes.get(at + 2).is_some_and(u8::is_ascii_alphabetic) => {
            reaches(limits.tag()).then(|| tag_end(bytes, at + 2))?
        }
        first if first.is_ascii_alphabetic() && reaches(limits.tag()) => {
            let end = tag_end(bytes, at + 1)?;
            let name = &bytes[at + 1..][..bytes[at + 1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count()];
            match limits.closing(name) {
                // Without its end the element has no content that could be told from the text behind it.
                Some((element, Some(last))) if last >= end => {
                    let close = end + closing(&bytes[end..], element)?;
                    Some(tag_end(bytes, close + 2).unwrap_or(bytes.len()))
                }
                _ => Some(end),
            }
        }
        _ => None,
    }
}

/// The position behind the `>` that ends a tag, skipping one inside a quoted attribute value.
fn tag_end(bytes: &[u8], from: usize) -> Option<usize> {
    let plain = || bytes[from..].iter().position(|byte| *byte == b'>').map(|at| from + at + 1);
    let mut at = from;
    let mut after_equals = false;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'>' => return Some(at + 1),
            b'"' | b'\'' if after_equals => {
                let window = &bytes[at + 1..bytes.len().min(at + 1 + LONGEST_ATTRIBUTE)];
                match window.iter().position(|other| other == byte) {
                    Some(length) => at += length + 1,
                    None => return plain(),
                }
                after_equals = false;
            }
            b'=' => after_equals = true,
            byte if byte.is_ascii_whitespace() => {}
            _ => after_equals = false,
        }
        at += 1;
        // A tag this long is no tag that anybody wrote; what ends it first will do.
        if at - from > 4 * LONGEST_ATTRIBUTE {
            return plain();
        }
    }
    plain()
}

/// The first `</name` that closes an element.
fn closing(bytes: &[u8], name: &str) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|byte| *byte == b'<')?;
        if closes(bytes, at, name) {
            return Some(at);
        }
        from = at + 1;
    }
}

fn last_closing(text: &str, name: &str) -> Option<usize> {
    text.rmatch_indices("</").map(|(at, _)| at).find(|at| closes(text.as_bytes(), *at, name))
}

fn closes(bytes: &[u8], at: usize, name: &str) -> bool {
    let Some(tail) = bytes[at..].strip_prefix(b"</") else { return false };
    tail.get(..name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name.as_bytes()))
        && tail.get(name.len()).is_none_or(|next| next.is_ascii_whitespace() || matches!(next, b'/' | b'>'))
}

/// Whether a text shows nothing: white space, control characters and invisible ones only.
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        c.is_whitespace()
            || c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
                | '\u{180b}'..='\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}'
                | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d159}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Instant;

    #[test]
    fn tags_go_and_text_stays() {
        for (text, plain) in [
            ("", ""),
            ("plain", "plain"),
            ("I <3 you & me", "I <3 you & me"),
            ("</3", "</3"),
            ("a < b > c", "a < b > c"),
            ("a<b && c>d", "ad"),
            ("1<2", "1<2"),
            ("<b>bold</b>", "bold"),
            ("<B CLASS='x>y'>bold</B >", "bold"),
            (r#"<img src="a>b" onerror=alert(1)>x"#, "x"),
            ("<a href=\"x>text", "text"),
            ("<script>alert(1)</script>hi", "hi"),
            ("<SCRIPT src=x>alert('</b>')</sCript >hi", "hi"),
            ("<style>p{}</style>hi<style>q</style>", "hi"),
            ("<script>let x = '</scripty>'; y</script>z", "z"),
            ("how does <script> work?", "how does  work?"),
            ("<!-- <b>secret</b> -->shown", "shown"),
            ("<!---->x<!-->y", "xy"),
            ("<!doctype html><?xml version='1'?>x", "x"),
            ("a <!-- b", "a < !-- b"),
            ("a <b", "a < b"),
            ("<img src=x onerror=alert(1) ", "< img src=x onerror=alert(1) "),
            ("<<b>b>", "< b>"),
            ("</<b>b>", "</ b>"),
            ("<scr<script>x</script>ipt>alert(1)</scr<b>ipt>", "xipt>alert(1)ipt>"),
            ("<<b></b>/b>", "< /b>"),
            ("&lt;b&gt; &amp; é 👩‍👩‍👧 <br/>", "&lt;b&gt; &amp; é 👩‍👩‍👧 "),
            ("<é>", "<é>"),
            ("<", "<"),
            ("<>", "<>"),
            ("</>", "</>"),
        ] {
            assert_eq!(strip_tags(text), plain, "{text}");
        }
    }

    fn has_tag(text: &str) -> bool {
        text.match_indices('<').any(|(at, _)| {
            let mut next = text[at + 1..].chars();
            match next.next() {
                Some('!' | '?') => true,
                Some('/') => next.next().is_some_and(|c| c.is_ascii_alphabetic()),
                Some(c) => c.is_ascii_alphabetic(),
                None => false,
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn the_result_holds_no_tag_and_is_final(
            text in proptest::collection::vec(
                prop_oneof![
                    "[<>/!?'\"= a-b-]{0,6}",
                    Just("<script>".to_owned()), Just("</script>".to_owned()), Just("<style".to_owned()),
                    Just("<!--".to_owned()), Just("-->".to_owned()), Just("👍".to_owned()), ".{0,4}",
                ], 0..24).prop_map(|parts| parts.concat()),
        ) {
            let plain = strip_tags(&text);
            prop_assert!(!has_tag(&plain), "{text:?} -> {plain:?}");
            prop_assert_eq!(strip_tags(&plain), plain);
        }

        #[test]
        fn text_without_brackets_is_untouched(text in "[^<]{0,64}") {
            prop_assert_eq!(strip_tags(&text), text);
        }
    }

    #[test]
    fn hostile_text_takes_linear_time() {
        for unit in ["<a ", "<a='", "<a=\">", "<script>", "<!--", "</script", "<style></script>", "<a='>\"", "<", "<!"]
        {
            let text = unit.repeat(1_000_000 / unit.len());
            let started = Instant::now();
            strip_tags(&text);
            assert!(started.elapsed().as_secs() < 5, "{unit}: {:?}", started.elapsed());
        }
    }

    #[test]
    fn blank_is_what_shows_nothing() {
        for blank in ["", " \t\n", "\u{200b}\u{feff}", "\u{2800}", "\u{a0}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for shown in ["x", "❤️", "-", "👍"] {
            assert!(!is_blank(shown), "{shown}");
        }
    }
}
