//! Worlds of the simulation, in one binary.

extern crate conntracct_sim as sim;

#[cfg(test)]
mod merging;
#[cfg(test)]
mod worlds;
