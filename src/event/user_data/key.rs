//! The keys of `user_data` whose values identify a person.

use serde_json::Value;

/// Letters of the longest name that is known.
const NAME_MAX: usize = 14;

/// What stands in the name of a key that holds a person's name, address or the like, whatever else is in it.
const PERSONAL: &[&str] = &["name", "address", "street", "mail", "phone", "birth"];

/// A key of `user_data` whose values identify a person, and are hashed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UserKey {
    /// `em`
    Email,
    /// `ph`
    Phone,
    /// `fn`
    FirstName,
    /// `ln`
    LastName,
    /// `db`
    DateOfBirth,
    /// `ge`
    Gender,
    /// `ct`
    City,
    /// `st`
    State,
    /// `zp`
    Zip,
    /// `country`
    Country,
    /// `external_id`: the sender's own id of a person; plain ones stay plain, as the pixel sends them.
    ExternalId,
    /// `f5first`: the first five characters of the first name.
    FirstNameStart,
    /// `f5last`: the same of the last name.
    LastNameStart,
    /// `fi`: the first initial.
    Initial,
    /// `dobd`: day of birth.
    BirthDay,
    /// `dobm`: month of birth.
    BirthMonth,
    /// `doby`: year of birth.
    BirthYear,
    /// `app_user_id`
    AppUserId,
}

// === impl UserKey ===

impl UserKey {
    /// The key that a name stands for: Meta's own, those that its pixel and gateway send instead, the attributes of its
    /// SDKs, and what else people write; in any case, and with or without separators. A key that was not known would go on
    /// in plain.
    pub fn from_name(name: &str) -> Option<Self> {
        let letters = letters(name);
        // One more than the longest has: what is longer is none.
        Some(match letters.take(NAME_MAX + 1).collect::<String>().as_str() {
            "em" | "email" | "emails" | "mail" | "emailaddress" | "emailaddresses" => Self::Email,
            "ph" | "phone" | "phones" | "phonenumber" | "phonenumbers" => Self::Phone,
            "tel" | "telephone" | "mobilephone" | "mobilenumber" | "cellphone" => Self::Phone,
            "fn" | "firstname" | "firstnames" | "givenname" | "givennames" | "forename" => Self::FirstName,
            "ln" | "lastname" | "lastnames" | "surname" | "surnames" | "familyname" | "familynames" => Self::LastName,
            "db" | "dob" | "dateofbirth" | "datesofbirth" | "birthday" | "birthdate" => Self::DateOfBirth,
            "ge" | "gender" | "genders" | "sex" => Self::Gender,
            "ct" | "city" | "cities" | "town" => Self::City,
            "st" | "state" | "states" | "province" => Self::State,
            "zp" | "zip" | "zips" | "zipcode" | "zipcodes" | "postal" | "postalcode" | "postcode" => Self::Zip,
            "country" | "countries" | "cn" | "countrycode" | "countrycodes" => Self::Country,
            "externalid" | "externalids" | "uid" | "externid" => Self::ExternalId,
            "f5first" => Self::FirstNameStart,
            "f5last" => Self::LastNameStart,
            "fi" => Self::Initial,
            "dobd" => Self::BirthDay,
            "dobm" => Self::BirthMonth,
            "doby" => Self::BirthYear,
            "appuserid" => Self::AppUserId,
            _ => return None,
        })
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Email => "em",
            Self::Phone => "ph",
            Self::FirstName => "fn",
            Self::LastName => "ln",
            Self::DateOfBirth => "db",
            Self::Gender => "ge",
            Self::City => "ct",
            Self::State => "st",
            Self::Zip => "zp",
            Self::Country => "country",
            Self::ExternalId => "external_id",
            Self::FirstNameStart => "f5first",
            Self::LastNameStart => "f5last",
            Self::Initial => "fi",
            Self::BirthDay => "dobd",
            Self::BirthMonth => "dobm",
            Self::BirthYear => "doby",
            Self::AppUserId => "app_user_id",
        }
    }

    /// Whether Meta takes one value only: the keys of the former offline API, and the app's user.
    pub(super) fn is_single(self) -> bool {
        self >= Self::FirstNameStart
    }
}

/// Whether a key that is not known, or one within its value, says that it holds what identifies a person.
pub(super) fn is_personal(name: &str, value: &Value) -> bool {
    let letters = letters(name).collect::<String>();
    PERSONAL.iter().any(|part| letters.contains(part))
        || match value {
            Value::Array(items) => items.iter().any(|item| is_personal("", item)),
            Value::Object(fields) => {
                fields.iter().any(|(name, value)| UserKey::from_name(name).is_some() || is_personal(name, value))
            }
            _ => false,
        }
}

/// A name without its separators, in lower case.
fn letters(name: &str) -> impl Iterator<Item = char> {
    name.chars().filter(|c| !matches!(c, '_' | '-' | ' ' | '.')).map(|c| c.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_on_the_wire_is_its_keys_own() {
        for name in
            "em ph fn ln db ge ct st zp country external_id f5first f5last fi dobd dobm doby app_user_id".split(' ')
        {
            assert_eq!(UserKey::from_name(name).map(UserKey::name), Some(name));
        }
    }

    #[test]
    fn the_gateways_long_names_are_known() {
        let long = "email phone gender dob dateofbirth state lastname firstname zip postal cn uid extern_id";
        let short = "em ph ge db db st ln fn zp zp country external_id external_id";
        for (long, short) in long.split(' ').zip(short.split(' ')) {
            assert_eq!(UserKey::from_name(long).map(UserKey::name), Some(short), "{long}");
        }
        for name in ["FN", "firstName", "First_Name", "Zip_Code", "dateOfBirth", "externalId", "COUNTRY_CODE"] {
            assert!(UserKey::from_name(name).is_some(), "{name}");
        }
        for name in ["chmd", "", "_", "dateofbirths", "e+m"] {
            assert_eq!(UserKey::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn the_attributes_of_metas_sdks_and_other_words_are_known() {
        let words = "emails phones genders dates_of_birth last_names first_names cities states zips country_codes \
            external_ids given-name family_name surname birthday postcode Phone.Number";
        let short = "em ph ge db ln fn ct st zp country external_id fn ln ln db zp ph";
        for (word, short) in words.split_whitespace().zip(short.split(' ')) {
            assert_eq!(UserKey::from_name(word).map(UserKey::name), Some(short), "{word}");
        }
    }

    #[test]
    fn a_key_that_is_not_known_can_say_that_it_names_a_person() {
        for name in ["full_name", "Street-2", "billingAddress", "work_mail_2", "phone_home", "place_of_birth"] {
            assert!(is_personal(name, &json!("x")), "{name}");
        }
        for value in [json!({"a": [{"full_name": "x"}]}), json!([{"fn": "Mary"}]), json!({"e_mails": []})] {
            assert!(is_personal("new_key", &value), "{value}");
        }
        assert!(!is_personal("new_key", &json!({"a": ["name", 1, null]})));
    }
}
