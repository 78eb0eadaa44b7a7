//! A trace made into a program: addresses become places, and the calls of all threads are put in order.
//!
//! Promises that the program does what the trace says, object for object: the operations of a place come in the order
//! of the trace's numbers. A thread is started where the trace first has a call of it: by the thread that made the call
//! before.

use super::flat::{Operation, Verb};
use super::load::{Call, Event, Make, Sized, Trace};
use anyhow::ensure;
use std::collections::{HashMap, VecDeque};

/// A place whose turns are used up is not used again.
const TURN_MAX: u16 = u16::MAX - 2;
/// Among threads, so many places stay free before one is used again, so that threads rarely wait for one.
const SLACK: usize = 4096;

/// What came of it.
#[derive(Debug, Default)]
pub struct Compiled {
    /// Of each thread.
    pub threads: Vec<Vec<Operation>>,
    /// Places that are used.
    pub places: u64,
    /// Calls of the allocator.
    pub calls: u64,
    /// The most bytes that were live.
    pub peak_bytes: u64,
    /// The most objects that were live.
    pub peak_objects: u64,
    /// Objects that are live at the end.
    pub left: u64,
    /// Frees of what no event had allocated: it was allocated before.
    pub unknown: u64,
    /// Objects whose end is in no event: their address was given out again.
    pub implied: u64,
    /// Numbers after the first one that is missing: threads that ran when the process ended.
    pub cut: u64,
}

struct Live {
    place: u32,
    turn: u16,
    size: u64,
}

struct Compiler {
    done: Compiled,
    live: HashMap<u64, Live>,
    free: VecDeque<(u32, u16)>,
    bytes: u64,
    slack: usize,
}

/// Makes a program of `trace`.
pub fn compile(trace: &Trace) -> anyhow::Result<Compiled> {
    let threads = trace.threads as usize;
    let mut compiler = Compiler {
        done: Compiled { threads: vec![Vec::new(); threads], ..Compiled::default() },
        live: HashMap::new(),
        free: VecDeque::new(),
        bytes: 0,
        slack: if threads == 1 { 0 } else { SLACK },
    };
    let mut started = vec![false; threads];
    let mut before = None;
    // The resize that a thread is in.
    let mut resizing: Vec<Option<Live>> = (0..threads).map(|_| None).collect();
    let order = in_order(trace)?;
    for &(index, is_second) in &order {
        let Event { thread, call, .. } = trace.events[index];
        let own = thread as usize;
        if !std::mem::replace(&mut started[own], true) {
            let start =
                Operation { verb: Verb::Start, place: thread, turn: 0, align: 0, size: 0, old: 0 };
            before.iter().for_each(|&before: &usize| compiler.done.threads[before].push(start));
        }
        before = Some(own);
        match call {
            Call::Nothing => {}
            Call::Make { how, address, size } => compiler.make(own, how, address, size),
            Call::Free { address, sized } => compiler.free(own, address, sized),
            Call::Resize { old, .. } if !is_second => resizing[own] = compiler.take(old),
            Call::Resize { address, size, .. } => match resizing[own].take() {
                Some(live) => compiler.resize(own, live, address, size),
                None => {
                    compiler.done.unknown += 1;
                    compiler.make(own, Make::Malloc, address, size);
                }
            },
        }
    }
    // A resize that never ended: its object stays.
    let mut done = compiler.done;
    done.left = compiler.live.len() as u64;
    done.cut = trace.numbers - order.len() as u64;
    ensure!(done.calls > 0, "the trace has no call that can be replayed");
    order_threads(&mut done, &trace.events[order[0].0]);
    Ok(done)
}

/// Events by their numbers, each resize twice, up to the first number that is missing.
fn in_order(trace: &Trace) -> anyhow::Result<Vec<(usize, bool)>> {
    const MISSING: (usize, bool) = (usize::MAX, false);
    let mut order = vec![MISSING; trace.numbers as usize];
    let mut put = |number: u64, point| {
        let place = order.get_mut(number as usize).filter(|place| **place == MISSING);
        place.map(|place| *place = point).is_some()
    };
    for (index, event) in trace.events.iter().enumerate() {
        let mut is_sound = put(event.number, (index, false));
        if let Call::Resize { after, .. } = event.call {
            is_sound = is_sound && put(after, (index, true));
        }
        ensure!(is_sound, "the trace is damaged: number {} stands there twice", event.number);
    }
    let missing = order.iter().filter(|&&point| point == MISSING).count() as u64;
    // A thread that is in a call when the process ends has up to two; a lost call has as many.
    let explained = 2 * (u64::from(trace.threads) + u64::from(trace.lost));
    ensure!(missing <= explained, "the trace is damaged: {missing} calls are missing");
    if trace.lost > 0 {
        // Calls within signal handlers: the rest is whole.
        order.retain(|&point| point != MISSING);
    } else if let Some(first) = order.iter().position(|&point| point == MISSING) {
        order.truncate(first);
    }
    ensure!(!order.is_empty(), "the trace is damaged: it has no first call");
    Ok(order)
}

