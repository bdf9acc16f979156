//! An error and its causes in one line: the form in which conditions, events, logs and programs show errors.

use std::error::Error;

/// The error and its causes, joined with `": "`. A cause whose text is part of what is there already is not repeated, and only the first line of
/// each is taken: some libraries print their source themselves, and parsers add drawings of their input.
pub fn chain(error: &dyn Error) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        let line = cause_text.lines().next().unwrap_or_default();
        if !text.contains(line) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(line);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layer(text: &'static str, source: Option<Layer>) -> Layer {
        Layer { text, source: source.map(Box::new) }
    }

    #[test]
    fn a_chain_is_one_line_and_says_nothing_twice() {
        let error =
            layer("define domain a", Some(layer("call libvirt: no route\n  ^ here", Some(layer("no route", None)))));
        assert_eq!(chain(&error), "define domain a: call libvirt: no route");
        assert_eq!(chain(&layer("alone", None)), "alone");
    }
}
