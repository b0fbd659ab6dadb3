//! A file, a pipe or a device that is read without ever being stuck in the system.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use crate::replay::progress::Watch;

/// How long to wait for a pipe before progress is reported: well below what a person notices.
#[cfg(unix)]
const WAIT_MILLISECONDS: i32 = 100;

/// What the file holds, as it is.
pub(super) struct Raw<'w> {
    file: File,
    watch: &'w Watch<'w>,
    /// Whether reading may have to wait for somebody to write.
    waits: bool,
}

impl<'w> Raw<'w> {
    pub(super) fn open(path: &Path, watch: &'w Watch<'w>) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // Opening a pipe does not wait for its writer; the first read does, and can be ended.
            options.custom_flags(libc::O_NONBLOCK);
        }
        Self::new(options.open(path)?, watch)
    }

    pub(super) fn new(file: File, watch: &'w Watch<'w>) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let waits = !(metadata.is_file() || metadata.is_dir());
        watch.start(if metadata.is_file() { metadata.len() } else { 0 });
        Ok(Self { file, watch, waits })
    }

    /// Waits until there is something to read (or the end), or so long that progress is to be reported.
    #[cfg(unix)]
    fn wait(&self) -> io::Result<bool> {
        use std::os::fd::AsRawFd;
        let mut poll = libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: `poll` is one valid entry, which the call fills in.
        match unsafe { libc::poll(&raw mut poll, 1, WAIT_MILLISECONDS) } {
            0 => Ok(false),
            ready if ready > 0 => Ok(true),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
        }
    }

    #[cfg(not(unix))]
    #[expect(clippy::unused_self, reason = "the same face on every system")]
    fn wait(&self) -> io::Result<bool> {
        Ok(true)
    }
}

impl Read for Raw<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.waits && !self.wait()? {
                self.watch.report()?;
                continue;
            }
            match self.file.read(buffer) {
                Ok(count) => {
                    self.watch.add_read(count);
                    return Ok(count);
                }
                // A signal, or another reader of the same pipe was faster.
                Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                    self.watch.report()?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
