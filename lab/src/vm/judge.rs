//! What is demanded of a task, and whether what the guest saw fulfils it.
//!
//! Promises that a task without an answer is a fault, and that each fault is one line that says what was seen and what
//! was demanded.

use serde_json::Value;

use super::cell::{Cell, Step};
use super::fetch::GLIBC_36;
use super::guest::Facts;
use super::plan::{MARK, Seen};

/// What must be seen of a task.
#[derive(Clone)]
pub enum Demand {
    /// It exits with 0.
    Success,
    /// It exits with this.
    Exit(i32),
    /// `rsalloc check` says this mode and shard index.
    Mode(&'static str, &'static str),
    /// The machine is that of the cell.
    Facts(Cell),
    /// The kernel aborted at least so many sections.
    Aborts(u64),
    /// CPUs went or came at least so often.
    Toggles(u64),
    /// Of a hundred pages that each last dump of a chain had to give, so many at least were in the images before.
    InParents(u64),
}

/// The guest's answers, from the lines of its port.
pub fn answers(lines: &[String]) -> Vec<Seen> {
    let answers = lines.iter().filter_map(|line| line.trim().strip_prefix(MARK));
    answers.filter_map(|json| serde_json::from_str(json).ok()).collect()
}

/// What is wrong with the answers to `steps`; nothing, if all is well.
pub fn faults(steps: &[Step], seen: &[Seen]) -> Vec<String> {
    let mut faults = Vec::new();
    for step in steps {
        let name = &step.task.name;
        let Some(seen) = seen.iter().find(|seen| seen.name == *name) else {
            faults.push(format!("{name}: no answer"));
            // The tasks after it have no answer either.
            break;
        };
        let found = step.demands.iter().filter_map(|demand| demand.fault(seen));
        faults.extend(found.map(|fault| format!("{name}: {fault}")));
    }
    faults
}

impl Demand {
    fn fault(&self, seen: &Seen) -> Option<String> {
        match self {
            Demand::Success => exit(seen, 0),
            Demand::Exit(code) => exit(seen, *code),
            Demand::Mode(mode, index) => {
                let report = &json(seen)["report"];
                let found = (report["mode"].as_str(), report["shard_index"].as_str());
                let right = found == (Some(*mode), Some(*index));
                (!right).then(|| format!("{found:?} instead of {mode} by {index}"))
            }
            Demand::Facts(cell) => match serde_json::from_value(json(seen)) {
                Ok(facts) => unlike(cell, &facts),
                Err(error) => Some(format!("unreadable: {error}")),
            },
            Demand::Aborts(least) => match seen.fixups {
                None => Some("the aborts could not be counted".into()),
                Some(count) => (count < *least)
                    .then(|| format!("{count} aborted sections show nothing, {least} would")),
            },
            Demand::Toggles(least) => (seen.toggles < *least)
                .then(|| format!("CPUs went and came {} times, not {least}", seen.toggles)),
            Demand::InParents(least) => match json(seen)["percent_in_parents"].as_u64() {
                None => Some("no chain was counted".into()),
                Some(percent) => (percent < *least).then(|| {
                    format!("{percent} % of the pages were in the images before, not {least} %")
                }),
            },
        }
    }
}

fn exit(seen: &Seen, code: i32) -> Option<String> {
    let how = match (seen.exit, seen.signal) {
        (Some(exit), _) if exit == code => return None,
        (Some(exit), _) => format!("exit {exit}"),
        (_, Some(signal)) => format!("died of signal {signal}"),
        _ => format!("hung, killed after {:.0} s", seen.seconds),
    };
    // The last lines tell most.
    let lines: Vec<_> = seen.said.lines().filter(|line| !line.trim().is_empty()).collect();
    Some(format!("{how}: {}", lines[lines.len().saturating_sub(6)..].join(" / ")))
}

/// The last line that the task printed, as JSON.
pub fn json(seen: &Seen) -> Value {
    let last = seen.said.lines().rfind(|line| line.starts_with('{'));
    last.and_then(|line| serde_json::from_str(line).ok()).unwrap_or_default()
}

fn unlike(cell: &Cell, facts: &Facts) -> Option<String> {
    let range = |count: usize| if count == 1 { "0".into() } else { format!("0-{}", count - 1) };
    let is = |what: &str, found: &str, right: &str| {
        (found != right).then(|| format!("{what} {found} instead of {right}"))
    };
    let version = format!("{}.", cell.kernel.version);
    let kernel = (!facts.release.starts_with(&version))
        .then(|| format!("Linux {} instead of {version}", facts.release));
    let feature = u64::from(cell.kernel.feature_size);
    let registered = match cell.glibc == GLIBC_36 || feature == 0 {
        // What came before the kernel said a size.
        true => 20,
        false => feature,
    };
    let faults = [
        kernel,
        is("glibc", &facts.glibc, cell.glibc.version),
        is("CPUs online", &facts.online, &range(cell.shape.online())),
        is("CPUs possible", &facts.possible, &range(cell.shape.possible())),
        is("nodes", &facts.nodes, &range(cell.shape.nodes())),
        is("AT_RSEQ_FEATURE_SIZE", &facts.feature_size.to_string(), &feature.to_string()),
        is("registered bytes", &facts.rseq_size.to_string(), &registered.to_string()),
        is("rseq_debug", &facts.rseq_debug.to_string(), &cell.kernel.has_debug.to_string()),
    ];
    let faults: Vec<_> = faults.into_iter().flatten().collect();
    (!faults.is_empty()).then(|| faults.join(", "))
}
