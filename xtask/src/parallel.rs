//! Independent pieces of work on a few threads.

use std::sync::Mutex;

/// Runs `work` on every item, on `threads` threads, and returns what each run gave, in no order; the first error
/// ends the thread that met it.
pub fn each<T: Send, R: Send>(
    items: impl IntoIterator<Item = T>,
    threads: usize,
    work: impl Fn(T) -> anyhow::Result<R> + Sync,
) -> anyhow::Result<Vec<R>> {
    let items: Vec<T> = items.into_iter().collect();
    let rest = Mutex::new(items.into_iter());
    let next = || rest.lock().expect("taking an item does not panic").next();
    let on_one_thread = || std::iter::from_fn(next).map(&work).collect::<anyhow::Result<Vec<R>>>();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(on_one_thread)).collect();
        let results: anyhow::Result<Vec<Vec<R>>> =
            threads.into_iter().map(|thread| thread.join().expect("the work panicked")).collect();
        Ok(results?.into_iter().flatten().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::each;

    #[test]
    fn every_item_is_done_once() {
        let mut done = each([1, 2, 3, 4, 5], 2, |item| Ok(item * 10)).unwrap();
        done.sort();
        assert_eq!(done, [10, 20, 30, 40, 50]);
    }

    #[test]
    fn an_error_of_one_item_is_the_error_of_all() {
        assert!(
            each([1, 2, 3], 2, |item| if item == 2 { anyhow::bail!("no") } else { Ok(()) })
                .is_err()
        );
    }
}
