//! Binds, volumes and temporary file systems of a container. A volume is a folder of ours, filled from the image where it
//! is empty; what an image says about paths is not trusted.

use crated_api::crated::engine::v1::{ContainerConfig, Mount as Asked};
use crated_spec::ImageConfig;
use crated_sys::{Errno, OFlag, fs, tree};
use crated_types::{Error, Fault, Kind, Mount, Result};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};

use crate::engine::blocking;
use crate::names::random_id;
use crate::record::MountRecord;
use crate::rootfs::{self, Access};

/// Most volumes that an image may ask for.
const VOLUMES_MAX: usize = 256;
/// Longest name of a volume, in bytes.
const NAME_MAX: usize = 255;
/// Folder of a volume's files below the volume's own.
const DATA: &str = "_data";
/// Option of a bind: a source that is missing is an error (docker's `--mount`), and not made (its `-v`).
const MUST_EXIST: &str = "must-exist";
/// Option of a volume: it is not filled from the image.
const NO_COPY: &str = "nocopy";

/// One mount as it is going to be.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    pub(super) record: MountRecord,
    /// Options that are not ours: of tmpfs.
    pub(super) options: Vec<String>,
    create: bool,
    copy: bool,
}

/// Every mount of a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan(pub(super) Vec<Planned>);

impl Plan {
    /// Names of the volumes that are made for this container alone.
    pub(super) fn anonymous(&self) -> Vec<String> {
        self.0.iter().filter(|planned| planned.record.anonymous).map(|planned| planned.record.name.clone()).collect()
    }
}

/// Decides every mount; touches nothing.
pub(super) fn plan(config: &ContainerConfig, image: &ImageConfig) -> Result<Plan> {
    let mut planned = Vec::new();
    let mut targets = BTreeSet::new();
    for asked in &config.mounts {
        let one = planned_mount(asked)?;
        if !targets.insert(one.record.target.clone()) {
            return Err(Error::invalid("config.mounts", format_args!("{} is mounted twice", one.record.target)));
        }
        planned.push(one);
    }
    if image.volumes.len() > VOLUMES_MAX {
        return Err(Error::new(
            Fault::Malformed,
            format!("the image asks for {} volumes, {VOLUMES_MAX} are the most", image.volumes.len()),
        ));
    }
    for path in image.volumes.keys() {
        let target = target_of(path)
            .map_err(|reason| Error::new(Fault::Malformed, format!("the image's volume {path:?} {reason}")))?;
        if targets.insert(target.clone()) {
            planned.push(volume(MountRecord { kind: "volume".into(), target, ..MountRecord::default() }, true)?);
        }
    }
    Ok(Plan(planned))
}

fn planned_mount(asked: &Asked) -> Result<Planned> {
    let target = target_of(&asked.target)
        .map_err(|reason| Error::invalid("config.mounts.target", format_args!("{:?} {reason}", asked.target)))?;
    let has = |name: &str| asked.options.iter().any(|option| option == name);
    let record = MountRecord {
        kind: asked.r#type.clone(),
        source: asked.source.clone(),
        target,
        read_only: asked.read_only || has("ro") || has("readonly"),
        propagation: asked.propagation.clone(),
        ..MountRecord::default()
    };
    match asked.r#type.as_str() {
        "bind" => {
            let path = Path::new(&asked.source);
            if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
                return Err(Error::invalid(
                    "config.mounts.source",
                    format_args!("{:?} is no absolute path", asked.source),
                ));
            }
            Ok(Planned { record, options: Vec::new(), create: !has(MUST_EXIST), copy: false })
        }
        "volume" | "" => volume(
            MountRecord { kind: "volume".into(), name: asked.source.clone(), source: String::new(), ..record },
            !has(NO_COPY),
        ),
        "tmpfs" => Ok(Planned {
            record: MountRecord { source: String::new(), ..record },
            options: asked.options.clone(),
            create: false,
            copy: false,
        }),
        other => Err(Error::invalid("config.mounts.type", format_args!("{other:?} is not bind, volume or tmpfs"))),
    }
}

