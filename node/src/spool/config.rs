//! What can be set about a spool.

/// Limits of a spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Bytes on disk, all epochs and checkpoints together. At [`SpoolConfig::PAUSE_PERCENT`] of
    /// it updates pause; at all of it nothing but gaps is taken.
    pub budget_bytes: u64,
    /// A segment that has reached this is followed by a new one. Space comes back by segments.
    pub segment_bytes: u64,
    /// A checkpoint is due after this many bytes of frames.
    pub checkpoint_bytes: u64,
    /// A checkpoint is due after this time, where there are frames since the last one.
    pub checkpoint_secs: u64,
    /// Bytes of rejected frames kept aside; beyond, the oldest go, counted.
    pub rejected_bytes: u64,
}

impl SpoolConfig {
    /// Of the budget, when updates of live flows pause.
    pub const PAUSE_PERCENT: u64 = 80;

    /// Bytes over the budget that only gaps may take: they say what a full spool lost.
    pub const GAP_RESERVE_BYTES: u64 = 256 << 10;

    /// Frames held in all; beyond, the spool is full. The index takes 40 bytes each.
    pub const MAX_FRAMES: usize = 1 << 19;

    /// Epochs held, the current one and those still to be drained. With more of them something
    /// is badly wrong: the folder is set aside.
    pub const MAX_EPOCHS: usize = 256;
}

impl Default for SpoolConfig {
    fn default() -> Self {
        Self {
            budget_bytes: 1 << 30,
            segment_bytes: 8 << 20,
            checkpoint_bytes: 64 << 20,
            checkpoint_secs: 300,
            rejected_bytes: 32 << 20,
        }
    }
}
