//! This program once more.

use std::process::Command;

/// A command that starts this program again, by the words of `RSALLOC_TEST_RUNNER` if it runs in an emulator.
pub fn this_program() -> Command {
    let program = std::env::current_exe().expect("this program");
    let runner = std::env::var("RSALLOC_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    match words.next() {
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.args(words).arg(program);
            command
        }
        None => Command::new(program),
    }
}
