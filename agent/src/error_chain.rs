//! An error and its causes in one line, joined with `": "`, as conditions, events and logs show them.

use std::error::Error;

/// The line. A cause that the text before it already ends with is not repeated: some libraries print their source themselves.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
