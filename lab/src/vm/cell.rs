//! The matrix: which machines are booted with what, and what is run and demanded in each.
//!
//! Promises that each cell says of itself what it demands; [`Step`] pairs a task for the guest with what the host must
//! see of it.

use super::fetch::{GLIBC_36, GLIBC_41, Glibc, KERNELS, Kernel};
use super::guest::ENOUGH;
use super::judge::Demand;
use super::plan::Task;
use super::qemu;

/// The CPUs of a machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many.
    Cpus(usize),
    /// Slots for 16, of which 2 are there at the start.
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
#[derive(Clone)]
pub struct Step {
    pub task: Task,
    pub demands: Vec<Demand>,
}

// Amounts for translated guests, some thirty times slower than the machine, of which there are 28.
pub const HAMMER: Hammer = Hammer { signals: "8000", aborts: 400 };
/// On the machine itself.
pub const HAMMER_HERE: Hammer = Hammer { signals: "20000", aborts: 1000 };
const HAMMER_QUICK: Hammer = Hammer { signals: "6000", aborts: 200 };
const STOPS: &str = "1000";
const FORKS: &str = "forks=20";
/// The sweep makes each fifth run only (no multiple of its treatments); each kernel begins at another one.
const SWEEP_PARTS: usize = 5;
pub const HAMMER_PERIOD_US: &str = "1000";
/// Name of the step that identifies the machine.
pub const FACTS: &str = "facts";

/// The load that keeps threads inside sections.
pub struct Hammer {
    /// It ends after so many signals were handled.
    pub signals: &'static str,
    /// How many of them must have aborted a section at least, to have tested anything.
    pub aborts: u64,
}

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

