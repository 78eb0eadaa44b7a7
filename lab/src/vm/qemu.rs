//! One boot of a virtual machine, from its start to its end.
//!
//! Promises to end it, whatever happens in it, and to give every line that the guest wrote on its second serial port.
//! The first is the kernel's console, kept in a file for people. Its files come from `fetch`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::fetch;

/// How the guest's CPUs are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Accelerator {
    /// By the machine's own.
    Kvm,
    /// By translation.
    Tcg,
    /// By translation, with a clock that counts instructions; one CPU.
    #[value(skip)]
    Counting,
}

/// A kernel that has not started its first program by then counts as hung: so long, and so much longer for each CPU.
const BOOT_LIMIT: Duration = Duration::from_secs(120);
const BOOT_LIMIT_OF_CPU: Duration = Duration::from_secs(2);

/// The most boots of a kernel that panics before its first program. QEMU's threads may keep the translation of a
/// breakpoint that the kernel put into its own text and has removed (seen with 7.2, on x86-64).
const BOOTS: usize = 3;

/// More CPUs than this are emulated by one thread: that many would only wait for each other.
const PARALLEL_MAX: usize = 8;

impl Accelerator {
    /// The faster one that works on this machine.
    pub fn best() -> Accelerator {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        // A machine whose own CPU is partly emulated may have a /dev/kvm in which guests die.
        let capable = cpu.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
        match capable && File::options().read(true).write(true).open("/dev/kvm").is_ok() {
            true => Accelerator::Kvm,
            false => Accelerator::Tcg,
        }
    }

    fn option(self, cpus: usize) -> &'static str {
        match self {
            Accelerator::Kvm => "kvm",
            Accelerator::Counting => "tcg,thread=single",
            Accelerator::Tcg if cpus > PARALLEL_MAX => "tcg,thread=single",
            Accelerator::Tcg => "tcg,thread=multi",
        }
    }
}

/// What is booted.
pub struct Boot<'a> {
    /// What executes it.
    pub accelerator: Accelerator,
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The guest's files.
    pub initramfs: &'a [u8],
    /// CPUs that can be there.
    pub cpus: usize,
    /// Further options of QEMU.
    pub options: &'a [&'a str],
    /// Further words on the kernel's command line.
    pub words: &'a str,
    /// Where the text of the two serial ports goes: this path with `console` and `port` added.
    pub log: &'a Path,
    /// When the machine counts as hung.
    pub limit: Duration,
}

/// How it went.
pub struct End {
    /// The lines of the second port.
    pub lines: Vec<String>,
    /// Whether it had to be killed.
    pub hung: bool,
}

impl Boot<'_> {
    /// Boots and waits for the end.
    pub fn run(&self) -> Result<End> {
        for _ in 1..BOOTS {
            let end = self.run_once()?;
            if end.hung || !end.lines.is_empty() || !self.panicked() {
                return Ok(end);
            }
            let kept = self.text("panicked");
            fs::rename(self.text("console"), &kept)?;
            eprintln!(
                "the guest's kernel panicked at its start ({}): booted again",
                kept.display()
            );
        }
        self.run_once()
    }

    fn panicked(&self) -> bool {
        fs::read(self.text("console"))
            .is_ok_and(|text| String::from_utf8_lossy(&text).contains("Kernel panic"))
    }

    /// Where the text of a serial port goes.
    fn text(&self, port: &str) -> PathBuf {
        PathBuf::from(format!("{}.{port}", self.log.display()))
    }

    fn run_once(&self) -> Result<End> {
        let scratch = tempfile::tempdir().context("no temporary folder: set TMPDIR")?;
        let initramfs = scratch.path().join("initramfs");
        fs::write(&initramfs, self.initramfs).context("write the initramfs")?;
        let [console, port] = ["console", "port"].map(|port| self.text(port));
        let create =
            |path: &Path| File::create(path).with_context(|| format!("create {}", path.display()));
        create(&port)?;
        let console = create(&console)?;
        let mut qemu = self.command(&initramfs, &port)?;
        qemu.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        let mut machine = Machine(qemu.spawn().context("cannot start QEMU")?);
        let boot_limit = BOOT_LIMIT + BOOT_LIMIT_OF_CPU * self.cpus as u32;
        let begin = Instant::now();
        let mut hung = false;
        while machine.0.try_wait()?.is_none() {
            let is_up = fs::metadata(&port).is_ok_and(|port| port.len() > 0);
            if begin.elapsed() > if is_up { self.limit } else { boot_limit } {
                hung = true;
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        drop(machine);
        let text = fs::read(&port).unwrap_or_default();
        let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
        Ok(End { lines, hung })
    }

    fn command(&self, initramfs: &Path, port: &Path) -> Result<Command> {
        let root = fetch::qemu()?;
        let inside = |path: &str| -> PathBuf { root.join(path) };
        let mut qemu = Command::new(inside("usr/lib64/ld-linux-x86-64.so.2"));
        qemu.arg("--library-path").arg(inside("usr/lib/x86_64-linux-gnu"));
        qemu.arg(inside("usr/bin/qemu-system-x86_64"));
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            qemu.arg("-L").arg(inside(folder));
        }
        qemu.args(["-accel", self.accelerator.option(self.cpus), "-cpu", "max"]);
        if self.accelerator == Accelerator::Counting {
            qemu.args(["-icount", "shift=0,sleep=off"]);
        }
        qemu.args(["-machine", "q35", "-smp", &self.cpus.to_string()]);
        qemu.args(["-m", &format!("{}M", memory(self.cpus))]);
        qemu.args(["-nodefaults", "-nographic", "-no-reboot", "-monitor", "none"]);
        qemu.args(["-serial", "stdio", "-serial", &format!("file:{}", port.display())]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(initramfs).args(self.options);
        // A panic ends the machine. Measures against attacks cost time under translation. On a busy host the
        // timer ticks late, and the check whether it ticks at all ends some boots.
        qemu.arg("-append").arg(format!(
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=1 no_timer_check {}",
            self.words
        ));
        Ok(qemu)
    }
}

/// Memory of a machine with so many CPUs, in MiB.
pub fn memory(cpus: usize) -> usize {
    2048 + 32 * cpus
}

/// A running QEMU, which ends with this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
