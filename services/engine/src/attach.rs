//! Attach: where a client finds the shim's own socket, and a stream over us for clients that cannot reach it.

use bytes::Bytes;
use crated_api::crated::engine::v1::attach_output::Output;
use crated_api::crated::engine::v1::{AttachInput, AttachOutput, AttachResponse, ContainerRequest};
use crated_core::ProcessStatus;
use crated_types::attach::{FRAME_MAX, FrameType, HEAD, Hello, frame, head};
use crated_types::{Error, ExecId, Fault, Kind, Result, Scope};
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

use crate::engine::{Engine, Stream, not_running};
use crate::start::attach_socket;

/// How long a shim may take to accept.
const CONNECT: Duration = Duration::from_secs(5);

type Answers = mpsc::Sender<Result<AttachOutput>>;

impl Engine {
    /// Where a client attaches: the socket outlives the daemon. A task that waits for its start can be attached to.
    ///
    /// # Errors
    /// [`Fault::Precondition`] where there is no task, or where a client of containerd has its streams.
    pub async fn attach(self: &Arc<Self>, scope: &Scope, request: ContainerRequest) -> Result<AttachResponse> {
        let found = self.find(scope, &request.container).await?;
        let Some(life) = &found.life else {
            return Err(Error::new(Fault::Precondition, "its streams belong to the client of containerd that made it")
                .on(Kind::Container, &found.id)
                .remedy_is("attach with that client, e.g. `ctr task attach`"));
        };
        let task = self.task(scope, &found.id).await?.ok_or_else(|| not_running(found.id.as_str()))?;
        let config = life.wanted(found.id.as_str())?;
        let status = task.state(None).await?.status;
        if status == ProcessStatus::Stopped {
            return Err(not_running(found.id.as_str()));
        }
        Ok(AttachResponse {
            id: found.id.to_string(),
            name: found.name(),
            socket: attach_socket(&*task),
            terminal: config.terminal,
            open_stdin: config.open_stdin,
            running: status != ProcessStatus::Created,
        })
    }

    /// The same over a stream: the first message opens it, the last answer is the exit.
    ///
    /// # Cancel safety
    /// Dropped, the client is detached; the process goes on.
    pub async fn attach_stream(
        self: &Arc<Self>,
        scope: &Scope,
        mut inputs: Stream<AttachInput>,
    ) -> Result<Stream<AttachOutput>> {
        let Some(first) = inputs.next().await else {
            return Err(Error::invalid("container", "the first message is missing"));
        };
        let first = first?;
        let found = self.find(scope, &first.container).await?;
        if !first.exec.is_empty() {
            ExecId::new(&first.exec)?;
        }
        let task = self.task(scope, &found.id).await?.ok_or_else(|| not_running(found.id.as_str()))?;
        let hello = Hello {
            exec: first.exec.clone(),
            container: found.id.to_string(),
            stdin: true,
            stdout: true,
            stderr: true,
            scrollback: first.scrollback,
        };
        let (reader, mut writer) = connect(&attach_socket(&*task)).await?.into_split();
        writer.write_all(&frame(FrameType::Hello, &hello.encode())).await.map_err(broken)?;
        Ok(self.answering(scope, move |engine, _, answers| async move {
            let inputs = futures::stream::iter([Ok(first)]).chain(inputs);
            let sending = engine.deps.tracker.spawn(send(writer, inputs.boxed()));
            let ended = tokio::select! {
                ended = receive(reader, &answers) => ended,
                () = answers.closed() => Ok(()),
                () = engine.closing.cancelled() => Err(Error::new(Fault::NotReady, "the daemon is stopping; the session goes on")),
            };
            sending.abort();
            ended
        }))
    }
}

async fn connect(socket: &str) -> Result<UnixStream> {
    match tokio::time::timeout(CONNECT, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(Error::os(format!("connect to {socket}"), error).at("attach")),
        Err(_) => Err(Error::new(Fault::TimedOut, format!("connect to {socket}")).at("attach")),
    }
}

fn broken(error: std::io::Error) -> Error {
    Error::new(Fault::Unreachable, "the shim closed the attach connection").caused_by(error)
}

/// What the client sends, as frames. At its end it is detached, which the closed connection says.
async fn send(mut writer: OwnedWriteHalf, mut inputs: Stream<AttachInput>) {
    while let Some(Ok(input)) = inputs.next().await {
        let mut frames = Vec::new();
        if let (Ok(columns @ 1..), Ok(rows @ 1..)) = (u16::try_from(input.columns), u16::try_from(input.rows)) {
            let mut size = columns.to_be_bytes().to_vec();
            size.extend(rows.to_be_bytes());
            frames.extend(frame(FrameType::Resize, &size));
        }
        for piece in input.stdin.chunks(FRAME_MAX) {
            frames.extend(frame(FrameType::Stdin, piece));
        }
        if input.close_stdin {
            frames.extend(frame(FrameType::StdinClosed, &[]));
        }
        if writer.write_all(&frames).await.is_err() {
            return; // the reading side says why
        }
    }
    // No detach yet: the client may have closed its side and still wants the output.
    std::future::pending::<()>().await;
}