/// The cell for CI: the strictest kernel, with the C library that registers most.
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
            steps.push(self.sections());
        }
        // The test programs have no mode for both at once.
        let tested = |mode: &&Mode| {
            mode.name != "own-cid"
                && (!mode.mm_cid || self.kernel.has_mm_cid())
                && (!is_quick || mode.has_sections())
        };
        for mode in MODES.iter().filter(tested) {
            steps.push(self.stress(mode, false));
            if mode.has_sections() {
                steps.push(self.hammer(mode, if is_quick { &HAMMER_QUICK } else { &HAMMER }));
            }
            if !is_quick {
                let name = format!("fork {}", mode.name);
                let task = Task::new(&name, &["/bin/fork", &format!("mode={}", mode.name), FORKS]);
                steps.push(Step::succeeds(task.with(mode.variables).within(300)));
            }
        }
        // What is refused is the kernel's doing, whatever its CPUs. One mode does where there is another cell for
        // all, and in CI: the two ways to a shard ask by the same code.
        let refusals = match (self.shape, self.glibc == GLIBC_41 && !is_quick) {
            (Shape::Cpus(2), true) => MODES.len(),
            (Shape::Cpus(2), false) => 1,
            _ => 0,
        };
        let refused = MODES.iter().filter(tested).take(refusals);
        steps.extend(refused.map(|mode| refusal(mode.name, mode.variables, "2")));
        if matches!(self.shape, Shape::Cpus(8) | Shape::Holes) {
            steps.extend(MODES.iter().filter(tested).map(|mode| self.stress(mode, true)));
        }
        if self.shape == Shape::Cpus(2) && self.glibc == GLIBC_36 && !is_quick {
            steps.push(self.sweep());
        }
        steps
    }

    /// Whether the machine is that of the cell.
    pub fn facts(&self) -> Step {
        let demands = vec![Demand::Success, Demand::Facts(*self)];
        Step { task: Task::new(FACTS, &["/bin/lab", "vm", "facts"]), demands }
    }

    fn check(&self, mode: &Mode) -> Step {
        let index = if mode.mm_cid && self.kernel.has_mm_cid() { "mm_cid" } else { "cpu_id" };
        let task = Task::new(&format!("check {}", mode.name), &["/bin/rsalloc", "check", "--json"]);
        let exit = if mode.has_sections() { 0 } else { 1 };
        let task = task.with(mode.variables);
        Step { task, demands: vec![Demand::Exit(exit), Demand::Mode(mode.mode, index)] }
    }

    /// Hardly anything but sections, under timers: the kernel must abort many.
    fn hammer(&self, mode: &Mode, hammer: &Hammer) -> Step {
        let task = hammer.task(&format!("aborts {}", mode.name), "/bin/librsalloc.so");
        let demands = vec![Demand::Success, Demand::Aborts(hammer.aborts)];
        Step { task: task.with(mode.variables), demands }
    }

    /// Conservation under timers and migration, and with CPUs that go and come.
    fn stress(&self, mode: &Mode, hotplug: bool) -> Step {
        let name = format!("{} {}", if hotplug { "hotplug" } else { "stress" }, mode.name);
        // A guest is some 30 times slower: a thousand signals a second, whatever its CPUs.
        let threads = (6 * self.shape.online()).min(96);
        let period = 1000 * threads;
        let mode_word = format!("mode={}", mode.name);
        let words = [format!("threads={threads}"), format!("period_us={period}")];
        let mut command =
            vec!["/bin/stress", &mode_word, "ms=3000", "most_ms=200000", "handled=200"];
        command.extend(["checks=0", &words[0], &words[1]]);
        let until = format!("until={}", ENOUGH.1);
        if hotplug {
            command.push(&until);
        }
        let task = Task { hotplug, ..Task::new(&name, &command).with(mode.variables).within(300) };
        let demands = match hotplug {
            true => vec![Demand::Success, Demand::Toggles(ENOUGH.0)],
            false => vec![Demand::Success],
        };
        Step { task, demands }
    }

    /// The descriptors, and that stopped shards stand still, which takes two CPUs.
    fn sections(&self) -> Step {
        let mut command = vec!["/bin/sections"];
        if self.shape.online() == 1 {
            command.extend(["--skip", "a_stopped_region_does_not_change"]);
        }
        let task = Task::new("sections", &command).with(&[("RSALLOC_TEST_STOPS", STOPS)]);
        Step::succeeds(task.within(300))
    }

    fn workload(&self) -> Step {
        let task = Task::new("workload", &["/bin/workload", "larson", "--seconds", "0.5"]);
        Step::succeeds(task.with(&[("LD_PRELOAD", "/bin/librsalloc.so")]))
    }

    fn sweep(&self) -> Step {
        // One of the four: an emulated run takes a second, and there are some 900 in each.
        let mode = if self.kernel.has_mm_cid() { "libc-cid" } else { "libc" };
        let kernel = KERNELS.iter().position(|kernel| *kernel == self.kernel).unwrap_or(0);
        let part = format!("{kernel}/{SWEEP_PARTS}");
        let command = [
            "/bin/xtask",
            "sweep",
            "--lib",
            "/bin/librsalloc.so",
            "--environment",
            mode,
            "--part",
            &part,
        ];
        Step::succeeds(Task::new("sweep", &command).within(1800))
    }
}

/// The kernel commits 300 MiB in all and refuses what is beyond (`vm.overcommit_memory` 2, the `policy`).
pub fn refusal(name: &str, variables: &[(&str, &str)], policy: &str) -> Step {
    let line = format!(
        "cd /proc/sys/vm && echo 307200 > overcommit_kbytes && echo {policy} > overcommit_memory || exit 1; \
         LD_PRELOAD=/bin/librsalloc.so /bin/refuse 400 refused-commit; status=$?; \
         echo 0 > overcommit_memory; exit $status"
    );
    let task = Task::new(&format!("overcommit {name}"), &["/bin/busybox", "sh", "-c", &line]);
    Step::succeeds(task.with(variables).within(300))
}

impl Hammer {
    /// The task that hammers the sections of `library`.
    pub fn task(&self, name: &str, library: &str) -> Task {
        let aborts = self.aborts.to_string();
        let command = ["/bin/lab", "vm", "hammer", self.signals, HAMMER_PERIOD_US, &aborts];
        Task::new(name, &command).with(&[("LD_PRELOAD", library)]).within(300)
    }
}

impl Step {
    /// A task that must exit with 0.
    pub fn succeeds(task: Task) -> Step {
        Step { task, demands: vec![Demand::Success] }
    }
}

impl Shape {
    /// The name in tables.
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
