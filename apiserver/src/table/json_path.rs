//! The part of kubectl's JSONPath that printer columns use: names, indices, wildcards and filters.
//!
//! <https://kubernetes.io/docs/reference/kubectl/jsonpath/>. The server admits only such simple paths for columns.

use serde_json::{Number, Value};

/// A parsed path. The default finds nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Name(String),
    Index(i64),
    All,
    Filter { path: JsonPath, test: Option<(Comparison, Value)> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equal,
    NotEqual,
}

impl JsonPath {
    /// Parses `.status.conditions[?(@.type=='Ready')].status`; nothing if it is not understood.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut steps = Vec::new();
        let mut rest = text.trim();
        rest = rest.strip_prefix('$').unwrap_or(rest);
        while !rest.is_empty() {
            if let Some(tail) = rest.strip_prefix('[') {
                let (inner, tail) = bracket(tail)?;
                steps.push(parse_bracket(inner.trim())?);
                rest = tail;
            } else {
                let tail = rest.strip_prefix('.').unwrap_or(rest);
                let (name, tail) = parse_name(tail, |c| c == '.' || c == '[');
                match name.as_str() {
                    "" if tail.is_empty() && steps.is_empty() => {}
                    "" => return None,
                    "*" => steps.push(Step::All),
                    _ => steps.push(Step::Name(name)),
                }
                rest = tail;
            }
        }
        Some(Self { steps })
    }

    /// The first value found in `item`.
    pub(super) fn first<'a>(&self, item: &'a Value) -> Option<&'a Value> {
        if self.steps.is_empty() {
            return None;
        }
        self.find(item).into_iter().next()
    }

    fn find<'a>(&self, item: &'a Value) -> Vec<&'a Value> {
        self.steps.iter().fold(vec![item], |found, step| found.into_iter().flat_map(|v| step.apply(v)).collect())
    }

    /// The cell that a column of type `kind` shows: null where nothing is found or the type does not fit.
    pub(super) fn cell(&self, item: &Value, kind: &str) -> Value {
        let Some(found) = self.first(item) else { return Value::Null };
        match (kind, found) {
            // What Go's templates print for nil.
            ("string", Value::Null) => Value::from("<no value>"),
            ("string", Value::String(_)) | ("boolean", Value::Bool(_)) => found.clone(),
            ("string", Value::Number(n)) => Value::from(printed_number(n).to_string()),
            ("string", other) => Value::from(other.to_string()),
            ("integer", Value::Number(n)) => cut(n).map_or(Value::Null, Value::from),
            ("number", Value::Number(n)) => Value::Number(printed_number(n)),
            _ => Value::Null,
        }
    }
}

/// The whole part of a number: the real server cuts, it does not round.
fn cut(number: &Number) -> Option<i64> {
    #[expect(clippy::cast_possible_truncation, reason = "`as` saturates, and a cell is only printed")]
    number.as_i64().or_else(|| number.as_f64().map(|f| f as i64))
}

/// A float without fraction is printed as an integer, as Go does.
fn printed_number(number: &Number) -> Number {
    let is_whole = number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 1e15);
    cut(number).filter(|_| is_whole).map_or_else(|| number.clone(), Number::from)
}

impl Step {
    fn apply<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        match self {
            Self::Name(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let Some(items) = value.as_array() else { return Vec::new() };
                let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
                let index = if *index < 0 { length + index } else { *index };
                usize::try_from(index).ok().and_then(|i| items.get(i)).into_iter().collect()
            }
            Self::All => children(value),
            Self::Filter { path, test } => children(value)
                .into_iter()
                .filter(|child| {
                    let found = path.first(child);
                    match test {
                        None => found.is_some(),
                        Some((Comparison::Equal, want)) => found == Some(want),
                        Some((Comparison::NotEqual, want)) => found.is_some_and(|f| f != want),
                    }
                })
                .collect(),
        }
    }
}

fn children(value: &Value) -> Vec<&Value> {
    match value {
        Value::Array(items) => items.iter().collect(),
        Value::Object(map) => map.values().collect(),
        _ => Vec::new(),
    }
}

