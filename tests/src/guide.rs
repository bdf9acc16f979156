//! What the user guide shows, for whoever walks through it.

use anyhow::{Result, ensure};

/// `kubectl describe ovm ovm-cirros`, once its guest runs.
///
/// # Errors
/// When something that the guide shows is not there.
pub fn ensure_described(text: &str) -> Result<()> {
    for words in [
        &["Created:", "true"][..],
        &["Ready:", "true"],
        &["Normal", "SuccessfulCreate", "offlinevirtualmachine-controller", "Created virtual machine: ovm-cirros"],
    ] {
        let found = text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        ensure!(found, "no line with {words:?} in\n{text}");
    }
    Ok(())
}
