//! Names, gender, date of birth.

use std::ops::RangeInclusive;

use super::{digit, non_empty};

/// Years in which a customer can have been born.
pub(super) const YEARS: RangeInclusive<u32> = 1900..=2099;

/// A name without blanks and ASCII punctuation; accents and other scripts stay.
pub(super) fn name(text: &str) -> Option<String> {
    non_empty(text.chars().filter(|c| !c.is_whitespace() && !c.is_control() && !c.is_ascii_punctuation()).collect())
}

/// The first characters of a name.
pub(super) fn name_start(text: &str, characters: usize) -> Option<String> {
    Some(name(text)?.chars().take(characters).collect())
}

/// `m` or `f`, from the words that forms offer.
pub(super) fn gender(text: &str) -> Option<&'static str> {
    match text.trim_end_matches('.') {
        "m" | "male" | "man" | "boy" | "he" | "him" | "mr" | "mister" | "masculine" => Some("m"),
        "f" | "female" | "woman" | "girl" | "she" | "her" | "mrs" | "ms" | "miss" | "feminine" => Some("f"),
        _ => None,
    }
}

/// A day, month or year of birth, in `width` digits.
pub(super) fn birth_part(text: &str, range: RangeInclusive<u32>, width: usize) -> Option<String> {
    let number: u32 = ascii_digits(text)?.parse().ok()?;
    range.contains(&number).then(|| format!("{number:0width$}"))
}

/// A date as `YYYYMMDD`, from that form or from three groups of digits. The group above 31 is the year; of the others
/// one above 12 is the day, else the month comes first, as Meta's clients read it. A two-digit year is refused.
pub(super) fn date_of_birth(text: &str) -> Option<String> {
    // "1997-02-16T00:00:00Z": programs add a time of day.
    let date = text.split('t').next().unwrap_or_default();
    let mut groups = date.split(['-', '/', '.', ' ']).filter(|group| !group.is_empty()).map(ascii_digits);
    let (first, second, third) = match (groups.next()??, groups.next(), groups.next()) {
        (whole, None, None) if whole.len() == 8 => {
            (whole.get(..4)?.to_owned(), whole.get(4..6)?.to_owned(), whole.get(6..)?.to_owned())
        }
        (first, Some(second), Some(third)) if groups.next().is_none() => (first, second?, third?),
        _ => return None,
    };
    let number = |group: &String| group.parse::<u32>().ok();
    let (year, a, b) = match (first.len(), third.len()) {
        (4, ..=2) => (number(&first)?, number(&second)?, number(&third)?),
        (..=2, 4) => (number(&third)?, number(&first)?, number(&second)?),
        _ => return None,
    };
    let (month, day) = if a > 12 { (b, a) } else { (a, b) };
    is_date(year, month, day).then(|| format!("{year:04}{month:02}{day:02}"))
}

fn is_date(year: u32, month: u32, day: u32) -> bool {
    let is_leap = (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    YEARS.contains(&year) && (1..=days).contains(&day)
}

/// The text as digits 0 to 9, if it is nothing but digits of some script.
fn ascii_digits(text: &str) -> Option<String> {
    text.chars().map(digit).collect::<Option<String>>().and_then(non_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read_in_the_forms_people_write() {
        for text in ["1997-02-16t00:00:00z", "1997/2/16", "2-16-1997", "16 02 1997", "16/2/1997", "١٩٩٧-٠٢-١٦"]
        {
            assert_eq!(date_of_birth(text).as_deref(), Some("19970216"), "{text}");
        }
        assert_eq!(date_of_birth("02/03/1997").as_deref(), Some("19970203"), "month first where both could be");
        assert_eq!(date_of_birth("29.02.2000").as_deref(), Some("20000229"));
    }

    #[test]
    fn dates_that_never_were_are_dropped() {
        let bad = [
            "",
            "-",
            "1997",
            "02/1997",
            "29.02.1900",
            "31.4.1997",
            "0/1/1997",
            "1/1/1899",
            "16.16.1997",
            "16 feb 1997",
            "19970230",
            "1997021",
            "1-2-3-1997",
            "1997-02-1997",
            "99999999999/1/1997",
        ];
        for bad in bad {
            assert_eq!(date_of_birth(bad), None, "{bad}");
        }
    }

    #[test]
    fn parts_of_a_birth_date_have_their_width() {
        assert_eq!(birth_part("7", 1..=12, 2).as_deref(), Some("07"));
        assert_eq!(birth_part("1997", YEARS, 4).as_deref(), Some("1997"));
        for bad in ["", "0", "13", "+7", "7.", "99999999999"] {
            assert_eq!(birth_part(bad, 1..=12, 2), None, "{bad}");
        }
    }

    #[test]
    fn a_short_name_is_its_own_start() {
        assert_eq!(name_start("jo", 5).as_deref(), Some("jo"));
        assert_eq!(name_start("éva-maria", 5).as_deref(), Some("évama"));
        assert_eq!(name_start("-", 1), None);
    }

    #[test]
    fn titles_say_a_gender() {
        assert_eq!(
            (gender("mr."), gender("ms"), gender("female"), gender("other")),
            (Some("m"), Some("f"), Some("f"), None)
        );
    }
}
