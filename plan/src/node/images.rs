//! When a start has to ask an image's registry, and when the copy on the node is good enough.

/// The copy of an image that a node has under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageCopy {
    /// An administrator imported it: what the name means here is what they said.
    Imported,
    /// It came from its registry.
    Pulled {
        /// The registry was shown credentials: that it is here gives nobody a right to it.
        with_credentials: bool,
    },
}

/// An image that a VM names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedImage {
    /// The name means whatever was published last: no tag, or `latest`.
    pub is_floating: bool,
    /// What the node has under the name.
    pub copy: Option<ImageCopy>,
}

impl NamedImage {
    /// Whether its registry has to be asked before a VM that has not claimed it yet may start.
    pub fn needs_registry(self) -> bool {
        match self.copy {
            None => true,
            Some(ImageCopy::Imported) => false,
            Some(ImageCopy::Pulled { with_credentials }) => with_credentials || self.is_floating,
        }
    }

    /// Whether the copy is good enough while the registry does not answer: a host must be able to start its guests while the network is away. Without an answer
    /// nobody can tell whose an image is that was pulled with credentials.
    pub fn does_without_answer(self) -> bool {
        match self.copy {
            None | Some(ImageCopy::Pulled { with_credentials: true }) => false,
            Some(ImageCopy::Imported | ImageCopy::Pulled { with_credentials: false }) => true,
        }
    }
}

/// Whether registries have to be asked before the disks of a VM can be made. What it has claimed is its own, whatever the names mean by now.
pub fn needs_registries(has_claimed: bool, images: impl IntoIterator<Item = NamedImage>) -> bool {
    !has_claimed && images.into_iter().any(NamedImage::needs_registry)
}
