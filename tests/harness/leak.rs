//! What a daemon left behind: looked for by its folder's name, which no other test has.

use crate::eventually;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What exists of a kind of thing that has no folder's name in it.
#[derive(Clone, Debug, Default)]
pub struct Leftovers {
    cgroups: BTreeSet<PathBuf>,
    netns: BTreeSet<PathBuf>,
}

impl Leftovers {
    /// What is there before a daemon is started.
    #[must_use]
    pub fn of(_folder: &Path) -> Self {
        Self { cgroups: cgroups(), netns: named_netns() }
    }

    /// Checks that nothing of the daemon below `folder` is left.
    ///
    /// # Panics
    /// With everything that is left, and the daemon's log.
    #[track_caller]
    pub fn assert_nothing_new(&self, folder: &Path, root: &Path, state: &Path, log: &str) {
        // Shims end after they were told: what they leave in their last milliseconds is no leak.
        let mut left = Vec::new();
        let clean = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            eventually("nothing is left", || {
                left = self.left(folder, root, state, None);
                left.is_empty().then_some(())
            });
        }));
        assert!(clean.is_ok(), "left behind:\n{}\n--- crated's log:\n{log}", left.join("\n"));
    }

    /// What is there of the daemon below `folder`, but for its own process.
    pub(crate) fn left(&self, folder: &Path, root: &Path, state: &Path, daemon: Option<u32>) -> Vec<String> {
        reap_orphans();
        let mut left: Vec<String> = mounts(folder).into_iter().map(|mount| format!("mount {mount}")).collect();
        let others = processes(folder).into_iter().filter(|(pid, _)| Some(pid.cast_unsigned()) != daemon);
        left.extend(others.map(|(pid, line)| format!("process {pid}: {line}")));
        // Cgroups are named by container ids, 64 digits: other tests that run meanwhile have theirs, too.
        let known: BTreeSet<PathBuf> = self.cgroups.clone();
        let ids = container_ids(root);
        left.extend(
            cgroups()
                .difference(&known)
                .filter(|path| ids.iter().any(|id| path.to_string_lossy().contains(id.as_str())))
                .map(|path| format!("cgroup {}", path.display())),
        );
        let named = named_netns();
        left.extend(named.difference(&self.netns).map(|path| format!("network namespace {}", path.display())));
        for below in ["s", "io.containerd.runtime.v2.task"] {
            left.extend(files(&state.join(below), 3).into_iter().map(|path| format!("state {}", path.display())));
        }
        left.extend(files(&root.join("containers"), 3).into_iter().map(|path| format!("container {}", path.display())));
        left
    }
}

/// Network namespaces that have a name: no test makes one, and crated does not either.
fn named_netns() -> BTreeSet<PathBuf> {
    let folders = ["/run/netns", "/var/run/netns", "/run/docker/netns"].map(PathBuf::from);
    let canonical: BTreeSet<PathBuf> = folders.iter().filter_map(|folder| folder.canonicalize().ok()).collect();
    canonical.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten()).map(|e| e.path()).collect()
}

/// Every id that a container of this daemon ever had, from what its log says.
fn container_ids(root: &Path) -> BTreeSet<String> {
    let text = fs::read(root.join("ids")).unwrap_or_default();
    let mut ids: BTreeSet<String> = String::from_utf8_lossy(&text).split_whitespace().map(str::to_owned).collect();
    let folder = root.parent().unwrap_or(root);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with("log.") {
            let text = fs::read_to_string(entry.path()).unwrap_or_default();
            ids.extend(text.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).map(str::to_owned));
        }
    }
    ids
}

/// Mounts of our mount namespace below a folder.
fn mounts(folder: &Path) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let prefix = format!("{}/", folder.display());
    text.lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|point| point.starts_with(&prefix))
        .map(str::to_owned)
        .collect()
}

/// Processes whose command line, working folder or root lies below a folder.
fn processes(folder: &Path) -> Vec<(i32, String)> {
    let name = folder.display().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if pid == std::process::id().cast_signed() {
            continue;
        }
        let line =
            String::from_utf8_lossy(&fs::read(entry.path().join("cmdline")).unwrap_or_default()).replace('\0', " ");
        let below = |link: &str| fs::read_link(entry.path().join(link)).is_ok_and(|path| path.starts_with(folder));
        if line.contains(&name) || below("cwd") || below("root") || mounted_below(pid, &name) {
            found.push((pid, line));
        }
    }
    found
}

/// Whether a process has a file system mounted that comes from below a folder: a container's init.
fn mounted_below(pid: i32, name: &str) -> bool {
    let own = fs::read_link("/proc/self/ns/mnt").ok();
    let its = fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    its.is_some()
        && its != own
        && fs::read_to_string(format!("/proc/{pid}/mountinfo")).is_ok_and(|text| text.contains(name))
}

/// Every cgroup that engines like ours make: folders below any `crated` folder, and those named by an id.
fn cgroups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((path, depth)) = open.pop() {
        for entry in fs::read_dir(&path).into_iter().flatten().flatten() {
            if depth < 5 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path());
                open.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Entries exactly `depth` levels below a folder, or files above that.
fn files(folder: &Path, depth: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth > 1 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(&entry.path(), depth - 1));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Waits for children that were not ours to start: shims whose daemon was killed, and what they left.
pub(crate) fn reap_orphans() {
    for pid in children() {
        let Ok(status) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let Some((name, rest)) = status.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")) else { continue };
        // Programs that a test started itself are waited for by the test.
        let ours =
            ["crated", "cratectl", "ctr", "bash", "containerd", "docker-registry", "skopeo", "python3"].contains(&name);
        if rest.starts_with('Z') && !ours {
            use std::os::fd::AsFd;
            if let Ok(pidfd) = crated_sys::pidfd::open(pid) {
                let _ = crated_sys::pidfd::try_wait(pidfd.as_fd());
            }
        }
    }
}

fn children() -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    found
}

/// Ends everything below a folder, as a power cut does, and removes its mounts and cgroups, as a boot does.
///
/// # Panics
/// Where a process does not die.
#[track_caller]
pub(crate) fn end_all_below(folder: &Path, root: &Path) {
    eventually("every process is dead", || {
        let left = processes(folder);
        for (pid, _) in &left {
            let _ = crated_sys::process::kill(*pid, 9);
        }
        reap_orphans();
        left.is_empty().then_some(())
    });
    for point in mounts(folder) {
        let _ = crated_sys::mount::umount(Path::new(&point), crated_sys::mount::MntFlags::MNT_DETACH);
    }
    let ids = container_ids(root);
    // Deepest first; what is busy is somebody else's.
    for path in cgroups().into_iter().rev() {
        if ids.iter().any(|id| path.to_string_lossy().contains(id.as_str())) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Ends what a failed test leaves running.
pub(crate) fn kill_all_below(folder: &Path) {
    for _ in 0..3 {
        let left = processes(folder);
        if left.is_empty() {
            break;
        }
        for (pid, _) in left {
            let _ = crated_sys::process::kill(pid, 9);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        reap_orphans();
    }
}
