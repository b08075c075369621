//! A small cluster with things wrong in it.

mod planted;
mod problems;
mod rows;
mod ways;
