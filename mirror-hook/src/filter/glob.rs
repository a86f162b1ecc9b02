//! Patterns for the paths of executables.

/// A pattern: `*` stands for any number of characters, `/` among them, `?` for one. A pattern without `/`
/// is about the file's name alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Any text is a pattern.
    pub fn new(pattern: &str) -> Self {
        Self(pattern.to_owned())
    }

    /// The pattern as text.
    pub fn pattern(&self) -> &str {
        &self.0
    }

    /// Whether a whole path fits.
    pub fn matches(&self, path: &[u8]) -> bool {
        fits_path(self.0.as_bytes(), path)
    }
}

/// Whether a whole path fits a pattern.
pub(super) fn fits_path(pattern: &[u8], path: &[u8]) -> bool {
    let name = || path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
    match pattern.contains(&b'/') {
        true => fits(pattern, path),
        false => fits(pattern, name()),
    }
}

/// Goes back to the last `*` only: at most length times length steps.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(byte) if *byte == b'?' || *byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star_p, star_t)) = star else {
                    return false;
                };
                star = Some((star_p, star_t + 1));
                (p, t) = (star_p + 1, star_t + 1);
            }
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_and_names() {
        for (pattern, path, expected) in [
            ("/usr/sbin/nginx", "/usr/sbin/nginx", true),
            ("/usr/sbin/nginx", "/usr/sbin/nginx2", false),
            ("nginx", "/usr/sbin/nginx", true),
            ("nginx", "/nginx/curl", false),
            ("/usr/*", "/usr/sbin/nginx", true),
            ("/opt/*/bin/java", "/opt/jdk/17/bin/java", true),
            ("python3.?", "/usr/bin/python3.9", true),
            ("python3.?", "/usr/bin/python3.11", false),
            ("*", "/x", true),
            ("", "/x", false),
        ] {
            let glob = Glob::new(pattern);
            assert_eq!(glob.matches(path.as_bytes()), expected, "{pattern} {path}");
        }
    }

    fn slowly(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], _) => text.is_empty(),
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| slowly(rest, &text[skip..])),
            ([b'?', rest @ ..], [_, more @ ..]) => slowly(rest, more),
            ([byte, rest @ ..], [first, more @ ..]) => byte == first && slowly(rest, more),
            (_, []) => false,
        }
    }

    proptest! {
        #[test]
        fn as_the_slow_way(
            pattern in prop::collection::vec(prop::sample::select(b"ab*?".to_vec()), 0..7),
            text in prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..9),
        ) {
            prop_assert_eq!(fits(&pattern, &text), slowly(&pattern, &text));
        }
    }
}
