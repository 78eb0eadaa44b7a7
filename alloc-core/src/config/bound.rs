//! [`Bound`]: what a limit of memory is given as.

use core::fmt::{Display, Formatter, Result};

/// A limit of memory, as `limit` and `limit_hard` have it.
///
/// ```standalone_crate
/// use rsalloc::{Bound, Config};
///
/// rsalloc::config!(Config::new().limit(Bound::Share(90)));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Bound {
    /// None.
    Off,
    /// 90 percent of the container's limit, and none where no container has one.
    Auto,
    /// So many percent of the container's limit, 1 to 100; of the machine's memory where no container has one.
    Share(u8),
    /// So many bytes.
    Bytes(usize),
}

/// The share that [`Bound::Auto`] stands for, in percent.
pub const AUTO_SHARE: usize = 90;

const OFF: usize = 0;
const AUTO: usize = usize::MAX;
/// The number of a share of 0 percent.
const SHARE: usize = usize::MAX - 1000;

impl Bound {
    /// The number by which a setting is kept.
    pub const fn number(self) -> usize {
        match self {
            Bound::Off => OFF,
            Bound::Auto => AUTO,
            Bound::Share(percent) => SHARE + percent as usize,
            Bound::Bytes(bytes) => bytes,
        }
    }

    /// The bound of such a number.
    pub const fn of_number(number: usize) -> Bound {
        match number {
            OFF => Bound::Off,
            AUTO => Bound::Auto,
            SHARE.. => Bound::Share((number - SHARE) as u8),
            bytes => Bound::Bytes(bytes),
        }
    }

    /// Whether it depends on the container.
    pub const fn is_share(self) -> bool {
        matches!(self, Bound::Auto | Bound::Share(_))
    }

    /// The bytes of the bound where the container allows `container` and the machine has `machine`; none if there is no bound.
    pub fn bytes(self, container: Option<usize>, machine: Option<usize>) -> Option<usize> {
        let share = |percent: usize, whole: usize| whole / 100 * percent;
        match self {
            Bound::Off => None,
            Bound::Auto => container.map(|whole| share(AUTO_SHARE, whole)),
            Bound::Share(percent) => {
                container.or(machine).map(|whole| share(usize::from(percent), whole))
            }
            Bound::Bytes(bytes) => Some(bytes),
        }
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Bound::Off => f.write_str("off"),
            Bound::Auto => f.write_str("auto"),
            Bound::Share(percent) => write!(f, "{percent}%"),
            Bound::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_for_bounds() {
        for bound in [Bound::Off, Bound::Auto, Bound::Share(1), Bound::Share(100), Bound::Bytes(1)]
        {
            assert_eq!(Bound::of_number(bound.number()), bound);
        }
    }

    #[test]
    fn shares_are_of_the_container_else_of_the_machine() {
        let (container, machine) = (Some(1000), Some(10_000));
        assert_eq!(Bound::Auto.bytes(container, machine), Some(900));
        assert_eq!(Bound::Auto.bytes(None, machine), None);
        assert_eq!(Bound::Share(50).bytes(container, machine), Some(500));
        assert_eq!(Bound::Share(50).bytes(None, machine), Some(5000));
        assert_eq!(Bound::Bytes(7).bytes(container, machine), Some(7));
        assert_eq!(Bound::Off.bytes(container, machine), None);
    }
}
