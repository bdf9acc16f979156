//! Label selectors: `a=b,c in (d,e),!f`.
//!
//! Grammar and error texts are those of `labels.Parse`: <https://pkg.go.dev/k8s.io/apimachinery/pkg/labels#Parse>.

mod parser;

use std::fmt;

use serde_json::{Map, Value};

use super::SelectorError;
use crate::admission::Cause;
use crate::schema::label_value_errors;

/// A parsed label selector. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    operator: Operator,
    /// Sorted, each once.
    values: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Exists,
    DoesNotExist,
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    GreaterThan,
    LessThan,
}

impl LabelSelector {
    /// Parses the value of a `labelSelector` parameter. Empty text selects everything.
    ///
    /// # Errors
    /// If the text does not follow the grammar, or a key or value breaks the rules for labels.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parser::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements })
    }

    /// Whether this selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether `object.metadata.labels` satisfies every requirement.
    pub fn matches(&self, object: &Value) -> bool {
        if self.requirements.is_empty() {
            return true;
        }
        let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
        self.requirements.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key)).and_then(Value::as_str);
        let has = |value: &str| self.values.iter().any(|v| v == value);
        match self.operator {
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Equals | Operator::DoubleEquals | Operator::In => value.is_some_and(has),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(has),
            Operator::GreaterThan => self.compare(value, |actual, bound| actual > bound),
            Operator::LessThan => self.compare(value, |actual, bound| actual < bound),
        }
    }

    fn compare(&self, value: Option<&str>, f: impl Fn(i64, i64) -> bool) -> bool {
        let bound = self.values.first().and_then(|v| v.parse().ok());
        match (value.and_then(|v| v.parse().ok()), bound) {
            (Some(actual), Some(bound)) => f(actual, bound),
            _ => false,
        }
    }

    fn checked(key: String, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        values.sort();
        values.dedup();
        let mut causes = Vec::new();
        for (index, value) in values.iter().enumerate() {
            let errors = label_value_errors(value);
            if !errors.is_empty() {
                causes.push(Cause::invalid(
                    format!("values[{index}][{key}]"),
                    &Value::from(value.as_str()),
                    errors.join("; "),
                ));
            }
            if matches!(operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                causes.push(Cause::invalid(format!("values[{index}]"), &Value::from(value.as_str()), detail));
            }
        }
        let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        match texts.as_slice() {
            [] => Ok(Self { key, operator, values }),
            [one] => Err(SelectorError::new(format!("unable to parse requirement: {one}"))),
            many => Err(SelectorError::new(format!("unable to parse requirement: [{}]", many.join(", ")))),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn requirements_match_as_documented() {
        let object = json!({"metadata": {"labels": {"a": "1", "b": "x", "e": ""}}});
        let table = [
            ("", true),
            ("a=1", true),
            ("a==1", true),
            ("a=2", false),
            ("a!=2", true),
            ("c!=2", true),
            ("a in (1,2)", true),
            ("a notin (1,2)", false),
            ("c notin (1)", true),
            ("c in (1)", false),
            ("a", true),
            ("!a", false),
            ("!c", true),
            ("a>0", true),
            ("a<1", false),
            ("b>0", false),
            ("e=", true),
            ("e in ()", true),
            ("a=1,b=x,!c", true),
            (" a = 1 , b in ( x , y ) ", true),
            ("a=1,b=y", false),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap().matches(&object), expected, "{text}");
        }
    }

    #[test]
    fn errors_are_the_real_servers() {
        let table = [
            ("a=b,", "found '', expected: identifier after ','"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            (
                "a>x",
                "unable to parse requirement: values[0]: Invalid value: \"x\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(LabelSelector::parse(text).unwrap_err().to_string(), expected, "{text}");
        }
        let bad_key = LabelSelector::parse("-a=b").unwrap_err().to_string();
        assert!(
            bad_key.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must consist"),
            "{bad_key}"
        );
    }

    fn requirement() -> impl Strategy<Value = String> {
        let key = "[a-z]([a-z.]{0,4}[a-z0-9])?";
        let value = "([A-Za-z0-9]([a-z_.-]{0,3}[a-z0-9])?)?";
        prop_oneof![
            key.prop_map(String::from),
            key.prop_map(|k| format!("!{k}")),
            (key, prop_oneof!["=", "==", "!="], value).prop_map(|(k, o, v)| format!("{k}{o}{v}")),
            (key, prop_oneof!["in", "notin"], prop::collection::vec(value, 1..4))
                .prop_map(|(k, o, v)| format!("{k} {o} ({})", v.join(","))),
        ]
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(parts in prop::collection::vec(requirement(), 0..4)) {
            let parsed = LabelSelector::parse(&parts.join(",")).unwrap();
            prop_assert_eq!(&LabelSelector::parse(&parsed.to_string()).unwrap(), &parsed);
        }

        #[test]
        fn no_text_panics(text in "[a-z=!(),<> é]{0,20}") {
            let _ = LabelSelector::parse(&text);
        }
    }
}
