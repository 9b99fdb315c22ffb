//! What is wrong where an account at a CA cannot be used, and what a person does about it: at which key of the configuration.
//! No name is at fault then, and none is made to wait longer for it.

use crate::config::AcmeAccount;

/// What is wrong with an account at a CA, or with what is written of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// What answers at `directory` is no ACME directory.
    Directory,
    /// The server at `directory` has a certificate that is not trusted.
    Trust,
    /// `ca_file` cannot be used.
    CaFile,
    /// The CA does not offer the `profile`.
    Profile,
    /// `external_account` is missing, or cannot be used.
    ExternalAccount,
    /// The CA wants a person to do something at its own pages, as to agree to new terms.
    Person,
    /// The CA does not take the `email`.
    Email,
    /// The CA refuses the account, or its key.
    Refused,
    /// What is kept of the account on this machine cannot be read or written.
    Kept,
}

/// What `[acme]`'s own account is called.
const OWN: &str = "default";

/// A key of an account as a person finds it in the file.
pub(super) fn key(account: &AcmeAccount, key: &str) -> String {
    if account.name == OWN { format!("[acme] {key}") } else { format!("{key} of [[acme.accounts]] {}", account.name) }
}

/// The same with its value.
pub(super) fn written(account: &AcmeAccount, name: &str, value: &str) -> String {
    format!("{} = \"{value}\"", key(account, name))
}

// === impl Fault ===

impl Fault {
    /// The fault of a kind of problem (RFC 8555, 6.7, and draft-ietf-acme-profiles, 5); `None` = the account is not at fault.
    pub(super) fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "invalidProfile" => Self::Profile,
            "externalAccountRequired" => Self::ExternalAccount,
            "userActionRequired" => Self::Person,
            "invalidContact" | "unsupportedContact" => Self::Email,
            "unauthorized" | "badPublicKey" | "badSignatureAlgorithm" => Self::Refused,
            _ => return None,
        })
    }

    /// What to do.
    pub(super) fn remedy(self, account: &AcmeAccount) -> String {
        let key = |name| key(account, name);
        let [directory, ca_file, external] = ["directory", "ca_file", "external_account"].map(key);
        match self {
            Self::Directory => format!("write the URL of the CA's ACME directory into {directory}, and reload"),
            Self::Trust => format!(
                "if a private CA issued it, write the PEM file with that CA's certificate into {ca_file}, else see that {directory} \
                 is right and that nothing stands in between; then reload"
            ),
            Self::CaFile => format!(
                "put the private CA's certificate, in PEM, into the file that {ca_file} names, readable for the gateway's user: then \
                 it goes on by itself, at once by `pixelgate cert issue NAME` for one of the names; or write another file there, or \
                 remove the key where the CA is a public one, and reload"
            ),
            Self::Profile => {
                format!("write one that it offers into {}, or remove the key for its default; then reload", key("profile"))
            }
            Self::ExternalAccount => {
                format!("write the key_id and the secret that the CA gave you into {external}, and reload")
            }
            Self::Person => {
                "do what the CA says; then it goes on by itself, at once by `pixelgate cert issue NAME` for one of the names".to_owned()
            }
            Self::Email => {
                format!("write an address that the CA takes into {}, and reload", written(account, "email", &account.email))
            }
            Self::Refused => {
                let external = match &account.external_account {
                    Some(known) => format!("see that {external} (key_id {}) is as the CA gave it, and reload; else ", known.key_id),
                    None => String::new(),
                };
                format!(
                    "{external}ask the CA; to have a new account made there, move account.json in <data_dir>/acme/{}-… away and \
                     restart the gateway",
                    account.name
                )
            }
            Self::Kept => "mend the file, or the disk; then it goes on by itself".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuance::tests::account;

    #[test]
    fn a_key_is_told_where_it_stands() {
        assert_eq!(written(&account(OWN), "directory", "https://x"), "[acme] directory = \"https://x\"");
        assert_eq!(key(&account("second"), "profile"), "profile of [[acme.accounts]] second");
    }
}
