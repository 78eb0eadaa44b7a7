use super::list::Row;
use super::*;

fn row(pid: u32, program: &str, mebibytes: u64) -> Row {
    Row {
        target: Target::Process(pid),
        pid,
        program: program.into(),
        resident: mebibytes << 20,
        live: mebibytes << 19,
        cached: 1 << 20,
        free: 2 << 20,
        dirty: 0,
        rate: Some(1234.4),
        mode: "libc",
    }
}

fn app(rows: Vec<Row>) -> App {
    App {
        list: List::of(rows),
        open: None,
        has_list: true,
        delay: Duration::from_secs(1),
        cost: Duration::ZERO,
        look: draw::Look { is_coloured: false, is_unicode: false },
    }
}

fn press(app: &mut App, code: KeyCode) -> bool {
    app.press(KeyEvent::new(code, KeyModifiers::NONE)) == Next::Leave
}

/// The screen of 80 columns and 24 lines.
fn screen(app: &App) -> String {
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    terminal.draw(|frame| app.draw(frame)).unwrap();
    let buffer = terminal.backend().buffer();
    assert!(buffer.content().iter().all(|cell| cell.symbol().is_ascii()), "plain characters only");
    assert!(
        buffer.content().iter().all(|cell| cell.fg == ratatui::style::Color::Reset),
        "no colours"
    );
    let last: String = (0..80).map(|x| buffer.cell((x, 23)).unwrap().symbol()).collect();
    lines(buffer) + last.trim_end()
}

#[test]
fn processes_are_sorted_by_the_column_that_is_chosen() {
    let mut app = app(vec![row(7, "small", 10), row(3, "large", 300), row(5, "middle", 40)]);
    let order = |app: &App| {
        let screen = screen(app);
        let lines = screen.lines().skip(3).take(3);
        lines
            .map(|line| line.split_whitespace().next().unwrap().parse().unwrap())
            .collect::<Vec<u32>>()
    };
    assert_eq!(order(&app), [3, 5, 7]);
    assert!(!press(&mut app, KeyCode::Char('r')));
    assert_eq!(order(&app), [7, 5, 3]);
    press(&mut app, KeyCode::Char('r'));
    press(&mut app, KeyCode::Left);
    assert_eq!(order(&app), [3, 5, 7], "by program: large, middle, small");
    press(&mut app, KeyCode::Left);
    press(&mut app, KeyCode::Left);
    assert_eq!(order(&app), [3, 5, 7], "by id");
    let shown = screen(&app);
    for wanted in
        ["3 processes on rsalloc", "resident 350.0M", "300.0M", "150.0M", "1,234", "PIDv", "q quit"]
    {
        assert!(shown.contains(wanted), "{wanted} in\n{shown}");
    }
    assert!(shown.lines().all(|line| line.len() <= 80));
}

#[test]
fn a_selected_process_stays_selected_when_the_order_changes() {
    let mut app = app(vec![row(7, "small", 10), row(3, "large", 300), row(5, "middle", 40)]);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.list.selected(), Some(&Target::Process(5)));
    press(&mut app, KeyCode::Char('r'));
    press(&mut app, KeyCode::Left);
    assert_eq!(app.list.selected(), Some(&Target::Process(5)));
    press(&mut app, KeyCode::End);
    press(&mut app, KeyCode::Down);
    assert_eq!(app.list.index(), Some(2));
}

#[test]
fn a_process_that_cannot_be_opened_is_said() {
    let mut app = app(vec![row(999_999_999, "gone", 10)]);
    press(&mut app, KeyCode::Enter);
    assert!(app.open.is_none() && screen(&app).contains("there is no process 999999999"));
    press(&mut app, KeyCode::Up);
    assert!(screen(&app).contains("1 process on rsalloc"));
}

#[test]
fn q_and_ctrl_c_leave_and_other_keys_do_not() {
    let mut app = app(vec![row(7, "small", 10)]);
    assert!(press(&mut app, KeyCode::Char('q')));
    let ctrl_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
    assert!(app.press(ctrl_c) == Next::Leave);
    for code in [KeyCode::Char('c'), KeyCode::Esc, KeyCode::Up, KeyCode::Char('x')] {
        assert!(!press(&mut app, code), "{code:?}");
    }
}

/// A column stands whole or not at all: the end of a number is another number.
#[test]
fn narrow_terminals_leave_columns_out() {
    let app = app(vec![row(1_234_567, "program", 314_159)]);
    for width in 12..100 {
        let mut terminal = Terminal::new(TestBackend::new(width, 10)).unwrap();
        terminal.draw(|frame| app.draw(frame)).unwrap();
        let screen = lines(terminal.backend().buffer());
        let shown: Vec<_> = screen.lines().nth(3).unwrap().split_whitespace().collect();
        let whole =
            ["1234567", "program", "306.8G", "153.4G", "1.0M", "2.0M", "0", "1,234", "libc"];
        assert!(shown.iter().all(|cell| whole.contains(cell)), "{width}: {screen}");
        assert_eq!(shown[0], "1234567", "{width}: {screen}");
        assert!(width < 20 || shown.contains(&"306.8G"), "sorted by it, {width}: {screen}");
        assert!(width < 90 || shown.len() == whole.len(), "{width}: {screen}");
    }
}

/// A terminal of any size is drawn on without a panic.
#[test]
fn small_terminals_are_drawn_on() {
    let app = app((0..50).map(|pid| row(pid, "a program with a very long name", 10)).collect());
    for (width, height) in [(1, 1), (5, 2), (20, 5), (79, 10), (300, 90)] {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| app.draw(frame)).unwrap();
    }
}
