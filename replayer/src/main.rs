//! replayer

fn main() {}
