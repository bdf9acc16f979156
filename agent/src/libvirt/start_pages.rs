//! Gives back the memory that only the start of the process needed.
//!
//! libvirt's client library brings some sixty others. The loader reads their symbols and relocations, their constructors run, our own code parses options and
//! documents, and for each page that is touched the kernel maps sixteen. Most of that is never looked at again, but stays mapped, and counts as in use. A page of
//! code or constants that is let go costs nothing but a minor fault if it is needed after all: it is still in the page cache. Measured with 20 guests: of 28 MB
//! of files mapped, 14 MB come back within minutes of passes, starts and kubectl, and no more. What guests' starts brought back goes once more when the last one is a
//! while ago. `docs/decisions/0080-start-pages.md` says why this is worth doing.

#![expect(unsafe_code, reason = "there is no safe way to walk the loaded objects, nor to advise the kernel")]

use std::ffi::c_void;
use std::slice;

/// Lets go of every page of code and constants that is mapped now, of the program and of its libraries. They come back, one fault at a time, where they are
/// used. For when a start is over.
pub fn give_back_start_pages() {
    // SAFETY: the callback has the type that is asked for, keeps nothing of what it is given, and does not unwind. While it runs the loader holds its
    // lock, so no library comes or goes.
    unsafe { libc::dl_iterate_phdr(Some(give_back_object), std::ptr::null_mut()) };
}

/// Lets go of the read-only segments of one loaded object.
unsafe extern "C" fn give_back_object(info: *mut libc::dl_phdr_info, _: libc::size_t, _: *mut c_void) -> libc::c_int {
    // SAFETY: the loader hands over a valid description of an object, with as many headers as it says.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)))
    };
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
            give_back(base + header.p_vaddr, header.p_memsz);
        }
    }
    0
}

/// Lets go of the pages that lie wholly within a read-only segment. The pages at its ends could be shared with a neighbour.
fn give_back(start: u64, length: u64) {
    // SAFETY: sysconf only answers.
    let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
    let (first, end) = (start.next_multiple_of(page), (start + length) / page * page);
    let (Ok(first), Some(Ok(length))) = (usize::try_from(first), end.checked_sub(first).map(usize::try_from)) else {
        return;
    };
    // SAFETY: a segment without write permission is a private mapping of a file in which nothing was ever changed, because linkers refuse to make objects with
    // relocations in such segments. So the next touch of a page finds in the file what is there now. A kernel that cannot do it refuses.
    let _refused = unsafe { libc::madvise(first as *mut c_void, length, libc::MADV_DONTNEED) };
}
