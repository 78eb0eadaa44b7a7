//! The screens: the list of processes, and one process.
//!
//! Fit 80 columns and 24 lines. Without colour, what is selected is reversed and headings are bold; a locale that is not
//! UTF-8 gets plain characters.

use super::list::{Column, List};
use super::process::{Point, Rates, Watched};
use crate::report::SHARES;
use crate::text::{grouped, now, short};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::bar;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Sparkline, Table, TableState};

/// What the terminal can show.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// Colours, see no-color.org.
    pub is_coloured: bool,
    /// Characters beyond ASCII.
    pub is_unicode: bool,
}

impl Look {
    /// As the environment says.
    pub fn of_environment() -> Look {
        let value = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(value).unwrap_or_default();
        let locale = locale.to_lowercase();
        Look {
            is_coloured: value("NO_COLOR").is_none()
                && value("TERM").is_none_or(|term| term != "dumb"),
            is_unicode: locale.contains("utf-8") || locale.contains("utf8"),
        }
    }

    fn coloured(&self, colour: Color) -> Style {
        if self.is_coloured { Style::new().fg(colour) } else { Style::new() }
    }

    fn heading(&self) -> Style {
        self.coloured(Color::Cyan).add_modifier(Modifier::BOLD)
    }

    fn bars(&self) -> bar::Set {
        match self.is_unicode {
            true => bar::NINE_LEVELS,
            false => bar::Set {
                full: "#",
                seven_eighths: "#",
                three_quarters: "=",
                five_eighths: "=",
                half: "-",
                three_eighths: "-",
                one_quarter: ".",
                one_eighth: ".",
                empty: " ",
            },
        }
    }

    /// `part` of `whole` as a bar of at most `width` columns; seen if it is not 0.
    fn bar(&self, part: u64, whole: u64, width: usize) -> String {
        let full = if self.is_unicode { "█" } else { "#" };
        let long = (width as f64 * part as f64 / whole.max(1) as f64).round() as usize;
        full.repeat(long.max(usize::from(part > 0)).min(width))
    }
}

/// All processes.
pub fn list(frame: &mut Frame<'_>, look: &Look, list: &List) {
    let [head, body, foot] =
        Layout::vertical([Constraint::Length(2), Constraint::Min(1), Constraint::Length(1)])
            .areas(frame.area());
    let sum = |number: fn(&super::list::Row) -> u64| short(list.rows.iter().map(number).sum());
    let (broken, refused) = list.unread;
    let mut second = match list.rows.len() {
        1 => "1 process on rsalloc".to_owned(),
        count => format!("{count} processes on rsalloc"),
    };
    if broken > 0 {
        second += &format!("; {broken} more cannot be read");
    }
    if refused > 0 {
        second += &format!("; {refused} of other users not known");
    }
    if let Some(said) = &list.said {
        second.clone_from(said);
    }
    let first = Line::from(vec![
        Span::styled("rsalloc top", look.heading()),
        Span::raw(format!(
            " {}  resident {}  live {}  cached {}  free {}",
            now("%H:%M:%S"),
            sum(|row| row.resident),
            sum(|row| row.live),
            sum(|row| row.cached),
            sum(|row| row.free + row.dirty)
        )),
    ]);
    frame.render_widget(Paragraph::new(vec![first, Line::raw(second)]), head);

    let all: [(Column, &str, u16); 9] = [
        (Column::Pid, "PID", 7),
        (Column::Program, "PROGRAM", 15),
        (Column::Resident, "RESIDENT", 9),
        (Column::Live, "LIVE", 8),
        (Column::Cached, "CACHED", 8),
        (Column::Free, "FREE", 8),
        (Column::Dirty, "DIRTY", 8),
        (Column::Refills, "REFILL/S", 9),
        (Column::Mode, "MODE", 6),
    ];
    // Those that matter most, as far as they fit; what the list is sorted by is among them.
    let first = [Column::Pid, list.sort, Column::Resident, Column::Program];
    let rank = |column| first.iter().position(|first| *first == column).unwrap_or(first.len());
    let places = fitting(&all.map(|(column, _, width)| (width, rank(column))), body.width);
    let columns: Vec<_> = places.into_iter().map(|place| all[place]).collect();
    let mark = if list.is_reversed { "^" } else { "v" };
    let titles = columns.iter().map(|&(column, title, _)| match column == list.sort {
        true => Cell::from(aligned(column, format!("{title}{mark}")))
            .style(Style::new().add_modifier(Modifier::UNDERLINED)),
        false => Cell::from(aligned(column, title.to_owned())),
    });
    let titles: Vec<_> = titles.collect();
    let rows = list.rows.iter().map(|row| {
        let text = |column| match column {
            Column::Pid => row.pid.to_string(),
            Column::Program => row.program.clone(),
            Column::Resident => short(row.resident),
            Column::Live => short(row.live),
            Column::Cached => short(row.cached),
            Column::Free => short(row.free),
            Column::Dirty => short(row.dirty),
            Column::Refills => row.rate.map_or("-".into(), rate),
            Column::Mode => row.mode.to_owned(),
        };
        Row::new(columns.iter().map(|&(column, ..)| aligned(column, text(column))))
    });
    let widths = columns.iter().map(|&(column, _, width)| match column {
        Column::Program => Constraint::Min(width),
        _ => Constraint::Length(width),
    });
    let table = Table::new(rows, widths)
        .header(Row::new(titles).style(look.heading()))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    let mut state = TableState::default().with_selected(list.index());
    frame.render_stateful_widget(table, body, &mut state);
    keys(
        frame,
        look,
        foot,
        &["Up/Down select", "Enter open", "Left/Right sort by", "r reverse", "q quit"],
    );
}

