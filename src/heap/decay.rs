//! When empty windows go back to the system. Knows integers only.
//!
//! Bursts come again, and to take their windows from the system each time would cost more than the packets. So an empty
//! window goes back only when no burst of the last [`EPOCHS`] times [`EPOCH_PACKETS`] packets needed it: the fewest
//! empty windows that there were in that time, less those to be kept in any case, are *due*. They go back one by one,
//! so that no call pays for many.
//!
//! Time is counted in frees, because an allocator has no clock, and a short queue never gets round in whole windows.

/// Packets of an epoch. Fuzzed programs are short.
const EPOCH_PACKETS: u64 = if cfg!(fuzzing) { 64 } else { 3 << 15 };
/// How many epochs have to agree. A burst of up to twice as many packets as an epoch has falls into three, whenever it
/// starts.
const EPOCHS: usize = 3;
/// Frees from one look at what has to be done now and then to the next, which gives at most one window back. Half a
/// million packets give back a gibibyte.
pub(super) const TICK: u32 = if cfg!(fuzzing) { 4 } else { 64 };

/// What is known of how many empty windows are needed.
#[derive(Debug)]
pub(crate) struct Decay {
    /// Packets of this epoch.
    packets: u64,
    /// The fewest empty windows of this epoch, and of those before it.
    fewest: [usize; EPOCHS],
    /// Windows that are to go back.
    due: usize,
}

impl Decay {
    /// Nothing is known.
    pub(super) const fn new() -> Self {
        Self { packets: 0, fewest: [0; EPOCHS], due: 0 }
    }

    /// An empty window was taken, which left `empty`.
    #[inline]
    pub(super) fn taken(&mut self, empty: usize) {
        self.fewest[0] = self.fewest[0].min(empty);
        self.due = self.due.min(empty);
    }

    /// [`TICK`] more packets were freed, and there are `empty` empty windows, of which `keep` are kept in any case;
    /// tells whether one of them is to go back now.
    #[inline]
    pub(super) fn tick(&mut self, empty: usize, keep: usize) -> bool {
        self.packets += u64::from(TICK);
        if self.packets >= EPOCH_PACKETS {
            self.packets = 0;
            let fewest = self.fewest.iter().copied().min().unwrap_or(0);
            self.due = fewest.saturating_sub(keep);
            self.fewest.rotate_right(1);
            self.fewest[0] = empty;
        }
        let now = self.due > 0;
        self.due -= usize::from(now);
        now
    }

    /// An empty window went back.
    pub(super) fn gone(&mut self, empty: usize) {
        self.fewest.iter_mut().for_each(|fewest| *fewest = fewest.saturating_sub(1));
        self.due = self.due.min(empty);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: usize = 32;

    /// So many packets, with one window that comes and goes; returns the empty windows that are left.
    fn quiet(decay: &mut Decay, mut empty: usize, packets: u64) -> usize {
        for _ in 0..packets / u64::from(TICK) {
            decay.taken(empty - 1);
            if decay.tick(empty, KEEP) {
                empty -= 1;
                decay.gone(empty);
            }
        }
        empty
    }

    /// A burst of so many packets that takes all of `windows`, and drains; returns how many went back.
    fn burst(decay: &mut Decay, windows: usize, packets: u64) -> usize {
        (0..windows).rev().for_each(|empty| decay.taken(empty));
        let ticks = packets / u64::from(TICK);
        (0..ticks).filter(|tick| decay.tick(windows * *tick as usize / ticks as usize, KEEP)).count()
    }

    #[test]
    fn bursts_keep_the_windows_that_they_need() {
        let mut decay = Decay::new();
        let gone: usize = (0..40).map(|_| burst(&mut decay, 3000, 2 * EPOCH_PACKETS)).sum();
        assert_eq!(gone, 0);
    }

    #[test]
    fn a_burst_of_a_gibibyte_has_gone_back_within_a_million_packets() {
        let mut decay = Decay::new();
        burst(&mut decay, 8192, 700_000);
        let left = quiet(&mut decay, 8192, 1_000_000);
        assert!(left <= KEEP + 1, "{left} windows are still empty");
    }

    #[test]
    fn a_few_empty_windows_are_kept_for_ever() {
        let mut decay = Decay::new();
        assert_eq!(quiet(&mut decay, KEEP, 10 * EPOCH_PACKETS), KEEP);
    }

    #[test]
    fn windows_that_are_needed_again_are_not_due() {
        let mut decay = Decay::new();
        quiet(&mut decay, 10_000, 4 * EPOCH_PACKETS);
        assert!(decay.tick(9000, KEEP));
        decay.taken(0);
        assert!(!decay.tick(0, KEEP));
    }

    /// Nor are those that went back already, also when none is taken for a while.
    #[test]
    fn windows_go_back_once() {
        let (mut decay, mut empty) = (Decay::new(), 3 * KEEP);
        for _ in 0..10 * EPOCH_PACKETS / u64::from(TICK) {
            if decay.tick(empty, KEEP) {
                empty -= 1;
                decay.gone(empty);
            }
        }
        assert_eq!(empty, KEEP);
    }
}
