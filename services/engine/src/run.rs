//! Create and Run as streams: progress of a pull first, then the container.

use crated_api::crated::engine::v1::run_response::Step;
use crated_api::crated::engine::v1::{ContainerConfig, CreateRequest, Created, Progress, RunRequest, RunResponse};
use crated_core::ProgressSink;
use crated_types::{ContainerId, Error, Result, Scope};
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::engine::{Engine, Stream};
use crate::start::How;

/// Messages that wait for a client.
const QUEUE: usize = 64;

type Answers = mpsc::Sender<Result<RunResponse>>;

/// A sink whose messages go to a client, in its own envelope; a client that is slow or gone holds nobody up.
pub(crate) fn progress_to<T: Send + 'static>(
    engine: &Engine,
    answers: mpsc::Sender<Result<T>>,
    envelope: impl Fn(Progress) -> T + Send + 'static,
) -> (ProgressSink, tokio::task::JoinHandle<()>) {
    let (sink, mut source) = mpsc::channel::<Progress>(QUEUE);
    let pump = engine.deps.tracker.spawn(async move {
        while let Some(progress) = source.recv().await {
            if answers.send(Ok(envelope(progress))).await.is_err() {
                break;
            }
        }
    });
    (sink, pump)
}

fn step(step: Step) -> RunResponse {
    RunResponse { step: Some(step) }
}

impl Engine {
    /// Makes a container. Answers progress where an image is pulled, then the container.
    ///
    /// # Errors
    /// As the stream's last message: [`crated_types::Fault::NameInUse`], an image that cannot be had, a wish that makes no sense.
    ///
    /// # Cancel safety
    /// Dropped, the create goes on.
    pub async fn create(self: &Arc<Self>, scope: &Scope, request: CreateRequest) -> Result<Stream<RunResponse>> {
        let config = wanted(request.config)?;
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let (_, created) = engine.create_reporting(&scope, config, &answers).await?;
            let _ = answers.send(Ok(step(Step::Container(created)))).await; // who went away finds it in the list
            Ok(())
        }))
    }

    /// Makes a container and starts it; with `attach` its output waits for the client to attach.
    ///
    /// # Errors
    /// As [`Engine::create`] and [`Engine::start`]; one that is removed at its end is removed where it cannot be started.
    ///
    /// # Cancel safety
    /// Dropped, the run goes on.
    pub async fn run(self: &Arc<Self>, scope: &Scope, request: RunRequest) -> Result<Stream<RunResponse>> {
        let config = wanted(request.config)?;
        let attach = request.attach;
        Ok(self.answering(scope, move |engine, scope, answers| async move {
            let auto_remove = config.auto_remove;
            let (id, mut created) = engine.create_reporting(&scope, config, &answers).await?;
            let slot = engine.slots.get(scope.namespace.as_str(), id.as_str());
            let started = {
                let _turn = slot.lock().await;
                engine.start_locked(&scope, &id, How { hold: attach, ..How::default() }).await
            };
            match started {
                Ok(started) => {
                    created.attach_socket = started.attach_socket;
                    created.pid = started.pid;
                }
                Err(error) => {
                    if auto_remove {
                        engine.give_up(&scope, &id).await;
                    }
                    return Err(error);
                }
            }
            let _ = answers.send(Ok(step(Step::Container(created)))).await; // who went away finds it in the list
            Ok(())
        }))
    }

    async fn create_reporting(
        self: &Arc<Self>,
        scope: &Scope,
        config: ContainerConfig,
        answers: &Answers,
    ) -> Result<(ContainerId, Created)> {
        let (sink, pump) = progress_to(self, answers.clone(), |progress| step(Step::Progress(progress)));
        let made = Box::pin(self.create_whole(scope, config, sink)).await;
        let _ = pump.await; // progress comes before the container
        made
    }

    /// Runs `change` on the tracker; its error becomes the last message of the stream.
    pub(crate) fn answering<T, F, Fut>(self: &Arc<Self>, scope: &Scope, change: F) -> Stream<T>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Self>, Scope, mpsc::Sender<Result<T>>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<()>> + Send + 'static,
    {
        let (answers, source) = mpsc::channel(QUEUE);
        let (engine, scope) = (Arc::clone(self), scope.clone());
        let running = self.deps.tracker.spawn(change(engine, scope, answers.clone()));
        self.deps.tracker.spawn(async move {
            let ended = running.await.unwrap_or_else(|gone| {
                Err(Error::internal("an operation of the engine did not end by itself").caused_by(gone))
            });
            if let Err(error) = ended {
                let _ = answers.send(Err(error)).await; // nobody listens any more
            }
        });
        ReceiverStream::new(source).boxed()
    }

    /// Removes a container that was to be removed at its end and never ran.
    async fn give_up(self: &Arc<Self>, scope: &Scope, id: &ContainerId) {
        let slot = self.slots.get(scope.namespace.as_str(), id.as_str());
        let _turn = slot.lock().await;
        if let Err(error) = self.remove_locked(scope, id).await {
            tracing::error!(container = %id, %error, "a container that could not be started was not removed");
        }
    }
}

fn wanted(config: Option<ContainerConfig>) -> Result<ContainerConfig> {
    config.ok_or_else(|| Error::invalid("config", "is missing"))
}
