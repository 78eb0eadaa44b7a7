//! The matrix: which machines are booted with what, and what is run and demanded in each.
//!
//! Promises that each cell says of itself what it demands; [`Step`] pairs a task for the guest with
//! what the host must see of it. Used by the command; judged by `judge`.

use super::fetch::{GLIBC_36, GLIBC_41, Glibc, KERNELS, Kernel};
use super::judge::Demand;
use super::plan::Task;
use super::qemu;

/// The CPUs of a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many.
    Cpus(usize),
    /// Room for 16, of which 2 are there at the start.
    Holes,
    /// Four on two nodes.
    Numa,
}

/// One combination.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    pub kernel: Kernel,
    pub glibc: Glibc,
    pub shape: Shape,
}

/// A task and what must be seen of it.
pub struct Step {
    pub task: Task,
    pub demands: Vec<Demand>,
}

/// Aborts by the kernel that a stress must show at least, to have tested anything.
const ABORTS_MIN: u64 = 1000;
const TOGGLES_MIN: u64 = 10;

const SHAPES: [Shape; 6] =
    [Shape::Cpus(1), Shape::Cpus(2), Shape::Cpus(8), Shape::Cpus(64), Shape::Holes, Shape::Numa];

/// Every kernel on every machine, and on two CPUs with the newer C library too.
pub fn all() -> Vec<Cell> {
    let mut cells = Vec::new();
    for kernel in KERNELS {
        for shape in SHAPES {
            cells.push(Cell { kernel, glibc: GLIBC_36, shape });
            if shape == Shape::Cpus(2) {
                cells.push(Cell { kernel, glibc: GLIBC_41, shape });
            }
        }
    }
    cells
}

/// The one for CI: the strictest kernel, with the C library that registers most.
pub fn quick() -> Cell {
    Cell { kernel: KERNELS[3], glibc: GLIBC_41, shape: Shape::Cpus(2) }
}

/// A mode of the allocator: its name, what is set for it, the mode that must come of it.
struct Mode {
    name: &'static str,
    variables: &'static [(&'static str, &'static str)],
    mode: &'static str,
    mm_cid: bool,
}