/// The main thread is the one that made the first call.
fn order_threads(done: &mut Compiled, first: &Event) {
    let main = first.thread;
    done.threads.swap(0, main as usize);
    for operation in done.threads.iter_mut().flatten().filter(|op| op.verb == Verb::Start) {
        if operation.place == 0 {
            operation.place = main;
        }
    }
}

impl Compiler {
    fn make(&mut self, thread: usize, how: Make, address: u64, size: u64) {
        if self.live.contains_key(&address) {
            self.done.implied += 1;
            self.free(thread, address, Sized::No);
        }
        let (place, turn) = self.place();
        let (verb, align) = match how {
            Make::Malloc => (Verb::Malloc, 0),
            Make::Calloc => (Verb::Calloc, 0),
            Make::Aligned(log) => (Verb::Aligned, log),
        };
        self.push(thread, Operation { verb, place, turn, align, size, old: 0 });
        self.keep(address, Live { place, turn: turn + 1, size });
    }

    fn free(&mut self, thread: usize, address: u64, sized: Sized) {
        let Some(Live { place, turn, size }) = self.take(address) else {
            self.done.unknown += 1;
            return;
        };
        let verb = if sized == Sized::Yes { Verb::FreeSized } else { Verb::Free };
        self.push(thread, Operation { verb, place, turn, align: 0, size, old: 0 });
        if turn < TURN_MAX {
            self.free.push_back((place, turn + 1));
        }
    }

    fn resize(&mut self, thread: usize, live: Live, address: u64, size: u64) {
        let Live { place, turn, size: old } = live;
        if turn >= TURN_MAX {
            // The place is used up: as a program would without realloc.
            let free = Operation { verb: Verb::Free, place, turn, align: 0, size: old, old: 0 };
            self.push(thread, free);
            return self.make(thread, Make::Malloc, address, size);
        }
        if self.live.contains_key(&address) {
            self.done.implied += 1;
            self.free(thread, address, Sized::No);
        }
        self.push(thread, Operation { verb: Verb::Resize, place, turn, align: 0, size, old });
        self.keep(address, Live { place, turn: turn + 1, size });
    }

    fn push(&mut self, thread: usize, operation: Operation) {
        self.done.threads[thread].push(operation);
        self.done.calls += 1;
    }

    fn keep(&mut self, address: u64, live: Live) {
        self.bytes += live.size;
        self.live.insert(address, live);
        self.done.peak_bytes = self.done.peak_bytes.max(self.bytes);
        self.done.peak_objects = self.done.peak_objects.max(self.live.len() as u64);
    }

    fn take(&mut self, address: u64) -> Option<Live> {
        let live = self.live.remove(&address)?;
        self.bytes -= live.size;
        Some(live)
    }

