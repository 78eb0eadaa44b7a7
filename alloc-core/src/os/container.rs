//! How much memory, and how many CPUs at once, the container of this process allows: control groups, versions 2 and 1, as the process
//! sees them.
//!
//! Promises to allocate nothing and to be async-signal-safe: files are opened, read and closed by system calls. A mount point
//! whose name holds a space is not looked at.
//!
//! A process is in one group of each hierarchy (/proc/self/cgroup). Where a hierarchy is mounted, and which part of it,
//! /proc/self/mountinfo says: in a container often only the container's own part, which then is the mount's root. The limits of
//! a group and of all its ancestors hold, as far as they can be seen.

use super::text::{for_each_line, read_file};
use crate::arch::syscall;

/// The hierarchies that can bound memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Version {
    V1,
    V2,
}

impl Version {
    /// Files of a group whose numbers bound its memory.
    const fn files(self) -> &'static [&'static str] {
        match self {
            Version::V1 => &["/memory.limit_in_bytes"],
            Version::V2 => &["/memory.max", "/memory.high"],
        }
    }
}

/// Longest path that is looked at. Three of them lie on the stack, which in a handler may be small.
const PATH_MAX_BYTES: usize = 640;
/// A limit from here on is none (version 1 says 2^63 less a page).
const UNLIMITED: usize = 1 << 60;

/// The least memory that a group of this process allows, in bytes; none if no group has a limit. `root` is put in front of all
/// paths, for tests.
pub fn memory_limit(root: &str) -> Option<usize> {
    let limits = [Version::V2, Version::V1].map(|version| limit_in(root, version));
    limits.into_iter().flatten().min()
}

/// How many CPUs the groups of this process may keep busy by their quotas, rounded up; none without a quota. `root` as above.
///
/// Looks where control groups are mounted by convention only, since every process on a large machine does so at its start:
/// /proc/self/mountinfo would take twice the time of the rest.
pub fn cpu_quota(root: &str) -> Option<usize> {
    let quota = |version, mount| {
        let mut place = Path::of(root, mount)?;
        place.top = place.len;
        find_group(root, version, b"cpu", &mut place)?;
        least_up(&mut place, &mut |place| quota_of(place, version))
    };
    let limits = [quota(Version::V2, "/sys/fs/cgroup"), quota(Version::V1, "/sys/fs/cgroup/cpu")];
    limits.into_iter().flatten().min()
}

/// The quota of the group at `place`, in CPUs.
fn quota_of(place: &mut Path, version: Version) -> Option<usize> {
    let mut buffer = [0; 48];
    let (quota, period) = match version {
        // `max 100000` or `200000 100000`, in microseconds.
        Version::V2 => {
            let mut parts = place.read("/cpu.max", &mut buffer)?.split(|&byte| byte == b' ');
            (parse(parts.next()?)?, parse(parts.next()?)?)
        }
        // `-1` is none.
        Version::V1 => {
            let quota = parse(place.read("/cpu.cfs_quota_us", &mut buffer)?)?;
            (quota, parse(place.read("/cpu.cfs_period_us", &mut buffer)?)?)
        }
    };
    (quota > 0 && period > 0).then(|| quota.div_ceil(period))
}

/// The number of the machine's last CPU that is online, plus 1; none if the system does not say. `root` as above.
pub fn online_cpus(root: &str) -> Option<usize> {
    let mut buffer = [0; 256];
    // `0-63`, `0,2-5`.
    let list = Path::of(root, "/sys/devices/system/cpu/online")?.read("", &mut buffer)?;
    let last = list.rsplit(|&byte| byte == b'-' || byte == b',').next()?;
    parse(last)?.checked_add(1)
}

