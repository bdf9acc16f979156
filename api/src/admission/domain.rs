//! Rules over the guest's machine: memory, CPU, machine type, clock, features, watchdog.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Faults, given};
use crate::Quantity;
use crate::v1alpha1::{DomainSpec, FeatureHyperv, FeatureState, VirtualMachineSpec};
use crate::validated::{
    Apic, ClockBase, Hyperv, TickPolicy, TimerSetting, TimerTrack, ValidatedClock, ValidatedFeatures,
    ValidatedWatchdog, WatchdogAction,
};

/// Memory of a guest that asks for none: KubeVirt v0.5.0's default.
const DEFAULT_MEMORY_BYTES: u64 = 8192 * 1024;
/// Grace period of a guest that asks for none.
const DEFAULT_GRACE_PERIOD_SECONDS: u64 = 30;
/// Hyper-V's own lower bound on spinlock retries; libvirt refuses less.
const MIN_SPINLOCKS: u32 = 4095;
/// KubeVirt v0.5.0's default.
const DEFAULT_SPINLOCKS: u32 = 4096;
/// CPUID leaves this much room.
const MAX_VENDOR_ID: usize = 12;
/// More than any machine type of QEMU 10 can have.
const MAX_CORES: u32 = 4096;

/// The family of a machine type: decides which buses there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MachineFamily {
    /// PCI Express, AHCI, no IDE.
    Q35,
    /// Everything else, of which `pc` (i440fx) is the one in use.
    Pc,
}

pub(super) struct Machine {
    pub(super) type_: Option<String>,
    pub(super) family: MachineFamily,
}

pub(super) struct Resources {
    pub(super) memory_kib: u64,
    pub(super) cpu_request_millis: u64,
}

