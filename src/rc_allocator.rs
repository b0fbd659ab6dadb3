//! An allocator that several parts of a structure share.

use alloc::rc::Rc;
use core::fmt;
use core::ops::Deref;

use crate::allocator::Allocator;
#[cfg(feature = "std")]
use crate::config::{Config, ConfigError};
use crate::packet::packet_methods;
use crate::system::System;

/// An [`Allocator`] that its packets and collections keep alive. A clone is the same allocator.
///
/// Packets that borrow their allocator cannot lie in the same structure as that. Those of an `RcAllocator` can, and the
/// fields of the structure may go in any order:
///
/// ```
/// use std::collections::VecDeque;
/// use pktalloc::{AllocError, Packet, RcAllocator};
///
/// #[derive(Default)]
/// struct Receiver {
///     allocator: RcAllocator,
///     queue: VecDeque<Packet<RcAllocator>>,
/// }
///
/// impl Receiver {
///     fn push(&mut self, datagram: &[u8]) -> Result<(), AllocError> {
///         self.queue.push_back(self.allocator.packet_from(datagram)?);
///         Ok(())
///     }
/// }
///
/// let mut receiver = Receiver::default();
/// receiver.push(b"hello")?;
/// assert_eq!(receiver.queue[0], b"hello");
/// # Ok::<(), AllocError>(())
/// ```
///
/// It stays on its thread, and so do its packets:
///
/// ```compile_fail,E0277
/// let packet = pktalloc::RcAllocator::new().packet(1400).unwrap();
/// std::thread::spawn(move || drop(packet));
/// ```
///
/// With the feature `allocator-api2` it is also an allocator for the collections of that crate.
#[cfg(feature = "std")]
pub struct RcAllocator<const UNIT: usize = 64, const WINDOW_UNITS: usize = 2048, S: System = crate::system::Os>(
    Rc<Allocator<UNIT, WINDOW_UNITS, S>>,
);

/// See the documentation with the feature `std`, with which the parameters have defaults.
#[cfg(not(feature = "std"))]
pub struct RcAllocator<const UNIT: usize, const WINDOW_UNITS: usize, S: System>(Rc<Allocator<UNIT, WINDOW_UNITS, S>>);

#[cfg(feature = "std")]
impl RcAllocator {
    /// An allocator of the default shape and configuration. Asks the system for nothing until the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

#[cfg(feature = "std")]
impl<const UNIT: usize, const WINDOW_UNITS: usize> Default for RcAllocator<UNIT, WINDOW_UNITS> {
    fn default() -> Self {
        Allocator::default().into()
    }
}

#[cfg(feature = "std")]
impl<const UNIT: usize, const WINDOW_UNITS: usize> RcAllocator<UNIT, WINDOW_UNITS> {
    /// An allocator that behaves as `config` says. Asks the system for nothing until the first allocation.
    ///
    /// # Errors
    /// [`ConfigError`] names a setting that makes no sense, and what is allowed.
    pub fn with_config(config: Config<UNIT, WINDOW_UNITS>) -> Result<Self, ConfigError> {
        Allocator::with_config(config).map(Self::from)
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> RcAllocator<UNIT, WINDOW_UNITS, S> {
    packet_methods!('a, Self);
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Clone for RcAllocator<UNIT, WINDOW_UNITS, S> {
    #[inline]
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> Deref for RcAllocator<UNIT, WINDOW_UNITS, S> {
    type Target = Allocator<UNIT, WINDOW_UNITS, S>;

    #[inline(always)]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> From<Allocator<UNIT, WINDOW_UNITS, S>>
    for RcAllocator<UNIT, WINDOW_UNITS, S>
{
    fn from(allocator: Allocator<UNIT, WINDOW_UNITS, S>) -> Self {
        Self(Rc::new(allocator))
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> From<Rc<Allocator<UNIT, WINDOW_UNITS, S>>>
    for RcAllocator<UNIT, WINDOW_UNITS, S>
{
    fn from(allocator: Rc<Allocator<UNIT, WINDOW_UNITS, S>>) -> Self {
        Self(allocator)
    }
}

impl<const UNIT: usize, const WINDOW_UNITS: usize, S: System> fmt::Debug for RcAllocator<UNIT, WINDOW_UNITS, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