const NO_LIBC: (&str, &str) = ("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
const MM_CID: (&str, &str) = ("RSALLOC_CONF", "index:mm_cid");

const MODES: [Mode; 5] = [
    Mode { name: "libc", variables: &[], mode: "rseq_libc", mm_cid: false },
    Mode { name: "own", variables: &[NO_LIBC], mode: "rseq_own", mm_cid: false },
    Mode { name: "mm_cid", variables: &[MM_CID], mode: "rseq_libc", mm_cid: true },
    Mode { name: "own-cid", variables: &[NO_LIBC, MM_CID], mode: "rseq_own", mm_cid: true },
    Mode {
        name: "atomic",
        variables: &[("RSALLOC_CONF", "mode:atomic")],
        mode: "atomic",
        mm_cid: false,
    },
];

impl Mode {
    fn has_sections(&self) -> bool {
        self.mode != "atomic"
    }
}

impl Cell {
    /// For the table and for files.
    pub fn name(&self) -> String {
        format!("{}-glibc{}-{}", self.kernel.version, self.glibc.version, self.shape.name())
    }

    /// The kernel's command line.
    pub fn words(&self) -> String {
        let debug = if self.kernel.has_debug { "rseq_debug=1 " } else { "" };
        let present = if self.shape == Shape::Holes { "maxcpus=2" } else { "" };
        format!("{debug}{present}")
    }

    /// All steps, or the few for CI.
    pub fn steps(&self, is_quick: bool) -> Vec<Step> {
        let mut steps = vec![self.facts()];
        steps.extend(MODES.iter().map(|mode| self.check(mode)));
        steps.push(self.workload());
        if !is_quick {
            steps.push(Step::succeeds(Task::new("sections", &["/bin/sections"]).within(120)));
        }
        // The test programs have no mode for both at once.
        let tested = |mode: &&Mode| {
            mode.name != "own-cid"
                && (!mode.mm_cid || self.kernel.has_mm_cid())
                && (!is_quick || mode.has_sections())
        };
        for mode in MODES.iter().filter(tested) {
            steps.push(self.stress(mode, false));
            if !is_quick {
                let name = format!("fork {}", mode.name);
                let task = Task::new(&name, &["/bin/fork", &format!("mode={}", mode.name)]);
                steps.push(Step::succeeds(task.with(mode.variables).within(180)));
            }
        }
        if matches!(self.shape, Shape::Cpus(8) | Shape::Holes) {
            steps.extend(MODES.iter().filter(tested).map(|mode| self.stress(mode, true)));
        }
        if self.shape == Shape::Cpus(2) && !is_quick {
            steps.push(self.sweep());
        }
        steps
    }

    fn facts(&self) -> Step {
        let demands = vec![Demand::Success, Demand::Facts(*self)];
        Step { task: Task::new("facts", &["/bin/xtask", "vm", "--facts"]), demands }
    }

    fn check(&self, mode: &Mode) -> Step {
        let index = if mode.mm_cid && self.kernel.has_mm_cid() { "mm_cid" } else { "cpu_id" };
        let task = Task::new(&format!("check {}", mode.name), &["/bin/rsalloc", "check", "--json"]);
        let exit = if mode.has_sections() { 0 } else { 1 };
        let task = task.with(mode.variables);
        Step { task, demands: vec![Demand::Exit(exit), Demand::Mode(mode.mode, index)] }
    }

    /// Conservation under timers and migration; the kernel must abort sections in it.
    fn stress(&self, mode: &Mode, hotplug: bool) -> Step {
        let name = format!("{} {}", if hotplug { "hotplug" } else { "stress" }, mode.name);
        let task = Task::new(&name, &["/bin/stress", &format!("mode={}", mode.name)]);
        let mut demands = vec![Demand::Success];
        if mode.has_sections() {
            demands.push(Demand::Aborts(ABORTS_MIN));
        }
        if hotplug {
            demands.push(Demand::Toggles(TOGGLES_MIN));
        }
        let task = Task { hotplug, ..task.with(mode.variables).within(180) };
        Step { task, demands }
    }

    fn workload(&self) -> Step {
        let task = Task::new("workload", &["/bin/workload", "larson", "--seconds", "0.5"]);
        Step::succeeds(task.with(&[("LD_PRELOAD", "/bin/librsalloc.so")]))
    }

    fn sweep(&self) -> Step {
        let modes = if self.kernel.has_mm_cid() { "libc,own,libc-cid,own-cid" } else { "libc,own" };
        let command =
            ["/bin/xtask", "sweep", "--lib", "/bin/librsalloc.so", "--environment", modes];
        Step::succeeds(Task::new("sweep", &command).within(900))
    }
}

impl Step {
    fn succeeds(task: Task) -> Step {
        Step { task, demands: vec![Demand::Success] }
    }
}

impl Shape {
    /// For people.
    pub fn name(self) -> String {
        match self {
            Shape::Cpus(count) => format!("{count}cpu"),
            Shape::Holes => "2of16cpu".into(),
            Shape::Numa => "4cpu-2nodes".into(),
        }
    }

    /// CPUs that can be there.
    pub fn possible(self) -> usize {
        match self {
            Shape::Cpus(count) => count,
            Shape::Holes => 16,
            Shape::Numa => 4,
        }
    }

    /// CPUs that are there at the start.
    pub fn online(self) -> usize {
        if self == Shape::Holes { 2 } else { self.possible() }
    }

    /// Memory nodes.
    pub fn nodes(self) -> usize {
        if self == Shape::Numa { 2 } else { 1 }
    }

    /// What QEMU is told besides the number of CPUs.
    pub fn options(self) -> Vec<String> {
        let mut options = Vec::new();
        let nodes = if self == Shape::Numa { 2 } else { 0 };
        for node in 0..nodes {
            let (each, size) = (self.possible() / nodes, qemu::memory(self.possible()) / nodes);
            let (first, last) = (node * each, (node + 1) * each - 1);
            let object = format!("memory-backend-ram,id=m{node},size={size}M");
            let numa = format!("node,nodeid={node},cpus={first}-{last},memdev=m{node}");
            options.extend(["-object".into(), object, "-numa".into(), numa]);
        }
        options
    }
}