    /// A place and its turn: for one thread the one that was free last, so that the table stays in the
    /// processor's caches.
    fn place(&mut self) -> (u32, u16) {
        let used = match self.slack {
            0 => self.free.pop_back(),
            slack if self.free.len() > slack => self.free.pop_front(),
            _ => None,
        };
        used.unwrap_or_else(|| {
            self.done.places += 1;
            (self.done.places as u32 - 1, 0)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::load::Call::{Free, Make as Made, Nothing, Resize};
    use super::*;

    const A: u64 = 0x1000;
    const B: u64 = 0x2000;

    fn trace(threads: u32, calls: &[(u64, u32, Call)]) -> Trace {
        let events: Vec<_> =
            calls.iter().map(|&(number, thread, call)| Event { number, thread, call }).collect();
        let second = |event: &Event| matches!(event.call, Resize { .. });
        let numbers =
            events.len() as u64 + events.iter().filter(|event| second(event)).count() as u64;
        Trace { name: "test".into(), numbers, threads, lost: 0, events }
    }

    fn make(address: u64, size: u64) -> Call {
        Made { how: Make::Malloc, address, size }
    }

    fn free(address: u64) -> Call {
        Free { address, sized: Sized::No }
    }

    fn shown(thread: &[Operation]) -> Vec<(Verb, u32, u16)> {
        thread.iter().map(|op| (op.verb, op.place, op.turn)).collect()
    }

    #[test]
    fn one_thread_uses_a_place_again() {
        let calls =
            [(0, 0, make(A, 10)), (1, 0, free(A)), (2, 0, make(B, 20)), (3, 0, make(A, 30))];
        let done = compile(&trace(1, &calls)).unwrap();
        let expected =
            [(Verb::Malloc, 0, 0), (Verb::Free, 0, 1), (Verb::Malloc, 0, 2), (Verb::Malloc, 1, 0)];
        assert_eq!(shown(&done.threads[0]), expected);
        assert_eq!((done.calls, done.places, done.left), (4, 2, 2));
        assert_eq!((done.peak_bytes, done.peak_objects), (50, 2));
    }

    #[test]
    fn an_object_is_freed_after_it_was_made_on_another_thread() {
        // The events of thread 1 come later in the list, as in a file, and in between by number.
        let calls = [(0, 0, make(A, 8)), (3, 0, free(B)), (1, 1, free(A)), (2, 1, make(B, 16))];
        let done = compile(&trace(2, &calls)).unwrap();
        assert_eq!(
            shown(&done.threads[0]),
            [(Verb::Malloc, 0, 0), (Verb::Start, 1, 0), (Verb::Free, 1, 1)]
        );
        assert_eq!(shown(&done.threads[1]), [(Verb::Free, 0, 1), (Verb::Malloc, 1, 0)]);
    }

    #[test]
    fn the_first_to_call_is_the_main_thread() {
        let calls = [(1, 0, free(A)), (0, 1, make(A, 8))];
        let done = compile(&trace(2, &calls)).unwrap();
        assert_eq!(shown(&done.threads[0]), [(Verb::Malloc, 0, 0), (Verb::Start, 1, 0)]);
        assert_eq!(shown(&done.threads[1]), [(Verb::Free, 0, 1)]);
    }

    /// While thread 0 resizes, thread 1 gets the old address.
    #[test]
    fn an_address_that_a_resize_left_belongs_to_the_next() {
        let resize = Resize { old: A, address: B, size: 99, after: 3 };
        let calls = [
            (0, 0, make(A, 8)),
            (1, 0, resize),
            (2, 1, make(A, 5)),
            (4, 1, free(A)),
            (5, 0, free(B)),
        ];
        let done = compile(&trace(2, &calls)).unwrap();
        assert_eq!(
            shown(&done.threads[0]),
            [(Verb::Malloc, 0, 0), (Verb::Start, 1, 0), (Verb::Resize, 0, 1), (Verb::Free, 0, 2)]
        );
        assert_eq!(done.threads[0][2].old, 8);
        assert_eq!(done.threads[0][3].size, 99);
        assert_eq!(shown(&done.threads[1]), [(Verb::Malloc, 1, 0), (Verb::Free, 1, 1)]);
        assert_eq!((done.implied, done.unknown, done.left), (0, 0, 0));
    }

    #[test]
    fn what_was_not_recorded_is_counted() {
        let calls = [(0, 0, free(B)), (1, 0, make(A, 8)), (2, 0, make(A, 8)), (3, 0, Nothing)];
        let done = compile(&trace(1, &calls)).unwrap();
        assert_eq!((done.unknown, done.implied, done.calls), (1, 1, 3));
    }

    #[test]
    fn a_place_is_given_up_before_its_turns_run_out() {
        let mut calls: Vec<_> =
            (0..100_000).flat_map(|i| [(2 * i, 0, make(A, 8)), (2 * i + 1, 0, free(A))]).collect();
        let done = compile(&trace(1, &calls)).unwrap();
        assert_eq!(done.places, 4, "65,534 turns each");
        let mut seen = HashMap::<u32, u16>::new();
        for op in &done.threads[0] {
            let turn = seen.entry(op.place).or_default();
            assert_eq!(op.turn, *turn);
            *turn += 1;
        }
        calls.truncate(0);
        calls.push((0, 0, make(A, 8)));
        let resize =
            |i: u64| (1 + 2 * i, 0, Resize { old: A, address: A, size: 8, after: 2 + 2 * i });
        calls.extend((0..70_000).map(resize));
        let done = compile(&trace(1, &calls)).unwrap();
        assert_eq!((done.places, done.left), (2, 1));
    }

    #[test]
    fn holes_are_errors_but_for_threads_that_the_end_stopped() {
        let mut cut = trace(1, &[(0, 0, make(A, 8)), (1, 0, free(A)), (3, 0, make(A, 8))]);
        cut.numbers = 4;
        let done = compile(&cut).unwrap();
        assert_eq!((done.calls, done.cut), (2, 2));
        cut.numbers = 10;
        assert!(compile(&cut).unwrap_err().to_string().contains("missing"));
        let twice = trace(1, &[(0, 0, make(A, 8)), (0, 0, free(A))]);
        assert!(compile(&twice).unwrap_err().to_string().contains("twice"));
    }
}
