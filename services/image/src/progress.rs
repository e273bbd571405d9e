//! Progress of a pull, import or unpack: advice for people, never waited for.

use crated_api::crated::engine::v1::Progress as Message;
use crated_core::pull::ProgressSink;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A download is told again after this many more bytes, or a hundredth of the whole.
const STRIDE: i64 = 256 << 10;

/// Where progress goes. Readers may join late: they are told the last state of each entry first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    sinks: Vec<ProgressSink>,
    entries: Vec<Message>,
}

impl Progress {
    pub(crate) fn new(sink: ProgressSink) -> Self {
        let progress = Self::default();
        progress.join(sink);
        progress
    }

    /// One more reader.
    pub(crate) fn join(&self, sink: ProgressSink) {
        let mut state = self.lock();
        for entry in &state.entries {
            let _ = sink.try_send(entry.clone());
        }
        state.sinks.push(sink);
    }

    /// The entry `id` is in the state `action`.
    pub(crate) fn step(&self, id: &str, action: &str) {
        self.bytes(id, action, 0, 0);
    }

    /// `current` of `total` bytes of entry `id` are done.
    pub(crate) fn bytes(&self, id: &str, action: &str, current: u64, total: u64) {
        let clamp = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let (current, total) = (clamp(current), clamp(total));
        let mut state = self.lock();
        let message = Message { id: id.into(), action: action.into(), current, total, ..Message::default() };
        match state.entries.iter_mut().find(|entry| entry.id == id) {
            Some(entry) => {
                let near = current < entry.current + STRIDE.min((total / 100).max(1 << 14)) && current != total;
                if entry.action == action && near && current >= entry.current {
                    return;
                }
                *entry = message.clone();
            }
            None => state.entries.push(message.clone()),
        }
        state.send(&message);
    }

    /// A line of its own.
    pub(crate) fn line(&self, action: &str, message: String) {
        let mut state = self.lock();
        state.send(&Message { action: action.into(), message, ..Message::default() });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn send(&mut self, message: &Message) {
        use tokio::sync::mpsc::error::TrySendError;
        self.sinks.retain(|sink| !matches!(sink.try_send(message.clone()), Err(TrySendError::Closed(_))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn late_readers_see_the_last_state_and_gone_readers_do_no_harm() {
        let (first, first_end) = tokio::sync::mpsc::channel(16);
        let progress = Progress::new(first);
        progress.bytes("a", "downloading", 0, 10 << 20);
        progress.bytes("a", "downloading", 10, 10 << 20);
        progress.bytes("a", "downloading", 5 << 20, 10 << 20);
        drop(first_end);
        progress.step("b", "waiting");
        let (second, mut end) = tokio::sync::mpsc::channel(16);
        progress.join(second);
        progress.bytes("a", "downloading", 10 << 20, 10 << 20);
        drop(progress);
        let mut seen = Vec::new();
        while let Some(message) = end.recv().await {
            seen.push((message.id, message.current));
        }
        assert_eq!(seen, [("a".to_owned(), 5 << 20), ("b".to_owned(), 0), ("a".to_owned(), 10 << 20)]);
    }
}
