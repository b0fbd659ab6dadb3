//! What a replay found, and what to make of it.

use core::fmt;

/// Below this ratio of medians the two count as equal: what a shared machine moves by between two runs.
const NOTABLE_RATIO: f64 = 1.05;

/// How a figure spreads over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// A quarter of the rounds is not above it.
    pub low: f64,
    /// Half of the rounds is not above it.
    pub median: f64,
    /// Three quarters of the rounds are not above it.
    pub high: f64,
}

impl Spread {
    /// The quartiles of at least one value, each the nearest one that was measured.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let quartile = |quarters: usize| values[(last * quarters + 2) / 4];
        Self { low: quartile(1), median: quartile(2), high: quartile(3) }
    }
}

/// Which of the two is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Winner {
    /// This allocator.
    Pktalloc,
    /// The system's malloc.
    Malloc,
    /// Neither: less than 5 percent apart, or not the same one in three quarters of the rounds.
    Equal,
}

impl Winner {
    /// One lower-case word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pktalloc => "pktalloc",
            Self::Malloc => "malloc",
            Self::Equal => "equal",
        }
    }
}

/// What a replay measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Report {
    /// How many rounds were timed.
    pub rounds: u32,
    /// How often each round ran the plan.
    pub passes: u32,
    /// This allocator's nanoseconds per packet: one allocation and one free.
    pub ours: Spread,
    /// The system's malloc's nanoseconds per packet.
    pub malloc: Spread,
    /// What of both times is the replay's own: its loop and an empty call.
    pub bare_loop: Spread,
    /// How many times as fast this allocator is: malloc's time over its own, taken side by side in each round.
    pub speedup: Spread,
    /// The most bytes that this allocator had taken from the system.
    pub held_bytes: u64,
    /// The most bytes of packets that were live at once.
    pub live_bytes: u64,
}

impl Report {
    /// Which of the two is faster.
    #[must_use]
    pub fn winner(&self) -> Winner {
        if self.speedup.low > 1.0 && self.speedup.median > NOTABLE_RATIO {
            Winner::Pktalloc
        } else if self.speedup.high < 1.0 && self.speedup.median < NOTABLE_RATIO.recip() {
            Winner::Malloc
        } else {
            Winner::Equal
        }
    }

    /// The most bytes held over the most bytes live.
    #[must_use]
    pub fn held_over_live(&self) -> f64 {
        self.held_bytes as f64 / self.live_bytes as f64
    }
}

/// The verdict: one sentence.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ours, malloc) = (self.ours.median, self.malloc.median);
        match self.winner() {
            Winner::Pktalloc => write!(
                f,
                "pktalloc is {:.1} times as fast as the system's malloc on this traffic: {ours:.1} against {malloc:.1} ns per packet.",
                self.speedup.median
            ),
            Winner::Malloc => write!(
                f,
                "The system's malloc is {:.1} times as fast as pktalloc on this traffic: {malloc:.1} against {ours:.1} ns per packet.",
                self.speedup.median.recip()
            ),
            Winner::Equal => write!(
                f,
                "This run shows no difference between pktalloc and the system's malloc on this traffic: {ours:.1} and {malloc:.1} ns per packet."
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(ours: f64, malloc: f64, speedup: [f64; 3]) -> Report {
        let spread = |[low, median, high]: [f64; 3]| Spread { low, median, high };
        Report {
            rounds: 3,
            passes: 1,
            ours: spread([ours; 3]),
            malloc: spread([malloc; 3]),
            bare_loop: spread([1.0; 3]),
            speedup: spread(speedup),
            held_bytes: 300,
            live_bytes: 200,
        }
    }

    #[test]
    fn quartiles_are_measured_values() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[5.0]), Spread { low: 5.0, median: 5.0, high: 5.0 });
        assert_eq!(spread(&[5.0, 1.0, 4.0, 2.0, 3.0]), Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert_eq!(spread(&[9.0, 8.0]), Spread { low: 8.0, median: 9.0, high: 9.0 });
    }

    #[test]
    fn the_verdict_names_the_winner_whoever_it_is() {
        let ours = report(10.0, 20.0, [1.9, 2.0, 2.1]);
        assert_eq!(ours.winner(), Winner::Pktalloc);
        assert_eq!(
            ours.to_string(),
            "pktalloc is 2.0 times as fast as the system's malloc on this traffic: 10.0 against 20.0 ns per packet."
        );
        let malloc = report(20.0, 10.0, [0.4, 0.5, 0.6]);
        assert_eq!(malloc.winner(), Winner::Malloc);
        assert_eq!(
            malloc.to_string(),
            "The system's malloc is 2.0 times as fast as pktalloc on this traffic: 10.0 against 20.0 ns per packet."
        );
    }

    #[test]
    fn a_difference_within_the_noise_is_none() {
        for speedup in [[1.03, 1.04, 1.05], [0.95, 0.96, 0.97], [0.9, 2.0, 3.0], [0.2, 0.5, 1.1]] {
            let report = report(10.0, 11.0, speedup);
            assert_eq!(report.winner(), Winner::Equal);
            assert!(report.to_string().starts_with("This run shows no difference"));
        }
    }

    #[test]
    fn memory_is_held_over_live() {
        assert_eq!(report(1.0, 1.0, [1.0; 3]).held_over_live(), 1.5);
    }
}
