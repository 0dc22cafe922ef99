//! replayer
mod cli;
mod exit;
mod output;
mod progress;
mod restore;

fn main() {}
