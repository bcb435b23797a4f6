//! Points in time with millisecond precision, and their ISO 8601 notation.
//!
//! Hand-written because two dates are printed per object on the hottest path; the calendar arithmetic follows
//! Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms".

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z.
///
/// ```
/// use tidings_protocol::Date;
/// let date = Date::parse("2026-01-02T03:04:05.678+01:00").unwrap();
/// assert_eq!(date.to_string(), "2026-01-02T02:04:05.678Z");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date(i64);

const DAY: i64 = 86_400_000;

impl Date {
    /// What JavaScript's dates reach: a hundred million days before and after 1970.
    pub const MIN: Self = Self(-100_000_000 * DAY);
    pub const MAX: Self = Self(100_000_000 * DAY);

    /// Nothing outside [`Date::MIN`]..=[`Date::MAX`] is a date to the SDKs.
    pub fn from_millis(millis: i64) -> Option<Self> {
        (Self::MIN.0..=Self::MAX.0).contains(&millis).then_some(Self(millis))
    }

    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Reads `YYYY-MM-DD`, optionally followed by `THH:MM`, `:SS`, a fraction, and `Z` or `±HH:MM`. Without a zone it
    /// is UTC; digits beyond milliseconds are cut off. A year may have a sign and six digits, as in JavaScript.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text.as_bytes();
        let year = read_year(&mut rest)?;
        expect(&mut rest, b'-')?;
        let month = digits(&mut rest, 2)?;
        expect(&mut rest, b'-')?;
        let day = digits(&mut rest, 2)?;
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        let mut millis = days_from_civil(year, month, day) * DAY;
        if rest.is_empty() {
            return Self::from_millis(millis);
        }
        if !matches!(rest.first(), Some(b'T' | b't' | b' ')) {
            return None;
        }
        rest = &rest[1..];
        let hour = digits(&mut rest, 2)?;
        expect(&mut rest, b':')?;
        let minute = digits(&mut rest, 2)?;
        let mut second = 0;
        let mut fraction = 0;
        if expect(&mut rest, b':').is_some() {
            second = digits(&mut rest, 2)?;
            if matches!(rest.first(), Some(b'.' | b',')) {
                rest = &rest[1..];
                let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                if length == 0 || length > 12 {
                    return None;
                }
                for place in 0..3 {
                    fraction = fraction * 10 + rest[..length].get(place).map_or(0, |digit| i64::from(digit - b'0'));
                }
                rest = &rest[length..];
            }
        }
        if hour > 24 || minute > 59 || second > 59 || (hour == 24 && minute + second + fraction > 0) {
            return None;
        }
        millis += ((hour * 60 + minute) * 60 + second) * 1000 + fraction;
        match rest.first() {
            None => {}
            Some(b'Z' | b'z') if rest.len() == 1 => {}
            Some(sign @ (b'+' | b'-')) => {
                let sign = if *sign == b'+' { 1 } else { -1 };
                rest = &rest[1..];
                let hours = digits(&mut rest, 2)?;
                let _ = expect(&mut rest, b':');
                let minutes = if rest.is_empty() { 0 } else { digits(&mut rest, 2)? };
                if !rest.is_empty() || hours > 23 || minutes > 59 {
                    return None;
                }
                millis -= sign * (hours * 60 + minutes) * 60_000;
            }
            Some(_) => return None,
        }
        Self::from_millis(millis)
    }

    /// Appends `YYYY-MM-DDTHH:MM:SS.mmmZ`; years beyond 0 to 9999 as `±YYYYYY`.
    pub fn write_iso(self, out: &mut Vec<u8>) {
        let (mut year, month, day) = civil_from_days(self.0.div_euclid(DAY));
        let of_day = self.0.rem_euclid(DAY);
        let two = |n: i64| [b'0' + (n / 10 % 10) as u8, b'0' + (n % 10) as u8];
        if !(0..=9999).contains(&year) {
            out.push(if year < 0 { b'-' } else { b'+' });
            year = year.abs();
            out.extend_from_slice(&two(year / 10_000));
        }
        let [y1, y2] = two(year / 100);
        let [y3, y4] = two(year % 100);
        let [m1, m2] = two(month);
        let [d1, d2] = two(day);
        let [h1, h2] = two(of_day / 3_600_000);
        let [n1, n2] = two(of_day / 60_000 % 60);
        let [s1, s2] = two(of_day / 1000 % 60);
        let [f2, f3] = two(of_day % 100);
        let f1 = b'0' + (of_day / 100 % 10) as u8;
        out.extend_from_slice(&[
            y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2, b'T', h1, h2, b':', n1, n2, b':', s1, s2, b'.', f1, f2, f3,
            b'Z',
        ]);
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        self.write_iso(&mut text);
        f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

fn digits(rest: &mut &[u8], count: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(count)?;
    let mut number = 0;
    for byte in head {
        number = number * 10 + i64::from(byte.is_ascii_digit().then(|| byte - b'0')?);
    }
    *rest = tail;
    Some(number)
}

/// Four digits, or a sign and six. The year 0 has no sign to tell it from itself.
fn read_year(rest: &mut &[u8]) -> Option<i64> {
    let sign = match rest.first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return digits(rest, 4),
    };
    *rest = &rest[1..];
    match digits(rest, 6)? {
        0 if sign < 0 => None,
        year => Some(sign * year),
    }
}

