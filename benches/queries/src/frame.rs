//! polars: a table filtered, grouped, joined and sorted.

use benches::client::Client;
use benches::loads::Load;
use benches::rng::Rng;
use polars::prelude::*;
use std::collections::HashMap;

/// A table of visits.
pub struct Visits {
    frame: DataFrame,
    /// By user: the number of visits that took long, and their time.
    expected: HashMap<u32, (u32, f64)>,
}

/// Above it a visit took long.
const LONG: f64 = 4000.0;

impl Visits {
    /// So many rows.
    pub fn new(count: usize) -> Self {
        let mut rng = Rng::new(9);
        let (mut users, mut pages, mut times) = (Vec::new(), Vec::new(), Vec::new());
        let mut expected = HashMap::new();
        for _ in 0..count {
            let user = rng.below(5000).min(rng.below(5000)) as u32;
            // Eighths: sums are the same in every order.
            let took = rng.below(100_000) as f64 / 8.0;
            if took > LONG {
                let (visits, sum) = expected.entry(user).or_insert((0, 0.0));
                *visits += 1;
                *sum += took;
            }
            users.push(user);
            pages.push(format!("/path/{}?q={}", rng.below(3000), rng.below(77)));
            times.push(took);
        }
        let frame = df!("user" => users, "page" => pages, "took" => times).expect("equal lengths");
        Visits { frame, expected }
    }

    fn query(&self) -> PolarsResult<DataFrame> {
        let visits = self.frame.clone().lazy();
        let pages = visits
            .clone()
            .group_by([col("page")])
            .agg([len().alias("visitors"), col("took").max().alias("longest")]);
        visits
            .filter(col("took").gt(lit(LONG)))
            .join(pages, [col("page")], [col("page")], JoinArgs::new(JoinType::Inner))
            .group_by([col("user")])
            .agg([
                len().alias("visits"),
                col("took").sum(),
                col("page").n_unique().alias("pages"),
                col("visitors").max(),
                col("longest").max(),
            ])
            .sort(["visits", "user"], SortMultipleOptions::default())
            .collect()
    }

    fn check(&self, answer: &DataFrame) -> PolarsResult<()> {
        assert_eq!(answer.height(), self.expected.len(), "users are missing");
        let (users, visits) = (answer.column("user")?.u32()?, answer.column("visits")?.u32()?);
        let took = answer.column("took")?.f64()?;
        for ((user, visits), took) in users.iter().zip(visits.iter()).zip(took.iter()) {
            let found = visits.zip(took);
            let expected = user.and_then(|user| self.expected.get(&user).copied());
            assert!(found.is_some() && found == expected, "{user:?}: {found:?}, {expected:?}");
        }
        Ok(())
    }
}

impl Load for Visits {
    fn step(&mut self, _client: &mut Client) -> u64 {
        let answer = self.query().expect("a valid query");
        self.check(&answer).expect("the columns that were asked for");
        1
    }
    fn finish(&mut self, _client: &mut Client) {}
}
