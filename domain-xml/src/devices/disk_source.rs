//! The layers of a disk: `<source>` of the newest, and `<backingStore>` for each below.
//!
//! The chain always ends in an empty `<backingStore/>`: without it libvirt would look into the image for the next name, and a guest that writes a
//! header there would read any file of the host.

use std::fmt;

use crate::input::LayerKind;
use crate::text::check_path;
use crate::xml::XmlWriter;
use crate::{DiskLayer, DiskSource, RenderError};

/// The layers of a disk, with paths that have been checked.
#[derive(Debug)]
pub(crate) struct Layers<'a> {
    source: &'a DiskSource,
}

impl<'a> Layers<'a> {
    /// Checks the paths of all layers; `field` names the source in errors.
    pub(crate) fn make(field: &dyn fmt::Display, source: &'a DiskSource) -> Result<Self, RenderError> {
        std::iter::once(&source.top)
            .chain(&source.backing)
            .try_for_each(|layer| check_path(field, &layer.path).map(drop))?;
        Ok(Self { source })
    }

    pub(crate) fn write(&self, xml: &mut XmlWriter) {
        write_source(xml, &self.source.top);
        write_backing(xml, &self.source.backing);
    }
}

fn write_source(xml: &mut XmlWriter, layer: &DiskLayer) {
    let attribute = match layer.kind {
        LayerKind::File => "file",
        LayerKind::Block => "dev",
    };
    xml.element("source").attribute(attribute, layer.path.display()).empty();
}

fn write_backing(xml: &mut XmlWriter, below: &[DiskLayer]) {
    let element = xml.element("backingStore");
    let Some((layer, below)) = below.split_first() else { return element.empty() };
    element.attribute("type", layer.kind.as_str()).children(|xml| {
        xml.element("format").attribute("type", layer.format.as_str()).empty();
        write_source(xml, layer);
        write_backing(xml, below);
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::input::DiskFormat;

    fn render(source: &DiskSource) -> String {
        let mut xml = XmlWriter::with_capacity(0);
        Layers::make(&"disk", source).expect("plain paths").write(&mut xml);
        let source = format!(r#"<source file="{}"/>"#, source.top.path.display());
        xml.finish().strip_prefix(&source).expect("starts with the top layer").to_owned()
    }

    #[test]
    fn every_chain_ends_in_an_empty_element() {
        let layer = |path: &str, kind, format| DiskLayer { path: path.into(), kind, format };
        let alone = DiskSource::file("/d/top.img", DiskFormat::Raw);
        let overlay = DiskSource::file("/d/top.qcow2", DiskFormat::Qcow2);
        let middle = layer("/d/mid.qcow2", LayerKind::File, DiskFormat::Qcow2);
        let base = layer("/dev/base", LayerKind::Block, DiskFormat::Raw);
        let end = "<backingStore/>";
        let on_base =
            format!(r#"<backingStore type="block"><format type="raw"/><source dev="/dev/base"/>{end}</backingStore>"#);
        let on_both = format!(
            r#"<backingStore type="file"><format type="qcow2"/><source file="/d/mid.qcow2"/>{on_base}</backingStore>"#
        );
        for (source, expected) in [
            (alone, end),
            (overlay.clone().over(base.clone()), on_base.as_str()),
            (overlay.over(middle).over(base), on_both.as_str()),
        ] {
            assert_eq!(render(&source), expected);
        }
    }

    #[test]
    fn a_path_that_leaves_its_directory_is_refused_in_any_layer() {
        let hostile =
            DiskLayer { kind: LayerKind::File, path: Path::new("/d/../etc/shadow").into(), format: DiskFormat::Raw };
        let source = DiskSource::file("/d/top.qcow2", DiskFormat::Qcow2).over(hostile);
        assert_eq!(Layers::make(&"disk a", &source).expect_err("refused").reason(), "IllegalPath");
    }
}
