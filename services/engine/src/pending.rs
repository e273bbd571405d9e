//! In progress: calls whose bodies follow.

use crate::engine::{Engine, Stream};
use crated_api::crated::engine::v1::*;
use crated_types::{Error, Fault, Result, Scope};
use std::sync::Arc;

/// What a reconciliation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Operations that were brought to their end: `kind container`.
    pub done: Vec<String>,
    /// Operations that were taken back.
    pub undone: Vec<String>,
    /// Containers whose exit was found now.
    pub exited: Vec<String>,
    /// Operations that could be neither; they are tried again at the next start.
    pub failed: Vec<String>,
}

fn soon() -> Error {
    Error::new(Fault::Unsupported, "follows")
}

#[allow(missing_docs)]
impl Engine {
    pub async fn reconcile(self: &Arc<Self>) -> Result<Reconciled> {
        Err(soon())
    }
    pub async fn info(self: &Arc<Self>, _scope: &Scope) -> Result<InfoResponse> {
        Err(soon())
    }
    pub async fn pull(self: &Arc<Self>, _scope: &Scope, _request: PullRequest) -> Result<Stream<Progress>> {
        Err(soon())
    }
    pub async fn load(self: &Arc<Self>, _scope: &Scope, _request: Stream<LoadRequest>) -> Result<Stream<Progress>> {
        Err(soon())
    }
    pub async fn save(self: &Arc<Self>, _scope: &Scope, _request: SaveRequest) -> Result<Stream<Chunk>> {
        Err(soon())
    }
    pub async fn list_images(
        self: &Arc<Self>,
        _scope: &Scope,
        _request: ListImagesRequest,
    ) -> Result<ListImagesResponse> {
        Err(soon())
    }
    pub async fn inspect_image(self: &Arc<Self>, _scope: &Scope, _request: InspectRequest) -> Result<InspectResponse> {
        Err(soon())
    }
    pub async fn tag_image(self: &Arc<Self>, _scope: &Scope, _request: TagImageRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn remove_image(
        self: &Arc<Self>,
        _scope: &Scope,
        _request: RemoveImageRequest,
    ) -> Result<RemoveImageResponse> {
        Err(soon())
    }
    pub async fn create(self: &Arc<Self>, _scope: &Scope, _request: CreateRequest) -> Result<Stream<RunResponse>> {
        Err(soon())
    }
    pub async fn run(self: &Arc<Self>, _scope: &Scope, _request: RunRequest) -> Result<Stream<RunResponse>> {
        Err(soon())
    }
    pub async fn start(self: &Arc<Self>, _scope: &Scope, _request: StartRequest) -> Result<StartResponse> {
        Err(soon())
    }
    pub async fn stop(self: &Arc<Self>, _scope: &Scope, _request: StopRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn restart(self: &Arc<Self>, _scope: &Scope, _request: StopRequest) -> Result<StartResponse> {
        Err(soon())
    }
    pub async fn kill(self: &Arc<Self>, _scope: &Scope, _request: KillRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn pause(self: &Arc<Self>, _scope: &Scope, _request: ContainerRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn unpause(self: &Arc<Self>, _scope: &Scope, _request: ContainerRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn update(self: &Arc<Self>, _scope: &Scope, _request: UpdateRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn rename(self: &Arc<Self>, _scope: &Scope, _request: RenameRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn remove(self: &Arc<Self>, _scope: &Scope, _request: RemoveRequest) -> Result<RemoveResponse> {
        Err(soon())
    }
    pub async fn wait(self: &Arc<Self>, _scope: &Scope, _request: WaitRequest) -> Result<WaitResponse> {
        Err(soon())
    }
    pub async fn exec(self: &Arc<Self>, _scope: &Scope, _request: ExecRequest) -> Result<ExecResponse> {
        Err(soon())
    }
    pub async fn exec_wait(self: &Arc<Self>, _scope: &Scope, _request: ExecWaitRequest) -> Result<WaitResponse> {
        Err(soon())
    }
    pub async fn attach(self: &Arc<Self>, _scope: &Scope, _request: ContainerRequest) -> Result<AttachResponse> {
        Err(soon())
    }
    pub async fn attach_stream(
        self: &Arc<Self>,
        _scope: &Scope,
        _request: Stream<AttachInput>,
    ) -> Result<Stream<AttachOutput>> {
        Err(soon())
    }
    pub async fn resize(self: &Arc<Self>, _scope: &Scope, _request: ResizeRequest) -> Result<()> {
        Err(soon())
    }
    pub async fn logs(self: &Arc<Self>, _scope: &Scope, _request: LogsRequest) -> Result<Stream<LogEntry>> {
        Err(soon())
    }
    pub async fn copy_from(self: &Arc<Self>, _scope: &Scope, _request: CopyFromRequest) -> Result<Stream<CopyChunk>> {
        Err(soon())
    }
    pub async fn copy_to(self: &Arc<Self>, _scope: &Scope, _request: Stream<CopyToRequest>) -> Result<()> {
        Err(soon())
    }
    pub async fn top(self: &Arc<Self>, _scope: &Scope, _request: TopRequest) -> Result<TopResponse> {
        Err(soon())
    }
    pub async fn stats(self: &Arc<Self>, _scope: &Scope, _request: StatsRequest) -> Result<Stream<StatsResponse>> {
        Err(soon())
    }
    pub async fn list(self: &Arc<Self>, _scope: &Scope, _request: ListRequest) -> Result<ListResponse> {
        Err(soon())
    }
    pub async fn inspect(self: &Arc<Self>, _scope: &Scope, _request: InspectRequest) -> Result<InspectResponse> {
        Err(soon())
    }
    pub async fn timeline(self: &Arc<Self>, _scope: &Scope, _request: TimelineRequest) -> Result<TimelineResponse> {
        Err(soon())
    }
    pub async fn events(self: &Arc<Self>, _scope: &Scope, _request: EventsRequest) -> Result<Stream<Event>> {
        Err(soon())
    }
}
