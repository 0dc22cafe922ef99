//! Packages of any Debian suite, through a private apt state.
