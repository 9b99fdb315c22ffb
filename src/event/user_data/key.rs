//! The keys of `user_data` whose values identify a person.

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
    /// The key that a name stands for: Meta's own, those that its pixel and gateway send instead, and those of its SDKs.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "em" | "email" => Self::Email,
            "ph" | "phone" => Self::Phone,
            "fn" | "firstname" | "first_name" => Self::FirstName,
            "ln" | "lastname" | "last_name" => Self::LastName,
            "db" | "dob" | "dateofbirth" | "date_of_birth" => Self::DateOfBirth,
            "ge" | "gender" => Self::Gender,
            "ct" | "city" => Self::City,
            "st" | "state" => Self::State,
            "zp" | "zip" | "postal" | "zip_code" => Self::Zip,
            "country" | "cn" | "country_code" => Self::Country,
            "external_id" | "uid" | "extern_id" => Self::ExternalId,
            "f5first" => Self::FirstNameStart,
            "f5last" => Self::LastNameStart,
            "fi" => Self::Initial,
            "dobd" => Self::BirthDay,
            "dobm" => Self::BirthMonth,
            "doby" => Self::BirthYear,
            "app_user_id" => Self::AppUserId,
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
        assert_eq!(UserKey::from_name("chmd"), None);
    }
}
