//! `workload ROW`: runs one row on whatever allocator `LD_PRELOAD` put in place, and prints one
//! line of JSON. `workload --list` names the rows.

fn main() -> anyhow::Result<()> {
    benches::cli::main(benches::rows::ROWS, benches::process::allocator, benches::process::per_cpu)
}