/// What the shim sends, as answers, until the exit.
async fn receive(mut reader: OwnedReadHalf, answers: &Answers) -> Result<()> {
    loop {
        let mut bytes = [0; HEAD];
        reader.read_exact(&mut bytes).await.map_err(broken)?;
        let (kind, length) = head(bytes)?;
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload).await.map_err(broken)?;
        let output = match kind {
            FrameType::Attached => Output::Attached(payload.first() == Some(&1)),
            FrameType::Stdout => Output::Stdout(Bytes::from(payload)),
            FrameType::Stderr => Output::Stderr(Bytes::from(payload)),
            FrameType::Exit => {
                let status = payload.try_into().map(u32::from_be_bytes);
                let status = status.map_err(|_| Error::new(Fault::Malformed, "exit frame of the attach protocol"))?;
                let _ = answers.send(Ok(AttachOutput { output: Some(Output::Exit(status)) })).await; // the last word
                return Ok(());
            }
            FrameType::Error => {
                return Err(
                    Error::new(Fault::Precondition, String::from_utf8_lossy(&payload).into_owned()).at("attach")
                );
            }
            FrameType::Hello | FrameType::Stdin | FrameType::StdinClosed | FrameType::Resize | FrameType::Detach => {
                return Err(Error::new(Fault::Malformed, format!("the shim sent a frame {kind:?}")));
            }
        };
        if answers.send(Ok(AttachOutput { output: Some(output) })).await.is_err() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_become_answers_until_the_exit() {
        let (shim, ours) = UnixStream::pair().unwrap();
        let (reader, _writer) = ours.into_split();
        let (answers, mut told) = mpsc::channel(8);
        let mut shim = shim;
        let mut bytes = frame(FrameType::Attached, &[1]);
        bytes.extend(frame(FrameType::Stdout, b"out"));
        bytes.extend(frame(FrameType::Stderr, b"err"));
        bytes.extend(frame(FrameType::Exit, &7_u32.to_be_bytes()));
        shim.write_all(&bytes).await.unwrap();
        receive(reader, &answers).await.unwrap();
        drop(answers);
        let mut seen = Vec::new();
        while let Some(answer) = told.recv().await {
            seen.push(answer.unwrap().output.unwrap());
        }
        let wanted =
            [Output::Attached(true), Output::Stdout("out".into()), Output::Stderr("err".into()), Output::Exit(7)];
        assert_eq!(seen, wanted);
    }

    #[tokio::test]
    async fn inputs_become_frames() {
        let (mut shim, ours) = UnixStream::pair().unwrap();
        let (_reader, writer) = ours.into_split();
        let inputs = vec![
            AttachInput { columns: 80, rows: 24, ..AttachInput::default() },
            AttachInput { stdin: vec![1; FRAME_MAX + 1].into(), close_stdin: true, ..AttachInput::default() },
        ];
        let sending = tokio::spawn(send(writer, futures::stream::iter(inputs.into_iter().map(Ok)).boxed()));
        let mut kinds = Vec::new();
        for _ in 0..4 {
            let mut bytes = [0; HEAD];
            shim.read_exact(&mut bytes).await.unwrap();
            let (kind, length) = head(bytes).unwrap();
            shim.read_exact(&mut vec![0; length]).await.unwrap();
            kinds.push((kind, length));
        }
        sending.abort();
        let wanted =
            [(FrameType::Resize, 4), (FrameType::Stdin, FRAME_MAX), (FrameType::Stdin, 1), (FrameType::StdinClosed, 0)];
        assert_eq!(kinds, wanted);
    }

    #[tokio::test]
    async fn a_shim_that_refuses_or_goes_is_an_error() {
        for (bytes, fault) in
            [(frame(FrameType::Error, b"no such exec"), Fault::Precondition), (vec![17, 0], Fault::Unreachable)]
        {
            let (mut shim, ours) = UnixStream::pair().unwrap();
            let (reader, _writer) = ours.into_split();
            shim.write_all(&bytes).await.unwrap();
            drop(shim);
            let (answers, _told) = mpsc::channel(8);
            assert_eq!(receive(reader, &answers).await.unwrap_err().fault(), fault);
        }
    }
}
