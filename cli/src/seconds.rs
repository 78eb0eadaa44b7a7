//! A time that a user gives, in seconds: the one parser of all options that take one.

use std::time::Duration;

/// `0.5` as half a second.
pub fn parse(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| *seconds > 0.0 && *seconds < 1e9);
    let time = seconds.map(Duration::from_secs_f64).filter(|time| !time.is_zero());
    time.ok_or_else(|| "a number of seconds above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_numbers_above_zero() {
        assert_eq!(parse("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(parse("3"), Ok(Duration::from_secs(3)));
        for wrong in ["0", "-1", "x", "", "inf", "nan", "1e9", "1e-12", "1 s"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
