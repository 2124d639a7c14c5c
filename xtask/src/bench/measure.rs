//! Times of programs that take turns, and what they come to.
//!
//! Not with hyperfine(1): it measures one command after the other. What slows the machine for some seconds
//! would slow one of them, and their ratio would be wrong. Here all take turns, in a new random order each
//! round, and a ratio is that of two times of the same round.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

/// Rounds that are not counted: the first start of each reads its program from the disk.
const WARM_UP: u32 = 3;

/// From the command to run in the container to the one that does so.
pub type Start = Box<dyn Fn(&[&str]) -> Command + Send + Sync>;

/// One way to start a process.
pub struct Contender {
    pub name: String,
    /// The bare program that makes the same container, and needs no more than the kernel does.
    pub floor: Option<String>,
    /// What its container does not have of step 4's isolation.
    pub lacks: String,
    pub start: Start,
}

impl Contender {
    /// The command that starts this one in the container. It says nothing but what went wrong.
    pub fn command(&self, command: &[&str]) -> Command {
        let mut command = (self.start)(command);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Starts it once, to learn why it would fail.
    pub fn try_once(&self) -> Result<()> {
        let output = self.command(&super::TRUE).stderr(Stdio::piped()).output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}: {}", output.status, error.trim().replace('\n', ": "));
        Ok(())
    }
}

/// The times of each contender, in seconds; those of one round have the same place.
#[derive(Default)]
pub struct Times(pub BTreeMap<String, Vec<f64>>);

impl Times {
    /// The quartiles: the one in the middle is the median.
    pub fn quartiles(&self, name: &str) -> Option<[f64; 3]> {
        self.0.get(name).map(|times| quartiles(times))
    }

    /// How much longer the one takes than the other: the median of the ratios of all rounds.
    pub fn ratio(&self, one: &str, other: &str) -> Option<f64> {
        let pairs = self.0.get(one)?.iter().zip(self.0.get(other)?);
        Some(quartiles(&pairs.map(|(one, other)| one / other).collect::<Vec<_>>())[1])
    }
}

/// Starts `/bin/true` by each of them so often, with so many milliseconds of rest before each start.
pub fn measure<'a>(
    contenders: impl IntoIterator<Item = &'a Contender>,
    runs: u32,
    rest: u64,
) -> Result<Times> {
    let mut times = Times::default();
    let mut order: Vec<_> = contenders.into_iter().collect();
    let mut random = SystemTime::UNIX_EPOCH.elapsed()?.as_nanos() as u64 | 1;
    for round in 0..runs + WARM_UP {
        for last in (1..order.len()).rev() {
            // xorshift: good enough for an order, and not worth a dependency.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(last, (random % (last as u64 + 1)) as usize);
        }
        for contender in &order {
            sleep(Duration::from_millis(rest));
            let mut command = contender.command(&super::TRUE);
            let start = Instant::now();
            let status = command.status().with_context(|| format!("starting {}", contender.name))?;
            let time = start.elapsed().as_secs_f64();
            ensure!(status.success(), "{}: {status}", contender.name);
            if round >= WARM_UP {
                times.0.entry(contender.name.clone()).or_default().push(time);
            }
        }
    }
    Ok(times)
}

/// Between the two nearest values, where a quartile lies between them.
pub fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    [0.25, 0.5, 0.75].map(|part| {
        let place = part * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        below + (above - below) * place.fract()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_lie_between_values() {
        assert_eq!(quartiles(&[1.0]), [1.0; 3]);
        assert_eq!(quartiles(&[4.0, 1.0, 2.0]), [1.5, 2.0, 3.0]);
    }

    #[test]
    fn a_ratio_is_one_of_the_same_round() {
        // The machine was slow in the last round, for both.
        let times = [("a", vec![2.0, 2.0, 20.0]), ("b", vec![1.0, 1.0, 10.0])];
        let times = Times(times.map(|(name, times)| (name.to_owned(), times)).into_iter().collect());
        assert_eq!(times.ratio("a", "b"), Some(2.0));
        assert_eq!(times.ratio("a", "c"), None);
    }
}
