//! The last line of a benchmark.

use std::fmt;

/// Named numbers, in the order in which they came.
#[derive(Debug, Default)]
pub struct Figures(Vec<(String, f64)>);

impl Figures {
    /// Adds one.
    pub fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.to_owned(), value));
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self
            .0
            .iter()
            .map(|(name, value)| format!("\"{name}\":{value:.3}"))
            .collect();
        write!(f, "FIGURES {{{}}}", all.join(","))
    }
}
