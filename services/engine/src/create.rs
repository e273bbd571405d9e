//! Create: from an image and a wish to a container with a name, a root file system, files, volumes and a spec. A create
//! that fails leaves nothing: no snapshot, no folder, no reserved name.

mod devices;
mod files;
mod options;
mod volumes;

use crated_api::crated::engine::v1::{ContainerConfig, Created};
use crated_core::network::Change;
use crated_core::record::{Container, Image};
use crated_core::{ImageView, Op, ProgressSink, Revision, Snapshotter};
use crated_types::{ContainerId, Error, Fault, Kind, Labels, Reference, Result, Scope, SnapshotKey};
use prost::Message;
use prost_types::Any;
use std::sync::Arc;
use std::time::Instant;

use crate::engine::Engine;
use crate::journal::{Kinds, Open, Trace};
use crate::names::{check_name, random_id, random_name, short};
use crate::network::plug::kept;
use crate::record::{CreateArguments, Desired, LIVES, Life, NAMES, Named};
use crate::remove::remove_folder;
use crate::restart::Policy;

pub(crate) use options::{console, keep_own_capabilities, resources};

/// Type of an OCI spec in an `Any`, as containerd registers it.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";
/// Names that are tried where a person gives none.
const ATTEMPTS: u32 = 16;

/// A checked wish with the image that it is made from.
#[derive(Debug)]
struct Wish {
    config: ContainerConfig,
    image: Image,
    view: ImageView,
    settings: crated_spec::Image,
    snapshotter: Arc<dyn Snapshotter>,
    volumes: volumes::Plan,
}

impl Engine {
    /// The whole create. Progress of a pull goes to `progress`.
    pub(crate) async fn create_whole(
        self: &Arc<Self>,
        scope: &Scope,
        mut config: ContainerConfig,
        progress: ProgressSink,
    ) -> Result<(ContainerId, Created)> {
        let mut trace = Trace::new(Kinds::Create.name(), scope);
        let warnings = check(&mut config, &self.deps.config.default_network)?;
        let snapshotter = Arc::clone(self.snapshotter(&config.snapshotter)?);
        snapshotter.name().clone_into(&mut config.snapshotter);
        if config.runtime.is_empty() {
            config.runtime.clone_from(&self.deps.config.default_runtime);
        }
        if !config.name.is_empty() {
            // Before a pull that may take minutes; the intent's commit is what decides.
            self.check_free(scope, &config.name).await?;
        }
        let begun = Instant::now();
        let (image, view) = self.image_for(scope, &config, &progress).await?;
        trace.passed("image", begun, String::new());
        config.credentials = None;
        let settings = crated_spec::Image::parse(&view.config_bytes)
            .map_err(|error| error.on(Kind::Image, &image.name).at("image"))?;
        let begun = Instant::now();
        self.unpacked(scope, &image, &view, &snapshotter, progress).await.map_err(|error| error.at("unpack"))?;
        trace.passed("unpack", begun, String::new());
        let volumes = volumes::plan(&config, &settings.config)?;
        let wish = Wish { config, image, view, settings, snapshotter, volumes };
        let id = ContainerId::new(&random_id()?)?;
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        let mut open = self.begin_create(scope, &id, &wish, trace).await?;
        match self.drive_create(&mut open, &id, wish).await {
            Ok(name) => Ok((id.clone(), Created { id: id.to_string(), name, warnings, ..Created::default() })),
            Err(error) => {
                if let Err(second) = self.undo_create(&mut open, &error).await {
                    tracing::error!(container = %id, error = %second, "a create could not be taken back; the reconciler will");
                }
                Err(error)
            }
        }
    }

    /// Commits the intent, and with it the name.
    async fn begin_create(&self, scope: &Scope, id: &ContainerId, wish: &Wish, mut trace: Trace) -> Result<Open> {
        let chosen = wish.config.name.as_str();
        for attempt in 0..ATTEMPTS {
            let name = if chosen.is_empty() { random_name(attempt)? } else { chosen.to_owned() };
            let key = NAMES.key(scope.namespace.as_str(), &name);
            let arguments = CreateArguments {
                id: id.to_string(),
                name: name.clone(),
                snapshotter: wish.config.snapshotter.clone(),
                volumes: wish.volumes.anonymous(),
            };
            let with = vec![Op::Expect(key.clone(), Revision::ABSENT), NAMES.put(key, &Named { id: id.to_string() })];
            match self.journal.begin_traced(trace, scope, Kinds::Create, (id.as_str(), ""), &arguments, with).await {
                Ok(open) => return Ok(open),
                Err((back, error)) if error.fault() == Fault::Conflict => {
                    trace = back;
                    if !chosen.is_empty() {
                        self.check_free(scope, chosen).await?;
                    }
                }
                Err((_, error)) => return Err(error),
            }
        }
        Err(Error::new(Fault::Conflict, "no free name was found").on(Kind::Container, id).remedy_is("give a name"))
    }

