//! What the system says about this process: resident memory, and the processor time of this thread.

use core::time::Duration;

/// Bytes of this process that are in memory and belong to no file, where the system says so exactly (Linux).
pub(super) fn resident_bytes() -> Option<u64> {
    // `statm` counts in batches on newer systems and is off by megabytes; this adds up page tables.
    let text = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes << 10)
}

/// Gives back what this process has freed. Its growth would otherwise not show blocks that lie where reading the file
/// and planning have left holes, and malloc would seem to need less than what lives.
pub(super) fn give_back_what_is_free() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call touches only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Processor time that this thread has taken; time in which it was not running does not count.
#[cfg(unix)]
pub(super) fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes into `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Where the system has no such clock: the time that passed.
#[cfg(not(unix))]
pub(super) fn processor_time() -> Duration {
    static START: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    START.elapsed()
}
