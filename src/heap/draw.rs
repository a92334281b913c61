//! Distances between samples: exponential, so that every byte is as likely as any other to begin a sample.
//!
//! A countdown starts at an exponential `E` with mean `rate`, and a block of `size` bytes is sampled when it takes the countdown
//! below zero. The exponential has no memory, so whatever came before, that happens with probability 1 - exp(-size/rate).
//! The countdown is whole bytes: `floor(E) < size` and `E < size` are the same event for a whole `size`.

/// The next random number of a thread (xorshift64*); `state` is not 0.
#[inline]
#[must_use]
pub fn next(state: &mut u64) -> u64 {
    let mut x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    x.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

/// A seed that is not 0, from anything (splitmix64).
#[inline]
#[must_use]
pub fn seed(from: u64) -> u64 {
    let mut x = from.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ x >> 31) | 1
}

/// Uniform in (0, 1], from a random number.
#[inline]
#[must_use]
pub fn unit(random: u64) -> f64 {
    const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
    ((random >> 11).wrapping_add(1)) as f64 * SCALE
}

/// Bytes until the next sample.
#[inline]
#[must_use]
pub fn distance(state: &mut u64, rate: u64) -> i64 {
    // The largest is 37 times the rate, which is far below 2^63.
    (-libm::log(unit(next(state))) * rate as f64) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and the share of blocks of one size that begin a sample are those of the formula, within 5 sigma.
    #[test]
    fn distances_are_exponential() {
        const DRAWS: u32 = 200_000;
        for rate in [1_u64, 7, 4096, 1 << 40] {
            let mut state = seed(rate);
            let size = rate.div_ceil(3) as i64;
            let (mut sum, mut hits) = (0.0, 0_u32);
            for _ in 0..DRAWS {
                let left = distance(&mut state, rate);
                sum += left as f64;
                hits += u32::from(left - size < 0);
            }
            let n = f64::from(DRAWS);
            let p = -libm::expm1(-(size as f64) / rate as f64);
            let sigma = libm::sqrt(n * p * (1.0 - p));
            assert!(
                (f64::from(hits) - n * p).abs() < 5.0 * sigma,
                "rate {rate}: {hits} of {DRAWS}, expected {}",
                n * p
            );
            // The mean of floor(E) is 1 / (exp(1/rate) - 1), its deviation at most that of E.
            let mean = 1.0 / libm::expm1(1.0 / rate as f64);
            let sigma = 1.01 * libm::sqrt(n) * (rate as f64 + 1.0);
            assert!((sum - n * mean).abs() < 5.0 * sigma, "rate {rate}: mean {}", sum / n);
        }
    }
}
