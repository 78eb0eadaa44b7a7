//! The row of hours: memory must stay flat under a load that stays the same.
//!
//! The victim is sampled each time it says where it is.

use anyhow::{Result, ensure};

use super::Trial;
use super::rss::{self, Sample};
use super::victim::Line;

/// The most growth from the end of the first minute to the end, as a share of the mean; three standard errors
/// of the fitted line are allowed on top.
const GROWTH_MAX: f64 = 0.05;
/// The same for a short run, in which the caches still fill.
const GROWTH_MAX_SHORT: f64 = 0.25;
const SHORT_SECONDS: u64 = 600;

/// The picture that docs/lab/storms.md shows.
const PICTURE: &str = "docs/lab/storms/rss.svg";

/// Runs the victim and fits a line to its memory.
pub fn judge(trial: &Trial) -> Result<String> {
    let mut samples = Vec::new();
    let result = trial.run(|pid, line| {
        if let Line::At(second, rest) = *line {
            let live = rest.strip_prefix("live ").and_then(|n| n.parse().ok()).unwrap_or(0);
            samples.push(Sample { second, rss: rss::of(pid)?, live });
        }
        Ok(())
    });
    if trial.write {
        rss::draw(&samples, &tools::root().join(PICTURE))?;
    }
    let text = result?;
    let trend = rss::trend(&samples, (trial.amount / 3).min(60))?;
    const MIB: f64 = (1 << 20) as f64;
    let (growth, mean, error) = (trend.growth / MIB, trend.mean / MIB, trend.error / MIB);
    let verdict = format!("grew by {growth:.2} (+- {error:.2}) on {mean:.1} MiB; {text}");
    let most = if trial.amount < SHORT_SECONDS { GROWTH_MAX_SHORT } else { GROWTH_MAX };
    ensure!(growth < most * mean + 3.0 * error, "the memory {verdict}");
    Ok(verdict)
}
