//! The conntracct agent.

pub mod clock;
pub mod netns;
pub mod source;
mod sys;
