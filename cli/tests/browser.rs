//! The page of `rsalloc report` in a headless Chromium: it lays out, its colours can be read in both schemes, it needs no
//! mouse, and nothing is said on the console. The gate `browser` runs this; it needs the program `chromium`.

mod command_line;

use command_line::*;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

const MEASURE: &str = include_str!("measure.js");

const FRAGMENTED: &str = r#"
    import random
    random.seed(1)
    keep = [b'x' * random.choice((40, 100, 300, 700, 1500)) for _ in range(60000)][::20]
    big = [bytearray(600000) for _ in range(20)]
    huge = bytearray(40 << 20)
    print('!', flush=True)
    import sys; sys.stdin.read()
"#;

struct Visit {
    found: Value,
    /// What the page said on the console.
    console: Vec<String>,
}

/// Shows a page, in the dark scheme or in the light one, in a window of this width.
fn visit(page: &Path, is_dark: bool, width: u32) -> Visit {
    let mut chromium = Command::new("chromium");
    chromium.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--dump-dom",
    ]);
    chromium.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!is_dark)));
    chromium.arg(format!("--window-size={width},1000")).arg(format!("file://{}", page.display()));
    let output = chromium.output().expect("this test needs chromium (apt-get install chromium)");
    let dom = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let found = dom.split("<title>FOUND").nth(1).and_then(|rest| rest.split("END</title>").next());
    let found = found.unwrap_or_else(|| panic!("nothing was measured: {errors}"));
    // A title's text has no references but for these.
    let found = found.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    Visit {
        found: serde_json::from_str(&found).unwrap(),
        console: errors
            .lines()
            .filter(|line| line.contains(":CONSOLE"))
            .map(str::to_owned)
            .collect(),
    }
}

/// A page, and a measuring copy of it.
fn page(folder: &Path) -> (String, PathBuf) {
    let mut command = with_library("run", &["--conf", "profile:64k", "python3", "-c"]);
    let script: Vec<_> =
        FRAGMENTED.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let running = Running::talker(command.arg(script.join("\n")));
    let path = folder.join("report.html");
    let mut report =
        rsalloc(&["report", &running.pid(), "--seconds", "0.5", "-o", path.to_str().unwrap()]);
    assert!(report.output().unwrap().status.success());
    let page = std::fs::read_to_string(&path).unwrap();
    let measured = measured(folder, "measured.html", &page);
    (page, measured)
}

fn measured(folder: &Path, name: &str, page: &str) -> PathBuf {
    let path = folder.join(name);
    assert!(page.contains("</body>"));
    std::fs::write(&path, page.replace("</body>", &format!("<script>{MEASURE}</script></body>")))
        .unwrap();
    path
}

/// What is wrong with a page.
fn faults(visit: &Visit, is_dark: bool) -> Vec<String> {
    let found = &visit.found;
    let number = |name: &str| found[name].as_f64().unwrap_or(f64::NAN);
    let mut faults = visit.console.clone();
    let mut expect = |is_right: bool, what: &str| {
        if !is_right {
            faults.push(format!("{what}: {found}"));
        }
    };
    expect(found["dark"] == is_dark, "the scheme that was asked for");
    expect((number("background") < 0.1) == is_dark, "a background of that scheme");
    expect(number("overflow") <= 0.0, "no wider than the window");
    expect(found["texts"][0].as_f64() >= Some(4.5), "text that can be read (WCAG 1.4.3)");
    expect(number("svgTexts") >= 4.5, "text in pictures that can be read");
    expect(found["faintest"][0].as_f64() >= Some(2.0), "colours that are seen");
    expect(
        number("focusable") >= 10.0 && number("unfocused") == 0.0,
        "a keyboard reaches what can be used",
    );
    expect(number("unreachable") == 0.0, "a keyboard scrolls what is scrolled");
    expect(
        number("closed") >= 3.0 && found["opened"] == found["closed"],
        "details open, and hold a table",
    );
    expect(
        number("unnamed") == 0.0 && number("targets") == 0.0,
        "pictures have names and links targets",
    );
    expect(number("flame") == 1.0, "a flame graph");
    expect((number("bar") - 1.0).abs() < 0.01, "the bar is full");
    expect(
        number("cells") > 100.0 && found["cells"] == found["outlines"],
        "each square has its words",
    );
    for name in ["p-free", "p-large", "p-dirty"] {
        let [painted, said] =
            [0, 1].map(|at| found["painted"][name][at].as_f64().unwrap_or(f64::NAN));
        expect((painted - said).abs() <= said * 0.12 + 200_000.0, name);
    }
    faults
}

#[test]
fn the_page_is_right_in_both_schemes_and_widths() {
    let (_, measured) = page(&fresh_folder("browser"));
    for (is_dark, width) in [(false, 1280), (true, 1280), (false, 500), (true, 500)] {
        let faults = faults(&visit(&measured, is_dark, width), is_dark);
        assert!(faults.is_empty(), "{is_dark} {width}: {faults:#?}");
    }
}

/// The control: each thing that is looked for is seen when it is broken.
#[test]
fn a_broken_page_is_seen() {
    let folder = fresh_folder("browser-control");
    let (page, _) = page(&folder);
    let defects = [
        ("CONSOLE", "</main>", "</main><script>nowhere()</script>"),
        ("no wider", "</main>", "</main><p style=\"width:3000px\">wide</p>"),
        ("can be read (WCAG", "--soft: #566070", "--soft: #c6ccd4"),
        ("scrolls what is", "class=\"wide\" tabindex=\"0\"", "class=\"wide\""),
        ("links targets", "href=\"#heap\"", "href=\"#nowhere\""),
        ("p-free", "class=\"p-free\" d=\"", "class=\"p-free\" d=\"M0 0h13v9000h-13z"),
        ("words", "class=\"cell\" d=\"", "class=\"cell\" d=\"M0 0h13v13h-13z"),
    ];
    let mut broken = page;
    for (_, from, to) in defects {
        assert!(broken.contains(from), "{from}");
        broken = broken.replace(from, to);
    }
    let broken = measured(&folder, "broken.html", &broken);
    let faults = faults(&visit(&broken, false, 500), false);
    // Behind a fault's name stand all numbers.
    let named: Vec<_> = faults.iter().filter_map(|fault| fault.split(": {").next()).collect();
    for (what, ..) in defects {
        assert!(named.iter().any(|fault| fault.contains(what)), "{what}: {faults:#?}");
    }
}
