//! Criterion benchmarks and workloads against the peers.
