//! What a path names.

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/healthz`, `/livez`, `/readyz` and what is below them.
    Health,
    /// `/version`.
    Version,
    /// `/api`.
    CoreVersions,
    /// `/apis`.
    Groups,
    /// `/apis/GROUP`.
    Group { group: String },
    /// `/api/v1`, `/apis/GROUP/VERSION`.
    Resources { group: String, version: String },
    /// `/openapi/v2`.
    OpenApiV2,
    /// `/openapi/v3`, and one document of it.
    OpenApiV3 { path: Option<String> },
    /// A resource, or an object of it, or a subresource of that.
    Resource(Target),
}

/// A resource's path, taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) group: String,
    pub(crate) version: String,
    /// Namespace of the path; `None`: all namespaces, or a cluster-scoped resource.
    pub(crate) namespace: Option<String>,
    pub(crate) plural: String,
    pub(crate) name: Option<String>,
    pub(crate) subresource: Option<String>,
}

/// Subresources of a namespace; what else follows a namespace's name is a resource in it.
const NAMESPACE_SUBRESOURCES: &[&str] = &["status", "finalize"];

impl Route {
    /// Takes a path apart; `None` if nothing can be there.
    pub(crate) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Option<_>>()?;
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let text = |part: &&str| (**part).to_owned();
        Some(match parts.as_slice() {
            ["healthz" | "livez" | "readyz", ..] => Self::Health,
            ["version"] => Self::Version,
            ["openapi", "v2"] => Self::OpenApiV2,
            ["openapi", "v3"] => Self::OpenApiV3 { path: None },
            ["openapi", "v3", rest @ ..] => Self::OpenApiV3 { path: Some(rest.join("/")) },
            ["api"] => Self::CoreVersions,
            ["apis"] => Self::Groups,
            ["apis", group] => Self::Group { group: text(group) },
            ["api", version] => Self::Resources { group: String::new(), version: text(version) },
            ["apis", group, version] => Self::Resources { group: text(group), version: text(version) },
            ["api", version, rest @ ..] => Self::Resource(Target::parse("", version, rest)?),
            ["apis", group, version, rest @ ..] => Self::Resource(Target::parse(group, version, rest)?),
            _ => return None,
        })
    }
}

impl Target {
    fn parse(group: &str, version: &str, rest: &[&str]) -> Option<Self> {
        let (namespace, rest) = match rest {
            ["namespaces", namespace, plural, more @ ..]
                if !(group.is_empty() && more.is_empty() && NAMESPACE_SUBRESOURCES.contains(plural)) =>
            {
                (Some((*namespace).to_owned()), [&[*plural], more].concat())
            }
            rest => (None, rest.to_vec()),
        };
        if rest.len() > 3 {
            return None;
        }
        let part = |index: usize| rest.get(index).map(|part| (*part).to_owned());
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            namespace,
            plural: part(0)?,
            name: part(1),
            subresource: part(2),
        })
    }
}

/// Undoes percent-encoding; `None` if it is broken, or hides a slash or a NUL.
fn decode(part: &str) -> Option<String> {
    if !part.contains('%') {
        return Some(part.to_owned());
    }
    let bytes = part.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        if byte == b'%' {
            let hex = part.get(index + 1..index + 3)?;
            out.push(u8::from_str_radix(hex, 16).ok()?);
            index += 3;
        } else {
            out.push(byte);
            index += 1;
        }
    }
    String::from_utf8(out).ok().filter(|text| !text.contains(['/', '\0']))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> (Option<String>, String, Option<String>, Option<String>) {
        match Route::parse(path) {
            Some(Route::Resource(t)) => (t.namespace, t.plural, t.name, t.subresource),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn resource_paths_are_taken_apart() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(target("/api/v1/namespaces"), (None, "namespaces".into(), None, None));
        assert_eq!(target("/api/v1/namespaces/a"), (None, "namespaces".into(), some("a"), None));
        assert_eq!(target("/api/v1/namespaces/a/status"), (None, "namespaces".into(), some("a"), some("status")));
        assert_eq!(target("/api/v1/namespaces/a/pods"), (some("a"), "pods".into(), None, None));
        assert_eq!(target("/apis/g/v/namespaces/a/xs/b/status"), (some("a"), "xs".into(), some("b"), some("status")));
        assert_eq!(target("/apis/g/v/xs/b%2Dc"), (None, "xs".into(), some("b-c"), None));
    }

    #[test]
    fn paths_that_name_nothing_are_refused() {
        for path in ["/", "/nothing", "/apis/g/v/xs/a/b/c", "/api/v1/xs/%2f", "/api/v1/xs/%zz", "/api/v1/xs/%"] {
            assert_eq!(Route::parse(path), None, "{path}");
        }
    }
}
