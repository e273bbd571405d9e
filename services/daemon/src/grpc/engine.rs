//! `crated.engine.v1.Engine`: whole operations; each method hands its message to the engine.

use super::{Answer, answer, scope};
use crated_api::crated::engine::v1 as wire;
use crated_api::crated::engine::v1::engine_server::Engine;
use crated_api::status::{from_error, from_status};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming, async_trait};

/// Over the engine and the checker of its store.
#[derive(Clone, Debug)]
pub struct EngineAdapter(pub Arc<crated_engine::Engine>, pub Arc<crated_engine::Checker>);

type Outgoing<T> = BoxStream<'static, Result<T, Status>>;

/// A stream of the engine as an answer.
fn stream<T: Send + 'static>(result: crated_types::Result<crated_engine::Stream<T>>) -> Answer<Outgoing<T>> {
    result.map(|stream| Response::new(stream.map_err(from_error).boxed())).map_err(from_error)
}

/// A client's stream for the engine.
fn incoming<T: Send + 'static>(stream: Streaming<T>) -> crated_engine::Stream<T> {
    stream.map_err(|status| from_status(&status)).boxed()
}

#[async_trait]
impl Engine for EngineAdapter {
    type PullStream = Outgoing<wire::Progress>;

    async fn pull(&self, request: Request<wire::PullRequest>) -> Answer<Self::PullStream> {
        let scope = scope(&request)?;
        stream(self.0.pull(&scope, request.into_inner()).await)
    }

    type LoadStream = Outgoing<wire::Progress>;

    async fn load(&self, request: Request<Streaming<wire::LoadRequest>>) -> Answer<Self::LoadStream> {
        let scope = scope(&request)?;
        stream(self.0.load(&scope, incoming(request.into_inner())).await)
    }

    type SaveStream = Outgoing<wire::Chunk>;

    async fn save(&self, request: Request<wire::SaveRequest>) -> Answer<Self::SaveStream> {
        let scope = scope(&request)?;
        stream(self.0.save(&scope, request.into_inner()).await)
    }

    async fn list_images(&self, request: Request<wire::ListImagesRequest>) -> Answer<wire::ListImagesResponse> {
        let scope = scope(&request)?;
        answer(self.0.list_images(&scope, request.into_inner()).await)
    }

    async fn inspect_image(&self, request: Request<wire::InspectRequest>) -> Answer<wire::InspectResponse> {
        let scope = scope(&request)?;
        answer(self.0.inspect_image(&scope, request.into_inner()).await)
    }

