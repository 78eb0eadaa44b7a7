//! Nothing: the package only pins the peers of the comparison.
