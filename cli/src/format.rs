//! The form of an answer.

/// Text, or JSON.
#[derive(clap::Args, Clone, Copy)]
pub struct Format {
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}
