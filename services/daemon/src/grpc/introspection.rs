//! `containerd.services.introspection.v1.Introspection`: the plugins as they started, and who the daemon is.

use super::{Answer, filters};
use crate::registry::{PluginReport, Reports};
use crated_api::any;
use crated_api::containerd::services::introspection::v1::introspection_server::Introspection;
use crated_api::containerd::services::introspection::v1::{
    Plugin, PluginInfoRequest, PluginInfoResponse, PluginsRequest, PluginsResponse, ServerResponse,
};
use crated_api::containerd::types::RuntimeRequest;
use crated_api::google::rpc::Status as RpcStatus;
use crated_api::status::from_error;
use crated_core::TaskManager;
use crated_types::{Code, Error, Kind, Result};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use tonic::{Request, Response, async_trait};

/// Answers from the reports of the start.
#[derive(Clone, Debug)]
pub struct IntrospectionAdapter {
    /// Set once everything has started.
    pub reports: Arc<OnceLock<Reports>>,
    /// Identifier of this installation.
    pub uuid: String,
    /// Runtime of containers that name none.
    pub runtime: String,
    /// Runtimes are asked through it.
    pub tasks: Option<Arc<dyn TaskManager>>,
}

fn plugin(report: &PluginReport) -> Plugin {
    Plugin {
        r#type: report.id.slot.into(),
        id: report.id.id.into(),
        requires: report.requires.iter().map(|need| (*need).to_owned()).collect(),
        platforms: report.platforms.iter().map(Into::into).collect(),
        exports: report.exports.clone(),
        capabilities: report.capabilities.clone(),
        // `ctr plugins ls` reads "skip plugin" as skipped.
        init_err: report.skipped.as_ref().map(|why| RpcStatus {
            code: Code::Unknown as i32,
            message: format!("{why}: skip plugin"),
            details: Vec::new(),
        }),
    }
}

impl IntrospectionAdapter {
    fn reports(&self) -> &[PluginReport] {
        self.reports.get().map_or(&[], Vec::as_slice)
    }
}

#[async_trait]
impl Introspection for IntrospectionAdapter {
    async fn plugins(&self, request: Request<PluginsRequest>) -> Answer<PluginsResponse> {
        let filters = filters(&request.get_ref().filters)?;
        let plugins = self.reports().iter().filter(|report| filters.matches(*report)).map(plugin).collect();
        Ok(Response::new(PluginsResponse { plugins }))
    }

    async fn server(&self, _: Request<()>) -> Answer<ServerResponse> {
        let pidns = std::fs::metadata("/proc/self/ns/pid").map_or(0, |meta| std::os::unix::fs::MetadataExt::ino(&meta));
        Ok(Response::new(ServerResponse {
            uuid: self.uuid.clone(),
            pid: std::process::id().into(),
            pidns,
            deprecations: Vec::new(),
        }))
    }

    async fn plugin_info(&self, request: Request<PluginInfoRequest>) -> Answer<PluginInfoResponse> {
        let request = request.into_inner();
        let found = self.reports().iter().find(|report| report.id.slot == request.r#type && report.id.id == request.id);
        let report = found
            .ok_or_else(|| from_error(Error::not_found(Kind::Plugin, format!("{}.{}", request.r#type, request.id))))?;
        let mut response = PluginInfoResponse { plugin: Some(plugin(report)), extra: None };
        if let (Some(options), "io.containerd.runtime.v2", Some(tasks)) =
            (&request.options, report.id.slot, &self.tasks)
        {
            let asked: RuntimeRequest = any::unpack("containerd.types.RuntimeRequest", options).map_err(from_error)?;
            let runtime = if asked.runtime_path.is_empty() { &self.runtime } else { &asked.runtime_path };
            response.extra = Some(tasks.runtime_info(runtime, asked.options).await.map_err(from_error)?);
        }
        Ok(Response::new(response))
    }
}

/// The identifier of this installation: made once, kept below `dir`.
///
/// # Errors
/// What the file system says.
pub fn uuid(dir: &Path) -> Result<String> {
    let path = dir.join("uuid");
    let os = |what: &str, path: &Path, error| Error::os(format!("{what} {}", path.display()), error);
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.trim().len() == 36
    {
        return Ok(text.trim().to_owned());
    }
    let random = Path::new("/proc/sys/kernel/random/uuid");
    let text = std::fs::read_to_string(random).map_err(|error| os("read", random, error))?;
    std::fs::create_dir_all(dir).map_err(|error| os("make", dir, error))?;
    let making = dir.join("uuid.new");
    std::fs::write(&making, text.trim()).map_err(|error| os("write", &making, error))?;
    std::fs::rename(&making, &path).map_err(|error| os("write", &path, error))?;
    Ok(text.trim().to_owned())
}
