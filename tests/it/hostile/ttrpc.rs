//! Garbage at the sockets that only our own programs speak to: the daemon's for events of shims, a shim's, its attach socket.

use super::{Watch, descriptors};
use crated_tests::{Daemon, eventually};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A frame: length, stream, type, flags, message.
fn frame(length: u32, stream: u32, kind: u8, flags: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(length.to_be_bytes());
    bytes.extend(stream.to_be_bytes());
    bytes.extend([kind, flags]);
    bytes.extend(message);
    bytes
}

/// What is sent, each on a connection of its own.
fn garbage() -> Vec<Vec<u8>> {
    let random: Vec<u8> =
        (0..64_u32 << 10).map(|n| u8::try_from((n.wrapping_mul(2_654_435_761) >> 13) & 0xff).unwrap()).collect();
    let short = |length: u32, stream, kind, flags, message: &[u8]| frame(length, stream, kind, flags, message);
    let mut many = Vec::new();
    for stream in 0..5000_u32 {
        many.extend(short(4, stream * 2 + 1, 1, 0, &[0xff; 4]));
    }
    let mut open = Vec::new();
    for stream in 0..5000_u32 {
        open.extend(short(0, stream * 2 + 1, 1, 2, &[])); // streams that stay open
    }
    vec![
        random,
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 3],
        vec![0xff; 10],
        short(u32::MAX, 1, 1, 0, &[7; 1000]),
        short(5 << 20, 1, 1, 0, &vec![7; 5 << 20]), // over the limit, and whole
        short(4 << 20, 1, 1, 0, &[7; 1000]),        // within it, and cut off
        short(3, 2, 1, 0, b"abc"),                  // an even stream
        short(3, 1, 3, 0, b"abc"),                  // data of no stream
        short(3, 1, 2, 0, b"abc"),                  // an answer
        [short(0, 9, 1, 0, &[]), short(0, 1, 1, 0, &[])].concat(), // backwards
        many,
        open,
    ]
}

/// Sends each, half of them without reading an answer, and keeps the connections until all were sent.
fn attack(socket: &Path) {
    let mut kept = Vec::new();
    for (number, bytes) in garbage().into_iter().enumerate() {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let _ = stream.write_all(&bytes); // it may hang up on us in the middle
        if number % 2 == 0 {
            let _ = stream.read(&mut [0; 4096]);
        }
        kept.push(stream);
    }
    // and many that say nothing
    kept.extend((0..200).filter_map(|_| UnixStream::connect(socket).ok()));
}

fn sockets(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(daemon.state().join("s")).unwrap().flatten();
    entries.map(|entry| entry.path()).collect()
}

#[test]
fn garbage_at_the_daemons_and_the_shims_sockets() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    daemon.ctl(&["run", "-d", "--name", "talks", "bb:1", "sh", "-c", script]).ok();
    let before = descriptors(daemon.pid());
    let mut watch = Watch::new(&daemon);
    let mut ttrpc = daemon.socket().into_os_string();
    ttrpc.push(".ttrpc");
    attack(Path::new(&ttrpc));
    watch.look();
    for socket in sockets(&daemon) {
        attack(&socket);
    }
    watch.look();
    // the container is served as before, its output goes on, its end is told
    assert_eq!(daemon.ctl(&["exec", "talks", "echo", "unharmed"]).ok(), "unharmed\n");
    let lines = || daemon.ctl(&["logs", "talks"]).ok().lines().count();
    let now = lines();
    eventually("it goes on", || (lines() > now).then_some(()));
    daemon.ctl(&["kill", "talks"]).ok();
    assert_eq!(daemon.ctl(&["wait", "talks"]).word(), "137");
    eventually("the connections are gone", || (descriptors(daemon.pid()) <= before + 4).then_some(()));
    watch.end("garbage over ttrpc", 48);
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    daemon.finish();
}
