//! Text: regular expressions compiled and matched.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use regex::Regex;

/// Lines like those of a log.
fn lines(count: usize) -> Vec<String> {
    const WORDS: [&str; 8] =
        ["request", "answered", "cache", "missed", "connection", "closed", "retry", "queue"];
    let mut rng = Rng::new(11);
    (0..count)
        .map(|i| {
            let word = |rng: &mut Rng| WORDS[rng.below(WORDS.len())];
            let (a, b, c) = (word(&mut rng), word(&mut rng), word(&mut rng));
            let (time, user, path) = (rng.below(86_400), rng.below(500), rng.below(90));
            format!("2026-11-{:02} {time:05} user{user}@host{path}.example {a} {b} /path/{path}/{c}?id={i}", i % 30 + 1)
        })
        .collect()
}

/// Twelve expressions compiled, and matched with captures against 1,000 lines.
pub struct Patterns {
    lines: Vec<String>,
    /// How many matches all expressions have.
    matches: usize,
}

impl Patterns {
    const ALL: [&str; 12] = [
        r"(\d{4})-(\d\d)-(\d\d)",
        r"(?P<user>\w+)@(?P<host>[\w.]+)",
        r"\b(request|retry|queue)\b",
        r"/path/(\d+)/(\w+)\?id=(\d+)",
        r"user(\d+)",
        r"(?i)CACHE\s+(\w+)",
        r"^(\S+) (\d+)",
        r"host[13579]\.example",
        r"\p{Lu}\p{Ll}*",
        r"(a|e|i|o|u){2}",
        r"[a-z]+ed\b",
        r"(\w+)\s+(\w+)\s+/",
    ];

    /// With its lines.
    pub fn new() -> Self {
        let lines = lines(1000);
        let matches = |pattern| -> usize {
            let pattern = Regex::new(pattern).expect("it is an expression");
            lines.iter().map(|line| pattern.find_iter(line).count()).sum()
        };
        let matches = Self::ALL.into_iter().map(matches).sum();
        Patterns { lines, matches }
    }

    /// The groups of each match of each expression, which is compiled for it.
    fn captures(&self) -> Vec<Vec<String>> {
        let mut found = Vec::new();
        for pattern in Self::ALL {
            let pattern = Regex::new(pattern).expect("it is an expression");
            for line in &self.lines {
                for captures in pattern.captures_iter(line) {
                    let groups = captures.iter().flatten();
                    found.push(groups.map(|group| group.as_str().to_owned()).collect());
                }
            }
        }
        found
    }
}

impl Load for Patterns {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let found = self.captures();
        assert_eq!(found.len(), self.matches);
        assert_eq!(found[0], ["2026-11-01", "2026", "11", "01"]);
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captures_are_those_of_the_lines() {
        let patterns = Patterns::new();
        let found = patterns.captures();
        // The first two expressions match each line once.
        assert_eq!(found[999], ["2026-11-10", "2026", "11", "10"]);
        let (user, host) = (&found[1000][1], &found[1000][2]);
        assert!(patterns.lines[0].contains(&format!(" {user}@{host} ")), "{:?}", found[1000]);
        assert_eq!(found.len(), patterns.matches);
    }
}