/// The places of the columns that fit side by side, in their order. A column is its width and its rank: those of a low rank are
/// taken first, those of equal rank from the left.
fn fitting(columns: &[(u16, usize)], width: u16) -> Vec<usize> {
    let mut places: Vec<usize> = (0..columns.len()).collect();
    places.sort_by_key(|&place| columns[place].1);
    let mut left = width + 1;
    let mut taken = Vec::new();
    for place in places {
        // With the space behind it.
        let Some(rest) = left.checked_sub(columns[place].0 + 1) else { break };
        left = rest;
        taken.push(place);
    }
    taken.sort_unstable();
    taken
}

/// A number for each second, in at most nine columns.
fn rate(number: f64) -> String {
    match number {
        0.0..=9_999_999.5 => grouped(number.round() as u64),
        ..1e9 => format!("{:.1}M", number / 1e6),
        _ => format!("{:.1}G", number / 1e9),
    }
}

/// Numbers stand on the right.
fn aligned(column: Column, text: String) -> Line<'static> {
    match column {
        Column::Program | Column::Mode => Line::from(text).left_aligned(),
        _ => Line::from(text).right_aligned(),
    }
}

/// One process.
pub fn process(frame: &mut Frame<'_>, look: &Look, process: &Watched, has_list: bool) {
    let sites_height = sites_height(process, frame.area().height);
    let [head, memory, rates, tables, sites, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(10),
        Constraint::Length(3),
        Constraint::Min(3),
        Constraint::Length(sites_height),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [left, right] =
        Layout::horizontal([Constraint::Length(44), Constraint::Min(10)]).areas(memory);
    frame.render_widget(heading(look, process), head);
    frame.render_widget(shares(look, process), left);
    history(frame, look, process, right);
    frame.render_widget(rates_line(process), rates);
    let is_wide = tables.width >= WIDE;
    let classes_width = if is_wide { CLASSES_WIDTH + 1 + MOVED_WIDTH } else { CLASSES_WIDTH };
    let widths = [classes_width, tables.width.saturating_sub(classes_width + 1)];
    let [left, right] = Layout::horizontal(widths.map(Constraint::Length)).spacing(1).areas(tables);
    frame.render_widget(classes(look, process, left.width), left);
    frame.render_widget(shards(look, process, right.width), right);
    frame.render_widget(sites_list(look, process), sites);
    let leave: &[&str] = if has_list { &["Esc all processes", "q quit"] } else { &["q quit"] };
    keys(frame, look, foot, &[&["Up/Down scroll the classes"], leave].concat());
}

fn heading<'a>(look: &Look, process: &'a Watched) -> Paragraph<'a> {
    let first = Line::from(vec![
        Span::styled(format!("{} (process {})", process.program, process.pid), look.heading()),
        Span::raw(format!("  {}  {}", now("%H:%M:%S"), process.report.mode.text())),
    ]);
    let second = match &process.ended {
        Some(why) => Line::styled(
            format!("process {} {why}; this is how it was last seen", process.pid),
            look.coloured(Color::Red).add_modifier(Modifier::BOLD),
        ),
        None => Line::raw(match process.counts.renewed {
            Some(renewed) => {
                let at = crate::text::clock("%H:%M:%S", (renewed.at_ms / 1000) as i64);
                format!("published at {at}")
            }
            None => process.report.reason.text().to_owned(),
        }),
    };
    Paragraph::new(vec![first, second])
}

