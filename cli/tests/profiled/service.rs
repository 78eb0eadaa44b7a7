//! A service: workers parse requests into maps and answer; a cache keeps some answers.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};

#[inline(never)]
fn parse(request: &str) -> HashMap<String, String> {
    let pairs = request.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[inline(never)]
fn answer(fields: &HashMap<String, String>) -> Vec<u8> {
    let mut text = String::new();
    for (key, value) in fields {
        text += &format!("{key}: {value}\n");
    }
    text.into_bytes()
}

fn main() {
    let cache: Arc<Mutex<HashMap<usize, Box<[u8]>>>> = Arc::default();
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (send, receive) = mpsc::channel::<String>();
            let cache = cache.clone();
            scope.spawn(move || {
                for (number, request) in receive.iter().enumerate() {
                    let answer = answer(&parse(&request));
                    if number % 3 == 0 {
                        cache.lock().unwrap().insert(2 * (number % 9000) + worker, answer.into_boxed_slice());
                    }
                }
            });
            scope.spawn(move || {
                for number in 0..12000usize {
                    let fields = (0..number % 12).map(|n| format!("field{n}={}", "v".repeat(number * n % 97)));
                    send.send(fields.collect::<Vec<_>>().join("&")).unwrap();
                }
            });
        }
    });
    std::io::stdout().write_all(b"!").unwrap();
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap_or(());
    drop(cache);
}
