//! Domains: CPUs whose objects come and go do not come to share cache lines, and what one CPU leaves the others use.

#[path = "support/again.rs"]
mod again;
#[path = "support/cpus.rs"]
#[allow(dead_code, reason = "shared by tests that use other parts of it")]
mod cpus;

use cpus::Cpus;
use rsalloc_core::internals::domain;
use rsalloc_core::internals::node;
use rsalloc_core::internals::size_class::class_of;
use rsalloc_core::internals::slab::SLABS;
use rsalloc_core::{Mode, allocate, free};
use std::collections::HashMap;
use std::sync::Mutex;

/// Each test has all of a class.
static ALONE: Mutex<()> = Mutex::new(());

const LINE_BYTES: usize = 64;

/// Objects of a CPU, allocated and freed there only.
struct Table {
    objects: Vec<*mut u8>,
    random: u64,
}

impl Table {
    fn new(seed: u64) -> Self {
        Table { objects: Vec::new(), random: seed }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random = self.random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (self.random >> 33) as usize % limit
    }

    /// Frees random objects, or allocates, until there are `count`.
    fn resize(&mut self, size: usize, count: usize) {
        while self.objects.len() > count {
            let at = self.below(self.objects.len());
            // SAFETY: live, of this table alone.
            unsafe { free(self.objects.swap_remove(at)) };
        }
        while self.objects.len() < count {
            self.objects.push(allocate(size));
        }
    }
}

fn has_two_cpus() -> bool {
    let mode = rsalloc_core::report().mode;
    let cpus = std::thread::available_parallelism().unwrap().get();
    let is_so = cpus > 1 && matches!(mode, Mode::RseqLibc | Mode::RseqOwn);
    if !is_so {
        println!("NOT TESTED: it takes two CPUs and rseq sections; {cpus} CPUs, {mode:?}");
    }
    is_so
}

/// The part of the cache lines with live objects in which objects of both tables lie.
fn shared_lines(tables: &[Table; 2]) -> f64 {
    let mut lines: HashMap<usize, u8> = HashMap::new();
    for (number, table) in tables.iter().enumerate() {
        for &object in &table.objects {
            *lines.entry(object as usize / LINE_BYTES).or_default() |= 1 << number;
        }
    }
    lines.values().filter(|&&users| users == 3).count() as f64 / lines.len() as f64
}

/// Two CPUs whose tables swing, so that objects go through the depot and the slabs.
fn swing_on_two_cpus(cpus: &Cpus, size: usize) -> f64 {
    let mut tables = [Table::new(1), Table::new(2)];
    for round in 0..400 {
        for (cpu, table) in tables.iter_mut().enumerate() {
            cpus.move_to(cpu);
            let count = 1000 + table.below(3000);
            table.resize(size, count);
            assert!(table.objects.iter().all(|object| !object.is_null()), "round {round}");
        }
    }
    let shared = shared_lines(&tables);
    tables.iter_mut().for_each(|table| table.resize(size, 0));
    cpus.move_anywhere();
    shared
}

#[test]
#[cfg_attr(feature = "mm_cid", ignore = "by mm_cid a thread has one shard on all CPUs")]
fn cpus_do_not_come_to_share_cache_lines() {
    const NAME: &str = "cpus_do_not_come_to_share_cache_lines";
    let _alone = ALONE.lock();
    let cpus = Cpus::allowed();
    if std::env::var_os("RSALLOC_TEST_CONTROL").is_some() {
        let shared = swing_on_two_cpus(&cpus, 16);
        assert!(shared > 0.2, "the control, whose only thread has one shard: {shared:.3}");
        return;
    }
    // SAFETY: null.
    unsafe { free(allocate(1)) };
    if !has_two_cpus() {
        return;
    }
    for size in [8, 16, 32, 48] {
        let shared = swing_on_two_cpus(&cpus, size);
        println!("{size} B: {shared:.4} of the lines are shared");
        assert!(shared < 0.02, "{size} B: {shared:.3} of the lines are shared");
    }
    assert!(domain::are_many());
    assert_eq!(rsalloc_core::check(), Ok(()));
    // By the kernel's id of a thread among those that run, one thread has one shard on whatever CPU it is.
    let mut control = again::this_program();
    control.args(["--exact", NAME]);
    control.env("RSALLOC_CONF", "index:mm_cid").env("RSALLOC_TEST_CONTROL", "1");
    let output = control.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Near a bound, what one CPU left free serves another one, however little of each slab it is.
#[test]
fn without_memory_a_cpu_gets_what_others_left() {
    const NAME: &str = "without_memory_a_cpu_gets_what_others_left";
    const SIZE: usize = 96;
    let _alone = ALONE.lock();
    if std::env::var_os("RSALLOC_TEST_BOUND").is_none() {
        let mut bounded = again::this_program();
        bounded.args(["--exact", NAME, "--nocapture"]);
        bounded.env("RSALLOC_CONF", "limit_hard:64m").env("RSALLOC_TEST_BOUND", "1");
        let output = bounded.output().unwrap();
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let cpus = Cpus::allowed();
    cpus.each(|| {
        // SAFETY: live.
        unsafe { free(allocate(SIZE)) }
    });
    if !has_two_cpus() {
        return;
    }
    cpus.move_to(0);
    let mut table = Table::new(5);
    loop {
        let object = allocate(SIZE);
        if object.is_null() {
            break;
        }
        table.objects.push(object);
    }
    let freed = table.objects.len() / 10;
    table.resize(SIZE, table.objects.len() - freed);
    rsalloc_core::release();
    cpus.move_to(1);
    let got = (0..freed).map(|_| allocate(SIZE)).take_while(|object| !object.is_null()).count();
    assert!(got >= freed - freed / 50, "{got} of {freed} objects that were freed on another CPU");
}

/// A thread that leaves much half free on one CPU, and allocates on another, gets slabs of the first one.
#[test]
fn what_one_cpu_left_free_another_one_uses() {
    const SIZE: usize = 96;
    const COUNT: usize = 40_000;
    let _alone = ALONE.lock();
    let cpus = Cpus::allowed();
    let mut tables = [Table::new(3), Table::new(4)];
    cpus.each(|| {
        // SAFETY: live.
        unsafe { free(allocate(SIZE)) }
    });
    if !has_two_cpus() {
        return;
    }
    if node::are_many() {
        println!("NOT TESTED: the CPUs may be of several nodes");
        return;
    }
    let slabs = || SLABS[class_of(SIZE)].totals().0;
    cpus.move_to(0);
    tables[0].resize(SIZE, COUNT);
    let most = slabs();
    tables[0].resize(SIZE, COUNT / 2);
    rsalloc_core::release();
    cpus.move_to(1);
    tables[1].resize(SIZE, COUNT / 2);
    assert!(slabs() <= most + most / 8 + 2, "{} slabs where {most} were enough", slabs());
    tables.iter_mut().for_each(|table| table.resize(SIZE, 0));
    assert_eq!(rsalloc_core::check(), Ok(()));
}
