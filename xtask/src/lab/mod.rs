//! stub
/// Verbs.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    /// clean
    Clean,
}
pub(crate) fn run(_: &Verb) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
pub(crate) fn check(_: &str) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
pub(crate) fn check_all(_: &str) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
pub(crate) fn check_kill(_: &str) -> anyhow::Result<()> {
    anyhow::bail!("not yet")
}
