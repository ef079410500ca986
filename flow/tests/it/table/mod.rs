//! The flow table, by its public interface: rules one by one, then a model of a kernel.

mod bounds;
mod ends;
mod kit;
mod model;
mod restarts;
mod rules;
