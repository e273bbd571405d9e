//! What must hold of the whole tree: the wire facts, the floors, and that the project keeps its own rules.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod floors;
mod rules;
mod wire;
