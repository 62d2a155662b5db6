//! `stic-trainer`: runs one step of a run, or a standalone tool.

use std::process::ExitCode;

fn main() -> ExitCode {
    // SAFETY: nothing has started a thread yet.
    #[expect(unsafe_code, reason = "the allocator is configured before anything else runs")]
    unsafe {
        stic_trainer::memory::retain_freed_memory();
    }
    stic_trainer::cli::main()
}
