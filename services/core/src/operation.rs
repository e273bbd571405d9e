//! Journalled operations: a change of several steps writes its intent before it acts, and a reconciler ends what a crash left open.
//!
//! The record `op/<namespace>/<id>` says what is wanted and which way it goes. Steps are idempotent functions of the record
//! alone. The last commit writes the result, deletes the record and logs the event: "done" and "said so" cannot part. Turning
//! back is itself a commit, made before the first undo.

use prost_types::{Any, Timestamp};

use crate::metadata::Table;

/// An operation that is not finished.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Operation {
    /// Identifier, made from the request: the same request meets its own operation.
    #[prost(string, tag = "1")]
    pub id: String,
    /// `pull`, `create`, `start`, `remove` …
    #[prost(string, tag = "2")]
    pub kind: String,
    /// Object that it is about.
    #[prost(string, tag = "3")]
    pub subject: String,
    /// Who asked.
    #[prost(string, tag = "4")]
    pub actor: String,
    /// Which way it goes.
    #[prost(enumeration = "Direction", tag = "5")]
    pub direction: i32,
    /// Why it turned back.
    #[prost(string, tag = "6")]
    pub reason: String,
    /// Arguments, including every name that its steps are going to use.
    #[prost(message, optional, tag = "7")]
    pub arguments: Option<Any>,
    /// Boot id at its start.
    #[prost(string, tag = "8")]
    pub boot_id: String,
    /// Start.
    #[prost(message, optional, tag = "9")]
    pub started_at: Option<Timestamp>,
}

/// Which way an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Direction {
    /// To its end.
    Forward = 0,
    /// Back to where nothing of it is left.
    Back = 1,
}

/// Operations by id.
pub const OPERATIONS: Table<Operation> = Table::new("op");
