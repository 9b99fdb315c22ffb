//! What a request is for, by its path.

/// What a path leads to. Paths are compared as they are, without percent-decoding: the clients send them plainly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// `/events`, or `/<one segment>/events` (the path-cookie form): the format of Meta's gateway.
    Gateway,
    /// `/tr` or `/tr/`: the format of the pixel's own endpoint.
    Pixel,
    /// `/v<N>.<M>/<pixel>/events` or `/capi/<pixel>/events`: the format of the Graph API.
    Graph {
        /// The pixel id as it stands in the path.
        pixel: &'a str,
    },
    /// `/pixelgate.js`
    Script,
    /// Nothing of ours.
    Other,
}

// === impl Target ===

impl<'a> Target<'a> {
    /// The target of a path.
    pub(super) fn of(path: &'a str) -> Self {
        let mut segments = path.strip_prefix('/').unwrap_or(path).split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("events"), None, ..) => Target::Gateway,
            (Some("tr"), None | Some(""), None, _) => Target::Pixel,
            (Some("pixelgate.js"), None, ..) => Target::Script,
            (Some(segment), Some("events"), None, _) if !segment.is_empty() => Target::Gateway,
            (Some(api), Some(pixel), Some("events"), None) if api == "capi" || is_version(api) => {
                Target::Graph { pixel }
            }
            _ => Target::Other,
        }
    }

    /// As the access log calls it.
    pub(super) fn label(self) -> &'static str {
        match self {
            Target::Gateway => "gateway",
            Target::Pixel => "pixel",
            Target::Graph { .. } => "graph",
            Target::Script => "script",
            Target::Other => "other",
        }
    }
}

/// `v<N>.<M>`
fn is_version(segment: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    segment.strip_prefix('v').and_then(|rest| rest.split_once('.')).is_some_and(|(n, m)| number(n) && number(m))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_path_has_one_target() {
        for (path, target) in [
            ("/events", Target::Gateway),
            ("/abc/events", Target::Gateway),
            ("/capi/events", Target::Gateway),
            ("/tr", Target::Pixel),
            ("/tr/", Target::Pixel),
            ("/v26.0/123/events", Target::Graph { pixel: "123" }),
            ("/capi/123/events", Target::Graph { pixel: "123" }),
            ("/capi//events", Target::Graph { pixel: "" }),
            ("/pixelgate.js", Target::Script),
            ("/", Target::Other),
            ("", Target::Other),
            ("*", Target::Other),
            ("/events/", Target::Other),
            ("//events", Target::Other),
            ("/tr//", Target::Other),
            ("/tr/x", Target::Other),
            ("/v26/123/events", Target::Other),
            ("/v26.x/123/events", Target::Other),
            ("/v26.0/123/events/", Target::Other),
            ("/v26.0/123/event", Target::Other),
            ("/a/b/events", Target::Other),
            ("/Events", Target::Other),
            ("/pixelgate.js/x", Target::Other),
        ] {
            assert_eq!(Target::of(path), target, "{path}");
        }
    }
}
