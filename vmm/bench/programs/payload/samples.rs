//! Times of the same thing, many times over, in an answer: count, mean, quartiles, tail.

use crate::json::Object;

/// Nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<u64>);

impl Samples {
    /// Adds one.
    pub(crate) fn push(&mut self, ns: u64) {
        self.0.push(ns);
    }

    /// Puts them into an answer, each name after `name` and an underline.
    pub(crate) fn into(mut self, object: Object, name: &str) -> Object {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = |percent: usize| self.0.get(last * percent / 100).copied().unwrap_or(0);
        let sum: u128 = self.0.iter().map(|&ns| u128::from(ns)).sum();
        object
            .number(&format!("{name}_samples"), self.0.len() as u64)
            .number(&format!("{name}_mean_ns"), sum / self.0.len().max(1) as u128)
            .number(&format!("{name}_p25_ns"), at(25))
            .number(&format!("{name}_p50_ns"), at(50))
            .number(&format!("{name}_p75_ns"), at(75))
            .number(&format!("{name}_p99_ns"), at(99))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_samples_in_order_and_no_sample_is_no_time() {
        let mut samples = Samples::default();
        (1..=101).rev().for_each(|ns| samples.push(ns));
        let text = samples.into(Object::new("x"), "commit").to_string();
        for part in ["samples\":101", "mean_ns\":51", "p25_ns\":26", "p50_ns\":51", "p99_ns\":100"]
        {
            assert!(text.contains(&format!("\"commit_{part}")), "{part}: {text}");
        }
        let none = Samples::default().into(Object::new("x"), "y").to_string();
        assert!(none.contains("\"y_samples\":0") && none.contains("\"y_p50_ns\":0"), "{none}");
    }
}
