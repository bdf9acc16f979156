//! What a command line names: `NAME`, `TYPE NAME` or `TYPE/NAME`.

use crate::error::Error;

/// Words for an OfflineVirtualMachine. `omv` is what the user guide's walk-through types.
const OVM_WORDS: &[&str] = &["ovm", "ovms", "omv", "offlinevirtualmachine", "offlinevirtualmachines"];
/// Words for a VirtualMachine.
const VM_WORDS: &[&str] = &["vm", "vms", "virtualmachine", "virtualmachines"];

/// The kind that a word stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ovm,
    Vm,
}

/// The name of the OfflineVirtualMachine that `words` stand for.
///
/// # Errors
/// An unknown type, or a VirtualMachine: the message says what to type.
pub(crate) fn offline_virtual_machine(verb: &str, words: &[String]) -> Result<String, Error> {
    match parse(words)? {
        (Some(Kind::Vm), name) => Err(Error::Usage(format!(
            "{verb} acts on an OfflineVirtualMachine, not on a VirtualMachine; type: virtctl {verb} {name}"
        ))),
        (_, name) => Ok(name),
    }
}

/// The name of the VirtualMachine that `words` stand for: it is that of its OfflineVirtualMachine.
///
/// # Errors
/// An unknown type.
pub(crate) fn virtual_machine(words: &[String]) -> Result<String, Error> {
    Ok(parse(words)?.1)
}

fn parse(words: &[String]) -> Result<(Option<Kind>, String), Error> {
    let (kind, name) = match words {
        [name] => match name.split_once('/') {
            Some((kind, name)) => (Some(kind), name),
            None => (None, name.as_str()),
        },
        [kind, name] => (Some(kind.as_str()), name.as_str()),
        _ => (None, ""),
    };
    if name.is_empty() || name.contains('/') {
        return Err(Error::Usage(format!("'{}' names no virtual machine; give NAME, or TYPE NAME", words.join(" "))));
    }
    // It becomes a part of a path, which a space breaks and a question mark ends.
    if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.')) {
        return Err(Error::Usage(format!(
            "'{name}' is not the name of an object; give it as `kubectl get ovm` shows it"
        )));
    }
    Ok((kind.map(kind_of).transpose()?, name.to_owned()))
}

fn kind_of(word: &str) -> Result<Kind, Error> {
    let bare = word.to_ascii_lowercase();
    let bare = bare.strip_suffix(".kubevirt.io").unwrap_or(&bare);
    if OVM_WORDS.contains(&bare) {
        Ok(Kind::Ovm)
    } else if VM_WORDS.contains(&bare) {
        Ok(Kind::Vm)
    } else {
        Err(Error::Usage(format!("unknown type '{word}'; use ovm, or give the name alone")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn every_form_names_the_same_machine() {
        for form in ["x", "ovm x", "omv x", "ovm/x", "offlinevirtualmachine x", "OfflineVirtualMachine.kubevirt.io/x"] {
            assert_eq!(offline_virtual_machine("start", &words(form)).unwrap(), "x", "{form}");
        }
        for form in ["x", "vm x", "vm/x", "ovm x"] {
            assert_eq!(virtual_machine(&words(form)).unwrap(), "x", "{form}");
        }
    }

    #[test]
    fn a_virtual_machine_is_refused_with_what_to_type() {
        let error = offline_virtual_machine("start", &words("vm x")).unwrap_err().to_string();
        assert!(error.ends_with("type: virtctl start x"), "{error}");
        for form in ["pod x", "ovm/", "a/b/c", "", "x?dryRun=All", "ovm x#y", "../x", "ovm/a%2Fb"] {
            assert!(offline_virtual_machine("start", &words(form)).is_err(), "{form}");
        }
    }
}
