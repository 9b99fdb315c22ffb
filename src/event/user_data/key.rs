//! The keys of `user_data` whose values identify a person.

/// Letters of the longest name that is known.
const NAME_MAX: usize = 11;

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
    /// The key that a name stands for: Meta's own, those that its pixel and gateway send instead, and those of its SDKs,
    /// in any case and with or without underscores. A key that was not known would go on in plain.
    pub fn from_name(name: &str) -> Option<Self> {
        let letters = name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase());
        // One more than the longest has: what is longer is none.
        Some(match letters.take(NAME_MAX + 1).collect::<String>().as_str() {
            "em" | "email" => Self::Email,
            "ph" | "phone" => Self::Phone,
            "fn" | "firstname" => Self::FirstName,
            "ln" | "lastname" => Self::LastName,
            "db" | "dob" | "dateofbirth" => Self::DateOfBirth,
            "ge" | "gender" => Self::Gender,
            "ct" | "city" => Self::City,
            "st" | "state" => Self::State,
            "zp" | "zip" | "postal" | "zipcode" => Self::Zip,
            "country" | "cn" | "countrycode" => Self::Country,
            "externalid" | "uid" | "externid" => Self::ExternalId,
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

#[cfg(test)]
mod tests {
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
        for name in ["chmd", "", "_", "dateofbirths", "e-m"] {
            assert_eq!(UserKey::from_name(name), None, "{name}");
        }
    }
}