/// Memory of the machine, in bytes.
pub fn machine_memory() -> Option<usize> {
    let mut info = core::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: fills in a live struct, which on 64-bit Linux is the kernel's.
    let result =
        unsafe { syscall(libc::SYS_sysinfo as usize, [info.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) };
    if result != 0 {
        return None;
    }
    // SAFETY: the call succeeded.
    let info = unsafe { info.assume_init() };
    (info.totalram as usize).checked_mul(info.mem_unit as usize).filter(|&bytes| bytes > 0)
}

/// Resident memory of this process that belongs to no file, in bytes; none if the kernel does not say.
pub fn anonymous_resident() -> Option<usize> {
    let mut buffer = [0; 128];
    let text = read_file(b"/proc/self/statm\0", &mut buffer)?;
    // size resident shared ...: proc(5).
    let mut pages = text.split(|&byte| byte == b' ').skip(1).map(parse);
    let (resident, shared) = (pages.next()??, pages.next()??);
    Some(resident.saturating_sub(shared) * super::page_bytes())
}

fn limit_in(root: &str, version: Version) -> Option<usize> {
    let mut group = Path::new();
    find_group(root, version, b"memory", &mut group)?;
    let mut place = Path::new();
    find_mount(root, version, group.bytes(), &mut place)?;
    least_up(&mut place, &mut |place| {
        let read = |file: &&str| {
            let mut buffer = [0; 32];
            parse(place.read(file, &mut buffer)?).filter(|&bytes| bytes < UNLIMITED)
        };
        version.files().iter().filter_map(read).min()
    })
}

/// The least of what `read` finds at `place` and at all groups above it.
fn least_up(place: &mut Path, read: &mut dyn FnMut(&mut Path) -> Option<usize>) -> Option<usize> {
    let mut least = None;
    loop {
        least = least.into_iter().chain(read(place)).min();
        let parent = place.bytes().iter().rposition(|&byte| byte == b'/');
        match parent.filter(|_| place.len > place.top) {
            Some(parent) => place.len = parent.max(place.top),
            None => return least,
        }
    }
}

/// Appends the group of this process that has `controller`, `/` or `/name/name`. A line is `number:controllers:group`, without both for version 2.
fn find_group(root: &str, version: Version, controller: &[u8], group: &mut Path) -> Option<()> {
    let mut file = Path::of(root, "/proc/self/cgroup")?;
    let mut is_found = false;
    for_each_line(file.terminated()?, &mut |line| {
        let mut parts = line.splitn(3, |&byte| byte == b':');
        let (Some(number), Some(controllers), Some(name)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let is_it = match version {
            Version::V2 => number == b"0" && controllers.is_empty(),
            Version::V1 => controllers.split(|&byte| byte == b',').any(|it| it == controller),
        };
        is_found |= is_it && !is_found && group.push(name).is_some();
    })?;
    is_found.then_some(())
}

/// The folder of `group`, if its hierarchy is mounted. A line is `id parent device root mount-point options [tags] - type source
/// options`.
fn find_mount(root: &str, version: Version, group: &[u8], place: &mut Path) -> Option<()> {
    let mut file = Path::of(root, "/proc/self/mountinfo")?;
    let mut is_found = false;
    for_each_line(file.terminated()?, &mut |line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let (Some(part), Some(point)) = (fields.nth(3), fields.next()) else { return };
        let mut tail = fields.skip_while(|&field| field != b"-").skip(1);
        let (kind, options) = (tail.next().unwrap_or(b""), tail.nth(1).unwrap_or(b""));
        let is_it = match version {
            Version::V2 => kind == b"cgroup2",
            Version::V1 => {
                kind == b"cgroup" && options.split(|&byte| byte == b',').any(|it| it == b"memory")
            }
        };
        // A name with a space is written with a backslash.
        if !is_it || is_found || point.contains(&b'\\') {
            return;
        }
        let below = below(group, part).unwrap_or(b"");
        (place.len, place.top) = (0, 0);
        let top = place.push(root.as_bytes()).and_then(|()| place.push(point)).map(|()| place.len);
        is_found = top.is_some_and(|top| {
            place.top = top;
            place.push(below).is_some()
        });
    })?;
    is_found.then_some(())
}

/// What of `group` is below `part`; none if it lies elsewhere, as a group outside of the process's namespace does (`/../name`).
fn below<'a>(group: &'a [u8], part: &[u8]) -> Option<&'a [u8]> {
    let part = part.strip_suffix(b"/").unwrap_or(part);
    let below = group.strip_prefix(part)?;
    let is_whole = below.is_empty() || below[0] == b'/';
    let below = if below == b"/" { b"" } else { below };
    (is_whole && !below.starts_with(b"/..")).then_some(below)
}

