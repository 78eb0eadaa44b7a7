//! The CPUs that this process may use, by number.

/// The CPUs of the calling thread when this was made.
pub struct Cpus {
    allowed: libc::cpu_set_t,
    numbers: Vec<usize>,
}

impl Cpus {
    /// Those that the calling thread may run on.
    pub fn allowed() -> Self {
        // SAFETY: plain calls on a local set.
        unsafe {
            let mut allowed: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&allowed), &mut allowed), 0);
            let set = 0..libc::CPU_SETSIZE as usize;
            let numbers = set.filter(|&cpu| libc::CPU_ISSET(cpu, &allowed)).collect();
            Cpus { allowed, numbers }
        }
    }

    /// The calling thread goes on on one of them, modulo how many, and stays there.
    pub fn move_to(&self, number: usize) {
        self.move_to_cpu(self.numbers[number % self.numbers.len()]);
    }

    /// As [`Cpus::move_to`], by the kernel's number.
    pub fn move_to_cpu(&self, cpu: usize) {
        // SAFETY: plain calls on a local set.
        let done = unsafe {
            let mut one: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(cpu, &mut one);
            libc::sched_setaffinity(0, size_of_val(&one), &one)
        };
        assert_eq!(done, 0);
    }

    /// The calling thread may run on all of them again.
    pub fn move_anywhere(&self) {
        // SAFETY: a plain call on a set.
        let done = unsafe { libc::sched_setaffinity(0, size_of_val(&self.allowed), &self.allowed) };
        assert_eq!(done, 0);
    }

    /// Calls `f` on each of them.
    pub fn each(&self, f: impl Fn()) {
        for number in 0..self.numbers.len() {
            self.move_to(number);
            f();
        }
        self.move_anywhere();
    }
}
