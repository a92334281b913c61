//! Which of many quantities differ between two groups of runs: a permutation test of all of them at once.
//!
//! If before and after do not differ, every way to deal the runs into the two groups is equally likely. So the largest
//! difference found over all quantities is compared with the largest found under the other deals (Westfall and Young): the
//! p-values hold for the whole family, whatever the distribution of the noise, and for quantities that move together.

/// Deals tried at most; when there are no more than these, all of them.
const MOST_DEALS: u64 = 20_000;
/// Beyond this many (robust) standard deviations outside the quartiles a run is an accident, and counts as one of this size.
const CLIP: f64 = 3.0;
/// Relative deviation that is never taken to be smaller: clocks and alignment.
const FLOOR: f64 = 0.002;

/// For each row of runs before and after, the chance to find a difference as large in any row when there is none in any.
/// Rows must be of equal lengths; the values are times.
#[must_use]
pub fn differences(before: &[Vec<f64>], after: &[Vec<f64>]) -> Vec<f64> {
    let rows: Vec<Row> = before.iter().zip(after).map(|(before, after)| Row::new(before, after)).collect();
    let (Some(first), Some(n)) = (before.first().map(Vec::len), rows.first().map(|row| row.values.len())) else {
        return Vec::new();
    };
    if first == 0 || first == n {
        return vec![1.0; rows.len()];
    }
    let mut chosen: Vec<usize> = (0..first).collect();
    let observed: Vec<f64> = rows.iter().map(|row| row.distance(&chosen)).collect();
    let mut as_large = vec![0_u64; rows.len()];
    let mut deals = 0_u64;
    let all = count_deals(n, first).filter(|&count| count <= MOST_DEALS);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    loop {
        let largest = rows.iter().map(|row| row.distance(&chosen)).fold(0.0, f64::max);
        for (count, &observed) in as_large.iter_mut().zip(&observed) {
            // The same sums in another order differ in their last bits.
            *count += u64::from(largest >= observed * (1.0 - 1e-9));
        }
        deals += 1;
        if deals == all.unwrap_or(MOST_DEALS) {
            break;
        }
        match all {
            Some(_) => next_combination(&mut chosen, n),
            None => chosen = random.deal(n, first),
        }
    }
    as_large.into_iter().map(|count| count as f64 / deals as f64).collect()
}

/// A quantity in all runs, relative to its mean, accidents clipped; those before come first.
struct Row {
    values: Vec<f64>,
    sum: f64,
    squares: f64,
}

impl Row {
    fn new(before: &[f64], after: &[f64]) -> Self {
        let mut values: Vec<f64> = before.iter().chain(after).copied().collect();
        let (least, most) = fences(&values);
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        for value in &mut values {
            let clipped = value.clamp(least, most);
            *value = if mean > 0.0 && mean.is_finite() { clipped / mean } else { 0.0 };
        }
        let sum = values.iter().sum();
        let squares = values.iter().map(|value| value * value).sum();
        Self { values, sum, squares }
    }

    /// The difference of the groups' means in standard deviations.
    fn distance(&self, chosen: &[usize]) -> f64 {
        let (n, n1) = (self.values.len() as f64, chosen.len() as f64);
        let n2 = n - n1;
        let sum: f64 = chosen.iter().map(|&i| self.values[i]).sum();
        let (mean1, mean2) = (sum / n1, (self.sum - sum) / n2);
        let within = (self.squares - n1 * mean1 * mean1 - n2 * mean2 * mean2).max(0.0) / (n - 2.0).max(1.0);
        (mean1 - mean2).abs() / ((within.sqrt() + FLOOR) * (1.0 / n1 + 1.0 / n2).sqrt())
    }
}

/// Between which values a run is no accident. The scale is a quartile of the distances between pairs (Rousseeuw and Croux 1993):
/// unlike the median deviation it stays that of a group when the groups lie apart, as half of the pairs are within one.
fn fences(values: &[f64]) -> (f64, f64) {
    const TO_STANDARD_DEVIATIONS: f64 = 2.2219;
    let pairs = values.iter().enumerate().flat_map(|(i, a)| values.iter().skip(i + 1).map(move |b| (a - b).abs()));
    let spread = TO_STANDARD_DEVIATIONS * quantile(pairs.collect(), 0.25);
    let (lower, upper) = (quantile(values.to_vec(), 0.25), quantile(values.to_vec(), 0.75));
    (lower - CLIP * spread, upper + CLIP * spread)
}

