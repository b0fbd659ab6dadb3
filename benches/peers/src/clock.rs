//! Time, cores and memory, as the system counts them for this process.

use std::time::Duration;
use std::{fs, io};

/// The processor time of this thread, system calls and page faults included: others on the machine do not count.
pub(crate) fn processor_time() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// The same of all threads of this process.
pub(crate) fn processor_time_of_all_threads() -> Duration {
    read(libc::CLOCK_PROCESS_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the structure is ours to write.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "threads and processes have clocks");
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).expect("nanoseconds are below a second"))
}

/// Keeps this process on the last of the cores that it may use.
pub(crate) fn stay_on_one_core() -> Result<(), String> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: an all-zero set is an empty set.
    let (mut allowed, mut one) = unsafe { std::mem::zeroed::<(libc::cpu_set_t, libc::cpu_set_t)>() };
    // SAFETY: the set is ours to write, and has the size that is said.
    if unsafe { libc::sched_getaffinity(0, size, &mut allowed) } != 0 {
        return Err(format!("cannot read the processor affinity: {}", io::Error::last_os_error()));
    }
    let cores = 0..usize::try_from(libc::CPU_SETSIZE).expect("the size of a set is positive");
    // SAFETY: the cores are below the size of a set.
    let last = cores.rev().find(|&core| unsafe { libc::CPU_ISSET(core, &allowed) }).ok_or("no core is allowed")?;
    // SAFETY: as above.
    unsafe { libc::CPU_SET(last, &mut one) };
    // SAFETY: the set has the size that is said.
    if unsafe { libc::sched_setaffinity(0, size, &one) } != 0 {
        return Err(format!("cannot stay on core {last}: {}", io::Error::last_os_error()));
    }
    Ok(())
}

/// Bytes of this process in memory.
pub(crate) fn resident_bytes() -> Result<u64, String> {
    const FILE: &str = "/proc/self/statm";
    let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let pages: u64 = text
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| format!("{FILE} has no second number: {text:?}"))?;
    // SAFETY: asks for a number.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    Ok(pages * u64::try_from(page).map_err(|_| "the system has no page size")?)
}

/// Page faults of this process that needed no disk.
pub(crate) fn minor_faults() -> u64 {
    // SAFETY: all-zero bytes are a valid structure of numbers.
    let mut usage = unsafe { std::mem::zeroed::<libc::rusage>() };
    // SAFETY: the structure is ours to write.
    let result = unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    assert_eq!(result, 0, "a process may ask for its own usage");
    usage.ru_minflt.unsigned_abs()
}

/// Begins to watch the most bytes of this process in memory anew.
pub(crate) fn reset_peak() -> io::Result<()> {
    // See proc(5): 5 resets the peak, and nothing else.
    fs::write("/proc/self/clear_refs", "5")
}

/// The most bytes of this process in memory since [`reset_peak`].
pub(crate) fn resident_peak() -> Result<u64, String> {
    const FILE: &str = "/proc/self/status";
    let text = fs::read_to_string(FILE).map_err(|error| format!("{FILE}: {error}"))?;
    let peak =
        text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(peak.ok_or_else(|| format!("{FILE} has no VmHWM"))? << 10)
}
