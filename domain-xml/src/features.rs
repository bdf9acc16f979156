//! Features of the hypervisor that the guest sees.
//!
//! Nothing is left out under emulation. Measured with libvirt 11.3 and QEMU 10.0.2 by starting a guest for each: `type='qemu'` takes every Hyper-V
//! feature, `eoi`, kvmclock and hypervclock, on and off, and starts; the guest sees none of them (CPUID leaf 0x40000000 reads `TCGTCGTCGTCG`). Under
//! KVM a host that cannot do one (here nested KVM: vpindex, synic, vapic) fails the start with QEMU's message, as it should.

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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::tests::{Guest, elements};

    #[test]
    fn features_are_as_asked_for() {
        let hyperv = |features: &str| format!("<features><acpi/><apic/><hyperv>{features}</hyperv></features>");
        let cases = [
            (json!({}), "<features><acpi/><apic/></features>".to_owned()),
            (json!({"acpi": {"enabled": false}, "apic": {"enabled": false}}), "<features/>".to_owned()),
            (
                json!({"acpi": {}, "apic": {"endOfInterrupt": true}}),
                r#"<features><acpi/><apic eoi="on"/></features>"#.to_owned(),
            ),
            (json!({"apic": {"endOfInterrupt": false}}), r#"<features><acpi/><apic eoi="off"/></features>"#.to_owned()),
            (json!({"hyperv": {}}), "<features><acpi/><apic/><hyperv/></features>".to_owned()),
            (
                json!({"hyperv": {"relaxed": {}, "vapic": {"enabled": false}}}),
                hyperv(r#"<relaxed state="on"/><vapic state="off"/>"#),
            ),
            (json!({"hyperv": {"vpindex": {}, "synic": {}}}), hyperv(r#"<vpindex state="on"/><synic state="on"/>"#)),
            (json!({"hyperv": {"runtime": {}, "reset": {}}}), hyperv(r#"<runtime state="on"/><reset state="on"/>"#)),
            (json!({"hyperv": {"synictimer": {"enabled": false}}}), hyperv(r#"<stimer state="off"/>"#)),
            (json!({"hyperv": {"spinlocks": {}}}), hyperv(r#"<spinlocks state="on" retries="4096"/>"#)),
            (json!({"hyperv": {"spinlocks": {"enabled": false}}}), hyperv(r#"<spinlocks state="off"/>"#)),
            (
                json!({"hyperv": {"vendorid": {"vendorid": "<a & \"b\">"}}}),
                hyperv(r#"<vendor_id state="on" value="&lt;a &amp; &quot;b&quot;&gt;"/>"#),
            ),
            (json!({"hyperv": {"vendorid": {"enabled": false}}}), hyperv(r#"<vendor_id state="off"/>"#)),
        ];
        for (features, expected) in cases {
            let guest = Guest::new(&json!({"features": features, "devices": {}}), &json!([]));
            assert_eq!(elements(&guest.xml(), "features"), [expected], "{features}");
        }
    }

    #[test]
    fn emulation_caps_its_translation_cache_and_leaves_nothing_out() {
        let guest = Guest::new(&json!({"features": {"hyperv": {"relaxed": {}}}, "devices": {}}), &json!([])).emulated();
        let expected = r#"<features><acpi/><apic/><hyperv><relaxed state="on"/></hyperv><tcg><tb-cache unit="MiB">128</tb-cache></tcg></features>"#;
        assert_eq!(elements(&guest.xml(), "features"), [expected]);
    }
}