pub(super) fn machine(domain: &DomainSpec, path: &str, faults: &mut Faults) -> Machine {
    let type_ = domain.machine.as_ref().map(|m| m.type_.as_str()).filter(|t| !t.is_empty());
    if let Some(type_) = type_
        && (type_.len() > 64 || !type_.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_')))
    {
        let field = format!("{path}.domain.machine.type");
        faults.invalid(
            &field,
            format!(
                "{field} '{type_}' is not a machine type; use one that the node offers, such as q35, or leave it empty."
            ),
        );
    }
    let family = if type_.is_none_or(|t| t.contains("q35")) { MachineFamily::Q35 } else { MachineFamily::Pc };
    Machine { type_: type_.map(str::to_owned), family }
}

pub(super) fn resources(domain: &DomainSpec, path: &str, faults: &mut Faults) -> Resources {
    let wire = domain.resources.as_ref();
    let base = format!("{path}.domain.resources");
    let requests = wire.and_then(|r| r.requests.as_ref());
    let limits = wire.and_then(|r| r.limits.as_ref());
    let mut read = |map: Option<&BTreeMap<String, Quantity>>, side: &str, key: &str, of: fn(&Quantity) -> _| {
        let quantity = map?.get(key)?;
        match of(quantity) {
            Ok(value) => Some(value),
            Err(error) => {
                let error: crate::quantity::QuantityError = error;
                let field = format!("{base}.{side}.{key}");
                faults.invalid(&field, format!("{field} {error}."));
                None
            }
        }
    };
    let memory_limit = read(limits, "limits", "memory", Quantity::to_units);
    let memory_request = read(requests, "requests", "memory", Quantity::to_units);
    let cpu_limit = read(limits, "limits", "cpu", Quantity::to_millis);
    let cpu_request = read(requests, "requests", "cpu", Quantity::to_millis);
    for (request, limit, key) in [(memory_request, memory_limit, "memory"), (cpu_request, cpu_limit, "cpu")] {
        if let (Some(request), Some(limit)) = (request, limit)
            && request > limit
        {
            let field = format!("{base}.requests.{key}");
            faults.invalid(&field, format!("{field} must not be more than {base}.limits.{key}."));
        }
    }
    // As for pods: a limit alone is the request too.
    let memory_bytes = memory_request.or(memory_limit).unwrap_or(DEFAULT_MEMORY_BYTES);
    if memory_bytes == 0 {
        let side = if memory_request.is_some() { "requests" } else { "limits" };
        let field = format!("{base}.{side}.memory");
        faults.invalid(&field, format!("{field} must be more than 0."));
    }
    Resources {
        memory_kib: memory_bytes.div_ceil(1024),
        cpu_request_millis: cpu_request.or(cpu_limit).unwrap_or_default(),
    }
}

pub(super) fn cores(domain: &DomainSpec, path: &str, faults: &mut Faults) -> u32 {
    let cores = domain.cpu.as_ref().and_then(|cpu| cpu.cores).unwrap_or(1);
    if !(1..=MAX_CORES).contains(&cores) {
        let field = format!("{path}.domain.cpu.cores");
        faults.invalid(&field, format!("{field} must be between 1 and {MAX_CORES}, and is {cores}."));
    }
    cores
}

pub(super) fn firmware_uuid(domain: &DomainSpec, path: &str, faults: &mut Faults) -> Option<Uuid> {
    let text = given(domain.firmware.as_ref().and_then(|f| f.uuid.as_ref()))?;
    let field = format!("{path}.domain.firmware.uuid");
    match Uuid::try_parse(text) {
        Ok(uuid) if uuid.is_nil() || uuid.is_max() => {
            faults.invalid(&field, format!("{field} '{text}' stands for no machine; give another UUID."));
            None
        }
        Ok(uuid) => Some(uuid),
        Err(_) => {
            faults.invalid(&field, format!("{field} '{text}' is not a UUID."));
            None
        }
    }
}

pub(super) fn grace_period_seconds(spec: &VirtualMachineSpec, path: &str, faults: &mut Faults) -> u64 {
    let Some(seconds) = spec.termination_grace_period_seconds else { return DEFAULT_GRACE_PERIOD_SECONDS };
    u64::try_from(seconds).unwrap_or_else(|_| {
        let field = format!("{path}.terminationGracePeriodSeconds");
        faults.invalid(&field, format!("{field} must not be negative, and is {seconds}."));
        0
    })
}

pub(super) fn watchdog(domain: &DomainSpec, path: &str, faults: &mut Faults) -> Option<ValidatedWatchdog> {
    let watchdog = domain.devices.watchdog.as_ref()?;
    let base = format!("{path}.domain.devices.watchdog");
    faults.dns_label(&format!("{base}.name"), &watchdog.name);
    let action = word(
        given(watchdog.i6300esb.as_ref().and_then(|w| w.action.as_ref())),
        &format!("{base}.i6300esb.action"),
        WatchdogAction::ALL,
        WatchdogAction::as_str,
        faults,
    );
    Some(ValidatedWatchdog { name: watchdog.name.clone(), action: action.unwrap_or(WatchdogAction::Reset) })
}

/// Reads a word that must be one of `allowed`.
pub(super) fn word<T: Copy>(
    text: Option<&str>,
    field: &str,
    allowed: &[T],
    as_str: fn(T) -> &'static str,
    faults: &mut Faults,
) -> Option<T> {
    let text = text?;
    let found = allowed.iter().copied().find(|value| as_str(*value) == text);
    if found.is_none() {
        faults.unknown_word(field, text, &allowed.iter().map(|value| as_str(*value)).collect::<Vec<_>>());
    }
    found
}

pub(super) fn clock(domain: &DomainSpec, path: &str, faults: &mut Faults) -> ValidatedClock {
    use TickPolicy::{Catchup, Delay, Discard, Merge};
    let base_path = format!("{path}.domain.clock");
    let clock = domain.clock.as_ref();
    let utc = clock.and_then(|c| c.utc.as_ref());
    let timezone = given(clock.and_then(|c| c.timezone.as_ref()));
    let base = match (utc, timezone) {
        (Some(_), Some(_)) => {
            faults.invalid(&base_path, format!("{base_path} must have only one of utc and timezone."));
            ClockBase::Utc { offset_seconds: 0 }
        }
        (None, Some(zone)) => {
            if zone.len() > 64 || !zone.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '+' | '-'))
            {
                let field = format!("{base_path}.timezone");
                faults.invalid(
                    &field,
                    format!("{field} '{zone}' is not the name of a time zone, such as Europe/Berlin."),
                );
            }
            ClockBase::Timezone(zone.to_owned())
        }
        (utc, None) => ClockBase::Utc { offset_seconds: utc.and_then(|u| u.offset_seconds).unwrap_or(0) },
    };
    let timer = clock.and_then(|c| c.timer.as_ref());
    let mut setting = |name: &str, present: Option<bool>, policy: Option<&String>, allowed: &[TickPolicy]| {
        let field = format!("{base_path}.timer.{name}.tickPolicy");
        let tick_policy = word(given(policy), &field, allowed, TickPolicy::as_str, faults);
        TimerSetting { present: present.unwrap_or(true), tick_policy, track: None }
    };
    let hpet = timer
        .and_then(|t| t.hpet.as_ref())
        .map(|t| setting("hpet", t.present, t.tick_policy.as_ref(), &[Delay, Catchup, Merge, Discard]));
    let pit = timer
        .and_then(|t| t.pit.as_ref())
        .map(|t| setting("pit", t.present, t.tick_policy.as_ref(), &[Delay, Catchup, Discard]));
    let kvm = timer.and_then(|t| t.kvm.as_ref()).map(|t| setting("kvm", t.present, None, &[]));
    let hyperv = timer.and_then(|t| t.hyperv.as_ref()).map(|t| setting("hyperv", t.present, None, &[]));
    let rtc = timer
        .and_then(|t| t.rtc.as_ref())
        .map(|t| setting("rtc", t.present, t.tick_policy.as_ref(), &[Delay, Catchup]));
    let track = word(
        given(timer.and_then(|t| t.rtc.as_ref()).and_then(|t| t.track.as_ref())),
        &format!("{base_path}.timer.rtc.track"),
        TimerTrack::ALL,
        TimerTrack::as_str,
        faults,
    );
    ValidatedClock { base, hpet, kvm, pit, rtc: rtc.map(|t| TimerSetting { track, ..t }), hyperv }
}

