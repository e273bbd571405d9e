//! Work under a lease, so that the collector does not take what no image names yet.

use crate::service::Inner;
use crated_core::{LeaseStore, ResourceKind};
use crated_types::filter::Filter;
use crated_types::label::GC_EXPIRE;
use crated_types::{Labels, LeaseId, Result, Scope};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long what a crash left is kept for a second attempt.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// What identifiers of our leases begin with.
const OURS: &str = "crated-";

/// Runs `work` on the service's tracker under the scope's lease, or under one of its own that ends with it. Whoever asked
/// may go away: the work goes on to its end.
pub(crate) async fn with<T, F>(
    service: Arc<Inner>,
    scope: &Scope,
    kind: &str,
    work: impl FnOnce(Scope) -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send,
{
    let (scope, kind) = (scope.clone(), kind.to_owned());
    let tracker = service.options.tracker.clone();
    let run = async move {
        if scope.lease.is_some() {
            return work(scope).await;
        }
        let id = LeaseId::new(&format!("crated-{kind}-{:016x}", crate::unpack::random()))?;
        let _ours = service.leased.enter(id.as_str());
        create(&*service.leases, &scope, &id).await?;
        crated_core::fail::moment("image.lease.begun");
        let answer = work(scope.with_lease(id.clone())).await;
        crated_core::fail::moment("image.lease.end");
        end(&*service.leases, &scope, &id).await;
        answer
    };
    match tracker.spawn(run).await {
        Ok(answer) => answer,
        Err(error) => Err(crated_types::Error::internal("work under a lease").caused_by(error)),
    }
}

/// Makes a lease that expires in a day.
async fn create(leases: &dyn LeaseStore, scope: &Scope, id: &LeaseId) -> Result<()> {
    let labels = Labels::from([(GC_EXPIRE.to_owned(), rfc3339(SystemTime::now() + LIFE))]);
    leases.create(scope, Some(id.clone()), labels).await.map(drop)
}

/// Makes a lease that expires in a day; one of an earlier attempt gets a new day, with all that it holds.
pub(crate) async fn renew(service: &Inner, scope: &Scope, id: &LeaseId) -> Result<()> {
    let leases = &*service.leases;
    match create(leases, scope, id).await {
        Err(error) if error.is_already_exists() => {}
        answer => return answer,
    }
    // A lease's labels cannot be changed: another one holds the resources while it is made anew.
    let held = leases.resources(scope, id).await?;
    let bridge = LeaseId::new(&format!("{id}-{:016x}", crate::unpack::random()))?;
    let _ours = service.leased.enter(bridge.as_str());
    create(leases, scope, &bridge).await?;
    for resource in &held {
        leases.add(scope, &bridge, resource.clone()).await?;
    }
    end(leases, scope, id).await;
    create(leases, scope, id).await?;
    for resource in held {
        leases.add(scope, id, resource).await?;
    }
    end(leases, scope, &bridge).await;
    Ok(())
}

/// Lets go of what leases of an earlier life of the daemon hold that nobody can go on with: imports, unpacks, the bridges of
/// renewed pulls, and pulls that hold nothing or whose image has its name. Answers how many those were.
pub(crate) async fn recover(service: &Inner, scope: &Scope) -> Result<usize> {
    let mut freed = 0;
    for lease in service.leases.list(scope, &Filter::parse_all(&[])?).await? {
        if service.leased.has(&lease.id) || !lease.id.starts_with(OURS) {
            continue;
        }
        let id = LeaseId::new(&lease.id)?;
        if is_pull(&lease.id) && !is_over(service, scope, &id).await? {
            continue;
        }
        tracing::info!(namespace = %scope.namespace, lease = %id, "letting go of what was left behind");
        end(&*service.leases, scope, &id).await;
        freed += 1;
    }
    Ok(freed)
}

/// A pull's own lease, not the bridge of one that was renewed.
fn is_pull(id: &str) -> bool {
    id.strip_prefix(OURS).and_then(|rest| rest.strip_prefix("pull-")).is_some_and(|rest| !rest.contains('-'))
}

/// Whether a pull has nothing to go on with: it holds nothing, or what it holds belongs to an image with a name.
async fn is_over(service: &Inner, scope: &Scope, id: &LeaseId) -> Result<bool> {
    let held = service.leases.resources(scope, id).await?;
    if held.is_empty() {
        return Ok(true);
    }
    let images = service.images.list(scope, &Filter::parse_all(&[])?).await?;
    let named: BTreeSet<&str> =
        images.iter().filter_map(|image| Some(image.target.as_ref()?.digest.as_str())).collect();
    Ok(held.iter().any(|resource| resource.kind == ResourceKind::Content && named.contains(resource.id.as_str())))
}

/// Lets go; a lease that is gone already is fine, any other failure only costs a day.
pub(crate) async fn end(leases: &dyn LeaseStore, scope: &Scope, id: &LeaseId) {
    match leases.delete(scope, id, false).await {
        Ok(()) => {}
        Err(error) if error.is_not_found() => {}
        Err(error) => tracing::warn!(lease = %id, %error, "a lease stays until it expires"),
    }
}

/// A time as RFC 3339 in UTC, to the second.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", clock / 3600, clock / 60 % 60, clock % 60)
}

/// Year, month and day of a day since 1970 (proleptic Gregorian, years from March).
pub(crate) fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_clients_read_them() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(784_111_777), "1994-11-06T08:49:37Z");
        assert_eq!(at(1_709_164_800), "2024-02-29T00:00:00Z");
    }
}
