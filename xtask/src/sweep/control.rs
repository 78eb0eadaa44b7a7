//! The positive control: deliberate defects in the victim's copy of the descriptors, and in what unwinders read.
//!
//! Promises to fail unless every defect of every section is seen, by the check that is there for it. Those of the
//! descriptors are written into the running victim, so the library that is tested is the one that is shipped.

use super::frames::Frames;
use super::tracer::{self, Outcome, Patch, Trap, Word};
use super::{ENVIRONMENTS, Subject, Treatment, callers};
use anyhow::{Context, bail};
use tools::sections::{ABORT_IP, POST_COMMIT_OFFSET, Section};

/// A defect, where it shows, and what must see it.
struct Defect {
    name: &'static str,
    patch: fn(&Subject, &Section) -> Patch,
    /// Traps at the commit; else at the start.
    at_commit: bool,
    treatment: Treatment,
    seen: fn(&Outcome) -> bool,
    applies: fn(&Section) -> bool,
}

const DEFECTS: &[Defect] = &[
    Defect {
        name: "the commit left out of the section; seen by where the thread goes on",
        patch: without_commit,
        at_commit: true,
        treatment: Treatment::Stay,
        seen: |outcome| !outcome.strayed.is_empty(),
        applies: |_| true,
    },
    Defect {
        name: "the abort handler of another section; seen by where the thread goes on",
        patch: other_handler,
        at_commit: false,
        treatment: Treatment::Stay,
        seen: |outcome| !outcome.strayed.is_empty(),
        applies: |_| true,
    },
    Defect {
        name: "the commit left out of the section; seen by the books of the victim alone",
        patch: without_commit,
        at_commit: true,
        treatment: Treatment::Signal,
        seen: |outcome| outcome.broken.is_some(),
        applies: moves_objects,
    },
];

/// Runs every defect on every section.
pub fn main(subject: &Subject) -> anyhow::Result<()> {
    let mut blind = without_frames(subject)?;
    for defect in DEFECTS {
        let (mut seen, mut tried) = (0, 0);
        for section in subject.sections.iter().filter(|section| (defect.applies)(section)) {
            tried += 1;
            if sees(subject, section, defect)? {
                seen += 1;
            } else {
                blind.push(format!("not seen in {}: {}", section.name, defect.name));
            }
        }
        println!("{seen} of {tried} sections: {}", defect.name);
    }
    if blind.is_empty() {
        return Ok(());
    }
    bail!("{}", blind.join("\n"))
}

/// What unwinders read of each function with a section is left out, then a word off; what was not seen.
fn without_frames(subject: &Subject) -> anyhow::Result<Vec<String>> {
    let frames = Frames::read(&subject.library)?;
    let is_seen = |wrong: Frames| !wrong.examine(&subject.code, &subject.sections).0.is_empty();
    if is_seen(frames.clone()) {
        bail!("what unwinders read is wrong without a defect: the control shows nothing");
    }
    let mut blind = Vec::new();
    for section in &subject.sections {
        if !is_seen(frames.without(section.start)) {
            blind.push(format!("not seen in {}: nothing for unwinders", section.name));
        }
        if !is_seen(frames.shifted(section.start)) {
            blind.push(format!("not seen in {}: the caller a word off", section.name));
        }
    }
    let seen = subject.sections.len() * 2 - blind.len();
    println!("{seen} of {} defects in what unwinders read", subject.sections.len() * 2);
    // And a running thread must notice, too.
    let section = subject.sections.iter().find(|section| section.name == "malloc");
    let wrong = frames.shifted(section.context("no malloc")?.start);
    let mut seen = callers::Seen::default();
    callers::watch(subject, &wrong, &ENVIRONMENTS[0], callers::Wanted::All, &mut seen)?;
    if seen.faults.is_empty() {
        blind.push("not seen by a thread in malloc: the caller a word off".to_owned());
    }
    Ok(blind)
}

fn sees(subject: &Subject, section: &Section, defect: &Defect) -> anyhow::Result<bool> {
    let environment = ENVIRONMENTS.iter().find(|e| subject.is_home(section, e));
    let environment = environment.context("no such mode")?;
    let at = if defect.at_commit { commit(subject, section)? } else { section.start };
    let trap = Trap { section, at, treatment: defect.treatment, shake: subject.shake(section) };
    let run = |patches: &[Patch]| {
        tracer::run(&subject.library, environment, &trap, &subject.cpus, patches)
    };
    let sound = run(&[])?;
    if sound.hits == 0 || (defect.seen)(&sound) {
        bail!("{}: not reached, or red without a defect: the control shows nothing", section.name);
    }
    Ok((defect.seen)(&run(&[(defect.patch)(subject, section)])?))
}

fn without_commit(subject: &Subject, section: &Section) -> Patch {
    let len = commit(subject, section).map_or(0, |at| at - section.start);
    Patch { at: section.descriptor + POST_COMMIT_OFFSET, word: Word::Plain(len) }
}

fn other_handler(subject: &Subject, section: &Section) -> Patch {
    let other = subject.sections.iter().find(|other| other.abort != section.abort);
    let other = other.map_or(section.start, |other| other.abort);
    Patch { at: section.descriptor + ABORT_IP, word: Word::Address(other) }
}

/// Address of the commit, the last instruction.
fn commit(subject: &Subject, section: &Section) -> anyhow::Result<u64> {
    let last = subject.code.range(section.span()).last();
    Ok(last.with_context(|| format!("{} has no code", section.name))?.ip())
}

/// Sections that only count or set a capacity lose no object.
fn moves_objects(section: &Section) -> bool {
    !section.name.starts_with("add_") && !section.name.starts_with("set_bounds_")
}