    /// # Errors
    /// [`Fault::NameInUse`] that names the holder.
    pub(crate) async fn check_free(&self, scope: &Scope, name: &str) -> Result<()> {
        let key = NAMES.key(scope.namespace.as_str(), name);
        let holder = match NAMES.get(&*self.deps.metadata, &key).await? {
            Some((_, named)) => named.id,
            None => match ContainerId::new(name) {
                Ok(id) => match self.deps.containers.get(scope, &id).await {
                    Ok(container) => container.id,
                    Err(error) if error.is_not_found() => return Ok(()),
                    Err(error) => return Err(error),
                },
                Err(_) => return Ok(()),
            },
        };
        Err(Error::new(Fault::NameInUse, format!("the name {name:?} is in use by container {}", short(&holder)))
            .on(Kind::Container, name)
            .in_namespace(&scope.namespace)
            .remedy_is("choose another name, or remove or rename that container"))
    }

    async fn drive_create(self: &Arc<Self>, open: &mut Open, id: &ContainerId, wish: Wish) -> Result<String> {
        let arguments: CreateArguments = open.arguments()?;
        let scope = open.scope.clone();
        let key = SnapshotKey::new(id.as_str())?;
        // Nothing refers to the snapshot before the last commit: without the mark the collector could take it.
        let labels = Labels::from([(crated_types::label::GC_ROOT.to_owned(), "crated".to_owned())]);
        let parent = wish.view.chain_id.as_ref();
        let mounts = open.step("snapshot", wish.snapshotter.prepare(&scope, &key, parent, labels)).await?;
        let wanted = if wish.config.user.is_empty() { &wish.settings.config.user } else { &wish.config.user };
        let user =
            open.step("user", self.users.resolve(parent, mounts.clone(), wanted, &wish.config.group_add)).await?;
        let folder = self.folder(&scope.namespace, id.as_str());
        let resolv_conf = self.deps.config.resolv_conf.clone();
        let files = open.step("files", files::write(folder, id.as_str(), &wish.config, resolv_conf)).await?;
        let volumes = self.volumes(&scope.namespace);
        let mounted = open.step("volumes", volumes::make(volumes, wish.volumes.clone(), mounts)).await?;
        let options = self.options(id, &wish, user, &files, &mounted);
        let spec = open.step("spec", async { options::spec(options?) }).await?;
        let now = crated_core::time::now();
        let life = Life {
            name: arguments.name.clone(),
            config: wish.config.encode_to_vec(),
            image: wish.view.config.digest.to_string(),
            created_at: Some(now),
            desired: Desired::Created as i32,
            log_path: files.log.map(|path| path.display().to_string()).unwrap_or_default(),
            mounts: mounted,
            stop_signal: stop_signal(&wish),
            ..Life::default()
        };
        let container = Container {
            id: id.to_string(),
            labels: labels_of(&wish),
            image: wish.image.name.clone(),
            runtime_name: wish.config.runtime.clone(),
            spec: Some(Any { type_url: SPEC_TYPE.into(), value: spec }),
            snapshotter: wish.config.snapshotter.clone(),
            snapshot_key: id.to_string(),
            ..Container::default()
        };
        let exposed = wish.settings.config.exposed_ports.keys();
        let network = crate::network::wish(id, &arguments.name, &wish.config, exposed)?;
        let mut network = open.step("network", Box::pin(self.configure(&scope, network))).await?;
        let mut last = self.journal.closing(open, "done").await?;
        last.extend(network.iter_mut().flat_map(Change::take));
        last.push(LIVES.put(LIVES.key(scope.namespace.as_str(), id.as_str()), &life));
        self.deps.containers.create(&scope, container, last).await.map_err(|error| error.at("record"))?;
        kept(network);
        crated_core::fail::moment("engine.create.done");
        tracing::info!(container = %id, name = arguments.name, image = wish.image.name, "created");
        Ok(arguments.name)
    }

    /// Takes a create back: nothing of it is left.
    pub(crate) async fn undo_create(&self, open: &mut Open, reason: &Error) -> Result<()> {
        let arguments: CreateArguments = open.arguments()?;
        let scope = open.scope.clone();
        self.journal.turn_back(open, reason).await?;
        crated_core::fail::point("engine.create.undo")?;
        self.drop_snapshot(&scope, &arguments.snapshotter, &arguments.id).await?;
        remove_folder(&self.folder(&scope.namespace, &arguments.id)).await?;
        crated_core::fail::moment("engine.create.undo.volumes");
        for volume in &arguments.volumes {
            remove_folder(&self.volumes(&scope.namespace).join(volume)).await?;
        }
        let mut last = self.journal.forgetting(open);
        last.extend(self.freed_name(&scope, &ContainerId::new(&arguments.id)?, &arguments.name).await?);
        self.commit(last).await.map(drop)
    }