fn volume(mut record: MountRecord, copy: bool) -> Result<Planned> {
    if record.name.is_empty() {
        record.name = random_id()?;
        record.anonymous = true;
    } else {
        check_volume(&record.name)?;
    }
    Ok(Planned { record, options: Vec::new(), create: true, copy })
}

fn check_volume(name: &str) -> Result<()> {
    let bytes = name.as_bytes();
    let fits = (2..=NAME_MAX).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    if fits {
        return Ok(());
    }
    let shown: String = name.chars().take(64).collect();
    Err(Error::invalid(
        "config.mounts.source",
        format_args!("volume name {shown:?} must match [a-zA-Z0-9][a-zA-Z0-9_.-]+"),
    )
    .remedy_is("a path of the host must be absolute: it begins with /"))
}

/// A path in the container in its shortest form; `..` is refused rather than resolved, since links could make it mean anything.
fn target_of(path: &str) -> std::result::Result<String, &'static str> {
    if path.contains('\0') {
        return Err("holds a NUL");
    }
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => return Err("leads upwards"),
        }
    }
    if clean == Path::new("/") {
        return Err("is the root of the container");
    }
    Ok(clean.display().to_string())
}

/// Makes sources of binds and folders of volumes, and fills volumes; answers the mounts with their paths on the host.
pub(super) async fn make(root: PathBuf, plan: Plan, rootfs: Vec<Mount>) -> Result<Vec<MountRecord>> {
    if plan.0.is_empty() {
        return Ok(Vec::new());
    }
    blocking(move || {
        let mut records = Vec::new();
        for planned in plan.0 {
            let mut record = planned.record.clone();
            match record.kind.as_str() {
                "bind" => bind_source(&record.source, planned.create)?,
                "volume" => {
                    let folder = root.join(&record.name).join(DATA);
                    make_folder(&root, 0o711)?;
                    make_folder(&folder, 0o755)?;
                    if planned.copy && is_empty(&folder)? {
                        fill(&folder, &rootfs, &record.target)?;
                    }
                    record.source = folder.display().to_string();
                }
                _ => {}
            }
            records.push(record);
        }
        Ok(records)
    })
    .await
}

fn bind_source(source: &str, create: bool) -> Result<()> {
    match std::fs::symlink_metadata(source) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound && create => make_folder(Path::new(source), 0o755),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::invalid("config.mounts.source", format_args!("bind source path {source} does not exist"))
                .remedy_is("make it first, or use -v, which makes a folder"))
        }
        Err(error) => Err(Error::os(format!("look at {source}"), error)),
    }
}

fn make_folder(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| Error::os(format!("make folder {}", path.display()), error))
}

fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(folder).map_err(|error| Error::os(format!("read {}", folder.display()), error))?;
    Ok(entries.next().is_none())
}