fn expect(rest: &mut &[u8], byte: u8) -> Option<()> {
    (rest.first() == Some(&byte)).then(|| *rest = &rest[1..])
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iso_notation() {
        for (text, canonical) in [
            ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.000Z"),
            ("2024-02-29", "2024-02-29T00:00:00.000Z"),
            ("2026-11-21T16:26:58.1Z", "2026-11-21T16:26:58.100Z"),
            ("2026-11-21T16:26:58.123456+02:30", "2026-11-21T13:56:58.123Z"),
            ("1969-12-31T23:59:59.999Z", "1969-12-31T23:59:59.999Z"),
            ("0000-01-01T00:00:00.000Z", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59.999Z", "9999-12-31T23:59:59.999Z"),
            ("2020-01-01T10:00", "2020-01-01T10:00:00.000Z"),
            ("2020-01-01T24:00:00Z", "2020-01-02T00:00:00.000Z"),
            ("+002020-01-01", "2020-01-01T00:00:00.000Z"),
            ("+000000-01-01", "0000-01-01T00:00:00.000Z"),
            ("9999-12-31T23:59:59-01:00", "+010000-01-01T00:59:59.000Z"),
            ("0000-01-01T00:00:00+00:01", "-000001-12-31T23:59:00.000Z"),
            ("-000001-12-31T23:59:59.999Z", "-000001-12-31T23:59:59.999Z"),
            ("-271821-04-20T00:00:00.000Z", "-271821-04-20T00:00:00.000Z"),
            ("+275760-09-13T00:00:00.000Z", "+275760-09-13T00:00:00.000Z"),
        ] {
            assert_eq!(Date::parse(text).unwrap().to_string(), canonical, "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "2023-02-29",
            "2020-13-01",
            "2020-1-1",
            "2020-01-01T25:00",
            "2020-01-01T10:00Zx",
            "2020-01-01T10:00:00.",
            "-000000-01-01",
            "+2020-01-01",
            "+10000-01-01",
            "+0010000-01-01",
            "12020-01-01",
            "-271821-04-19T23:59:59.999Z",
            "+275760-09-13T00:00:00.001Z",
            "+275760-09-13T00:00:00-00:01",
            "+999999-01-01",
            "-999999-01-01",
        ] {
            assert_eq!(Date::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn dates_end_where_those_of_javascript_do() {
        const LAST: i64 = 8_640_000_000_000_000;
        assert_eq!((Date::MIN.millis(), Date::MAX.millis()), (-LAST, LAST));
        assert_eq!((Date::from_millis(-LAST - 1), Date::from_millis(LAST + 1)), (None, None));
        let years = [-271_821, -10_000, -9_999, -1, 0, 9_999, 10_000, 275_760];
        let starts = years.into_iter().filter_map(|year| Date::from_millis(days_from_civil(year, 1, 1) * DAY));
        for date in starts.chain([Date::MIN, Date::MAX]) {
            for near in [-1, 0, 1].into_iter().filter_map(|step| Date::from_millis(date.millis() + step)) {
                assert_eq!(Date::parse(&near.to_string()), Some(near), "{near}");
            }
        }
    }

    #[test]
    fn every_day_of_four_centuries_reads_back() {
        for day in 0..146_097 {
            let date = Date((day - 10_957) * DAY + 12_345_678);
            assert_eq!(Date::parse(&date.to_string()), Some(date));
        }
    }
}