/// Splits after the bracket that closes the one already read. Quotes hide brackets.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (1, None);
    for (index, c) in text.char_indices() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '[') => depth += 1,
            (None, ']') => {
                depth -= 1;
                if depth == 0 {
                    return Some((text.get(..index)?, text.get(index + 1..)?));
                }
            }
            _ => {}
        }
    }
    None
}

fn parse_bracket(inner: &str) -> Option<Step> {
    if inner == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(inner) {
        return Some(Step::Name(parse_name(name, |_| false).0));
    }
    if let Some(filter) = inner.strip_prefix("?(").and_then(|f| f.strip_suffix(')')) {
        return parse_filter(filter);
    }
    inner.parse().ok().map(Step::Index)
}

fn parse_filter(text: &str) -> Option<Step> {
    for (operator, comparison) in [("==", Comparison::Equal), ("!=", Comparison::NotEqual)] {
        if let Some((path, literal)) = text.split_once(operator) {
            let path = JsonPath::parse(path.trim().strip_prefix('@')?)?;
            let literal = literal.trim();
            let want = match unquote(literal) {
                Some(text) => Value::from(text),
                None => serde_json::from_str(literal).ok()?,
            };
            return Some(Step::Filter { path, test: Some((comparison, want)) });
        }
    }
    let path = JsonPath::parse(text.trim().strip_prefix('@')?)?;
    Some(Step::Filter { path, test: None })
}

fn unquote(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

/// A name up to where it ends, and the rest; a backslash keeps the character after it.
fn parse_name(text: &str, is_end: impl Fn(char) -> bool) -> (String, &str) {
    let mut name = String::new();
    let mut is_escaped = false;
    for (index, c) in text.char_indices() {
        match c {
            _ if is_escaped => {
                name.push(c);
                is_escaped = false;
            }
            '\\' => is_escaped = true,
            c if is_end(c) => return (name, text.get(index..).unwrap_or_default()),
            _ => name.push(c),
        }
    }
    (name, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_find_their_first_value() {
        let item = json!({
            "metadata": {"labels": {"kubevirt.io/nodeName": "n1"}},
            "status": {
                "interfaces": [{"ipAddress": "10.0.0.2"}, {"ipAddress": "10.0.0.3"}],
                "conditions": [{"type": "Synchronized", "status": "False"}, {"type": "Ready", "status": "True", "n": 2}],
                "count": 3.7, "flag": true, "nothing": null, "map": {"a": 1},
            },
        });
        let table = [
            (".metadata.labels.kubevirt\\.io/nodeName", "string", json!("n1")),
            (".metadata.labels['kubevirt.io/nodeName']", "string", json!("n1")),
            (".status.interfaces[0].ipAddress", "string", json!("10.0.0.2")),
            (".status.interfaces[-1].ipAddress", "string", json!("10.0.0.3")),
            (".status.interfaces[*].ipAddress", "string", json!("10.0.0.2")),
            (".status.interfaces[7].ipAddress", "string", json!(null)),
            (".status.conditions[?(@.type=='Ready')].status", "string", json!("True")),
            (".status.conditions[?(@.type == \"Ready\")].status", "string", json!("True")),
            (".status.conditions[?(@.type!='Ready')].status", "string", json!("False")),
            (".status.conditions[?(@.n==2)].type", "string", json!("Ready")),
            (".status.conditions[?(@.n)].type", "string", json!("Ready")),
            (".status.count", "integer", json!(3)),
            (".status.flag", "boolean", json!(true)),
            (".status.flag", "string", json!("true")),
            (".status.flag", "integer", json!(null)),
            (".status.nothing", "string", json!("<no value>")),
            (".metadata.labels['kubevirt\\.io/nodeName']", "string", json!("n1")),
            (".status.map", "string", json!("{\"a\":1}")),
            (".missing.deep", "string", json!(null)),
        ];
        for (path, kind, expected) in table {
            assert_eq!(JsonPath::parse(path).unwrap().cell(&item, kind), expected, "{path}");
        }
    }

    #[test]
    fn broken_paths_are_not_understood() {
        for text in [".a[", ".a..b", ".a[x]", ".a[?(b==1)]"] {
            assert_eq!(JsonPath::parse(text), None, "{text}");
        }
        assert_eq!(JsonPath::default().first(&json!({"a": 1})), None);
    }
}
