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
    /// The quartiles of at least one value; between two values where none is in the middle.
    pub(super) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        let quartile = |quarters: usize| {
            let (below, quarters_above) = (last * quarters / 4, last * quarters % 4);
            let above = (below + 1).min(last);
            values[below] + (values[above] - values[below]) * quarters_above as f64 / 4.0
        };
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
    /// Which of the two is faster: by the medians that are shown, if three quarters of the rounds agree.
    #[must_use]
    pub fn winner(&self) -> Winner {
        let ratio = self.malloc.median / self.ours.median;
        if self.speedup.low > 1.0 && ratio > NOTABLE_RATIO {
            Winner::Pktalloc
        } else if self.speedup.high < 1.0 && ratio < NOTABLE_RATIO.recip() {
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
                "pktalloc is {} times as fast as the system's malloc on this traffic: {ours:.1} against {malloc:.1} ns per packet.",
                times(malloc / ours)
            ),
            Winner::Malloc => write!(
                f,
                "The system's malloc is {} times as fast as pktalloc on this traffic: {malloc:.1} against {ours:.1} ns per packet.",
                times(ours / malloc)
            ),
            Winner::Equal => write!(
                f,
                "This run shows no difference between pktalloc and the system's malloc on this traffic: {ours:.1} and {malloc:.1} ns per packet."
            ),
        }
    }
}

/// A ratio above 1 in words that do not round it to 1.
fn times(ratio: f64) -> String {
    if ratio < 1.95 { format!("{ratio:.2}") } else { format!("{ratio:.1}") }
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
    fn quartiles_lie_between_the_values_around_them() {
        let spread = |values: &[f64]| Spread::of(values.to_vec());
        assert_eq!(spread(&[5.0]), Spread { low: 5.0, median: 5.0, high: 5.0 });
        assert_eq!(spread(&[5.0, 1.0, 4.0, 2.0, 3.0]), Spread { low: 2.0, median: 3.0, high: 4.0 });
        assert_eq!(spread(&[9.0, 8.0]), Spread { low: 8.25, median: 8.5, high: 8.75 });
        assert_eq!(spread(&[1.0, 2.0, 3.0, 10.0]), Spread { low: 1.75, median: 2.5, high: 4.75 });
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
        for (malloc, speedup) in
            [(10.4, [1.03, 1.04, 1.05]), (9.6, [0.95, 0.96, 0.97]), (20.0, [0.9, 2.0, 3.0]), (5.0, [0.2, 0.5, 1.1])]
        {
            let report = report(10.0, malloc, speedup);
            assert_eq!(report.winner(), Winner::Equal);
            assert!(report.to_string().starts_with("This run shows no difference"));
        }
    }

    #[test]
    fn the_sentence_follows_from_the_medians_shown() {
        // The median of the ratios is another figure than the ratio of the medians.
        let report = report(10.0, 10.6, [1.2, 1.9, 2.1]);
        assert_eq!(
            report.to_string(),
            "pktalloc is 1.06 times as fast as the system's malloc on this traffic: 10.0 against 10.6 ns per packet."
        );
    }

    #[test]
    fn memory_is_held_over_live() {
        assert_eq!(report(1.0, 1.0, [1.0; 3]).held_over_live(), 1.5);
    }
}
