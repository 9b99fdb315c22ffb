//! Query strings.

/// The URL without its fragment and its query, but for the parameters that are kept.
pub(crate) fn strip_query(url: &str, keeps: impl Fn(&str) -> bool) -> String {
    let url = url.split_once('#').map_or(url, |(before, _)| before);
    let Some((address, query)) = url.split_once('?') else { return url.to_owned() };
    let name = |pair: &&str| keeps(pair.split_once('=').map_or(*pair, |(name, _)| name));
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty()).filter(name).collect();
    if kept.is_empty() { address.to_owned() } else { format!("{address}?{}", kept.join("&")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kept_parameters_stay() {
        let strip = |url| strip_query(url, |name| name == "utm_source");
        assert_eq!(strip("https://a.example/b?x=1&utm_source=n&y"), "https://a.example/b?utm_source=n");
        assert_eq!(strip("https://a.example/b?x=1"), "https://a.example/b");
        assert_eq!(strip("https://a.example/b?utm_source"), "https://a.example/b?utm_source");
        assert_eq!(strip("https://a.example/b#c?utm_source=n"), "https://a.example/b", "a fragment is no query");
        assert_eq!(strip("https://a.example/b?&&"), "https://a.example/b");
        assert_eq!(strip(""), "");
    }
}