/// Copies what the image has at `target`; a path that leads nowhere, or to no folder, leaves the volume empty.
fn fill(folder: &Path, rootfs: &[Mount], target: &str) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::os(format!("fill the volume of {target}"), error).on(Kind::Mount, target);
    let root = rootfs::open(rootfs, Access::ReadOnly)?;
    let from = match root.open(Path::new(target), OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0) {
        Ok(from) => from,
        Err(error) if matches!(error.errno(), Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Ok(()),
        Err(error) => return Err(failed(error.into())),
    };
    let to = fs::open(folder, OFlag::O_RDONLY | OFlag::O_DIRECTORY, 0).map_err(|error| failed(error.into()))?;
    tree::copy(&from, &to).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crated_spec::image::Empty;

    fn image(paths: &[&str]) -> ImageConfig {
        ImageConfig {
            volumes: paths.iter().map(|path| ((*path).to_owned(), Empty {})).collect(),
            ..ImageConfig::default()
        }
    }

    fn asked(kind: &str, source: &str, target: &str) -> Asked {
        Asked { r#type: kind.into(), source: source.into(), target: target.into(), ..Asked::default() }
    }

    fn config(mounts: Vec<Asked>) -> ContainerConfig {
        ContainerConfig { mounts, ..ContainerConfig::default() }
    }

    #[test]
    fn an_image_cannot_ask_for_folders_of_the_host() {
        for path in ["/x/../../etc", "../etc", "/", "", ".", "/..", "a\0b"] {
            let error = plan(&config(vec![]), &image(&[path])).expect_err(path);
            assert_eq!(error.fault(), Fault::Malformed, "{path}");
        }
        let many: Vec<_> = (0..=VOLUMES_MAX).map(|number| format!("/v{number}")).collect();
        assert!(plan(&config(vec![]), &image(&many.iter().map(String::as_str).collect::<Vec<_>>())).is_err());
    }

    #[test]
    fn a_wish_covers_the_images_volume() {
        let wish =
            config(vec![asked("volume", "data", "/data/"), asked("bind", "/srv", "/srv"), asked("tmpfs", "", "/tmp")]);
        let plan = plan(&wish, &image(&["/data", "//cache/./x"])).unwrap();
        let seen: Vec<_> =
            plan.0.iter().map(|p| (p.record.kind.as_str(), p.record.target.as_str(), p.record.anonymous)).collect();
        assert_eq!(
            seen,
            [
                ("volume", "/data", false),
                ("bind", "/srv", false),
                ("tmpfs", "/tmp", false),
                ("volume", "/cache/x", true)
            ]
        );
        assert_eq!(plan.anonymous().len(), 1);
    }

    #[test]
    fn mounts_that_make_no_sense_are_refused() {
        for mount in [
            asked("bind", "relative", "/x"),
            asked("bind", "/a/../b", "/x"),
            asked("volume", "a/b", "/x"),
            asked("volume", "x", "/x"),
            asked("nfs", "a", "/x"),
            asked("volume", "data", "/"),
        ] {
            assert!(plan(&config(vec![mount.clone()]), &image(&[])).is_err(), "{mount:?}");
        }
        assert!(plan(&config(vec![asked("tmpfs", "", "/x"), asked("tmpfs", "", "/x/")]), &image(&[])).is_err());
    }

    #[tokio::test]
    async fn a_volume_is_filled_once_and_a_bind_source_is_made_only_where_asked() {
        let folder = tempfile::tempdir().unwrap();
        let (image_root, volumes) = (folder.path().join("image"), folder.path().join("volumes"));
        std::fs::create_dir_all(image_root.join("data/sub")).unwrap();
        std::fs::write(image_root.join("data/sub/file"), "from the image").unwrap();
        std::os::unix::fs::symlink("../../../..", image_root.join("up")).unwrap();
        let rootfs =
            vec![Mount { fstype: "bind".into(), source: image_root.display().to_string(), ..Mount::default() }];
        let wish = config(vec![asked("volume", "data", "/data"), asked("volume", "none", "/missing")]);
        let wanted = plan(&wish, &image(&[])).unwrap();
        let made = make(volumes.clone(), wanted.clone(), rootfs.clone()).await.unwrap();
        let file = Path::new(&made[0].source).join("sub/file");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "from the image");
        assert!(is_empty(Path::new(&made[1].source)).unwrap());
        std::fs::write(&file, "changed").unwrap();
        make(volumes.clone(), wanted, rootfs.clone()).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "changed");

        let missing = folder.path().join("missing");
        let mut bind = asked("bind", &missing.display().to_string(), "/x");
        bind.options.push(MUST_EXIST.into());
        let refused =
            make(volumes.clone(), plan(&config(vec![bind.clone()]), &image(&[])).unwrap(), rootfs.clone()).await;
        assert_eq!(refused.unwrap_err().fault(), Fault::Invalid);
        bind.options.clear();
        make(volumes, plan(&config(vec![bind]), &image(&[])).unwrap(), rootfs).await.unwrap();
        assert!(missing.is_dir());
    }
}
