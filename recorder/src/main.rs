//! recorder

fn main() {}
