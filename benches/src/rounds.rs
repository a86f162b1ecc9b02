//! Several ways of doing the same work, by turns.

use std::fmt::Debug;

/// What each of several contenders took, round by round.
#[derive(Clone, Debug)]
pub struct Rounds(Vec<Vec<f64>>);

impl Rounds {
    /// Lets each contender work once a round, beginning with another one each time.
    ///
    /// # Errors
    /// The first of `work`'s.
    pub fn run<C, E>(
        rounds: usize,
        contenders: &mut [C],
        mut work: impl FnMut(&mut C) -> Result<f64, E>,
    ) -> Result<Self, E> {
        let mut took = vec![Vec::with_capacity(rounds); contenders.len()];
        let count = contenders.len();
        for round in 0..rounds {
            for turn in 0..count {
                let index = (round + turn) % count;
                took[index].push(work(&mut contenders[index])?);
            }
        }
        Ok(Self(took))
    }

    /// The same, of numbers that came about otherwise: of each contender one a round.
    pub fn of(took: Vec<Vec<f64>>) -> Self {
        Self(took)
    }

    /// Median of what a contender took.
    pub fn median(&self, contender: usize) -> f64 {
        median(&mut self.0[contender].clone())
    }

    /// Median of the rounds' differences of two contenders, a less b.
    pub fn difference(&self, a: usize, b: usize) -> f64 {
        let pairs = self.0[a].iter().zip(&self.0[b]);
        median(&mut pairs.map(|(a, b)| a - b).collect::<Vec<_>>())
    }

    /// Median of the rounds' ratios of two contenders.
    pub fn ratio(&self, a: usize, b: usize) -> f64 {
        let pairs = self.0[a].iter().zip(&self.0[b]);
        median(&mut pairs.map(|(a, b)| a / b).collect::<Vec<_>>())
    }
}

/// The value in the middle; NaN where there is none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
