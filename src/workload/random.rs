//! The source of random numbers: small, fixed for ever, and easy to write again elsewhere.

/// SplitMix64 (Steele, Lea and Flood, 2014): a 64-bit counter whose every value is scrambled.
///
/// Any seed is good. The numbers are part of the workloads' definition, so they never change.
#[derive(Clone, Debug)]
pub struct SplitMix64 {
    state: u64,
}

impl SplitMix64 {
    /// A generator that starts from `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    #[inline]
    pub const fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = self.state;
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`: the high 64 bits of the 128-bit product of the next number and `bound`.
    ///
    /// Nothing is rejected, so every call takes exactly one number. The bias is below `bound / 2^64`.
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.next() as u128 * bound as u128) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::SplitMix64;

    #[test]
    fn numbers_are_those_of_the_reference_implementation() {
        // The published test vector of the reference implementation, seed 1234567.
        let mut random = SplitMix64::new(1_234_567);
        let numbers: Vec<u64> = (0..5).map(|_| random.next()).collect();
        assert_eq!(
            numbers,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821,
            ],
        );
    }

    #[test]
    fn below_is_uniform_and_in_range() {
        let mut random = SplitMix64::new(1);
        let mut counts = [0_u32; 12];
        for _ in 0..120_000 {
            counts[usize::try_from(random.below(12)).unwrap()] += 1;
        }
        // Ten standard deviations around the expected 10,000.
        assert!(counts.iter().all(|&count| (9_043..=10_957).contains(&count)), "{counts:?}");
    }
}
