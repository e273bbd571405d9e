//! What must hold of the whole tree: the wire facts, the floors, and that the project keeps its own rules.

mod floors;
mod rules;
mod wire;
