//! The life of a container as people know it: create, start, stop, remove, exec, logs, copy, look, over the ports of `crated-core`.
//!
//! ```text
//!            create            start              exit (watcher)        restart policy
//!   (name) ─────────▶ created ───────▶ running ────────────────▶ exited ──────────────▶ running
//!      ▲                 │               │  ▲ unpause                │
//!      └── failure: back │         pause ▼  │                        │
//!                        │              paused                       │
//!                        └──────────────── remove ◀──────────────────┘
//! ```
//!
//! Each arrow is a journalled operation (`journal`): its intent is committed before the first step, its last commit
//! writes the result and forgets the intent, and the reconciler ends what a crash left open. Operations on one container
//! follow one another (`slots`). [`Engine`] has one method for each call of `crated.engine.v1`.

mod attach;
mod check;
mod copy;
mod create;
mod engine;
mod events;
mod exec;
mod files;
mod images;
mod info;
mod inspect;
mod journal;
mod life;
mod list;
mod logs;
mod lookup;
mod names;
mod network;
mod reconcile;
mod record;
mod remove;
mod restart;
mod rootfs;
mod run;
mod slots;
mod start;
mod stats;
mod stop;
mod top;
mod update;
mod user;
mod wait;
mod watch;

pub use check::{CheckDeps, Checker};
pub use engine::{Deps, Engine, EngineConfig, Stream};
pub use names::{check_name, is_name};
pub use reconcile::Reconciled;
