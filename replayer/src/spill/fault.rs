//! What the kernel says by signal of a mapped file: it cannot be read or written any more (`SIGBUS`), or no file may be as long (`SIGXFSZ`).
//! Owns these two handlers, for the spilled pages only.

use std::ffi::c_int;
use std::io;
use std::path::Path;
use std::ptr::null_mut;
use std::sync::OnceLock;

use super::HEAP;
use crate::exit::Exit;
use crate::output::{Format, error_document};

/// What is written before the end, to stderr and to stdout: a handler cannot compose it.
static LAST_WORDS: OnceLock<(String, String)> = OnceLock::new();

/// Installs the handlers.
///
/// # Errors
/// What the system says.
pub(super) fn begin(directory: &Path, format: Format) -> io::Result<()> {
    let message = format!(
        "what was folded into a file in {} cannot be read or written there any more: that disk fails, or is full. --spill-dir names a directory on \
         another one. Where a restore had begun to write, the tree in the target is not complete",
        directory.display()
    );
    let document = match format {
        Format::Text => String::new(),
        Format::Json => format!("{}\n", error_document(Exit::Failed, &message)),
    };
    // Set once: a process has one command.
    let _first = LAST_WORDS.set((format!("replayer: {message}\n"), document));
    // A file that may not grow is an error of the call, as a full disk is. By a handler and not by ignoring it, which programs that are started would inherit.
    install(libc::SIGXFSZ, on_too_long)?;
    install(libc::SIGBUS, on_fault)
}

type Handler = extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void);

fn install(signal: c_int, handler: Handler) -> io::Result<()> {
    // SAFETY: all zeros are a `struct sigaction`: no flags, and an empty set.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: the handler has the form that SA_SIGINFO asks for, and calls nothing but what a handler may.
    match unsafe { libc::sigaction(signal, &raw const action, null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

extern "C" fn on_too_long(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {}

extern "C" fn on_fault(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid `siginfo_t`, which for this signal has an address, or something else in its place.
    let address = unsafe { (*info).si_addr() };
    if !HEAP.is_in_arena(address.addr()) {
        // Not ours: it ends the process as it would have without us, once this returns.
        // SAFETY: both are calls that a handler may make, with numbers only.
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
            libc::raise(signal);
        }
        return;
    }
    if let Some((message, document)) = LAST_WORDS.get() {
        for (fd, text) in [(libc::STDERR_FILENO, message), (libc::STDOUT_FILENO, document)] {
            // SAFETY: a call that a handler may make; the text lives as long as the process. Whoever reads it may be gone.
            let _reader_gone = unsafe { libc::write(fd, text.as_ptr().cast(), text.len()) };
        }
    }
    // SAFETY: a call that a handler may make; nothing is to be tidied up.
    unsafe { libc::_exit(Exit::Failed.code().into()) }
}