/// Colours of [`SHARES`].
const COLOURS: [Color; 7] = [
    Color::Blue,
    Color::Magenta,
    Color::Yellow,
    Color::Gray,
    Color::DarkGray,
    Color::Red,
    Color::Green,
];

fn shares<'a>(look: &Look, process: &Watched) -> Paragraph<'a> {
    let stats = &process.counts.stats;
    let resident = process.resident.map_or(0, |resident| resident.bytes);
    let all = SHARES.iter().map(|(_, _, bytes)| bytes(stats)).sum::<u64>().max(resident);
    let line = |label: &str, bytes: u64, style: Style| {
        Line::from(vec![
            Span::raw(format!("{label:<19}{:>8} ", short(bytes))),
            Span::styled(look.bar(bytes, all, 14), style),
        ])
    };
    let mut lines = vec![line("resident, process", resident, Style::new())];
    for ((label, _, bytes), colour) in SHARES.iter().zip(COLOURS) {
        lines.push(line(&format!("  {label}"), bytes(stats), look.coloured(colour)));
    }
    Paragraph::new(lines)
}

/// Resident and live memory over time.
fn history(frame: &mut Frame<'_>, look: &Look, process: &Watched, area: Rect) {
    let halves = Layout::vertical([Constraint::Fill(1), Constraint::Fill(1)]).areas::<2>(area);
    type Number = fn(&Point) -> u64;
    let series: [(&str, Number, Color); 2] = [
        ("resident", |point| point.resident, Color::Cyan),
        ("live", |point| point.live, Color::Blue),
    ];
    for (area, (name, number, colour)) in halves.into_iter().zip(series) {
        let [title, drawn] =
            Layout::vertical([Constraint::Length(1), Constraint::Min(1)]).areas(area);
        let shown = process.history.len().saturating_sub(drawn.width as usize);
        let values: Vec<u64> = process.history.iter().skip(shown).map(number).collect();
        let (least, most) =
            (values.iter().min().copied().unwrap_or(0), values.iter().max().copied().unwrap_or(0));
        frame.render_widget(
            Paragraph::new(format!("{name}: {} to {}", short(least), short(most))),
            title,
        );
        let line = Sparkline::default()
            .data(values)
            .max(most.max(1))
            .bar_set(look.bars())
            .style(look.coloured(colour));
        frame.render_widget(line, drawn);
    }
}

fn rates_line<'a>(process: &Watched) -> Paragraph<'a> {
    let number = |rate: f64| grouped(rate.round() as u64);
    let known = |rate: Option<f64>| rate.map_or("-".into(), number);
    let rates = process.rates;
    let each = |of: fn(Rates) -> f64| known(rates.map(of));
    let purged = rates.map_or("-".into(), |rates| short(rates.purged as u64));
    Paragraph::new(vec![
        Line::raw(format!(
            "refills/s {}   flushes/s {}   aborts/s {}   given back/s {purged}",
            each(|rates| rates.refills),
            each(|rates| rates.flushes),
            each(|rates| rates.aborts),
        )),
        Line::raw(format!(
            "objects refilled/s {}   flushed/s {}",
            known(rates.and_then(|rates| rates.refilled)),
            known(rates.and_then(|rates| rates.flushed)),
        )),
    ])
}

/// Lines of [`sites_list`]: three sites on a screen of 24 lines, so that two classes stay.
fn sites_height(process: &Watched, height: u16) -> u16 {
    match process.sites.len() as u16 {
        0 => 0,
        sites => 1 + sites.min(height.saturating_sub(21)),
    }
}

