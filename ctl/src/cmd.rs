//! The verbs, one file a family.

pub(crate) mod check;
pub(crate) mod container;
pub(crate) mod copy;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod list;
pub(crate) mod network;
pub(crate) mod networking;
pub(crate) mod options;
pub(crate) mod run;
pub(crate) mod session;
pub(crate) mod stats;
pub(crate) mod system;

/// What every verb uses.
pub(crate) mod prelude {
    pub(crate) use anyhow::{Context as _, Result, bail};
    pub(crate) use crated_api::crated::engine::v1 as api;
    pub(crate) use crated_ctl::{Client, Failure};
}

use prelude::*;

/// Applies `each` to every name; goes on after a failure, prints each, and answers whether all went well.
pub(crate) async fn for_each<F, Fut>(names: &[String], mut each: F) -> Result<u8>
where
    F: FnMut(String) -> Fut,
    Fut: Future<Output = Result<String>>,
{
    let mut status = 0;
    for name in names {
        match each(name.clone()).await {
            Ok(said) if said.is_empty() => {}
            Ok(said) => println!("{said}"),
            Err(error) => {
                crate::complain(&error);
                status = 1;
            }
        }
    }
    Ok(status)
}
