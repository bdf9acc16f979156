//! How the C library keeps its heap in a process that calls libvirt.
//!
//! Every call to libvirt runs on a thread of its own, and glibc gives threads heaps of their own, each of which keeps what it once needed. Nothing here
//! allocates so much that threads would wait for one heap. Measured with 20 guests: 44 MB resident in place of 51 MB.

#![expect(unsafe_code, reason = "there is no safe way to set glibc's options from within the process")]

/// Allocations from this size on are mapped apart, and given back when they are freed. glibc's own start value, which it would raise by and by.
const APART_BYTES: libc::c_int = 128 * 1024;

/// Makes all threads share one heap, which gives memory back when it is free. For the first line of `main`: it changes nothing for threads that have
/// allocated before.
pub fn share_one_heap() {
    for (option, value) in
        [(libc::M_ARENA_MAX, 1), (libc::M_MMAP_THRESHOLD, APART_BYTES), (libc::M_TRIM_THRESHOLD, APART_BYTES)]
    {
        // SAFETY: mallopt takes two numbers, locks the allocator itself, and refuses what it does not know.
        let _taken = unsafe { libc::mallopt(option, value) };
    }
}
