//! Takes from this process, for good, what looking at a file that is open does not need: file system, network, other processes.
//!
//! The wall is the list of system calls (<https://docs.kernel.org/userspace-api/seccomp_filter.html>): whoever takes over the process can read what is open, compute, and answer. The limits keep it
//! from computing for long.

use std::collections::BTreeMap;

use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

const MEMORY_BYTES: u64 = 1 << 30;
const CPU_SECONDS: u64 = 10;
/// `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// Reading and writing what is open, memory, and the end.
const ALLOWED: &[libc::c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_write,
    libc::SYS_close,
    libc::SYS_fcntl,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Why this process is not shut in.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A limit is not taken.
    #[error("limit {0}")]
    Limit(&'static str, #[source] nix::Error),
    /// The list of system calls is not taken.
    #[error("restrict system calls")]
    Filter(#[from] seccompiler::Error),
    /// It cannot be made for this processor.
    #[error("restrict system calls")]
    Backend(#[from] seccompiler::BackendError),
}

/// Shuts this process in. A system call that is not needed ends it from here on.
///
/// # Errors
/// If it cannot be shut in. It must not look at anything then.
pub fn enter() -> Result<(), SandboxError> {
    for (name, resource, limit) in [
        ("memory", Resource::RLIMIT_AS, MEMORY_BYTES),
        ("processor time", Resource::RLIMIT_CPU, CPU_SECONDS),
        ("the size of files", Resource::RLIMIT_FSIZE, 0),
        ("the size of core files", Resource::RLIMIT_CORE, 0),
        ("open files", Resource::RLIMIT_NOFILE, 0),
    ] {
        setrlimit(resource, limit, limit).map_err(|error| SandboxError::Limit(name, error))?;
    }
    // Where we are not root, or root without this right, there is nothing to give up.
    let _ = setgroups(&[]);
    let _ = setgid(Gid::from_raw(NOBODY));
    let _ = setuid(Uid::from_raw(NOBODY));
    let rules = ALLOWED.iter().map(|call| (*call, Vec::new())).collect::<BTreeMap<_, _>>();
    let architecture = std::env::consts::ARCH.try_into()?;
    let filter = SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, architecture)?;
    let program: BpfProgram = filter.try_into()?;
    Ok(apply_filter(&program)?)
}