/// Where the most live bytes are from.
fn sites_list<'a>(look: &Look, process: &Watched) -> Paragraph<'a> {
    let title = "    LIVE  SITE, BY SAMPLES, AND ITS CALLERS";
    let rows = process.sites.iter().map(|(bytes, site)| {
        Line::raw(format!("{:>8}  {}", short(*bytes), crate::read::printable(site, "")))
    });
    let title = Line::styled(title, look.heading());
    Paragraph::new(std::iter::once(title).chain(rows).collect::<Vec<_>>())
}

/// The classes with the most bytes of slabs.
fn classes<'a>(look: &Look, process: &Watched, width: u16) -> Table<'a> {
    let known = process.counts.classes.iter().enumerate();
    let mut classes: Vec<_> = known.filter(|(_, class)| class.slabs > 0).collect();
    classes.sort_by_key(|(_, class)| (std::cmp::Reverse(class.slab_bytes), class.size));
    let most = classes.first().map_or(0, |(_, class)| class.slab_bytes as u64);
    let right = |text: String| Line::from(text).right_aligned();
    let rows = classes.into_iter().skip(process.scrolled).map(|(number, class)| {
        let moved = process.class_rates.get(number).copied().flatten();
        let live = (class.live() * class.size) as u64;
        let part = 100.0 * live as f64 / class.slab_bytes.max(1) as f64;
        let bar = look.bar(class.slab_bytes as u64, most, 8);
        [
            right(short(class.size as u64)),
            right(short(class.slab_bytes as u64)),
            Line::styled(bar, look.coloured(Color::Blue)),
            right(short(live)),
            right(short((class.cached() * class.size) as u64)),
            right(format!("{part:.0}%")),
            right(moved.map_or("-".into(), rate)),
        ]
    });
    let titles = ["CLASS", "SLABS", "", "LIVE", "CACHED", "IN USE", "MOVED/S"]
        .map(|title| right(title.to_owned()));
    let columns = [(7, 0), (8, 1), (8, 5), (8, 2), (8, 4), (6, 3), (MOVED_WIDTH, 6)];
    fitted(look, &columns, titles, rows, width)
}

/// Columns that [`process`] gives to the classes.
const CLASSES_WIDTH: u16 = 50;
/// The column of the objects that moved, which a terminal has place for from [`WIDE`] columns on.
const MOVED_WIDTH: u16 = 9;
/// See [`MOVED_WIDTH`].
const WIDE: u16 = 90;

/// A table with the columns that fit.
fn fitted<'a, const COLUMNS: usize>(
    look: &Look,
    columns: &[(u16, usize); COLUMNS],
    titles: [Line<'a>; COLUMNS],
    rows: impl Iterator<Item = [Line<'a>; COLUMNS]>,
    width: u16,
) -> Table<'a> {
    let places = fitting(columns, width);
    let row = |cells: [Line<'a>; COLUMNS]| {
        let cells = cells.into_iter().enumerate();
        let shown = cells.filter(|(place, _)| places.contains(place)).map(|(_, cell)| cell);
        Row::new(shown.collect::<Vec<_>>())
    };
    let rows: Vec<_> = rows.map(&row).collect();
    let widths: Vec<_> = places.iter().map(|&at| Constraint::Length(columns[at].0)).collect();
    Table::new(rows, widths).header(row(titles).style(look.heading()))
}

fn shards<'a>(look: &Look, process: &Watched, width: u16) -> Table<'a> {
    let right = |text: String| Line::from(text).right_aligned();
    let rows = process.counts.shards.iter().enumerate().map(|(number, shard)| {
        [
            right(format!("{} {}", shard.kind.word().trim_start_matches("per_"), shard.index)),
            right(short(shard.bytes as u64)),
            right(process.shard_rates.get(number).map_or("-".into(), |&number| rate(number))),
        ]
    });
    let titles = ["SHARD", "CACHED", "REFILL/S"].map(|title| right(title.to_owned()));
    fitted(look, &[(10, 0), (8, 1), (9, 2)], titles, rows, width)
}

fn keys(frame: &mut Frame<'_>, look: &Look, area: Rect, keys: &[&str]) {
    let line = Line::styled(keys.join("   "), look.coloured(Color::DarkGray));
    frame.render_widget(Paragraph::new(line), area);
}
