//! What an unwinder finds from each instruction of each entry and section of the running library.
//!
//! Promises: a thread is stopped at the start of each function with a section, where the return address is known; then
//! at each of its instructions in turn, and, on whole calls, at every instruction between the start and the return, the
//! slow path's included. At each stop the caller is computed from the library's `.eh_frame` as a profiler does, frame
//! by frame, and must be that return address.

use super::frames::{Frames, Place, RETURN, RSP, is_run};
use super::tracer::{Event, Victim};
use super::{Environment, Subject};
use anyhow::{Context, bail};
use nix::sys::ptrace;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::unix::fs::FileExt;
use tools::sections::Section;

/// Calls in which an instruction may be waited for.
const TRIES: usize = 4;
/// Calls of each function that are followed step by step, and the steps of each.
const CALLS: usize = 3;
/// See [`CALLS`].
const STEPS: usize = 3000;
/// Frames between a stop and the function's caller.
const DEPTH: usize = 64;

/// What was seen.
#[derive(Default)]
pub struct Seen {
    /// Stops at which the caller was computed.
    pub stops: usize,
    /// Instructions of functions with sections at which a thread stood.
    pub reached: BTreeSet<u64>,
    /// Stops at which it was not the caller.
    pub faults: BTreeSet<String>,
}

/// A function with a section, and what is left to do in it.
struct Function<'a> {
    section: &'a Section,
    /// Its instructions, and the tries so far.
    left: VecDeque<(u64, usize)>,
    calls: usize,
}

/// Where a call came from.
#[derive(Clone, Copy)]
struct Call {
    caller: u64,
    /// The stack pointer after the return.
    stack: u64,
}

/// What is to be looked at.
#[derive(Clone, Copy)]
pub enum Wanted<'a> {
    /// All instructions, and some calls step by step.
    All,
    /// These instructions: those of functions that are seldom called.
    Only(&'a BTreeSet<u64>),
}

/// Runs the victim in an environment and watches the functions whose sections run in it.
pub fn watch(
    subject: &Subject,
    frames: &Frames,
    environment: &Environment,
    wanted: Wanted,
    seen: &mut Seen,
) -> anyhow::Result<()> {
    let is_wanted = |at: &u64| match wanted {
        Wanted::All => true,
        Wanted::Only(these) => these.contains(at),
    };
    let calls = if matches!(wanted, Wanted::All) { 0 } else { CALLS };
    let mut functions = BTreeMap::new();
    for section in &subject.sections {
        if !subject.is_home(section, environment) {
            continue;
        }
        let (_, span) = frames.function(section.start).context("a section outside of functions")?;
        let code = subject.code.range(span.clone()).skip(1).filter(|found| is_run(found));
        // The sections' instructions first: a seldom called function has too few calls for all.
        let mut left: Vec<_> = code
            .map(|instruction| instruction.ip())
            .filter(|at| !seen.reached.contains(at) && is_wanted(at))
            .collect();
        left.sort_by_key(|at| !section.span().contains(at));
        let left = left.into_iter().map(|at| (at, 0)).collect();
        functions.insert(span.start, Function { section, left, calls });
    }
    let mut victim = Victim::start(&subject.library, environment)?;
    victim.go(None)?;
    let Event::Phase = victim.wait()? else { bail!("no first phase: {}", victim.ending()) };
    victim.find(&subject.library)?;
    loop {
        let open = functions.iter().filter(|(_, f)| !f.left.is_empty() || f.calls < CALLS);
        let starts: Vec<_> = open.map(|(&start, _)| start).collect();
        let saved = victim.arm(&starts)?;
        victim.go(None)?;
        let event = victim.wait()?;
        match event {
            Event::Phase => victim.disarm(&saved)?,
            Event::Ended => break,
            Event::Trap(start) => {
                victim.disarm(&saved)?;
                let function = functions.get_mut(&start).context("a trap in no function")?;
                let mut watch = Watch { victim: &mut victim, frames, seen };
                watch.call(function, start)?;
            }
        }
    }
    let ending = victim.ending();
    anyhow::ensure!(victim.is_done(), "{}: {ending}", environment.name);
    Ok(())
}

struct Watch<'a> {
    victim: &'a mut Victim,
    frames: &'a Frames,
    seen: &'a mut Seen,
}

