//! `wgnetctl secret new`

use std::path::Path;

use anyhow::Context as _;
use wgnet_proto::secret::ClusterSecrets;

pub(crate) fn new(path: &Path) -> anyhow::Result<()> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).context("the kernel gives no random bytes")?;
    ClusterSecrets::generate(random).write_new(path)?;
    println!("Wrote {} (mode 0600).", path.display());
    println!(
        "Copy it to the same place on every other host, keep it secret, and start wgnet-driver there."
    );
    Ok(())
}
