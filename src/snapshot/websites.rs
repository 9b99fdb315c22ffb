//! `[websites]`: which pages may send to an account.

use std::collections::HashSet;

use crate::config::Websites;

/// The lists of an account, ready to match.
#[derive(Debug, Default)]
pub(super) struct WebsiteRules {
    allow: HostPatterns,
    block: HostPatterns,
}

/// Host names, and suffixes for `*.` patterns.
#[derive(Debug, Default)]
struct HostPatterns {
    exact: HashSet<String>,
    suffixes: Vec<String>,
}

// === impl WebsiteRules ===

impl WebsiteRules {
    pub(super) fn new(websites: &Websites) -> Self {
        Self { allow: HostPatterns::new(&websites.allow), block: HostPatterns::new(&websites.block) }
    }

    /// Whether this page may send. `page` is an origin or a URL; `None` passes only if everything is allowed.
    pub(super) fn allow(&self, page: Option<&str>) -> bool {
        let Some(host) = page.and_then(host_of) else {
            return self.allow.is_empty();
        };
        !self.block.contains(&host) && (self.allow.is_empty() || self.allow.contains(&host))
    }
}

// === impl HostPatterns ===

impl HostPatterns {
    fn new(patterns: &[String]) -> Self {
        let mut made = Self::default();
        for pattern in patterns {
            let pattern = pattern.to_ascii_lowercase();
            match pattern.strip_prefix('*') {
                Some(suffix) => made.suffixes.push(suffix.to_owned()),
                None => drop(made.exact.insert(pattern)),
            }
        }
        made
    }

    fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty()
    }

    fn contains(&self, host: &str) -> bool {
        self.exact.contains(host) || self.suffixes.iter().any(|suffix| host.ends_with(suffix.as_str()))
    }
}

/// The host of an `http` or `https` URL or origin, in lower case and without port, user or trailing dot.
fn host_of(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.split(']').next()?,
        None => host.split(':').next()?,
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], block: &[&str]) -> WebsiteRules {
        let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        WebsiteRules::new(&Websites { allow: texts(allow), block: texts(block) })
    }

    #[test]
    fn an_empty_list_allows_all_and_block_wins() {
        assert!(rules(&[], &[]).allow(None));
        assert!(rules(&[], &[]).allow(Some("https://any.example/")));
        assert!(!rules(&["*.shop.example"], &["old.shop.example"]).allow(Some("https://old.shop.example/x")));
        assert!(!rules(&[], &["old.example"]).allow(Some("https://old.example")));
    }

    #[test]
    fn a_pattern_covers_names_below_but_not_the_name_itself() {
        let rules = rules(&["*.shop.example"], &[]);
        assert!(rules.allow(Some("https://a.b.shop.example/p?q#f")));
        assert!(!rules.allow(Some("https://shop.example/")));
        assert!(!rules.allow(Some("https://evilshop.example/")));
        assert!(!rules.allow(None));
    }

    #[test]
    fn the_host_of_a_page_is_what_a_browser_would_connect_to() {
        let rules = rules(&["shop.example"], &[]);
        assert!(rules.allow(Some("HTTPS://user@Shop.Example.:8443/x")));
        assert!(!rules.allow(Some("https://shop.example@evil.example/")));
        assert!(!rules.allow(Some("https://evil.example\\@shop.example/")));
        assert!(!rules.allow(Some("file:///shop.example")));
        assert!(!rules.allow(Some("null")));
    }
}
