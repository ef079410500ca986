//! Integration tests of the pure domain.

// Its name in the other crates.
extern crate conntracct_flow as flow;

#[cfg(test)]
mod merge;
#[cfg(test)]
mod table;
