//! The layers of a disk: `<source>` of the newest, and `<backingStore>` for each below.
//!
//! The chain always ends in an empty `<backingStore/>`: without it libvirt would look into the image for the next name, and a guest that writes a
//! header there would read any file of the host.

use std::fmt;

use serde::Serialize;

use crate::input::{DiskLayer, LayerKind};
use crate::text::check_path;
use crate::{DiskSource, RenderError};

/// `<source file='...'/>` or `<source dev='...'/>`
#[derive(Debug, Serialize)]
pub(crate) struct Source<'a> {
    #[serde(rename = "@file", skip_serializing_if = "Option::is_none")]
    file: Option<&'a str>,
    #[serde(rename = "@dev", skip_serializing_if = "Option::is_none")]
    dev: Option<&'a str>,
}

/// `<backingStore>`: a layer, or empty at the end of the chain.
#[derive(Debug, Serialize)]
pub(crate) struct BackingStore<'a> {
    #[serde(rename = "@type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source<'a>>,
    #[serde(rename = "backingStore", skip_serializing_if = "Option::is_none")]
    next: Option<Box<BackingStore<'a>>>,
}

/// `<format type='...'/>`
#[derive(Debug, Serialize)]
struct Format {
    #[serde(rename = "@type")]
    kind: &'static str,
}

impl<'a> Source<'a> {
    /// The source of one layer; `field` names it in errors.
    pub(crate) fn make(field: &dyn fmt::Display, layer: &'a DiskLayer) -> Result<Self, RenderError> {
        let path = Some(check_path(field, &layer.path)?);
        Ok(match layer.kind {
            LayerKind::File => Self { file: path, dev: None },
            LayerKind::Block => Self { file: None, dev: path },
        })
    }
}

impl<'a> BackingStore<'a> {
    const END: Self = Self { kind: None, format: None, source: None, next: None };

    /// The layers below the top one.
    pub(crate) fn make(field: &dyn fmt::Display, source: &'a DiskSource) -> Result<Self, RenderError> {
        source.backing.iter().rev().try_fold(Self::END, |next, layer| {
            Ok(Self {
                kind: Some(layer.kind.as_str()),
                format: Some(Format { kind: layer.format.as_str() }),
                source: Some(Source::make(field, layer)?),
                next: Some(Box::new(next)),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::input::DiskFormat;

    fn render(source: &DiskSource) -> String {
        let backing = BackingStore::make(&"disk", source).expect("plain paths");
        quick_xml::se::to_string_with_root("backingStore", &backing).expect("serialises")
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
        assert_eq!(BackingStore::make(&"disk a", &source).expect_err("refused").reason(), "IllegalPath");
    }
}
