//! The tools that build the eBPF object.
