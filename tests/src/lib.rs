//! The oracle and the guest side of the tests.