/// The value at this fraction of the sorted ones; 0 of none.
fn quantile(mut values: Vec<f64>, fraction: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = fraction * values.len().saturating_sub(1) as f64;
    values.get(at.round() as usize).copied().unwrap_or(0.0)
}

/// n over k; `None` when it is beyond counting.
fn count_deals(n: usize, k: usize) -> Option<u64> {
    (0..k.min(n - k) as u64).try_fold(1_u64, |count, i| Some(count.checked_mul(n as u64 - i)? / (i + 1)))
}

/// The next of all ways to choose, in lexical order.
fn next_combination(chosen: &mut [usize], n: usize) {
    let k = chosen.len();
    let Some(i) = (0..k).rev().find(|&i| chosen[i] < n - k + i) else { return };
    chosen[i] += 1;
    for j in i + 1..k {
        chosen[j] = chosen[j - 1] + 1;
    }
}

/// Splitmix64: the same deals every time, so that the same files give the same answer.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn deal(&mut self, n: usize, k: usize) -> Vec<usize> {
        let mut cards: Vec<usize> = (0..n).collect();
        for i in 0..k {
            let j = i + (self.next() % (n - i) as u64) as usize;
            cards.swap(i, j);
        }
        cards.truncate(k);
        cards
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty rows of runs, each with its own noise and that of its run, which all rows of the run share.
    fn family(random: &mut Random, runs: usize, noise: f64, planted: f64) -> Vec<Vec<f64>> {
        let mut uniform = || random.next() as f64 / u64::MAX as f64 - 0.5;
        let whole: Vec<f64> = (0..runs).map(|_| 1.0 + noise * uniform()).collect();
        let mut rows: Vec<Vec<f64>> = (0..20)
            .map(|i| whole.iter().map(|run| f64::from(i + 1) * run * (1.0 + noise * uniform())).collect())
            .collect();
        rows[7].iter_mut().for_each(|value| *value *= planted);
        rows
    }

    /// Two groups of the same: hardly ever is anything found, by the definition of p. A tenth more in one row is found there.
    #[test]
    fn the_same_is_the_same_and_more_is_more() {
        let mut random = Random(1);
        let (mut alarms, mut found) = (0, 0);
        for _ in 0..200 {
            let before = family(&mut random, 5, 0.05, 1.0);
            alarms += u32::from(differences(&before, &family(&mut random, 5, 0.05, 1.0)).iter().any(|&p| p <= 0.05));
            let p = differences(&before, &family(&mut random, 5, 0.05, 1.1));
            found += u32::from(p[7] <= 0.05);
            assert!(p.iter().all(|p| (0.0..=1.0).contains(p)));
        }
        // 5 % of 200 is 10, with a standard deviation of 3.
        assert!(alarms <= 20, "{alarms} of 200");
        assert!(found >= 190, "{found} of 200");
    }

    /// All ways to deal are tried where they are few, each once, so that the least p is two of them.
    #[test]
    fn few_runs_are_enumerated() {
        assert_eq!(count_deals(10, 5), Some(252));
        assert_eq!(count_deals(200, 100), None);
        let mut chosen = vec![0, 1, 2];
        let mut seen = std::collections::HashSet::from([chosen.clone()]);
        for _ in 1..20 {
            next_combination(&mut chosen, 6);
            assert!(seen.insert(chosen.clone()));
        }
        let p = differences(&[vec![1.0, 1.01, 1.02, 1.03, 1.04]], &[vec![2.0, 2.01, 2.02, 2.03, 2.04]]);
        assert!((p[0] - 2.0 / 252.0).abs() < 1e-12, "{p:?}");
        assert!(differences(&[vec![0.0; 4]], &[vec![0.0; 4]]).iter().all(|&p| p >= 1.0));
    }

    /// A run that was held up tells nothing, and hides nothing.
    #[test]
    fn an_accident_hides_nothing() {
        let before = vec![vec![1.0, 1.01, 0.99, 1.02, 9.0, 0.98]];
        let after = vec![vec![1.2, 1.21, 1.19, 1.22, 1.2, 1.18]];
        assert!(differences(&before, &after)[0] <= 0.05);
    }
}
