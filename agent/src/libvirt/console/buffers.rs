//! What is between a console's reader and writer and libvirt's stream. Pure: bytes in, bytes out, and somebody to wake.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use crate::libvirt::error::Failure;

/// How much output waits for a slow reader.
const INBOX_LIMIT: usize = 1 << 20;

/// How much input waits for a slow guest. Then the writer waits.
const OUTBOX_LIMIT: usize = 64 * 1024;

/// How much input may be on its way to a guest that prints nothing. It fits into the kernel's pty (8 KiB and a line buffer), whether the guest reads it or
/// not. Beyond that libvirtd holds it, and a libvirtd that holds input when its guest ends crashes or spins (seen with 11.3): it frees what it still sends.
const CREDIT: usize = 8 * 1024;

/// How a stream is over.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// As a file ends: the guest is gone, or a newer viewer has taken over.
    Finished,
    /// libvirt is gone, or said this.
    Broken(Failure),
}

/// Both ways, as the stream's callback sees them.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) inbox: Inbox,
    pub(super) outbox: Outbox,
}

/// Output on its way from the guest to the reader.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
}

#[derive(Debug, Default)]
struct InboxState {
    data: VecDeque<u8>,
    /// Bytes that did not fit since the reader last caught up.
    dropped: u64,
    end: Option<End>,
    reader: Option<Waker>,
}

/// Input on its way from the writer to the guest.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Mutex<OutboxState>,
}

#[derive(Debug)]
struct OutboxState {
    data: VecDeque<u8>,
    /// What may be sent before the guest prints something. Each byte that it prints, most often the echo of one that it read, gives one back.
    credit: usize,
    /// Whether somebody is sending now.
    is_sending: bool,
    end: Option<End>,
    writer: Option<Waker>,
}

impl Buffers {
    /// Takes output from the guest.
    pub(super) fn receive(&self, bytes: &[u8]) {
        self.outbox.give_credit(bytes.len());
        self.inbox.receive(bytes);
    }

    /// Notes that the stream is over. The first word counts.
    pub(super) fn end(&self, end: &End) {
        self.outbox.end(end.clone());
        self.inbox.end(end.clone());
    }
}

impl Default for OutboxState {
    fn default() -> Self {
        Self { data: VecDeque::new(), credit: CREDIT, is_sending: false, end: None, writer: None }
    }
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what fits, and counts what does not.
    fn receive(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let room = INBOX_LIMIT.saturating_sub(state.data.len());
        let (fits, dropped) = bytes.split_at(bytes.len().min(room));
        state.data.extend(fits);
        state.dropped += dropped.len() as u64;
        wake(state.reader.take());
    }

    fn end(&self, end: End) {
        let mut state = self.lock();
        state.end.get_or_insert(end);
        wake(state.reader.take());
    }

