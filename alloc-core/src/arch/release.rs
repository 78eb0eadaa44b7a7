//! The version of the running kernel.

use super::selected::syscall;

/// Major and minor number, by uname(2). None where the call is refused, for what is no number, and for 2.6, which any kernel says under the
/// personality UNAME26.
pub fn kernel_version() -> Option<(u32, u32)> {
    // SAFETY: plain bytes.
    let mut names: libc::utsname = unsafe { core::mem::zeroed() };
    // SAFETY: takes the whole structure.
    let result =
        unsafe { syscall(libc::SYS_uname as usize, [&raw mut names as usize, 0, 0, 0, 0, 0]) };
    // C's characters have a sign or none.
    let release = names.release.map(|byte| byte.to_ne_bytes()[0]);
    (result == 0).then(|| parse(&release)).flatten()
}

/// The numbers of a release such as "6.12.48-arm64".
fn parse(release: &[u8]) -> Option<(u32, u32)> {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        let digits = digits.get(..digits.len().min(6))?;
        (!digits.is_empty())
            .then(|| digits.iter().fold(0, |n, digit| n * 10 + u32::from(digit - b'0')))
    });
    let version = (numbers.next()??, numbers.next()??);
    (version.0 >= 3).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_and_what_is_none_is_not_guessed() {
        let known = [
            ("4.18.0", (4, 18)),
            ("6.1\0\0\0", (6, 1)),
            ("6.12.48-cloud-arm64", (6, 12)),
            ("6.19-rc1", (6, 19)),
            ("10.1", (10, 1)),
        ];
        for (release, version) in known {
            assert_eq!(parse(release.as_bytes()), Some(version), "{release}");
        }
        for release in ["2.6.79", "", "6", "6.", "x.y", "6.x", "-6.1"] {
            assert_eq!(parse(release.as_bytes()), None, "{release}");
        }
        // Under qemu-user and valgrind, too.
        assert!(kernel_version().is_some());
    }
}
