//! DER (X.690) as certificates and keys are written in it, read strictly: what has a second form, or is longer than a
//! certificate is, is not read at all.

pub(super) const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const NULL: u8 = 0x05;
pub(super) const OID: u8 = 0x06;
pub(super) const UTF8_STRING: u8 = 0x0c;
pub(super) const PRINTABLE_STRING: u8 = 0x13;
pub(super) const IA5_STRING: u8 = 0x16;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const SET: u8 = 0x31;

/// Bytes of one number in an object identifier: nobody registers longer ones but for UUIDs.
const ARC_BYTES_MAX: usize = 8;

/// Elements that follow one another.
#[derive(Clone, Copy)]
pub(super) struct Der<'a>(&'a [u8]);

// === impl Der ===

impl<'a> Der<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// `None` if there is one more.
    pub(super) fn end(self) -> Option<()> {
        self.0.is_empty().then_some(())
    }

    pub(super) fn is_at_end(self) -> bool {
        self.0.is_empty()
    }

    /// The next one's tag.
    pub(super) fn tag(self) -> Option<u8> {
        self.0.first().copied()
    }

    /// Takes the next one: its content.
    pub(super) fn any(&mut self) -> Option<&'a [u8]> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        // Tags of more than one byte do not occur.
        if tag & 0x1f == 0x1f {
            return None;
        }
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => {
                let (&[length], rest) = rest.split_first_chunk()?;
                (usize::from(length), rest)
            }
            0x82 => {
                let (length, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*length)), rest)
            }
            _ => return None,
        };
        // The shortest form only.
        if (first == 0x81 && length < 0x80) || (first == 0x82 && length < 0x100) {
            return None;
        }
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some(content)
    }

    /// Takes the next one if it has this tag: its content.
    pub(super) fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        if self.tag() == Some(tag) { self.any() } else { None }
    }

    /// Takes the next one if it has this tag: what is in it.
    pub(super) fn enter(&mut self, tag: u8) -> Option<Der<'a>> {
        self.take(tag).map(Der)
    }

    /// Takes an integer that is not negative, in its shortest form.
    pub(super) fn unsigned(&mut self) -> Option<&'a [u8]> {
        let content = self.take(INTEGER)?;
        let short = match content {
            [] => false,
            [0, second, ..] => *second >= 0x80,
            [first, ..] => *first < 0x80,
        };
        (short || content == [0]).then_some(content)
    }

    /// Takes an object identifier.
    pub(super) fn oid(&mut self) -> Option<&'a [u8]> {
        let content = self.take(OID)?;
        let mut arc = 0;
        for byte in content {
            // A number has no leading zeros.
            if (arc == 0 && *byte == 0x80) || arc == ARC_BYTES_MAX {
                return None;
            }
            arc = if *byte & 0x80 == 0 { 0 } else { arc + 1 };
        }
        (arc == 0 && !content.is_empty()).then_some(content)
    }

    /// Takes a bit string of whole bytes.
    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        self.take(BIT_STRING)?.strip_prefix(&[0])
    }

    /// Takes a time: Unix seconds.
    pub(super) fn time(&mut self) -> Option<i64> {
        let (year, rest) = match self.tag()? {
            UTC_TIME => {
                let (year, rest) = self.any()?.split_first_chunk()?;
                let year = number(year)?;
                // RFC 5280, 4.1.2.5.1
                (if year < 50 { year + 2_000 } else { year + 1_900 }, rest)
            }
            GENERALIZED_TIME => {
                let (century, rest) = self.any()?.split_first_chunk()?;
                let (year, rest) = rest.split_first_chunk()?;
                (number(century)? * 100 + number(year)?, rest)
            }
            _ => return None,
        };
        let (fields, zone) = rest.as_chunks::<2>();
        let [month, day, hour, minute, second] = fields else {
            return None;
        };
        let [month, day, hour, minute, second] =
            [number(month)?, number(day)?, number(hour)?, number(minute)?, number(second)?];
        let sound = year >= 1_950 && (1..=12).contains(&month) && (1..=days_of(month, year)).contains(&day);
        if zone != b"Z" || !sound || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        Some(days_before(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
    }
}

fn number(digits: &[u8; 2]) -> Option<i64> {
    let [tens, ones] = digits.map(|digit| digit.is_ascii_digit().then(|| i64::from(digit - b'0')));
    Some(tens? * 10 + ones?)
}

fn days_of(month: i64, year: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, by the years that end with February, of which only the last day
/// is uncertain.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn time(tag: u8, text: &str) -> Option<i64> {
        let bytes = [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        Der::new(&bytes).time()
    }

    #[test]
    fn times_are_read_in_their_one_form() {
        for (text, seconds) in [
            ("700101000000Z", 0),
            ("500101000000Z", -631_152_000),
            ("000229120000Z", 951_825_600),
            ("260101000000Z", 1_767_225_600),
            ("491231235959Z", 2_524_607_999),
        ] {
            assert_eq!(time(UTC_TIME, text), Some(seconds), "{text}");
        }
        assert_eq!(time(GENERALIZED_TIME, "99991231235959Z"), Some(253_402_300_799));
        for bad in
            ["", "Z", "26010100000Z", "2601010000000", "260229000000Z", "261301000000Z", "260100000000Z", "2601010000Z"]
        {
            assert_eq!(time(UTC_TIME, bad), None, "{bad}");
        }
        for bad in ["260101240000Z", "260101006000Z", "260101000060Z", "26010100000+Z", "260101000000+0100"] {
            assert_eq!(time(UTC_TIME, bad), None, "{bad}");
        }
    }

    #[test]
    fn only_the_shortest_form_is_read() {
        let take = |bytes: &[u8]| Der::new(bytes).any().map(<[u8]>::to_vec);
        assert_eq!(take(&[4, 1, 9]), Some(vec![9]));
        assert_eq!(take(&[4, 0x81, 1, 9]), None);
        assert_eq!(take(&[4, 0x80, 9, 0, 0]), None);
        assert_eq!(take(&[4, 2, 9]), None);
        assert_eq!(take(&[0x1f, 1, 9]), None);
        assert_eq!(take(&[&[4, 0x81, 0x80], &[7; 0x80][..]].concat()), Some(vec![7; 0x80]));
        let integer = |bytes: &[u8]| Der::new(bytes).unsigned().is_some();
        assert!(integer(&[2, 1, 0]) && integer(&[2, 2, 0, 0x80]) && integer(&[2, 1, 0x7f]));
        assert!(!integer(&[2, 0]) && !integer(&[2, 2, 0, 0x7f]) && !integer(&[2, 1, 0x80]));
        let oid = |bytes: &[u8]| Der::new(bytes).oid().is_some();
        assert!(oid(&[6, 3, 0x55, 0x1d, 0x11]) && !oid(&[6, 0]) && !oid(&[6, 2, 0x55, 0x80]) && !oid(&[6, 1, 0x81]));
    }
}
