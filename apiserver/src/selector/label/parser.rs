//! The tokens and the grammar of label selectors.

use serde_json::Value;

use super::{Operator, Requirement};
use crate::admission::Cause;
use crate::schema::label_key_errors;
use crate::selector::SelectorError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    End,
    Error,
    Identifier,
    Comma,
    Open,
    Close,
    Not,
    Operator(Operator),
}

struct Parser {
    tokens: Vec<(Token, String)>,
    position: usize,
}

/// The requirements of a selector, in the order of the text.
pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    Parser { tokens: scan(text), position: 0 }.parse()
}

impl Parser {
    fn parse(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek_value() {
                (Token::Identifier | Token::Not, _) => requirements.push(self.requirement()?),
                (Token::End, _) => return Ok(requirements),
                (_, text) => {
                    return Err(SelectorError::new(format!(
                        "found '{text}', expected: !, identifier, or 'end of string'"
                    )));
                }
            }
            match self.next_value() {
                (Token::End, _) => return Ok(requirements),
                (Token::Comma, _) => {
                    let (token, text) = self.peek_value();
                    if !matches!(token, Token::Identifier | Token::Not) {
                        return Err(SelectorError::new(format!("found '{text}', expected: identifier after ','")));
                    }
                }
                (_, text) => {
                    return Err(SelectorError::new(format!("found '{text}', expected: ',' or 'end of string'")));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let fail = |text: String| Err(SelectorError::new(format!("unable to parse requirement: {text}")));
        let (mut token, mut key) = self.next_value();
        let is_negated = token == Token::Not;
        if is_negated {
            (token, key) = self.next_value();
        }
        if token != Token::Identifier {
            return fail(format!("found '{key}', expected: identifier"));
        }
        let errors = label_key_errors(&key);
        if !errors.is_empty() {
            let cause = Cause::invalid("<nil>", &Value::from(key.as_str()), errors.join("; "));
            return fail(format!("{}: {}", cause.field, cause.message));
        }
        if is_negated {
            return Requirement::checked(key, Operator::DoesNotExist, Vec::new());
        }
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Requirement::checked(key, Operator::Exists, Vec::new());
        }
        let operator = match self.next() {
            (Token::Operator(operator), _) => operator,
            (_, text) => {
                return fail(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt"));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values(),
            _ => self.exact_value(),
        };
        match values {
            Ok(values) => Requirement::checked(key, operator, values),
            Err(text) => fail(text),
        }
    }

    fn exact_value(&mut self) -> Result<Vec<String>, String> {
        if matches!(self.peek_value().0, Token::End | Token::Comma) {
            return Ok(vec![String::new()]);
        }
        match self.next_value() {
            (Token::Identifier, text) => Ok(vec![text]),
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        let (token, text) = self.next_value();
        if token != Token::Open {
            return Err(format!("found '{text}' expected: '('"));
        }
        let mut values = Vec::new();
        let mut is_value_due = true;
        loop {
            match self.next_value() {
                (Token::Identifier, text) if is_value_due => {
                    values.push(text);
                    is_value_due = false;
                }
                (Token::Comma, _) => {
                    if is_value_due {
                        values.push(String::new());
                    }
                    is_value_due = true;
                }
                (Token::Close, _) => {
                    if is_value_due {
                        values.push(String::new());
                    }
                    return Ok(values);
                }
                (_, text) if is_value_due => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
                (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
            }
        }
    }

    /// The next token where a value may stand: `in` and `notin` are values there.
    fn peek_value(&self) -> (Token, String) {
        let (token, text) = self.tokens.get(self.position).cloned().unwrap_or((Token::End, String::new()));
        match token {
            Token::Operator(Operator::In | Operator::NotIn) => (Token::Identifier, text),
            _ => (token, text),
        }
    }

    fn next_value(&mut self) -> (Token, String) {
        let found = self.peek_value();
        self.position += 1;
        found
    }

    fn next(&mut self) -> (Token, String) {
        let found = self.tokens.get(self.position).cloned().unwrap_or((Token::End, String::new()));
        self.position += 1;
        found
    }
}

fn scan(text: &str) -> Vec<(Token, String)> {
    let is_special = |c: char| "=!(),><".contains(c);
    let is_space = |c: char| " \t\r\n".contains(c);
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if is_special(first) {
            special(rest)
        } else {
            let length = rest.find(|c| is_special(c) || is_space(c)).unwrap_or(rest.len());
            let token = match rest.get(..length) {
                Some("in") => Token::Operator(Operator::In),
                Some("notin") => Token::Operator(Operator::NotIn),
                _ => Token::Identifier,
            };
            (token, length)
        };
        let (literal, tail) = rest.split_at(length);
        tokens.push((token, literal.to_owned()));
        rest = tail.trim_start_matches(is_space);
    }
    tokens
}

fn special(rest: &str) -> (Token, usize) {
    let table = [
        ("==", Token::Operator(Operator::DoubleEquals)),
        ("!=", Token::Operator(Operator::NotEquals)),
        ("=", Token::Operator(Operator::Equals)),
        (">", Token::Operator(Operator::GreaterThan)),
        ("<", Token::Operator(Operator::LessThan)),
        ("!", Token::Not),
        (",", Token::Comma),
        ("(", Token::Open),
        (")", Token::Close),
    ];
    let found = table.into_iter().find(|(text, _)| rest.starts_with(text));
    found.map_or((Token::Error, 1), |(text, token)| (token, text.len()))
}
