//! Names, label keys and label values: the rules of apimachinery's `validate/content`, with its texts.
//!
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/names/>. Plain scans instead of regular
//! expressions: they run for every write.

const LABEL_LIMIT: usize = 63;
const SUBDOMAIN_LIMIT: usize = 253;

/// What is wrong with `name` as a DNS subdomain (the rule for most objects); empty if nothing.
pub fn dns_subdomain_errors(name: &str) -> Vec<String> {
    let mut errors = too_long(name, SUBDOMAIN_LIMIT);
    if !name.split('.').all(is_label_shape) {
        errors.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .to_owned(),
        );
    }
    errors
}

/// What is wrong with `name` as a DNS label (the rule for namespaces); empty if nothing.
pub fn dns_label_errors(name: &str) -> Vec<String> {
    let mut errors = too_long(name, LABEL_LIMIT);
    if !is_label_shape(name) {
        errors.push(if name.split('.').all(is_label_shape) {
            "must not contain dots".to_owned()
        } else {
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .to_owned()
        });
    }
    errors
}

/// What is wrong with `key` as a label key (`prefix/name`); empty if nothing. Annotation keys and finalizers obey it too.
pub fn label_key_errors(key: &str) -> Vec<String> {
    const SHAPE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                         alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation \
                         is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut errors = Vec::new();
    let mut parts = key.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else {
                errors.extend(dns_subdomain_errors(prefix).iter().map(|e| format!("prefix part {e}")));
            }
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {SHAPE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    }
    errors.extend(too_long(name, LABEL_LIMIT).iter().map(|e| format!("name part {e}")));
    if name.is_empty() || !is_word(name) {
        errors.push(format!("name part {SHAPE}"));
    }
    errors
}

/// What is wrong with `value` as a label value; empty if nothing.
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = too_long(value, LABEL_LIMIT);
    if !value.is_empty() && !is_word(value) {
        errors.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for \
             validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .to_owned(),
        );
    }
    errors
}

pub(crate) fn is_dns_label(name: &str) -> bool {
    name.len() <= LABEL_LIMIT && is_label_shape(name)
}

pub(crate) fn is_dns_subdomain(name: &str) -> bool {
    name.len() <= SUBDOMAIN_LIMIT && name.split('.').all(is_label_shape)
}

fn too_long(text: &str, limit: usize) -> Vec<String> {
    if text.len() > limit { vec![format!("must be no more than {limit} bytes")] } else { Vec::new() }
}

fn is_label_shape(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.first().copied().is_some_and(alphanumeric)
        && bytes.last().copied().is_some_and(alphanumeric)
        && bytes.iter().all(|&b| alphanumeric(b) || b == b'-')
}

fn is_word(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "a-b.c", "0"] {
            assert!(dns_subdomain_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "A", "-a", "a-", "a..b", "a_b", ".a"] {
            assert!(!dns_subdomain_errors(bad).is_empty(), "{bad}");
        }
        assert_eq!(dns_label_errors("a.b"), ["must not contain dots"]);
        assert_eq!(dns_label_errors(&"a".repeat(64)), ["must be no more than 63 bytes"]);
    }

    #[test]
    fn label_keys_have_an_optional_prefix() {
        for good in ["a", "kubevirt.io/nodeName", "A_b.c", &format!("x/{}", "a".repeat(63))] {
            assert!(label_key_errors(good).is_empty(), "{good}");
        }
        for bad in ["", "/a", "a/", "a/b/c", "X/a", "-a", "a b"] {
            assert!(!label_key_errors(bad).is_empty(), "{bad}");
        }
        assert!(label_value_errors("").is_empty());
        assert!(!label_value_errors("a b").is_empty());
    }
}