impl Watch<'_> {
    /// One call, at whose start the victim stands: it goes on from another instruction of the function, or from
    /// behind the call.
    fn call(&mut self, function: &mut Function, start: u64) -> anyhow::Result<()> {
        let registers = ptrace::getregs(self.victim.pid)?;
        let call = Call { caller: self.word(registers.rsp)?, stack: registers.rsp + 8 };
        self.compare(call)?;
        self.seen.reached.insert(start);
        let Some((at, tries)) = function.left.pop_front() else {
            function.calls += 1;
            return self.steps(call);
        };
        if self.goes_to(function.section, at, call)? {
            self.seen.reached.insert(at);
        } else if tries + 1 < TRIES {
            function.left.push_back((at, tries + 1));
        }
        Ok(())
    }

    /// Lets the victim run from the function's start to an instruction; returns whether it got there in this call.
    fn goes_to(&mut self, section: &Section, at: u64, call: Call) -> anyhow::Result<bool> {
        self.victim.step()?;
        let back = call.caller.wrapping_sub(self.victim.base);
        // What lies behind the abort handler is reached by a section that is aborted, as every stop does.
        let mut aborts = at >= section.abort;
        loop {
            let mut places = vec![at, back];
            places.extend(aborts.then_some(section.start));
            let saved = self.victim.arm(&places)?;
            self.victim.go(None)?;
            let event = self.victim.wait()?;
            self.victim.disarm(&saved)?;
            let Event::Trap(place) = event else {
                bail!("the victim left {} by no way", section.name)
            };
            if aborts && place == section.start {
                aborts = false;
                continue;
            }
            let registers = ptrace::getregs(self.victim.pid)?;
            match place {
                _ if place == at && registers.rsp + 8 == call.stack => {
                    self.compare(call)?;
                    return Ok(true);
                }
                // Another call of the same function, deeper in the stack.
                _ if registers.rsp < call.stack => self.victim.step()?,
                _ => return Ok(false),
            }
        }
    }

    /// Follows a call step by step; each step aborts a section.
    fn steps(&mut self, call: Call) -> anyhow::Result<()> {
        for _ in 0..STEPS {
            self.victim.step()?;
            let registers = ptrace::getregs(self.victim.pid)?;
            if registers.rip == call.caller && registers.rsp == call.stack {
                break;
            }
            if self.frames.row(registers.rip.wrapping_sub(self.victim.base)).is_some() {
                self.compare(call)?;
            }
        }
        Ok(())
    }

    /// Unwinds from where the victim stands until the frame that `call` made, and compares.
    fn compare(&mut self, call: Call) -> anyhow::Result<()> {
        self.seen.stops += 1;
        let mut registers = numbered(&ptrace::getregs(self.victim.pid)?);
        let at = registers[usize::from(RETURN)].wrapping_sub(self.victim.base);
        for depth in 0..DEPTH {
            let in_library = registers[usize::from(RETURN)].wrapping_sub(self.victim.base);
            // A return address may be behind a function's end.
            let Some(row) = self.frames.row(in_library - u64::from(depth > 0)) else { break };
            let Some((register, offset)) = row.cfa else { break };
            let cfa = registers[usize::from(register)].wrapping_add_signed(offset);
            let mut caller = registers;
            caller[usize::from(RSP)] = cfa;
            for &(register, place) in &row.saved {
                caller[usize::from(register)] = match place {
                    Place::Memory(offset) => self.word(cfa.wrapping_add_signed(offset))?,
                    Place::Register(other) => registers[usize::from(other)],
                    Place::Other => 0,
                };
            }
            registers = caller;
            if cfa >= call.stack {
                break;
            }
        }
        let found = (registers[usize::from(RETURN)], registers[usize::from(RSP)]);
        if found != (call.caller, call.stack) {
            let name = self.frames.function(at).map_or("?", |(name, _)| name);
            self.seen
                .faults
                .insert(format!("{name}: from {at:x} an unwinder does not find the caller"));
        }
        Ok(())
    }

    fn word(&self, address: u64) -> anyhow::Result<u64> {
        let mut bytes = [0; 8];
        self.victim.memory.read_exact_at(&mut bytes, address).context("the stack can't be read")?;
        Ok(u64::from_le_bytes(bytes))
    }
}

/// The registers by DWARF's numbers.
fn numbered(r: &libc::user_regs_struct) -> [u64; 17] {
    [
        r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8, r.r9, r.r10, r.r11, r.r12,
        r.r13, r.r14, r.r15, r.rip,
    ]
}
