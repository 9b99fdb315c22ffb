//! City, state, postal code, country.

use unicode_normalization::UnicodeNormalization;

use super::countries::COUNTRIES;
use super::non_empty;

/// States of the US, Canada's provinces, and the territories of both, as [`city`] would write them.
const STATES: &[(&str, &str)] = &[
    ("alabama", "al"),
    ("alaska", "ak"),
    ("alberta", "ab"),
    ("americansamoa", "as"),
    ("arizona", "az"),
    ("arkansas", "ar"),
    ("britishcolumbia", "bc"),
    ("california", "ca"),
    ("colorado", "co"),
    ("connecticut", "ct"),
    ("delaware", "de"),
    ("districtofcolumbia", "dc"),
    ("florida", "fl"),
    ("georgia", "ga"),
    ("guam", "gu"),
    ("hawaii", "hi"),
    ("idaho", "id"),
    ("illinois", "il"),
    ("indiana", "in"),
    ("iowa", "ia"),
    ("kansas", "ks"),
    ("kentucky", "ky"),
    ("louisiana", "la"),
    ("maine", "me"),
    ("manitoba", "mb"),
    ("maryland", "md"),
    ("massachusetts", "ma"),
    ("michigan", "mi"),
    ("minnesota", "mn"),
    ("mississippi", "ms"),
    ("missouri", "mo"),
    ("montana", "mt"),
    ("nebraska", "ne"),
    ("nevada", "nv"),
    ("newbrunswick", "nb"),
    ("newfoundland", "nl"),
    ("newfoundlandandlabrador", "nl"),
    ("newhampshire", "nh"),
    ("newjersey", "nj"),
    ("newmexico", "nm"),
    ("newyork", "ny"),
    ("northcarolina", "nc"),
    ("northdakota", "nd"),
    ("northernmarianaislands", "mp"),
    ("northwestterritories", "nt"),
    ("novascotia", "ns"),
    ("nunavut", "nu"),
    ("ohio", "oh"),
    ("oklahoma", "ok"),
    ("ontario", "on"),
    ("oregon", "or"),
    ("pennsylvania", "pa"),
    ("princeedwardisland", "pe"),
    ("puertorico", "pr"),
    ("quebec", "qc"),
    ("québec", "qc"),
    ("rhodeisland", "ri"),
    ("saskatchewan", "sk"),
    ("southcarolina", "sc"),
    ("southdakota", "sd"),
    ("tennessee", "tn"),
    ("texas", "tx"),
    ("utah", "ut"),
    ("vermont", "vt"),
    ("virginia", "va"),
    ("virginislands", "vi"),
    ("washington", "wa"),
    ("washingtondc", "dc"),
    ("westvirginia", "wv"),
    ("wisconsin", "wi"),
    ("wyoming", "wy"),
    ("yukon", "yt"),
];

/// A city without digits, blanks and the punctuation of names; accents stay.
pub(super) fn city(text: &str) -> Option<String> {
    let stays = |c: &char| !c.is_whitespace() && !c.is_control() && !c.is_ascii_digit() && !".-()'".contains(*c);
    non_empty(text.chars().filter(stays).collect())
}

/// The two-letter code of a state of the US or Canada; elsewhere the name as of a city.
pub(super) fn state(text: &str) -> Option<String> {
    let name = city(text)?;
    match STATES.iter().find(|(state, _)| *state == name) {
        Some((_, code)) => Some((*code).to_owned()),
        None => Some(name),
    }
}

/// A postal code without blanks, up to the first dash; of a ZIP+4 the five digits.
pub(super) fn zip(text: &str) -> Option<String> {
    let mut code: String =
        text.chars().take_while(|c| *c != '-').filter(|c| !c.is_whitespace() && !c.is_control()).collect();
    if code.len() == 9 && code.bytes().all(|b| b.is_ascii_digit()) {
        code.truncate(5);
    }
    (code.chars().count() >= 2).then_some(code)
}

/// The ISO 3166-1 alpha-2 code, from that, the alpha-3 code or an English name.
pub(super) fn country(text: &str) -> Option<&'static str> {
    let letters: String = text.nfd().filter(char::is_ascii_lowercase).collect();
    if let Ok(at) = COUNTRIES.binary_search_by(|(alpha2, ..)| (*alpha2).cmp(letters.as_str())) {
        return COUNTRIES.get(at).map(|(alpha2, ..)| *alpha2);
    }
    if letters == "uk" {
        return Some("gb");
    }
    let is_it = |(_, alpha3, names): &&(&str, &str, &[&str])| *alpha3 == letters || names.contains(&letters.as_str());
    COUNTRIES.iter().find(is_it).map(|(alpha2, ..)| *alpha2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn countries_are_known_by_code_and_name() {
        let known = [
            ("de", "de"),
            ("deu", "de"),
            ("germany", "de"),
            ("côte d'ivoire", "ci"),
            ("türkiye", "tr"),
            ("turkey", "tr"),
            ("aut", "at"),
            ("u.s.a.", "us"),
            ("south korea", "kr"),
            ("the netherlands", "nl"),
            ("england", "gb"),
        ];
        for (text, code) in known {
            assert_eq!(country(text), Some(code), "{text}");
        }
        for bad in ["", "eu", "xx", "zzz", "atlantis", "日本"] {
            assert_eq!(country(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_table_of_countries_is_sorted_and_unambiguous() {
        assert!(COUNTRIES.is_sorted_by(|(a, ..), (b, ..)| a < b));
        let mut names: Vec<_> = COUNTRIES.iter().flat_map(|(_, alpha3, names)| names.iter().chain([alpha3])).collect();
        let before = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), before);
        assert_eq!(COUNTRIES.len(), 249);
    }

    #[test]
    fn states_outside_north_america_keep_their_names() {
        assert_eq!(state("québec").as_deref(), Some("qc"));
        assert_eq!(state("british columbia").as_deref(), Some("bc"));
        assert_eq!(state("baden-württemberg").as_deref(), Some("badenwürttemberg"));
    }

    #[test]
    fn a_zip_code_keeps_its_five_digits() {
        assert_eq!(zip("940351234").as_deref(), Some("94035"));
        assert_eq!(zip("100001").as_deref(), Some("100001"));
        assert_eq!(zip("-1234"), None);
    }
}
