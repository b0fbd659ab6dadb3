//! The scratch area of a receiver, seen from outside: how it is laid out, and what is found in it.

use super::Info;

/// How datagrams are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Datagrams of one call.
    pub(crate) most: usize,
    /// Bytes of each.
    pub(crate) size: usize,
    /// Whether the kernel joins them.
    pub(crate) joined: bool,
}

/// A datagram in the scratch area.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) truncated: bool,
    /// Bytes that the run of joined datagrams has for it: more than it shows where it was truncated.
    #[cfg(all(feature = "python", target_os = "linux"))]
    pub(crate) whole: usize,
    pub(crate) info: &'a Info,
}
