//! Label and field selectors of list, watch and delete-collection requests.
//!
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api>,
//! <https://kubernetes.io/docs/concepts/overview/working-with-objects/field-selectors/>.

mod field;
mod label;

pub use field::{FieldSelector, SelectableFields};
pub use label::LabelSelector;

/// A selector that cannot be used: 400 BadRequest with this text, which is the real server's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SelectorError {
    message: String,
}

impl SelectorError {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into() }
    }
}
