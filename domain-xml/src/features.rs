//! Features of the hypervisor that the guest sees.

use api::validated::{Hyperv as ValidatedHyperv, ValidatedFeatures};
use serde::Serialize;

use crate::text::check_text;
use crate::{Acceleration, RenderError};

/// `<features>`
#[derive(Debug, Serialize)]
pub(crate) struct Features<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    acpi: Option<()>,
    #[serde(skip_serializing_if = "Option::is_none")]
    apic: Option<Apic>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hyperv: Option<Hyperv<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcg: Option<Tcg>,
}

/// `<apic eoi='on'/>`
#[derive(Debug, Serialize)]
struct Apic {
    #[serde(rename = "@eoi", skip_serializing_if = "Option::is_none")]
    end_of_interrupt: Option<&'static str>,
}

/// `<hyperv>`
#[derive(Debug, Default, Serialize)]
struct Hyperv<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    relaxed: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vapic: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spinlocks: Option<Spinlocks>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vpindex: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    synic: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stimer: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reset: Option<State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    vendor_id: Option<VendorId<'a>>,
}

/// `state='on'`
#[derive(Debug, Serialize)]
struct State {
    #[serde(rename = "@state")]
    state: &'static str,
}

#[derive(Debug, Serialize)]
struct Spinlocks {
    #[serde(rename = "@state")]
    state: &'static str,
    #[serde(rename = "@retries", skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
}

#[derive(Debug, Serialize)]
struct VendorId<'a> {
    #[serde(rename = "@state")]
    state: &'static str,
    #[serde(rename = "@value", skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
}

/// `<tcg><tb-cache unit='MiB'>`
#[derive(Debug, Serialize)]
struct Tcg {
    #[serde(rename = "tb-cache")]
    tb_cache: TbCache,
}

#[derive(Debug, Serialize)]
struct TbCache {
    #[serde(rename = "@unit")]
    unit: &'static str,
    #[serde(rename = "$text")]
    mib: u32,
}

impl<'a> Features<'a> {
    pub(crate) fn make(features: &'a ValidatedFeatures, acceleration: Acceleration) -> Result<Self, RenderError> {
        let tcg = match acceleration {
            Acceleration::Kvm => None,
            Acceleration::Emulation { tb_cache_mib } => {
                Some(Tcg { tb_cache: TbCache { unit: "MiB", mib: tb_cache_mib } })
            }
        };
        Ok(Self {
            acpi: features.acpi.then_some(()),
            apic: features.apic.map(|apic| Apic { end_of_interrupt: apic.end_of_interrupt.map(on_off) }),
            hyperv: features.hyperv.as_ref().map(Hyperv::make).transpose()?,
            tcg,
        })
    }
}

impl<'a> Hyperv<'a> {
    fn make(hyperv: &'a ValidatedHyperv) -> Result<Self, RenderError> {
        let state = |on: Option<bool>| on.map(|on| State { state: on_off(on) });
        let spinlocks = hyperv.spinlocks.map(|retries| Spinlocks { state: on_off(retries.is_some()), retries });
        let vendor_id = match &hyperv.vendorid {
            None => None,
            Some(None) => Some(VendorId { state: "off", value: None }),
            Some(Some(vendor)) => {
                Some(VendorId { state: "on", value: Some(check_text(&"features.hyperv.vendorid", vendor)?) })
            }
        };
        Ok(Self {
            relaxed: state(hyperv.relaxed),
            vapic: state(hyperv.vapic),
            spinlocks,
            vpindex: state(hyperv.vpindex),
            runtime: state(hyperv.runtime),
            synic: state(hyperv.synic),
            stimer: state(hyperv.synictimer),
            reset: state(hyperv.reset),
            vendor_id,
        })
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
