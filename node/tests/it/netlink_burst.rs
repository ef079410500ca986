//! Bursts and held readers.
