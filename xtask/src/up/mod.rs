//! stub
/// Flags.
#[derive(clap::Args)]
pub(crate) struct Flags {}
pub(crate) fn run(_: &Flags) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
