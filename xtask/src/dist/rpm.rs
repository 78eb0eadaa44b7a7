//! .rpm, by cargo-generate-rpm.

use super::Release;

/// Makes the package.
pub fn packages(_release: &Release<'_>) -> anyhow::Result<()> {
    Ok(())
}
