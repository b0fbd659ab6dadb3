//! Processor time and memory of this process.

use std::fs;
use std::time::Duration;

/// The processor time of all threads, system calls and page faults included.
pub(crate) fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours to write.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "a process has a clock");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("nanoseconds are below a second"))
}

/// Begins to watch the peak of the memory anew, where the system can.
pub(crate) fn reset_peak() {
    // Without it the peak is the one since the start, which is hardly another.
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes of this process in memory.
pub(crate) fn resident_bytes() -> u64 {
    status("VmRSS:")
}

/// The most of them since [`reset_peak`].
pub(crate) fn resident_peak() -> u64 {
    status("VmHWM:")
}

/// A line of `/proc/self/status`, in bytes; 0 where there is none.
fn status(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    line.unwrap_or(0) << 10
}