    /// What the reader gets: output in order, then a word about what was dropped, then the end.
    pub(super) fn poll_read(&self, context: &Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.data.is_empty() && state.dropped > 0 {
            let notice = format!("\r\n[{} bytes of console output dropped: read too slowly]\r\n", state.dropped);
            state.data.extend(notice.as_bytes());
            state.dropped = 0;
        }
        if !state.data.is_empty() {
            let (front, _) = state.data.as_slices();
            let (taken, _) = front.split_at(front.len().min(buffer.remaining()));
            buffer.put_slice(taken);
            let taken = taken.len();
            state.data.drain(..taken);
            return Poll::Ready(Ok(()));
        }
        match &state.end {
            Some(End::Finished) => Poll::Ready(Ok(())),
            Some(End::Broken(failure)) => Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, failure.clone()))),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, OutboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what fits, and waits for room when nothing does.
    pub(super) fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        match &state.end {
            Some(End::Broken(failure)) => {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::BrokenPipe, failure.clone())));
            }
            Some(End::Finished) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None => {}
        }
        let room = OUTBOX_LIMIT.saturating_sub(state.data.len());
        if room == 0 {
            state.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let (fits, _) = bytes.split_at(bytes.len().min(room));
        state.data.extend(fits);
        Poll::Ready(Ok(fits.len()))
    }

    /// Ready when everything written has been given to libvirt.
    pub(super) fn poll_flush(&self, context: &Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.lock();
        if state.end.is_some() || (state.data.is_empty() && !state.is_sending) {
            return Poll::Ready(Ok(()));
        }
        state.writer = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether there is something to send and nobody who does. Then it falls to the caller, who calls [`Outbox::next`] until that returns `None`.
    pub(super) fn claim_sending(&self) -> bool {
        let mut state = self.lock();
        let is_due = !state.is_sending && !state.data.is_empty() && state.credit > 0 && state.end.is_none();
        state.is_sending |= is_due;
        is_due
    }

    /// The next piece for the sender, at most `limit` long; `None` ends its work.
    pub(super) fn next(&self, limit: usize) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let length = state.data.len().min(limit).min(state.credit);
        let piece: Vec<u8> = state.data.drain(..length).collect();
        state.credit -= length;
        state.is_sending = !piece.is_empty();
        wake(state.writer.take());
        (!piece.is_empty()).then_some(piece)
    }

    fn give_credit(&self, bytes: usize) {
        let mut state = self.lock();
        state.credit = state.credit.saturating_add(bytes).min(CREDIT);
        wake(state.writer.take());
    }

    /// Throws away what is left and takes no more.
    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        state.data.clear();
        state.end.get_or_insert(end);
        wake(state.writer.take());
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(inbox: &Inbox, length: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut buffer = ReadBuf::new(&mut bytes);
        match inbox.poll_read(&Context::from_waker(Waker::noop()), &mut buffer) {
            Poll::Ready(read) => read.map(|()| buffer.filled().to_vec()).ok(),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_flood_of_output_is_bounded_and_the_reader_is_told() {
        let inbox = Inbox::default();
        for _ in 0..3 {
            inbox.receive(&vec![b'x'; 1 << 20]);
        }
        assert!(inbox.lock().data.capacity() <= 2 << 20);
        let mut output = Vec::new();
        while let Some(piece) = read(&inbox, 1 << 16) {
            output.extend(piece);
        }
        let (kept, notice) = output.split_at(1 << 20);
        assert!(kept.iter().all(|byte| *byte == b'x'));
        assert_eq!(
            String::from_utf8_lossy(notice),
            "\r\n[2097152 bytes of console output dropped: read too slowly]\r\n"
        );
        inbox.receive(b"and on");
        assert_eq!(read(&inbox, 64).unwrap(), b"and on");
    }

    #[test]
    fn output_before_the_end_is_read_before_the_end() {
        let inbox = Inbox::default();
        inbox.receive(b"last words");
        inbox.end(End::Finished);
        inbox.end(End::Broken(Failure::internal("later")));
        assert_eq!(read(&inbox, 64).unwrap(), b"last words");
        assert_eq!(read(&inbox, 64).unwrap(), b"", "an end of file, not the later error");
    }

    fn write(outbox: &Outbox, bytes: &[u8]) -> Option<usize> {
        match outbox.poll_write(&Context::from_waker(Waker::noop()), bytes) {
            Poll::Ready(written) => written.ok(),
            Poll::Pending => None,
        }
    }

    /// How much a sender may send now.
    fn send(outbox: &Outbox) -> usize {
        assert!(outbox.claim_sending());
        assert!(!outbox.claim_sending(), "one sender at a time");
        std::iter::from_fn(|| outbox.next(1000)).map(|piece| piece.len()).sum()
    }

    #[test]
    fn a_guest_that_prints_nothing_is_sent_what_its_pty_holds_and_no_more() {
        let buffers = Buffers::default();
        let outbox = &buffers.outbox;
        let written: usize = std::iter::from_fn(|| write(outbox, &[b'x'; 10_000])).sum();
        assert_eq!(written, OUTBOX_LIMIT, "then the writer waits");
        assert_eq!(send(outbox), CREDIT);
        assert!(!outbox.claim_sending());
        assert!(outbox.poll_flush(&Context::from_waker(Waker::noop())).is_pending());

        buffers.receive(&[b'x'; 100]);
        assert_eq!(send(outbox), 100, "an echo shows that as much was read");
        buffers.receive(&vec![b'x'; 1 << 20]);
        assert_eq!(send(outbox), CREDIT, "a chatty guest earns no more than the pty holds");
        while !outbox.lock().data.is_empty() {
            buffers.receive(&[b'x'; CREDIT]);
            send(outbox);
        }
        assert!(outbox.poll_flush(&Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn the_end_of_a_stream_ends_waiting_writers() {
        let buffers = Buffers::default();
        write(&buffers.outbox, b"unsent").unwrap();
        buffers.end(&End::Finished);
        assert!(!buffers.outbox.claim_sending());
        assert!(buffers.outbox.poll_flush(&Context::from_waker(Waker::noop())).is_ready());
        assert_eq!(write(&buffers.outbox, b"x"), None, "an error, and no waiting");
    }
}
