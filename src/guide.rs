//! Guides: how to use the crate for one job each.
//!
//! - [`queues`]: a queue beside its allocator, bursts, many queues;
//! - [`codecs`]: windows of packets for error correction, retransmission and media;
//! - `packets` (feature `shared`): room on both sides, frozen packets, pools, and the same elsewhere;
//! - `threads` (feature `shared`): packets that other threads hold and free;
//! - [`parameters`]: which settings to choose, and when;
//! - [`memory`]: what is held, why, and how to get it back;
//! - [`no_std`]: without the standard library.
//!
//! The same pages, with those for Python, are the project's site.
//
// The pages refer to each other by labels that they define at their end, for readers of the file. In Markdown the first
// definition of a label counts, so the ones here win in the documentation of the crate.

#[doc = "[memory]: crate::guide::memory\n[parameters]: crate::guide::parameters\n"]
#[doc = include_str!("../docs/queues.md")]
pub mod queues {}

#[cfg_attr(feature = "shared", doc = "[threads]: crate::guide::threads\n")]
#[doc = "[parameters]: crate::guide::parameters\n[performance]: crate#what-it-costs\n"]
#[doc = include_str!("../docs/codecs.md")]
pub mod codecs {}

#[cfg(feature = "shared")]
#[doc = include_str!("../docs/packets.md")]
pub mod packets {}

#[cfg(feature = "shared")]
#[doc = "[performance]: crate#what-it-costs\n[packets]: crate::guide::packets\n"]
#[doc = include_str!("../docs/threads.md")]
pub mod threads {}

#[cfg_attr(feature = "replay", doc = "[replay]: crate::replay\n")]
#[doc = "[performance]: crate#what-it-costs\n"]
#[doc = include_str!("../docs/parameters.md")]
pub mod parameters {}

#[doc = "[parameters]: crate::guide::parameters\n"]
#[doc = include_str!("../docs/memory.md")]
pub mod memory {}

#[doc = include_str!("../docs/no-std.md")]
pub mod no_std {}
