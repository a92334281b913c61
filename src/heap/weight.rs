//! What a sampled block stands for.
//!
//! A block of `size` bytes is in the sample with probability p = 1 - exp(-size/rate), whatever else is, so 1/p blocks and size/p
//! bytes are an unbiased estimate of what it stands for (Horvitz and Thompson), at every size and rate. The variance of a
//! sum of such weights has the unbiased estimate sum((1-p)/p^2) for blocks and sum(size^2 (1-p)/p^2) for bytes.
//!
//! Weights are whole numbers, so that totals are the sums of their parts to the byte. Rounding is up or down by chance, with the
//! fraction as its probability, which keeps the mean.

/// The weight of one block.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weight {
    /// 1/p.
    pub inverse: f64,
    pub bytes: u64,
    pub count: u64,
}

/// 1/p of a block of `size` bytes.
#[inline]
#[must_use]
pub fn inverse(size: u64, rate: u64) -> f64 {
    -1.0 / libm::expm1(-(size as f64) / rate.max(1) as f64)
}

/// `value` as a whole number; `dither` is uniform in [0, 1).
#[inline]
#[must_use]
pub fn whole(value: f64, dither: f64) -> u64 {
    libm::floor(value + dither) as u64
}

/// The weight of a sampled block; `random` decides the rounding.
#[inline]
#[must_use]
pub fn weigh(size: u64, rate: u64, random: u64) -> Weight {
    let inverse = inverse(size, rate);
    // Two independent halves of the random number.
    let dither = |bits: u64| (bits & 0xffff_ffff) as f64 / 4_294_967_296.0;
    Weight { inverse, bytes: whole(size as f64 * inverse, dither(random)), count: whole(inverse, dither(random >> 32)) }
}

/// The variance that a block of `size` bytes adds to a total of bytes; with 1 for `size`, to a total of blocks.
#[inline]
#[must_use]
pub fn variance(size: u64, inverse: f64) -> f64 {
    // (1-p)/p^2 = inverse * (inverse - 1)
    let size = size as f64;
    size * size * inverse * (inverse - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw;

    /// A block far larger than the rate stands for itself, one far smaller for a rate's worth of bytes.
    #[test]
    fn limits() {
        assert_eq!(weigh(100_000_000_000, 1024, 7), Weight { inverse: 1.0, bytes: 100_000_000_000, count: 1 });
        let small = weigh(16, 1 << 30, 0);
        assert!((small.bytes as f64 / (1_u64 << 30) as f64 - 1.0).abs() < 1e-6);
        assert!((small.count as f64 * 16.0 / small.bytes as f64 - 1.0).abs() < 1e-6);
        assert_eq!(variance(100_000_000_000, 1.0), 0.0);
    }

    /// Rounding keeps the mean, where weights are small numbers, too.
    #[test]
    fn rounding_is_fair() {
        let mut state = draw::seed(3);
        const ROUNDS: u32 = 100_000;
        let sum: u64 = (0..ROUNDS).map(|_| weigh(1, 1, draw::next(&mut state)).bytes).sum();
        let mean = sum as f64 / f64::from(ROUNDS);
        assert!((mean - inverse(1, 1)).abs() < 5.0 * 0.5 / libm::sqrt(f64::from(ROUNDS)), "{mean}");
    }

    /// The estimate is unbiased and its 95 % interval covers the truth in 95 % of trials, from 16 bytes to a gigabyte.
    #[test]
    fn estimates_are_true() {
        const TRIALS: u32 = 1000;
        const RATE: u64 = 512 << 10;
        for size in [16_u64, 512, 513, 4096, 100_000, RATE, 10 * RATE, 1 << 30] {
            // Some 400 samples a trial where blocks are small; few blocks where they are large.
            let p = 1.0 / inverse(size, RATE);
            let blocks = ((400.0 / p) as u64).clamp(100, 20_000_000);
            let mut state = draw::seed(size);
            let (mut covered, mut sum) = (0_u32, 0.0);
            for _ in 0..TRIALS {
                let (bytes, variance) = simulate(&mut state, size, blocks);
                let truth = (size * blocks) as f64;
                covered += u32::from((bytes - truth).abs() <= 1.96 * libm::sqrt(variance) + 0.5);
                sum += bytes / truth;
            }
            let mean = sum / f64::from(TRIALS);
            let spread = libm::sqrt((1.0 - p) / (p * blocks as f64) / f64::from(TRIALS));
            assert!((mean - 1.0).abs() < (4.0 * spread).max(1e-9), "{size}: bias {:+.4}", mean - 1.0);
            assert!(mean > 0.99 && mean < 1.01, "{size}: bias {:+.4}", mean - 1.0);
            let share = f64::from(covered) / f64::from(TRIALS);
            // A block above the rate is nearly always seen: then there is next to nothing to miss.
            let most = if p > 0.99 { 1.0 } else { 0.97 };
            assert!((0.93..=most).contains(&share), "{size}: covered in {share}");
        }
    }

    /// One trial: `blocks` blocks of `size` bytes through a countdown. Blocks without a sample are skipped over at once.
    fn simulate(state: &mut u64, size: u64, blocks: u64) -> (f64, f64) {
        const RATE: u64 = 512 << 10;
        let (mut bytes, mut sum, mut at) = (0.0, 0.0, 0_u64);
        loop {
            at += draw::distance(state, RATE) as u64 / size + 1;
            if at > blocks {
                return (bytes, sum);
            }
            let weight = weigh(size, RATE, draw::next(state));
            bytes += weight.bytes as f64;
            sum += variance(size, weight.inverse);
        }
    }
}
