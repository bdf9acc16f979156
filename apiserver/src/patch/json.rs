//! JSON patch (RFC 6902), with bounds: a few operations can otherwise blow an object up without end.

use json_patch::PatchOperation;
use serde_json::Value;

use super::PatchError;

/// Operations that one patch may hold, the real server's limit.
pub(super) const MAX_OPERATIONS: usize = 10_000;

/// Bytes that the `copy` operations of one patch may add; each may double the object. The real server's limit.
const MAX_COPIED_BYTES: usize = 3 * 1024 * 1024;

/// Levels of nesting of the result. A request's body stays below 128 (or is no JSON for our parser), but a patch can add
/// its value deep inside; what is stored must be readable again.
const MAX_DEPTH: usize = 100;

/// `object` with `operations` applied, all of them.
///
/// # Errors
/// [`PatchError::TooLarge`] for too many operations, [`PatchError::Rejected`] if one does not fit the object, or the result
/// would be too big.
pub(super) fn apply(object: &Value, operations: &[PatchOperation]) -> Result<Value, PatchError> {
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::TooLarge { got: operations.len() });
    }
    let reject = |message: String| Err(PatchError::Rejected { message });
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = operation {
            copied += patched.pointer(copy.from.as_str()).map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED_BYTES {
                return reject(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit \
                     {MAX_COPIED_BYTES}"
                ));
            }
        }
        // Before it is made: dropping or printing a value of a million levels overflows the stack, which ends the process.
        if goes_too_deep(&patched, operation) {
            return reject(format!("the patched object is nested more than {MAX_DEPTH} levels deep"));
        }
        // Unsafe means: not undone on failure. The copy is thrown away then.
        if let Err(error) = json_patch::patch_unsafe(&mut patched, std::slice::from_ref(operation)) {
            return reject(error.to_string());
        }
    }
    if is_deeper_than(&patched, MAX_DEPTH) {
        return reject(format!("the patched object is nested more than {MAX_DEPTH} levels deep"));
    }
    Ok(patched)
}

/// Whether an operation puts a value so deep inside that the result has too many levels.
fn goes_too_deep(object: &Value, operation: &PatchOperation) -> bool {
    let value = match operation {
        PatchOperation::Add(add) => Some(&add.value),
        PatchOperation::Replace(replace) => Some(&replace.value),
        PatchOperation::Copy(copy) => object.pointer(copy.from.as_str()),
        PatchOperation::Move(from) => object.pointer(from.from.as_str()),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    let levels = operation.path().as_str().matches('/').count();
    value.is_some_and(|value| MAX_DEPTH.checked_sub(levels).is_none_or(|left| is_deeper_than(value, left)))
}

/// Walks without recursion: the value may be deeper than the stack.
fn is_deeper_than(value: &Value, limit: usize) -> bool {
    let mut pending = vec![(value, 0)];
    while let Some((value, depth)) = pending.pop() {
        if depth > limit {
            return true;
        }
        match value {
            Value::Array(items) => pending.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(map) => pending.extend(map.values().map(|child| (child, depth + 1))),
            _ => {}
        }
    }
    false
}
