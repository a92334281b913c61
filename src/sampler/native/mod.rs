//! What native stacks are found by: the modules of the process and the rules of their code. Runs on the manager thread.

mod code;
mod eval;
pub mod modules;
pub mod phdr;
pub mod publish;
pub mod table;
#[cfg(test)]
mod tests;

/// Whether native stacks can be captured on this machine: for other processors there are no rules.
#[must_use]
pub const fn is_available() -> bool {
    cfg!(all(target_arch = "x86_64", target_os = "linux"))
}
