//! `cargo xtask docs`: what a script can check of the documents.
//!
//! Promises one line for each fault, with its place, and to need neither a build nor a network. Each rule is a function
//! from a [`Tree`] to faults, so that its tests plant an error into a tree of a few lines.

mod chapters;
mod counts;
mod figures;
mod links;
mod markdown;
mod names;
mod tree;
mod voice;

use anyhow::bail;
use std::path::PathBuf;
use tree::Tree;

/// Arguments of the command.
#[derive(clap::Args)]
pub struct Arguments {
    /// Print lines, files, unsafe code and glossary of the tree in this folder instead
    #[arg(long, num_args = 0..=1, default_missing_value = ".", value_name = "FOLDER")]
    figures: Option<PathBuf>,
}

/// A place in a file, and what is wrong there.
pub type Fault = String;

/// Runs the command.
pub fn main(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(folder) = &arguments.figures {
        print!("{}", figures::table(&Tree::read(folder)?));
        return Ok(());
    }
    let root = tools::root();
    let tree = Tree::read(root)?;
    let mut faults = Vec::new();
    faults.extend(names::faults(&tree));
    faults.extend(links::faults(&tree));
    faults.extend(chapters::faults(&tree));
    faults.extend(counts::faults(&tree));
    faults.extend(voice::faults(&tree)?);
    match links::commits_of(root) {
        Some(commits) => faults.extend(links::faults_of_commits(&tree, &commits)),
        None => println!("the history is not complete here: commits were not checked"),
    }
    if !faults.is_empty() {
        println!("{}", faults.join("\n"));
        bail!("{} faults in the documents", faults.len());
    }
    println!("{} documents agree with the code", tree.documents().count());
    Ok(())
}
