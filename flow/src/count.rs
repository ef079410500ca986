//! Counting: the part of an absolute reading above the highest one counted already.
