//! Merging, from outside.

mod examples;
mod kit;