    /// The image of a wish, pulled where the wish says so.
    async fn image_for(
        &self,
        scope: &Scope,
        config: &ContainerConfig,
        progress: &ProgressSink,
    ) -> Result<(Image, ImageView)> {
        let platform = self.platform_of(&config.platform)?;
        let here = match config.pull.as_str() {
            "always" => None,
            _ => match self.find_image(scope, &config.image).await {
                Ok(image) => Some(image),
                Err(error) if error.is_not_found() && config.pull != "never" => None,
                Err(error) => return Err(error.remedy_is(format!("pull it: `cratectl pull {}`", config.image))),
            },
        };
        if let Some(image) = here {
            match self.deps.puller.view(scope, &image, &platform).await {
                Ok(view) => return Ok((image, view)),
                // Another platform was pulled, or content was removed: a pull brings what lacks.
                Err(error) if error.is_not_found() && config.pull != "never" => {}
                Err(error) => return Err(error),
            }
        }
        let reference = Reference::parse(&config.image)?;
        let image = self
            .deps
            .puller
            .pull(
                scope,
                crated_core::Pull {
                    reference,
                    platform: platform.clone(),
                    credentials: config.credentials.clone(),
                    plain_http: config.plain_http,
                    snapshotter: Some(config.snapshotter.clone()),
                },
                progress.clone(),
            )
            .await
            .map_err(|error| error.at("pull"))?;
        let view = self.deps.puller.view(scope, &image, &platform).await?;
        Ok((image, view))
    }

    /// Makes the image's snapshots, unless the uppermost is there.
    async fn unpacked(
        &self,
        scope: &Scope,
        image: &Image,
        view: &ImageView,
        snapshotter: &Arc<dyn Snapshotter>,
        progress: ProgressSink,
    ) -> Result<()> {
        let Some(chain) = &view.chain_id else { return Ok(()) };
        match snapshotter.stat(scope, chain).await {
            Err(error) if error.is_not_found() => {}
            answer => return answer.map(drop),
        }
        self.deps.puller.unpack(scope, image, &view.platform, snapshotter.name(), progress).await.map(drop)
    }
}

/// Checks what can be checked without an image, puts the wish into its normal form; answers warnings.
fn check(config: &mut ContainerConfig, network: &str) -> Result<Vec<String>> {
    if config.image.is_empty() {
        return Err(Error::invalid("config.image", "is empty: name an image"));
    }
    if !config.name.is_empty() {
        config.name = check_name(&config.name)?.to_owned();
    }
    let policy = Policy::parse(config.restart.as_ref())?;
    if config.auto_remove && policy != Policy::No {
        return Err(Error::invalid(
            "config.restart",
            "a container that is removed at its end cannot be restarted by a policy",
        )
        .remedy_is("leave out either --rm or --restart"));
    }
    if !matches!(config.pull.as_str(), "" | "missing" | "always" | "never") {
        return Err(Error::invalid("config.pull", format_args!("{:?} is not missing, always or never", config.pull)));
    }
    if !matches!(config.log_driver.as_str(), "" | "json-file" | "none") {
        return Err(Error::invalid("config.log_driver", format_args!("{:?} is not known", config.log_driver))
            .remedy_is("use json-file or none"));
    }
    for key in config.log_options.keys() {
        if !matches!(key.as_str(), "max-size" | "max-file") {
            return Err(Error::invalid("config.log_options", format_args!("{key:?} is no option of json-file")));
        }
    }
    if !config.stop_signal.is_empty() {
        crate::stop::signal(&config.stop_signal)?;
    }
    crated_types::label::check(&config.labels)?;
    let mut warnings = crate::network::normalize(config, network)?;
    warnings.extend(options::check_modes(config)?);
    Ok(warnings)
}

/// Labels of the record: the image's, the person's, and the stop signal for containerd's clients. Keys that steer an engine are
/// never taken from an image.
fn labels_of(wish: &Wish) -> Labels {
    let reserved = |key: &str| {
        ["containerd.io/", "io.containerd.", "crated.", "io.crated.", "io.cri-containerd", "nerdctl/"]
            .iter()
            .any(|prefix| key.starts_with(prefix))
    };
    let fits = |key: &str, value: &str| !key.is_empty() && key.len() + value.len() <= crated_types::label::LABEL_MAX;
    let mut labels: Labels = wish
        .settings
        .config
        .labels
        .iter()
        .filter(|(key, value)| !reserved(key) && fits(key, value))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.extend(wish.config.labels.clone());
    let signal = stop_signal(wish);
    if !signal.is_empty() {
        labels.insert(crated_types::label::STOP_SIGNAL.into(), signal);
    }
    labels
}

/// The person's stop signal, else the image's where it is one.
fn stop_signal(wish: &Wish) -> String {
    let own = Some(wish.config.stop_signal.as_str()).filter(|signal| !signal.is_empty());
    let image = Some(wish.settings.config.stop_signal.as_str()).filter(|signal| crate::stop::signal(signal).is_ok());
    own.or(image).unwrap_or_default().to_owned()
}
