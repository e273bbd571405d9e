//! Removal of files that no record names.
//!
//! A blob's file appears before its record and under its digest's lock, so under that lock "no record" means "nobody's". An ingest's
//! record appears before its folder and goes before it: a folder that was listed before the records were read is named or nobody's.

use crated_core::record::{BLOBS, INGESTS};
use crated_types::Result;
use std::collections::HashSet;

use super::Content;
use crate::blocking;

impl Content {
    /// Removes files without a record; answers how many.
    pub(crate) async fn sweep(&self) -> Result<usize> {
        Ok(self.sweep_ingests().await? + self.sweep_blobs().await?)
    }

    async fn sweep_ingests(&self) -> Result<usize> {
        let disk = self.inner.disk.clone();
        let folders = blocking::run(move || disk.list_ingests()).await??;
        let records = INGESTS.list(&*self.inner.metadata, &INGESTS.prefix("")).await?;
        let named: HashSet<String> = records.into_iter().map(|(_, _, record)| record.folder).collect();
        let orphans: Vec<_> = folders.into_iter().filter(|folder| !named.contains(folder)).collect();
        let (count, disk) = (orphans.len(), self.inner.disk.clone());
        blocking::run(move || orphans.iter().try_for_each(|folder| disk.remove_ingest(folder))).await??;
        Ok(count)
    }

    async fn sweep_blobs(&self) -> Result<usize> {
        let disk = self.inner.disk.clone();
        let files = blocking::run(move || disk.list_blobs()).await??;
        let records = self.inner.metadata.scan_all(&BLOBS.prefix("")).await?;
        let named: HashSet<_> = records.iter().filter_map(|(key, _)| Some(BLOBS.parts(key)?.1)).collect();
        let mut count = 0;
        for digest in files.iter().filter(|digest| !named.contains(digest.as_str())) {
            let Some(_alone) = self.inner.locks.unused(digest) else { continue };
            if self.is_recorded(digest).await? {
                continue;
            }
            let (disk, digest) = (self.inner.disk.clone(), digest.clone());
            blocking::run(move || disk.remove_blob(&digest)).await??;
            count += 1;
        }
        Ok(count)
    }
}