pub(super) fn features(domain: &DomainSpec, path: &str, faults: &mut Faults) -> ValidatedFeatures {
    let wire = domain.features.as_ref();
    let apic = wire.and_then(|f| f.apic.as_ref());
    let hyperv = wire.and_then(|f| f.hyperv.as_ref());
    ValidatedFeatures {
        acpi: wire.and_then(|f| f.acpi.as_ref()).and_then(|f| f.enabled).unwrap_or(true),
        apic: apic
            .and_then(|a| a.enabled)
            .unwrap_or(true)
            .then(|| Apic { end_of_interrupt: apic.and_then(|a| a.end_of_interrupt) }),
        hyperv: hyperv.map(|h| hyperv_features(h, domain, &format!("{path}.domain.features.hyperv"), faults)),
    }
}

fn hyperv_features(wire: &FeatureHyperv, domain: &DomainSpec, path: &str, faults: &mut Faults) -> Hyperv {
    let on = |feature: Option<&FeatureState>| feature.map(|f| f.enabled.unwrap_or(true));
    let spinlocks = wire.spinlocks.as_ref().map(|f| {
        f.enabled.unwrap_or(true).then(|| {
            let retries = f.spinlocks.unwrap_or(DEFAULT_SPINLOCKS);
            if retries < MIN_SPINLOCKS {
                let field = format!("{path}.spinlocks.spinlocks");
                faults.invalid(&field, format!("{field} must be at least {MIN_SPINLOCKS}, and is {retries}."));
            }
            retries
        })
    });
    let vendorid = wire.vendorid.as_ref().map(|f| {
        f.enabled.unwrap_or(true).then(|| {
            let vendor = f.vendorid.clone().unwrap_or_default();
            let printable = vendor.chars().all(|c| c.is_ascii_graphic() || c == ' ');
            if vendor.is_empty() || vendor.len() > MAX_VENDOR_ID || vendor.contains(',') || !printable {
                let field = format!("{path}.vendorid.vendorid");
                let message = format!(
                    "{field} '{vendor}' must be 1 to {MAX_VENDOR_ID} printable ASCII characters without a comma."
                );
                faults.invalid(&field, message);
            }
            vendor
        })
    });
    let hyperv = Hyperv {
        relaxed: on(wire.relaxed.as_ref()),
        vapic: on(wire.vapic.as_ref()),
        spinlocks,
        vpindex: on(wire.vpindex.as_ref()),
        runtime: on(wire.runtime.as_ref()),
        synic: on(wire.synic.as_ref()),
        synictimer: on(wire.synictimer.as_ref()),
        reset: on(wire.reset.as_ref()),
        vendorid,
    };
    let hyperv_timer = domain
        .clock
        .as_ref()
        .and_then(|c| c.timer.as_ref())
        .and_then(|t| t.hyperv.as_ref())
        .is_some_and(|t| t.present.unwrap_or(true));
    // QEMU refuses to start such a guest, with these same reasons.
    let needs = [
        ("synic", hyperv.synic, "vpindex", hyperv.vpindex == Some(true)),
        ("synictimer", hyperv.synictimer, "synic", hyperv.synic == Some(true)),
        ("synictimer", hyperv.synictimer, "clock.timer.hyperv", hyperv_timer),
    ];
    for (feature, state, other, there) in needs {
        if state == Some(true) && !there {
            let field = format!("{path}.{feature}");
            faults.invalid(&field, format!("{field} needs {other} too; turn that on, or this off."));
        }
    }
    hyperv
}
