//! How far a replay is, and whether it is to go on.

use core::cell::{Cell, RefCell};
use core::ops::ControlFlow;
use std::io;

use super::error::Error;

/// What a replay is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the file; done and total count its bytes (a total of 0: not known, as of a pipe).
    Reading,
    /// Laying out allocations and frees; done counts packets.
    Planning,
    /// Filling and checking every byte; done counts operations.
    Verifying,
    /// Timing; done counts rounds.
    Timing,
}

impl Phase {
    /// One lower-case word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Planning => "planning",
            Self::Verifying => "verifying",
            Self::Timing => "timing",
        }
    }
}

/// Is told how far a replay is (phase, done, total) and may end it by returning [`ControlFlow::Break`], which becomes
/// [`Error::Interrupted`].
pub type Progress<'a> = dyn FnMut(Phase, u64, u64) -> ControlFlow<()> + 'a;

/// How many packets or operations pass between two reports of progress: a few milliseconds of work.
pub(super) const PROGRESS_STRIDE: usize = 1 << 16;

/// Reports progress, and turns a request to stop into an error.
pub(super) fn report_progress(
    progress: &mut Progress<'_>,
    phase: Phase,
    done: usize,
    total: usize,
) -> Result<(), Error> {
    match progress(phase, done as u64, total as u64) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Interrupted),
    }
}

/// Progress of reading, for readers that lie within each other: all of them share it.
///
/// A reader can only fail with an [`io::Error`]. What it fails with after a request to stop does not matter:
/// [`Watch::stopped`] remembers the request.
pub(super) struct Watch<'a> {
    progress: RefCell<&'a mut Progress<'a>>,
    stopped: Cell<bool>,
    /// Bytes read of the file, and its length (0: not known).
    read: Cell<u64>,
    length: Cell<u64>,
}

impl<'a> Watch<'a> {
    pub(super) fn new(progress: &'a mut Progress<'a>) -> Self {
        Self { progress: RefCell::new(progress), stopped: Cell::new(false), read: Cell::new(0), length: Cell::new(0) }
    }

    /// Sets how long the file is that is read from now on.
    pub(super) fn start(&self, length: u64) {
        self.read.set(0);
        self.length.set(length);
    }

    pub(super) fn add_read(&self, bytes: usize) {
        self.read.set(self.read.get() + bytes as u64);
    }

    pub(super) fn read_bytes(&self) -> u64 {
        self.read.get()
    }

    /// Reports how much is read.
    pub(super) fn report(&self) -> io::Result<()> {
        let mut progress = self.progress.borrow_mut();
        if self.stopped.get() || progress(Phase::Reading, self.read.get(), self.length.get()).is_break() {
            self.stopped.set(true);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(())
    }

    /// Whether the one who watches asked for the end.
    pub(super) fn stopped(&self) -> bool {
        self.stopped.get()
    }
}