    async fn tag_image(&self, request: Request<wire::TagImageRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.tag_image(&scope, request.into_inner()).await)
    }

    async fn remove_image(&self, request: Request<wire::RemoveImageRequest>) -> Answer<wire::RemoveImageResponse> {
        let scope = scope(&request)?;
        answer(self.0.remove_image(&scope, request.into_inner()).await)
    }

    type CreateStream = Outgoing<wire::RunResponse>;

    async fn create(&self, request: Request<wire::CreateRequest>) -> Answer<Self::CreateStream> {
        let scope = scope(&request)?;
        stream(self.0.create(&scope, request.into_inner()).await)
    }

    type RunStream = Outgoing<wire::RunResponse>;

    async fn run(&self, request: Request<wire::RunRequest>) -> Answer<Self::RunStream> {
        let scope = scope(&request)?;
        stream(self.0.run(&scope, request.into_inner()).await)
    }

    async fn start(&self, request: Request<wire::StartRequest>) -> Answer<wire::StartResponse> {
        let scope = scope(&request)?;
        answer(self.0.start(&scope, request.into_inner()).await)
    }

    async fn stop(&self, request: Request<wire::StopRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.stop(&scope, request.into_inner()).await)
    }

    async fn restart(&self, request: Request<wire::StopRequest>) -> Answer<wire::StartResponse> {
        let scope = scope(&request)?;
        answer(self.0.restart(&scope, request.into_inner()).await)
    }

    async fn kill(&self, request: Request<wire::KillRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.kill(&scope, request.into_inner()).await)
    }

    async fn pause(&self, request: Request<wire::ContainerRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.pause(&scope, request.into_inner()).await)
    }

    async fn unpause(&self, request: Request<wire::ContainerRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.unpause(&scope, request.into_inner()).await)
    }

    async fn update(&self, request: Request<wire::UpdateRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.update(&scope, request.into_inner()).await)
    }

    async fn rename(&self, request: Request<wire::RenameRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.rename(&scope, request.into_inner()).await)
    }

    async fn remove(&self, request: Request<wire::RemoveRequest>) -> Answer<wire::RemoveResponse> {
        let scope = scope(&request)?;
        answer(self.0.remove(&scope, request.into_inner()).await)
    }

    async fn wait(&self, request: Request<wire::WaitRequest>) -> Answer<wire::WaitResponse> {
        let scope = scope(&request)?;
        answer(self.0.wait(&scope, request.into_inner()).await)
    }

    async fn exec(&self, request: Request<wire::ExecRequest>) -> Answer<wire::ExecResponse> {
        let scope = scope(&request)?;
        answer(self.0.exec(&scope, request.into_inner()).await)
    }

    async fn exec_wait(&self, request: Request<wire::ExecWaitRequest>) -> Answer<wire::WaitResponse> {
        let scope = scope(&request)?;
        answer(self.0.exec_wait(&scope, request.into_inner()).await)
    }

    async fn attach(&self, request: Request<wire::ContainerRequest>) -> Answer<wire::AttachResponse> {
        let scope = scope(&request)?;
        answer(self.0.attach(&scope, request.into_inner()).await)
    }

    type AttachStreamStream = Outgoing<wire::AttachOutput>;

    async fn attach_stream(&self, request: Request<Streaming<wire::AttachInput>>) -> Answer<Self::AttachStreamStream> {
        let scope = scope(&request)?;
        stream(self.0.attach_stream(&scope, incoming(request.into_inner())).await)
    }

    async fn resize(&self, request: Request<wire::ResizeRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.resize(&scope, request.into_inner()).await)
    }

    type LogsStream = Outgoing<wire::LogEntry>;

    async fn logs(&self, request: Request<wire::LogsRequest>) -> Answer<Self::LogsStream> {
        let scope = scope(&request)?;
        stream(self.0.logs(&scope, request.into_inner()).await)
    }

    type CopyFromStream = Outgoing<wire::CopyChunk>;

    async fn copy_from(&self, request: Request<wire::CopyFromRequest>) -> Answer<Self::CopyFromStream> {
        let scope = scope(&request)?;
        stream(self.0.copy_from(&scope, request.into_inner()).await)
    }

    async fn copy_to(&self, request: Request<Streaming<wire::CopyToRequest>>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.copy_to(&scope, incoming(request.into_inner())).await)
    }

    async fn top(&self, request: Request<wire::TopRequest>) -> Answer<wire::TopResponse> {
        let scope = scope(&request)?;
        answer(self.0.top(&scope, request.into_inner()).await)
    }

    type StatsStream = Outgoing<wire::StatsResponse>;

    async fn stats(&self, request: Request<wire::StatsRequest>) -> Answer<Self::StatsStream> {
        let scope = scope(&request)?;
        stream(self.0.stats(&scope, request.into_inner()).await)
    }

    async fn list(&self, request: Request<wire::ListRequest>) -> Answer<wire::ListResponse> {
        let scope = scope(&request)?;
        answer(self.0.list(&scope, request.into_inner()).await)
    }

    async fn inspect(&self, request: Request<wire::InspectRequest>) -> Answer<wire::InspectResponse> {
        let scope = scope(&request)?;
        answer(self.0.inspect(&scope, request.into_inner()).await)
    }

    async fn timeline(&self, request: Request<wire::TimelineRequest>) -> Answer<wire::TimelineResponse> {
        let scope = scope(&request)?;
        answer(self.0.timeline(&scope, request.into_inner()).await)
    }

    type EventsStream = Outgoing<wire::Event>;

    async fn events(&self, request: Request<wire::EventsRequest>) -> Answer<Self::EventsStream> {
        let scope = scope(&request)?;
        stream(self.0.events(&scope, request.into_inner()).await)
    }

    async fn info(&self, request: Request<()>) -> Answer<wire::InfoResponse> {
        let scope = scope(&request)?;
        answer(self.0.info(&scope).await)
    }

    type CheckStream = Outgoing<wire::CheckResponse>;

    async fn check(&self, request: Request<wire::CheckRequest>) -> Answer<Self::CheckStream> {
        let scope = scope(&request)?;
        stream(self.1.check(&scope, request.into_inner()).await)
    }

    async fn create_network(&self, request: Request<wire::CreateNetworkRequest>) -> Answer<wire::Network> {
        let scope = scope(&request)?;
        answer(self.0.create_network(&scope, request.into_inner()).await)
    }

    async fn list_networks(&self, request: Request<()>) -> Answer<wire::ListNetworksResponse> {
        let scope = scope(&request)?;
        answer(self.0.list_networks(&scope).await)
    }

    async fn inspect_network(&self, request: Request<wire::InspectNetworkRequest>) -> Answer<wire::InspectResponse> {
        let scope = scope(&request)?;
        answer(self.0.inspect_network(&scope, request.into_inner()).await)
    }

    async fn remove_network(&self, request: Request<wire::NetworkRequest>) -> Answer<wire::Network> {
        let scope = scope(&request)?;
        answer(self.0.remove_network(&scope, request.into_inner()).await)
    }

    async fn prune_networks(&self, request: Request<()>) -> Answer<wire::PruneNetworksResponse> {
        let scope = scope(&request)?;
        answer(self.0.prune_networks(&scope).await)
    }

    async fn connect_network(&self, request: Request<wire::ConnectNetworkRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.connect_network(&scope, request.into_inner()).await)
    }

    async fn disconnect_network(&self, request: Request<wire::DisconnectNetworkRequest>) -> Answer<()> {
        let scope = scope(&request)?;
        answer(self.0.disconnect_network(&scope, request.into_inner()).await)
    }

    async fn ports(&self, request: Request<wire::ContainerRequest>) -> Answer<wire::PortsResponse> {
        let scope = scope(&request)?;
        answer(self.0.ports(&scope, request.into_inner()).await)
    }

    async fn check_networks(&self, request: Request<()>) -> Answer<wire::CheckNetworksResponse> {
        scope(&request)?;
        answer(self.0.check_networks().await)
    }
}
