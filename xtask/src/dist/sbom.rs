//! What the command and the library are made of: a bill of materials in CycloneDX's format, by cargo-cyclonedx.

use super::{Release, VERSION, shell, sysroot, write};
use anyhow::{Context, ensure};
use std::fs;
use std::process::Command;
use tools::run;

/// The tool, with its version.
const TOOL: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

/// It writes a file into each crate's folder.
const NAME: &str = "rsalloc-sbom";

/// Writes `rsalloc-VERSION-ARCH.cdx.json`.
pub fn write_sbom(release: &Release<'_>) -> anyhow::Result<()> {
    let tool = sysroot::cargo_tool(TOOL)?;
    let root = &release.source.root;
    let mut command = Command::new(tool);
    command.args(["cyclonedx", "-qq", "--manifest-path", "cli/Cargo.toml", "--format", "json"]);
    command.args(["--spec-version", "1.5", "--no-build-deps", "--override-filename", NAME]);
    command.args(["--target", release.platform.triple]).current_dir(root);
    let written = run(command.env("SOURCE_DATE_EPOCH", &release.source.epoch));
    let text = fs::read_to_string(root.join(format!("cli/{NAME}.json")));
    let clear = format!("find . -path ./target -prune -o -name {NAME}.json -exec rm {{}} +");
    run(&mut shell(&clear, root))?;
    written?;
    // No folder of this machine.
    let text = text.context("cargo-cyclonedx wrote nothing")?;
    let text = text.replace(&root.display().to_string(), "/rsalloc");
    ensure!(
        text.contains("\"pkg:cargo/clap@"),
        "the bill of materials lacks what the command uses"
    );
    let name = format!("rsalloc-{VERSION}-{}.cdx.json", release.platform.arch);
    write(&release.out.packages().join(name), text)
}
