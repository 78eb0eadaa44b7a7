//! The version of the running kernel.

use super::selected::syscall;

/// Major and minor number, by uname(2). None where the call is refused, for what is no number, and for 2.6, which any kernel says under the
/// personality UNAME26.
#[cold]
#[inline(never)]
pub fn kernel_version() -> Option<(u32, u32)> {
    // SAFETY: plain bytes.
    let mut names: libc::utsname = unsafe { core::mem::zeroed() };
    // SAFETY: takes the whole structure.
    let result =
        unsafe { syscall(libc::SYS_uname as usize, [&raw mut names as usize, 0, 0, 0, 0, 0]) };
    // C's characters have a sign or none.
    let release = names.release.iter().map(|byte| byte.to_ne_bytes()[0]);
    (result == 0).then(|| parse(release)).flatten()
}

/// The numbers of a release such as "6.12.48-arm64".
fn parse(mut release: impl Iterator<Item = u8>) -> Option<(u32, u32)> {
    let version = (number(&mut release)?, number(&mut release)?);
    (version.0 >= 3).then_some(version)
}

/// The number that `text` begins with; the character behind it is taken, too.
// Called twice: a Rust program is smaller by this.
#[inline(never)]
fn number(text: &mut impl Iterator<Item = u8>) -> Option<u32> {
    let mut value = None;
    for byte in text.take_while(|byte| byte.is_ascii_digit()) {
        let tens = value.unwrap_or(0u32).checked_mul(10)?;
        value = Some(tens.checked_add(u32::from(byte - b'0'))?);
    }
    value
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
            assert_eq!(parse(release.bytes()), Some(version), "{release}");
        }
        for release in ["2.6.79", "", "6", "6.", "x.y", "6.x", "-6.1", "6.4294967296"] {
            assert_eq!(parse(release.bytes()), None, "{release}");
        }
        // Under qemu-user and valgrind, too.
        assert!(kernel_version().is_some());
    }
}
