//! How large the packets of a workload are.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::SplitMix64;

/// Packet sizes in bytes, and how the next one is drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// Every packet has this size. Draws no number.
    Fixed(u32),
    /// 32 to 2000 bytes, all equally likely: `32 + below(1969)`.
    Uniform,
    /// The simple Internet mix, 40, 576 and 1500 bytes at 7:4:1: `below(12)` under 7, under 11, or 11.
    Imix,
    /// One size after the other, again from the first after the last. Draws no number.
    List(Arc<[u32]>),
    /// Sizes with their frequencies: `below(sum of the frequencies)` falls into the first entry whose running total
    /// exceeds it.
    Histogram(Arc<[(u32, u32)]>),
}

impl Sizes {
    /// The four size mixes that need no file: 1000, 1400, uniform and imix.
    pub const SYNTHETIC: [Self; 4] = [Self::Fixed(1000), Self::Fixed(1400), Self::Uniform, Self::Imix];

    /// Starts drawing sizes.
    ///
    /// # Panics
    ///
    /// If a list or histogram is empty, or holds a size or a sum of frequencies of 0.
    #[must_use]
    pub fn draw(&self, seed: u64) -> Draw<'_> {
        match self {
            Self::Fixed(size) => assert!(*size > 0, "a packet has at least 1 byte"),
            Self::List(sizes) => {
                assert!(!sizes.is_empty(), "a list of sizes is empty");
                assert!(sizes.iter().all(|&size| size > 0), "a list of sizes holds a size of 0");
            }
            Self::Histogram(entries) => {
                assert!(entries.iter().all(|&(size, _)| size > 0), "a histogram holds a size of 0");
                assert!(entries.iter().any(|&(_, frequency)| frequency > 0), "a histogram has no frequencies");
            }
            Self::Uniform | Self::Imix => {}
        }
        let total = match self {
            Self::Histogram(entries) => entries.iter().map(|&(_, frequency)| u64::from(frequency)).sum(),
            _ => 0,
        };
        Draw { sizes: self, random: SplitMix64::new(seed), drawn: 0, total }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Uniform => f.write_str("uniform"),
            Self::Imix => f.write_str("imix"),
            Self::List(_) => f.write_str("list"),
            Self::Histogram(_) => f.write_str("histogram"),
        }
    }
}

/// A name of sizes that is neither a number of bytes nor one of the mixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseSizesError(String);

impl fmt::Display for ParseSizesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sizes {:?}: use uniform, imix or a number of bytes from 1 to {}", self.0, u32::MAX)
    }
}

impl std::error::Error for ParseSizesError {}

impl FromStr for Sizes {
    type Err = ParseSizesError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "uniform" => Ok(Self::Uniform),
            "imix" => Ok(Self::Imix),
            _ => match name.parse() {
                Ok(size) if size > 0 => Ok(Self::Fixed(size)),
                _ => Err(ParseSizesError(name.to_owned())),
            },
        }
    }
}

/// The sizes of the packets in their order of arrival, without end.
#[derive(Clone, Debug)]
pub struct Draw<'a> {
    sizes: &'a Sizes,
    random: SplitMix64,
    drawn: usize,
    total: u64,
}

impl Draw<'_> {
    /// The size of the next packet: at least 1 byte.
    pub fn next_size(&mut self) -> u32 {
        match self.sizes {
            Sizes::Fixed(size) => *size,
            Sizes::Uniform => 32 + self.random.below(1969) as u32,
            Sizes::Imix => match self.random.below(12) {
                0..7 => 40,
                7..11 => 576,
                _ => 1500,
            },
            Sizes::List(sizes) => {
                let size = sizes[self.drawn % sizes.len()];
                self.drawn += 1;
                size
            }
            Sizes::Histogram(entries) => {
                let mut left = self.random.below(self.total);
                for &(size, frequency) in entries.iter() {
                    match left.checked_sub(u64::from(frequency)) {
                        None => return size,
                        Some(rest) => left = rest,
                    }
                }
                unreachable!("a number below the sum of the frequencies falls into an entry")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sizes;

    fn sample(sizes: &Sizes, count: usize) -> Vec<u32> {
        let mut draw = sizes.draw(1);
        (0..count).map(|_| draw.next_size()).collect()
    }

    fn share(sizes: &[u32], size: u32) -> f64 {
        let hits = u32::try_from(sizes.iter().filter(|&&s| s == size).count()).unwrap();
        f64::from(hits) / f64::from(u32::try_from(sizes.len()).unwrap())
    }

    #[test]
    fn fixed_is_fixed() {
        assert!(sample(&Sizes::Fixed(1400), 100).iter().all(|&size| size == 1400));
    }

    #[test]
    fn uniform_covers_32_to_2000() {
        let sizes = sample(&Sizes::Uniform, 100_000);
        assert_eq!(sizes.iter().min(), Some(&32));
        assert_eq!(sizes.iter().max(), Some(&2000));
        let mean = f64::from(sizes.iter().sum::<u32>()) / 100_000.0;
        assert!((mean - 1016.0).abs() < 10.0, "{mean}");
    }

    #[test]
    fn imix_is_7_to_4_to_1() {
        let sizes = sample(&Sizes::Imix, 120_000);
        for (size, expected) in [(40, 7.0 / 12.0), (576, 4.0 / 12.0), (1500, 1.0 / 12.0)] {
            assert!((share(&sizes, size) - expected).abs() < 0.01, "{size}: {}", share(&sizes, size));
        }
    }

    #[test]
    fn a_list_repeats_in_order() {
        assert_eq!(sample(&Sizes::List([5, 7, 9].into()), 7), [5, 7, 9, 5, 7, 9, 5]);
    }

    #[test]
    fn a_histogram_is_drawn_by_frequency() {
        let sizes = sample(&Sizes::Histogram([(10, 1), (99, 0), (20, 3)].into()), 40_000);
        assert!((share(&sizes, 10) - 0.25).abs() < 0.01);
        assert!((share(&sizes, 20) - 0.75).abs() < 0.01);
    }

    #[test]
    #[should_panic(expected = "a histogram has no frequencies")]
    fn a_histogram_without_frequencies_is_refused() {
        let _ = Sizes::Histogram([(10, 0)].into()).draw(1);
    }

    #[test]
    #[should_panic(expected = "a list of sizes is empty")]
    fn an_empty_list_is_refused() {
        let _ = Sizes::List([].into()).draw(1);
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for sizes in Sizes::SYNTHETIC {
            assert_eq!(sizes.to_string().parse(), Ok(sizes));
        }
        let error = "0".parse::<Sizes>().unwrap_err();
        assert_eq!(error.to_string(), "sizes \"0\": use uniform, imix or a number of bytes from 1 to 4294967295");
    }
}
