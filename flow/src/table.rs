//! A node's flow table.
