//! Features of the hypervisor that the guest sees.
//!
//! Nothing is left out under emulation. Measured with libvirt 11.3 and QEMU 10.0.2 by starting a guest for each: `type='qemu'` takes every Hyper-V
//! feature, `eoi`, kvmclock and hypervclock, on and off, and starts; the guest sees none of them (CPUID leaf 0x40000000 reads `TCGTCGTCGTCG`). Under
//! KVM a host that cannot do one (here nested KVM: vpindex, synic, vapic) fails the start with QEMU's message, as it should.

use api::validated::{Hyperv, ValidatedFeatures};

use crate::text::check_text;
use crate::xml::XmlWriter;
use crate::{Acceleration, RenderError};

/// `<features>`
#[derive(Debug)]
pub(crate) struct Features<'a> {
    features: &'a ValidatedFeatures,
    acceleration: Acceleration,
}

impl<'a> Features<'a> {
    pub(crate) fn make(features: &'a ValidatedFeatures, acceleration: Acceleration) -> Result<Self, RenderError> {
        if let Some(Some(Some(vendor))) = features.hyperv.as_ref().map(|hyperv| &hyperv.vendorid) {
            check_text(&"features.hyperv.vendorid", vendor)?;
        }
        Ok(Self { features, acceleration })
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        xml.element("features").children(|xml| {
            if self.features.acpi {
                xml.element("acpi").empty();
            }
            if let Some(apic) = self.features.apic {
                xml.element("apic").optional("eoi", apic.end_of_interrupt.map(on_off)).empty();
            }
            if let Some(hyperv) = &self.features.hyperv {
                xml.element("hyperv").children(|xml| write_hyperv(xml, hyperv));
            }
            if let Acceleration::Emulation { tb_cache_mib } = self.acceleration {
                xml.element("tcg").children(|xml| xml.element("tb-cache").attribute("unit", "MiB").text(tb_cache_mib));
            }
        });
    }
}

fn write_hyperv(xml: &mut XmlWriter, hyperv: &Hyperv) {
    let mut switch = |name, state: Option<bool>| {
        if let Some(on) = state {
            xml.element(name).attribute("state", on_off(on)).empty();
        }
    };
    switch("relaxed", hyperv.relaxed);
    switch("vapic", hyperv.vapic);
    switch("vpindex", hyperv.vpindex);
    switch("runtime", hyperv.runtime);
    switch("synic", hyperv.synic);
    switch("stimer", hyperv.synictimer);
    switch("reset", hyperv.reset);
    if let Some(retries) = hyperv.spinlocks {
        xml.element("spinlocks").attribute("state", on_off(retries.is_some())).optional("retries", retries).empty();
    }
    if let Some(vendor) = &hyperv.vendorid {
        xml.element("vendor_id")
            .attribute("state", on_off(vendor.is_some()))
            .optional("value", vendor.as_ref())
            .empty();
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
