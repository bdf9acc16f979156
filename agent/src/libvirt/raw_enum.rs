//! One macro for libvirt's numbered constants: a Rust enum in which an unknown number is a value, never a panic.

/// Declares an enum over libvirt constants, with `from_raw`, and `Display` as libvirt's tools print the value.
macro_rules! raw_enum {
    ($(#[$meta:meta])* pub enum $name:ident { $($variant:ident = $raw:ident => $text:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $(#[doc = concat!("`", stringify!($raw), "`.")] $variant,)+
            /// A number that this build does not know, as libvirt gave it.
            Other(u32),
        }

        impl $name {
            /// The value for libvirt's number.
            pub(crate) fn from_raw(raw: u32) -> Self {
                match raw {
                    $(virt_sys::$raw => Self::$variant,)+
                    other => Self::Other(other),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    Self::Other(raw) => write!(f, "unknown value {raw}"),
                }
            }
        }
    };
}

pub(crate) use raw_enum;
