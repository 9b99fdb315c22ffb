//! What is said of names that are not served any more because time went on.

use crate::tls::CertStore;

/// Names that are named.
const NAMED: usize = 3;

/// The line for the log about what `before` served and `after` does not, as of `now` (Unix seconds), because certificates
/// ended; `None` = no name is so.
pub(super) fn ended(before: &CertStore, after: &CertStore, now: i64) -> Option<String> {
    let mut names = after.ended_since(before, now);
    names.sort_unstable();
    let named = names.iter().take(NAMED).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    let further = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        further => format!(" and {further} more"),
    };
    let (count, are) = match names.len() {
        0 => return None,
        1 => ("1 name".to_owned(), "is"),
        count => (format!("{count} names"), "are"),
    };
    Some(format!(
        "{count} {are} not served any more, the certificate has ended: {named}{further}; `pixelgate cert list --problems` says \
         what to do"
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::account::ServerName;
    use crate::tls::CertFolders;
    use crate::tls::testing::Issued;

    /// The first second of 2026.
    const NOW: i64 = 1_767_225_600;
    const YEAR: i64 = 31_557_600;

    #[test]
    fn what_ended_is_told_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let folders = CertFolders { certs_dir: at("certs"), issued_dir: at("issued"), index: at("index") };
        let names: Vec<ServerName> =
            ["a", "b", "c", "d", "e"].iter().map(|name| format!("{name}.example").parse().unwrap()).collect();
        let until = [2027, 2028, 2028, 2028, 2028];
        for (name, until) in names.iter().zip(until) {
            Issued::valid(&[name.as_str()], 2020, until).write(&folders.certs_dir, name.as_str());
        }
        let first = CertStore::load(&folders, &names, None, NOW);
        assert_eq!(ended(&first, &first.tended(NOW + 9), NOW + 9), None);
        let second = first.tended(NOW + YEAR + 86_400);
        let told = ended(&first, &second, NOW + YEAR + 86_400).unwrap();
        assert!(
            told.starts_with("1 name is not served any more, the certificate has ended: a.example; `pix"),
            "{told}"
        );
        let third = second.tended(NOW + 3 * YEAR);
        let told = ended(&second, &third, NOW + 3 * YEAR).unwrap();
        assert!(told.starts_with("4 names are not served any more"), "{told}");
        assert!(told.contains("ended: b.example, c.example, d.example and 1 more; "), "{told}");
        assert_eq!(ended(&third, &third.looked_through(NOW + 3 * YEAR + 1), NOW + 3 * YEAR + 1), None, "no repeat");
        std::fs::remove_dir_all(folders.certs_dir.join("a.example")).unwrap();
        assert_eq!(ended(&first, &first.looked_through(NOW), NOW), None, "what was removed has not ended");
    }
}