/// A decimal number; `max` is none.
#[inline(never)]
fn parse(text: &[u8]) -> Option<usize> {
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// A path that is put together.
struct Path {
    bytes: [u8; PATH_MAX_BYTES],
    len: usize,
    /// Length of the part above which no group is.
    top: usize,
}

impl Path {
    fn new() -> Self {
        Path { bytes: [0; PATH_MAX_BYTES], len: 0, top: 0 }
    }

    fn of(root: &str, rest: &str) -> Option<Self> {
        let mut path = Path::new();
        path.push(root.as_bytes())?;
        path.push(rest.as_bytes())?;
        Some(path)
    }

    /// Appends; none if it does not fit.
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.len + bytes.len();
        // A zero fits behind it.
        if end >= PATH_MAX_BYTES {
            return None;
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
        Some(())
    }

    /// What a file of this folder says, up to the length of `buffer`.
    fn read<'a>(&mut self, file: &str, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let len = self.len;
        let found = self.push(file.as_bytes()).and_then(|()| read_file(self.terminated()?, buffer));
        self.len = len;
        found.map(<[u8]>::trim_ascii)
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn terminated(&mut self) -> Option<&[u8]> {
        self.bytes[self.len] = 0;
        self.bytes.get(..=self.len)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::path::PathBuf;
    use std::string::String;
    use std::{format, fs};

    /// A tree of files that looks like the part of a system that is read here.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, cgroup: &str, mountinfo: &str) -> Self {
            let root = std::env::temp_dir()
                .join(format!("rsalloc-container-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let tree = Tree(root);
            tree.put("proc/self/cgroup", cgroup).put("proc/self/mountinfo", mountinfo)
        }

        fn put(self, path: &str, text: &str) -> Self {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        fn limit(&self) -> Option<usize> {
            memory_limit(self.0.to_str().unwrap())
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn the_least_quota_of_a_group_and_its_ancestors_counts() {
        let quota = |tree: &Tree| cpu_quota(tree.0.to_str().unwrap());
        let tree = Tree::new("quota", "0::/a.slice/b.service\n", "")
            .put("sys/fs/cgroup/a.slice/cpu.max", "150000 100000\n")
            .put("sys/fs/cgroup/a.slice/b.service/cpu.max", "max 100000\n");
        assert_eq!(quota(&tree), Some(2), "one and a half");
        let tree = tree.put("sys/fs/cgroup/a.slice/b.service/cpu.max", "50000 100000\n");
        assert_eq!(quota(&tree), Some(1));
        drop(tree);
        // A container that sees its own part only, by its name outside.
        let tree = Tree::new("quota-part", "0::/docker/abc\n", "")
            .put("sys/fs/cgroup/cpu.max", "400000 100000\n");
        assert_eq!(quota(&tree), Some(4));
        drop(tree);
        let tree = Tree::new("quota-v1", "4:memory:/m\n3:cpu,cpuacct:/x/y\n", "")
            .put("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "300000\n")
            .put("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n")
            .put("sys/fs/cgroup/cpu/x/y/cpu.cfs_quota_us", "-1\n")
            .put("sys/fs/cgroup/cpu/x/y/cpu.cfs_period_us", "100000\n");
        assert_eq!(quota(&tree), Some(3));
        drop(tree);
        for text in ["", "max 100000", "0 100000", "100000 0", "100000", "-1 5"] {
            let tree = Tree::new("quota-text", "0::/\n", "").put("sys/fs/cgroup/cpu.max", text);
            assert_eq!(quota(&tree), None, "{text}");
        }
    }

    #[test]
    fn the_last_cpu_that_is_online_counts() {
        for (text, count) in [("0\n", 1), ("0-63\n", 64), ("0,2-5,9\n", 10)] {
            let tree = Tree::new("online", "", "").put("sys/devices/system/cpu/online", text);
            assert_eq!(online_cpus(tree.0.to_str().unwrap()), Some(count));
        }
        let tree = Tree::new("online", "", "").put("sys/devices/system/cpu/online", "\n");
        assert_eq!(online_cpus(tree.0.to_str().unwrap()), None);
        assert!(online_cpus("").is_some());
    }

    const V2: &str =
        "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "29 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    #[test]
    fn the_tightest_ancestor_counts() {
        let tree = Tree::new("v2", "0::/a.slice/b.service\n", V2)
            .put("sys/fs/cgroup/a.slice/memory.max", "500\n")
            .put("sys/fs/cgroup/a.slice/memory.high", "max\n")
            .put("sys/fs/cgroup/a.slice/b.service/memory.max", "max\n")
            .put("sys/fs/cgroup/a.slice/b.service/memory.high", "600\n");
        assert_eq!(tree.limit(), Some(500));
        let tree = tree.put("sys/fs/cgroup/a.slice/b.service/memory.high", "400\n");
        assert_eq!(tree.limit(), Some(400), "memory.high counts too, and changes are seen");
        let tree = tree.put("sys/fs/cgroup/a.slice/memory.max", "max\n");
        let tree = tree.put("sys/fs/cgroup/a.slice/b.service/memory.high", "max\n");
        assert_eq!(tree.limit(), None);
    }

    #[test]
    fn a_namespace_sees_its_own_group_as_the_root() {
        let tree = Tree::new("namespace", "0::/\n", V2).put("sys/fs/cgroup/memory.max", "700\n");
        assert_eq!(tree.limit(), Some(700));
        // As a container without a namespace has it: only its own part is mounted.
        let part = V2.replace("0:26 / ", "0:26 /docker/abc ");
        let tree =
            Tree::new("part", "0::/docker/abc\n", &part).put("sys/fs/cgroup/memory.max", "800\n");
        assert_eq!(tree.limit(), Some(800));
        let tree = Tree::new("outside", "0::/../other\n", V2)
            .put("sys/fs/cgroup/memory.max", "900\n")
            .put("sys/fs/other/memory.max", "1\n");
        assert_eq!(tree.limit(), Some(900));
        // A name that only begins like the part.
        let tree = Tree::new("similar", "0::/docker/abcdef\n", &part)
            .put("sys/fs/cgroup/memory.max", "800\n")
            .put("sys/fs/cgroup/def/memory.max", "1\n");
        assert_eq!(tree.limit(), Some(800));
    }

    #[test]
    fn version_1_and_both_at_once() {
        let groups = "9:name=systemd:/x\n4:memory:/m/n\n3:cpu,memory2:/y\n0::/u\n";
        let unlimited = "9223372036854771712\n";
        let tree = Tree::new("v1", groups, V1)
            .put("sys/fs/cgroup/memory/memory.limit_in_bytes", unlimited)
            .put("sys/fs/cgroup/memory/m/memory.limit_in_bytes", "300\n")
            .put("sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", unlimited);
        assert_eq!(tree.limit(), Some(300));
        drop(tree);
        let both = format!("{V1}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let tree = Tree::new("hybrid", groups, &both)
            .put("sys/fs/cgroup/memory/m/n/memory.limit_in_bytes", "300\n")
            .put("sys/fs/cgroup/unified/u/memory.max", "200\n");
        assert_eq!(tree.limit(), Some(200));
    }

    #[test]
    fn what_cannot_be_read_is_no_limit() {
        let max = "sys/fs/cgroup/a/memory.max";
        for (name, cgroup, mounts) in [
            ("none", "", ""),
            ("unmounted", "0::/a\n", "1 1 0:1 / / rw - ext4 /dev/sda rw\n"),
            ("space", "0::/a\n", &V2.replace("/sys/fs/cgroup", "/sys/fs/c\\040group")),
            ("damaged", "0:\n::\n\n0", V2),
            ("cut", "0::/a\n", "30 1 0:26 /\n-\n"),
            ("long", &format!("0::/{}\n", "a".repeat(2000)), V2),
        ] {
            assert_eq!(Tree::new(name, cgroup, mounts).put(max, "5\n").limit(), None, "{name}");
        }
        for text in ["", "max", "-1", "5 MB", "99999999999999999999999"] {
            assert_eq!(Tree::new("text", "0::/a\n", V2).put(max, text).limit(), None, "{text}");
        }
    }

    /// A mountinfo that does not fit the buffer: 3,000 mounts, with one longer than the buffer.
    #[test]
    fn many_mounts_are_read_through() {
        let line = "50 1 0:50 / /mnt/data rw,relatime shared:9 - ext4 /dev/sdb rw\n";
        let mounts = String::from(line).repeat(3000) + &"x".repeat(10_000) + "\n" + V2;
        let tree = Tree::new("many", "0::/\n", &mounts).put("sys/fs/cgroup/memory.max", "77\n");
        assert_eq!(tree.limit(), Some(77));
    }

    #[test]
    fn the_machine_and_the_process_have_memory() {
        let (machine, own) = (machine_memory().unwrap(), anonymous_resident().unwrap());
        assert!(own > 4096 && own < machine, "{own} of {machine}");
    }
}
