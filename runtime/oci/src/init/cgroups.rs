//! The container's view of its cgroups below `/sys/fs/cgroup`.

use std::{os::fd::AsFd, path::Path};

use crated_sys::{Errno, SysError, mount, mount::Depth};

use super::{Done, Init, mounts::filesystem, refuse};
use crate::plan::MountStep;

/// One v1 hierarchy that we are in.
struct Hierarchy {
    /// `cpu,cpuacct` or `name=systemd`.
    controllers: String,
    /// Our cgroup in it.
    path: String,
}

impl Init<'_> {
    /// On a unified host one cgroup2; else a tmpfs with a folder a hierarchy, as hosts have it.
    pub(super) fn cgroups(&mut self, step: &MountStep, own_namespace: bool) -> Done {
        let hierarchies = hierarchies()?;
        if hierarchies.is_empty() {
            let tree = if own_namespace {
                filesystem("cgroup2", "cgroup", &[], step.attributes)?
            } else {
                self.bound("cgroup2", "", &own_unified()?, step.attributes)?
            };
            let target = self.target(step, tree.as_fd(), "cgroup2")?;
            return Ok(mount::move_onto(tree.as_fd(), target.as_fd())?);
        }
        let options = [("mode".to_owned(), Some("755".to_owned()))];
        // Writable while its folders are made, then as asked for.
        let tmpfs = filesystem("tmpfs", "tmpfs", &options, step.attributes & !mount::attr::RDONLY)?;
        let target = self.target(step, tmpfs.as_fd(), "tmpfs")?;
        mount::move_onto(tmpfs.as_fd(), target.as_fd())?;
        for hierarchy in &hierarchies {
            self.hierarchy(step, tmpfs.as_fd(), hierarchy, own_namespace)?;
        }
        if step.attributes & mount::attr::RDONLY != 0 {
            let change = mount::Change { set: mount::attr::RDONLY, ..mount::Change::default() };
            mount::setattr(tmpfs.as_fd(), Path::new(""), Depth::Single, change)?;
        }
        Ok(())
    }

    fn hierarchy(
        &mut self,
        step: &MountStep,
        tmpfs: std::os::fd::BorrowedFd<'_>,
        h: &Hierarchy,
        own_namespace: bool,
    ) -> Done {
        let name = h.controllers.strip_prefix("name=").unwrap_or(&h.controllers);
        let tree = if own_namespace {
            let named = h.controllers.starts_with("name=");
            let mut options: Vec<(String, Option<String>)> = Vec::new();
            if named {
                options.push(("none".into(), None));
                options.push(("name".into(), Some(name.into())));
            } else {
                options.extend(h.controllers.split(',').map(|c| (c.to_owned(), None)));
            }
            filesystem("cgroup", "cgroup", &options, step.attributes)?
        } else {
            self.bound("cgroup", &h.controllers, &h.path, step.attributes)?
        };
        let folder =
            crated_sys::path::Root::from_fd(crated_sys::fs::duplicate(tmpfs)?).mkdir_all(Path::new(name), 0o755)?;
        mount::move_onto(tree.as_fd(), folder.as_fd())?;
        if name.contains(',') {
            for alias in name.split(',') {
                crated_sys::fs::symlink_at(name.as_ref(), tmpfs, Path::new(alias))?;
            }
        }
        Ok(())
    }

    /// Our own cgroup of a host's hierarchy, nothing above it.
    fn bound(&mut self, fstype: &str, controllers: &str, path: &str, attributes: u64) -> Done<std::os::fd::OwnedFd> {
        let place = mount_point(fstype, controllers)?;
        let source = format!("{place}/{}", path.trim_start_matches('/'));
        let tree = mount::clone_tree(crated_sys::fs::cwd(), Path::new(&source), Depth::Single)?;
        let change = mount::Change { set: attributes, ..mount::Change::default() };
        mount::setattr(tree.as_fd(), Path::new(""), Depth::Single, change)?;
        Ok(tree)
    }
}

fn read(path: &str) -> Done<String> {
    Ok(std::fs::read_to_string(path).map_err(|e| SysError::from_io("read", path, &e))?)
}

/// From `/proc/self/cgroup`, lines `number:controllers:path`.
fn hierarchies() -> Done<Vec<Hierarchy>> {
    let text = read("/proc/self/cgroup")?;
    let mut out = Vec::new();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        if let (Some(controllers), Some(path)) = (parts.next(), parts.next())
            && !controllers.is_empty()
        {
            out.push(Hierarchy { controllers: controllers.into(), path: path.into() });
        }
    }
    Ok(out)
}

fn own_unified() -> Done<String> {
    let text = read("/proc/self/cgroup")?;
    let path = text.lines().find_map(|l| l.strip_prefix("0::"));
    Ok(path.ok_or_else(|| refuse("read", "/proc/self/cgroup: no unified cgroup", Errno::ENOENT))?.to_owned())
}

/// Where the host has a hierarchy mounted, from mountinfo.
fn mount_point(fstype: &str, controllers: &str) -> Done<String> {
    let text = read("/proc/self/mountinfo")?;
    let found = text.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        let has = |c: &str| options.split(',').any(|o| o == c);
        (kind == fstype && (controllers.is_empty() || controllers.split(',').all(has)))
            .then(|| left.split(' ').nth(4))
            .flatten()
    });
    Ok(found.ok_or_else(|| refuse("read", format!("no mount of cgroup {controllers}"), Errno::ENOENT))?.to_owned())
}
