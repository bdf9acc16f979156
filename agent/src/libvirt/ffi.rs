//! The calls that crate `virt` lacks or gets wrong, each made safe. Blocking: only for the threads of [`Calls`](super::calls::Calls).

#![expect(
    unsafe_code,
    reason = "virt 0.5 swallows the errors of virDomainGetState, leaks the records of virConnectGetAllDomainStats and has no errno"
)]

use std::ffi::{CStr, c_char, c_int};
use std::os::fd::{FromRawFd, OwnedFd};
use std::ptr;

use uuid::Uuid;
use virt::connect::Connect;
use virt::domain::Domain;

use super::domain::DiskError;
use super::error::Failure;
use super::state::DomainState;

/// What a domain is called and what it does, from one call about all domains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StateRecord {
    pub(super) uuid: Uuid,
    pub(super) name: String,
    /// libvirt's number of the running domain, new at each start.
    pub(super) id: Option<u32>,
    pub(super) state: DomainState,
}

/// The system's error number behind this thread's last libvirt error. Valid right after a failed call, before any other one.
pub(super) fn last_errno() -> Option<i32> {
    // SAFETY: returns null, or this thread's error, which stays valid until the next libvirt call on this thread.
    let error = unsafe { virt_sys::virGetLastError().as_ref() }?;
    // libvirt keeps errno in int1 of a "system error".
    (error.code.cast_unsigned() == virt_sys::VIR_ERR_SYSTEM_ERROR).then_some(error.int1)
}

/// State and reason of a domain. Unlike `Domain::state`, a vanished domain is an error.
pub(super) fn domain_state(domain: &Domain) -> Result<DomainState, Failure> {
    let (mut state, mut reason): (c_int, c_int) = (0, 0);
    // SAFETY: the pointer is valid while `domain` lives; both results are ours.
    let answer = unsafe { virt_sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if answer < 0 {
        return Err(virt::error::Error::last_error().into());
    }
    Ok(DomainState::from_raw(state.cast_unsigned(), reason.cast_unsigned()))
}

/// State and reason of every domain, in one call that waits for no guest.
pub(super) fn all_states(connect: &Connect) -> Result<Vec<StateRecord>, Failure> {
    let mut records: *mut virt_sys::virDomainStatsRecordPtr = ptr::null_mut();
    // SAFETY: the connection is valid while `connect` lives; `records` receives a list that is ours to free.
    let count = unsafe {
        virt_sys::virConnectGetAllDomainStats(connect.as_ptr(), virt_sys::VIR_DOMAIN_STATS_STATE, &raw mut records, 0)
    };
    let count = usize::try_from(count).map_err(|_| Failure::from(virt::error::Error::last_error()))?;
    let mut states = Vec::with_capacity(count);
    for index in 0..count {
        // SAFETY: the list holds `count` records, valid until it is freed below.
        let record = unsafe { (*records.add(index)).as_ref() };
        if let Some(record) = record.and_then(read_record) {
            states.push(record);
        }
    }
    // SAFETY: the list is libvirt's own, and nothing of it is used any more. This frees the domains and parameters in it too.
    unsafe { virt_sys::virDomainStatsRecordListFree(records) };
    Ok(states)
}

/// The disks of a running guest that failed.
pub(super) fn disk_errors(domain: &Domain) -> Result<Vec<DiskError>, Failure> {
    let failed = |_| Failure::from(virt::error::Error::last_error());
    // SAFETY: the pointer is valid while `domain` lives; without a list libvirt says how many records one may need.
    let room = unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), ptr::null_mut(), 0, 0) };
    let room = usize::try_from(room).map_err(failed)?;
    let empty = virt_sys::_virDomainDiskError { disk: ptr::null_mut(), error: 0 };
    let mut records = vec![empty; room];
    let length = u32::try_from(room).unwrap_or(u32::MAX);
    // SAFETY: `records` has room for that many; libvirt fills the first of them.
    let count = unsafe { virt_sys::virDomainGetDiskErrors(domain.as_ptr(), records.as_mut_ptr(), length, 0) };
    let count = usize::try_from(count).map_err(failed)?;
    let mut errors = Vec::with_capacity(count);
    for record in records.iter().take(count).filter(|record| !record.disk.is_null()) {
        // SAFETY: the name of a record that libvirt filled is a string, ours to read and then to free.
        let target = unsafe { CStr::from_ptr(record.disk) }.to_string_lossy().into_owned();
        // SAFETY: libvirt allocated it with malloc for us, and it is not used any more.
        unsafe { libc::free(record.disk.cast()) };
        let no_space = record.error.cast_unsigned() == virt_sys::VIR_DOMAIN_DISK_ERROR_NO_SPACE;
        errors.push(DiskError { target, no_space });
    }
    Ok(errors)
}

/// A connected socket to the guest's display `index`, without the display's own authentication.
pub(super) fn graphics_fd(domain: &Domain, index: u32) -> Result<OwnedFd, Failure> {
    let flags = virt_sys::VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH;
    // SAFETY: the pointer is valid while `domain` lives.
    let fd = unsafe { virt_sys::virDomainOpenGraphicsFD(domain.as_ptr(), index, flags) };
    if fd < 0 {
        return Err(virt::error::Error::last_error().into());
    }
    // SAFETY: libvirt made this descriptor for us and keeps no copy.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Name and UUID of a domain that a libvirt callback or list lends us. Both are kept in the handle: nothing is asked of the daemon.
///
/// # Safety
/// `domain` is a valid domain.
pub(super) unsafe fn domain_identity(domain: virt_sys::virDomainPtr) -> Option<(Uuid, String)> {
    let mut uuid = [0_u8; virt_sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the caller's `domain` is valid, and the buffer has the size that libvirt names.
    let answer = unsafe { virt_sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) };
    if answer < 0 {
        return None;
    }
    // SAFETY: the caller's `domain` is valid; the name lives as long as it does, and is copied at once.
    let name = unsafe { borrowed_string(virt_sys::virDomainGetName(domain)) };
    Some((Uuid::from_bytes(uuid), name))
}

/// A copy of a string that stays libvirt's; empty for null.
///
/// # Safety
/// `text` is null or a valid C string.
pub(super) unsafe fn borrowed_string(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the caller vouches for the rest.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn read_record(record: &virt_sys::virDomainStatsRecord) -> Option<StateRecord> {
    // SAFETY: a record's domain is valid as long as the record.
    let (uuid, name) = unsafe { domain_identity(record.dom) }?;
    // SAFETY: as above.
    let id = unsafe { virt_sys::virDomainGetID(record.dom) };
    let number = |field: &CStr| {
        let mut value: c_int = 0;
        // SAFETY: parameters and their count belong together; `value` is ours.
        let found =
            unsafe { virt_sys::virTypedParamsGetInt(record.params, record.nparams, field.as_ptr(), &raw mut value) };
        (found == 1).then_some(value.cast_unsigned())
    };
    let state = number(virt_sys::VIR_DOMAIN_STATS_STATE_STATE)?;
    let reason = number(virt_sys::VIR_DOMAIN_STATS_STATE_REASON).unwrap_or_default();
    // libvirt says -1 for a domain that does not run.
    Some(StateRecord { uuid, name, id: (id != u32::MAX).then_some(id), state: DomainState::from_raw(state, reason) })
}
