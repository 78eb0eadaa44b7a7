//! `rsalloc top`: all processes on rsalloc, or one of them, live in the terminal.
//!
//! Promises that the terminal is left as it was found, whatever ends the command, that processes are only read, and that
//! looking at them takes at most about a twentieth of a CPU.

mod draw;
mod list;
mod process;

use crate::fleet::Fleet;
use crate::read::Target;
use anyhow::{Context, Result, bail};
use list::List;
use process::Watched;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What is shown, and how.
#[derive(clap::Args)]
pub struct What {
    /// A process to watch closely, or the file in which it publishes its statistics; a folder of such files for all of them;
    /// without it all processes that rsalloc serves
    #[arg(value_name = "PID|FILE|FOLDER")]
    target: Option<Target>,
    /// Look again after so many seconds
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = crate::seconds::parse)]
    delay: Duration,
    /// Print what would be shown, once, and end
    #[arg(long)]
    once: bool,
    /// The column that the processes are sorted by
    #[arg(long, value_enum, default_value = "resident")]
    sort: list::Column,
}

/// Looking takes at most one of so many parts of the time.
const PARTS: u32 = 20;
/// A key or a signal is seen after this time at the latest.
const WAIT: Duration = Duration::from_millis(100);

/// Runs the command.
pub fn top(what: &What) -> Result<ExitCode> {
    let mut app = App::new(what)?;
    app.look();
    if what.once {
        crate::output::put(&app.printed()?, None, crate::output::Stream::Out)?;
        return Ok(ExitCode::SUCCESS);
    }
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        bail!(
            "top needs a terminal; `rsalloc top --once` prints what it shows, `rsalloc stats --watch 2 PID` a row each time"
        );
    }
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [SIGHUP, SIGINT, SIGQUIT, SIGTERM] {
        signal_hook::flag::register_usize(number, signal.clone(), number as usize)
            .context("cannot watch for signals")?;
    }
    std::thread::spawn(end_with_the_terminal);
    let mut terminal = ratatui::try_init().context("cannot use the terminal")?;
    let ended = app.run(&mut terminal, &signal);
    ratatui::restore();
    ended?;
    // Ordering: Relaxed, the number carries nothing else.
    Ok(match signal.load(Ordering::Relaxed) {
        0 => ExitCode::SUCCESS,
        number => ExitCode::from(128 + number as u8),
    })
}

/// Ends the command when its terminal has gone away. Crossterm would read the end of file for ever.
fn end_with_the_terminal() {
    let mut stdin = libc::pollfd { fd: libc::STDIN_FILENO, events: 0, revents: 0 };
    // SAFETY: a live struct. A signal or an error of poll leaves `revents` at 0.
    while unsafe { libc::poll(&raw mut stdin, 1, -1) } >= 0 || is_interrupted() {
        if stdin.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            std::process::exit(128 + SIGHUP);
        }
    }
}

fn is_interrupted() -> bool {
    std::io::Error::last_os_error().kind() == std::io::ErrorKind::Interrupted
}

/// What is on the screen.
struct App {
    list: List,
    /// A process that was opened, over the list or, if it was named, instead of it.
    open: Option<Watched>,
    /// Whether there is a list below an open process.
    has_list: bool,
    delay: Duration,
    /// How long the last look took.
    cost: Duration,
    look: draw::Look,
}

/// What a key leads to.
#[derive(PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
}

impl App {
    fn new(what: &What) -> Result<App> {
        let (fleet, open) = match &what.target {
            None => (Fleet::all(), None),
            Some(Target::Core(folder)) if folder.is_dir() => {
                (Fleet::of(&[Target::Core(folder.clone())])?, None)
            }
            Some(Target::Core(path)) => {
                bail!("{} is no process and no published file", path.display())
            }
            Some(target) => (Fleet::all(), Some(Watched::open(target)?)),
        };
        Ok(App {
            list: List::new(fleet, what.sort),
            has_list: open.is_none(),
            open,
            delay: what.delay,
            cost: Duration::ZERO,
            look: draw::Look::of_environment(),
        })
    }

    fn run(&mut self, terminal: &mut ratatui::DefaultTerminal, signal: &AtomicUsize) -> Result<()> {
        let mut next = Instant::now() + self.pause();
        // Ordering: Relaxed, the number carries nothing else.
        while signal.load(Ordering::Relaxed) == 0 {
            terminal.draw(|frame| self.draw(frame)).context("cannot write to the terminal")?;
            let mut is_drawn = true;
            while is_drawn && Instant::now() < next && signal.load(Ordering::Relaxed) == 0 {
                let wait = next.saturating_duration_since(Instant::now()).min(WAIT);
                if !event::poll(wait).context("cannot read keys")? {
                    continue;
                }
                is_drawn = false;
                if let Event::Key(key) = event::read().context("cannot read keys")?
                    && key.kind != KeyEventKind::Release
                    && self.press(key) == Next::Leave
                {
                    return Ok(());
                }
            }
            if Instant::now() >= next {
                self.look();
                next = Instant::now() + self.pause();
            }
        }
        Ok(())
    }

    fn pause(&self) -> Duration {
        self.delay.max(self.cost * PARTS)
    }

    /// Looks at the processes.
    fn look(&mut self) {
        let begin = Instant::now();
        match &mut self.open {
            Some(process) => process.look(),
            None => self.list.look(),
        }
        self.cost = begin.elapsed();
    }

    fn press(&mut self, key: KeyEvent) -> Next {
        let is_interrupt =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_interrupt || key.code == KeyCode::Char('q') {
            return Next::Leave;
        }
        match (&mut self.open, key.code) {
            (Some(_), KeyCode::Esc | KeyCode::Backspace | KeyCode::Left) if self.has_list => {
                self.open = None;
                self.list.look();
            }
            (Some(_), KeyCode::Esc) => return Next::Leave,
            (Some(process), code) => process.press(code),
            (None, KeyCode::Enter) => match self.list.selected().map(Watched::open) {
                Some(Ok(process)) => self.open = Some(process),
                Some(Err(why)) => self.list.said = Some(format!("{why:#}")),
                None => {}
            },
            (None, code) => self.list.press(code),
        }
        Next::Stay
    }

    fn draw(&self, frame: &mut ratatui::Frame<'_>) {
        match &self.open {
            Some(process) => draw::process(frame, &self.look, process, self.has_list),
            None => draw::list(frame, &self.look, &self.list),
        }
    }

    /// What the screen would show, if it were high enough, as lines.
    fn printed(&self) -> Result<String> {
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let width = columns.unwrap_or(100).clamp(20, 400);
        let height = match &self.open {
            Some(process) => process.height(),
            None => self.list.height(),
        };
        let mut terminal = Terminal::new(TestBackend::new(width, height)).context("cannot draw")?;
        terminal.draw(|frame| self.draw(frame)).context("cannot draw")?;
        Ok(lines(terminal.backend().buffer()))
    }
}

/// The characters of a screen. The last line, which names the keys, is left out.
fn lines(buffer: &ratatui::buffer::Buffer) -> String {
    let area = buffer.area;
    let line = |y| {
        let cells = (0..area.width).filter_map(move |x| buffer.cell((x, y)));
        let text: String = cells.map(ratatui::buffer::Cell::symbol).collect();
        format!("{}\n", text.trim_end())
    };
    (0..area.height.saturating_sub(1)).map(line).collect()
}

#[cfg(test)]
mod tests;
