//! FIFOs, terminals, files, logging programs, the log and attached clients.

use crate::harness::{Attached, Shim, soon};
use crated_api::containerd::task::v3 as api;
use crated_types::attach::{FrameType, Hello};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

fn fifo(path: &Path) -> String {
    crated_sys::fs::mknod_at(crated_sys::fs::cwd(), path, 0o010_700, 0).unwrap();
    path.display().to_string()
}

/// Opens a FIFO for reading as containerd's client does, in a thread that reads to the end.
fn reader(path: &str) -> std::thread::JoinHandle<String> {
    let file =
        crated_sys::fs::open(Path::new(path), crated_sys::OFlag::O_RDONLY | crated_sys::OFlag::O_NONBLOCK, 0).unwrap();
    std::thread::spawn(move || {
        use std::os::fd::AsFd;
        crated_sys::poll::readable(file.as_fd(), None).unwrap();
        crated_sys::fs::set_nonblocking(file.as_fd(), false).unwrap();
        let mut text = String::new();
        std::fs::File::from(file).read_to_string(&mut text).unwrap();
        text
    })
}

async fn finish(shim: Shim) {
    shim.delete("").await.unwrap();
    shim.shutdown().await;
}

#[tokio::test]
async fn fifos_are_the_process_own_streams() {
    let (shim, _events) = Shim::start("fifo", |_| {}, &["sh", "-c", "cat; echo end >&2"]).await;
    let (input, output, errors) =
        (shim.dir.path().join("in"), shim.dir.path().join("out"), shim.dir.path().join("err"));
    let mut request = shim.request(&fifo(&output));
    (request.stdin, request.stderr) = (fifo(&input), fifo(&errors));
    let (out, err) = (reader(&request.stdout), reader(&request.stderr));
    shim.create_with(request).await;
    let mut writer = std::fs::OpenOptions::new().write(true).open(&input).unwrap();
    shim.run().await;
    writer.write_all(b"through\n").unwrap();
    drop(writer);
    assert_eq!(shim.state("").await.unwrap().exit_status, 0);
    let close = api::CloseIoRequest { id: shim.id.clone(), exec_id: String::new(), stdin: true };
    shim.call::<()>("CloseIO", &close).await.unwrap();
    assert_eq!(shim.wait("").await, 0);
    let (out, err) = soon(tokio::task::spawn_blocking(|| (out.join().unwrap(), err.join().unwrap()))).await.unwrap();
    assert_eq!((out.as_str(), err.as_str()), ("through\n", "end\n"));
    finish(shim).await;
}

#[tokio::test]
async fn a_reader_that_goes_neither_blocks_nor_kills() {
    let (shim, _events) = Shim::start("gone", |_| {}, &["sh", "-c", "echo a; echo b; echo c; exit 9"]).await;
    let path = fifo(&shim.dir.path().join("out"));
    shim.create_with(shim.request(&path)).await;
    drop(std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap());
    shim.run().await;
    assert_eq!(shim.wait("").await, 9);
    let late = reader(&path);
    shim.delete("").await.unwrap();
    assert_eq!(soon(tokio::task::spawn_blocking(|| late.join().unwrap())).await.unwrap(), "a\nb\nc\n");
    shim.shutdown().await;
}

#[tokio::test]
async fn a_terminal_goes_through_fifos() {
    let (shim, _events) = Shim::start("tty", |_| {}, &["sh", "-c", "stty size; read x; echo got $x"]).await;
    let (input, output) = (shim.dir.path().join("in"), shim.dir.path().join("out"));
    let mut request = shim.request(&fifo(&output));
    (request.terminal, request.stdin, request.stderr) = (true, fifo(&input), String::new());
    let out = reader(&request.stdout);
    let mut writer = std::fs::OpenOptions::new().read(true).write(true).open(&input).unwrap();
    shim.create_with(request).await;
    let resize = api::ResizePtyRequest { id: shim.id.clone(), exec_id: String::new(), width: 90, height: 33 };
    shim.call::<()>("ResizePty", &resize).await.unwrap();
    shim.run().await;
    writer.write_all(b"it\n").unwrap();
    assert_eq!(shim.wait("").await, 0);
    let text = soon(tokio::task::spawn_blocking(|| out.join().unwrap())).await.unwrap();
    assert!(text.contains("33 90\r\n") && text.ends_with("got it\r\n"), "{text:?}");
    finish(shim).await;
}

#[tokio::test]
async fn a_file_takes_both_streams() {
    let (shim, _events) = Shim::start("file", |_| {}, &["sh", "-c", "echo one; echo two >&2"]).await;
    let path = shim.dir.path().join("log.txt");
    std::fs::write(&path, "old\n").unwrap();
    shim.create_with(shim.request(&format!("file://{}", path.display()))).await;
    shim.run().await;
    shim.wait("").await;
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "old\none\ntwo\n");
    finish(shim).await;
}

fn logger(dir: &Path, body: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = dir.join("logger");
    std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[tokio::test]
async fn a_logging_program_gets_the_output() {
    let (shim, _events) = Shim::start("binary", |_| {}, &["sh", "-c", "echo one; echo two >&2"]).await;
    let result = shim.dir.path().join("result");
    let body = format!(
        "exec 5>&-; o=$(/bin/cat <&3); e=$(/bin/cat <&4); echo \"$CONTAINER_ID $CONTAINER_NAMESPACE $* $o $e\" > {0}.tmp; /bin/mv {0}.tmp {0}",
        result.display()
    );
    let program = logger(shim.dir.path(), &body);
    shim.create_with(shim.request(&format!("binary://{}?key=value", program.display()))).await;
    shim.run().await;
    shim.wait("").await;
    soon(async {
        while !result.exists() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(std::fs::read_to_string(&result).unwrap(), format!("{} test key value one two\n", shim.id));
    finish(shim).await;
}

#[tokio::test]
async fn a_logging_program_that_fails_is_an_error() {
    let (shim, _events) = Shim::start("badlog", |_| {}, &["true"]).await;
    for (scheme, name) in [("binary-v2", logger(shim.dir.path(), "exit 1")), ("binary", "/no/such".into())] {
        let request = shim.request(&format!("{scheme}://{}", name.display()));
        let result = shim.call::<api::CreateTaskResponse>("Create", &request).await;
        if scheme == "binary-v2" {
            assert!(result.unwrap_err().to_string().contains("ready"));
        }
    }
    drop(shim);
}

#[tokio::test]
async fn an_early_client_sees_all_and_a_late_one_the_scrollback() {
    let (shim, _events) = Shim::start("early", |_| {}, &["sh", "-c", "echo first; read x; echo $x; exit 6"]).await;
    shim.create("stdin=open").await;
    let mut early = shim.attach("", true).await;
    assert_eq!(early.frame().await.unwrap(), (FrameType::Attached, vec![0]));
    shim.run().await;
    early.until("first\n").await;
    let mut late = shim.attach("", false).await;
    late.until("first\n").await;
    early.send(FrameType::Stdin, b"second\n").await;
    assert_eq!((early.exit().await, late.exit().await), (6, 6));
    assert_eq!((early.text().as_str(), late.text().as_str()), ("first\nsecond\n", "first\nsecond\n"));
    assert_eq!(shim.wait("").await, 6);
    let mut after = shim.attach("", false).await;
    assert_eq!((after.exit().await, after.text().as_str()), (6, "first\nsecond\n"));
    let nobody = Hello { container: "other".into(), ..Hello::default() };
    let (kind, text) = shim.attach_as(nobody).await.frame().await.unwrap();
    assert_eq!((kind, String::from_utf8_lossy(&text).contains("not found")), (FrameType::Error, true));
    finish(shim).await;
}

#[tokio::test]
async fn input_ends_when_a_client_says_so_or_leaves() {
    for once in [false, true] {
        let (shim, _events) = Shim::start("stdin", |_| {}, &["cat"]).await;
        shim.create(if once { "stdin=once" } else { "stdin=open" }).await;
        let mut client = shim.attach("", true).await;
        let mut watcher = shim.attach("", false).await;
        shim.run().await;
        client.send(FrameType::Stdin, b"data").await;
        watcher.until("data").await;
        if once {
            drop(client);
        } else {
            let mut quitter = shim.attach("", true).await;
            quitter.send(FrameType::Detach, b"").await;
            assert!(quitter.frame().await.is_some());
            client.send(FrameType::StdinClosed, b"").await;
        }
        assert_eq!(watcher.exit().await, 0);
        finish(shim).await;
    }
}

#[tokio::test]
async fn a_terminal_is_shared_and_resized() {
    let (shim, _events) = Shim::start("share", |_| {}, &["sh"]).await;
    let mut request = shim.request(&format!("crated://{}?stdin=open", shim.log().display()));
    (request.terminal, request.stderr) = (true, String::new());
    shim.create_with(request).await;
    let mut one = shim.attach("", true).await;
    let mut two = shim.attach("", true).await;
    assert_eq!(one.frame().await.unwrap(), (FrameType::Attached, vec![1]));
    let size: [u8; 4] = [0, 91, 0, 34];
    one.send(FrameType::Resize, &size).await;
    shim.run().await;
    two.send(FrameType::Stdin, b"stty size\n").await;
    one.until("34 91").await;
    one.send(FrameType::Stdin, b"exit 2\n").await;
    assert_eq!((one.exit().await, two.exit().await), (2, 2));
    assert!(shim.entries().iter().any(|(_, text)| text.contains("34 91")));
    finish(shim).await;
}

#[tokio::test]
async fn much_output_is_whole_in_log_and_client() {
    let (shim, _events) = Shim::start("much", |_| {}, &["seq", "100000"]).await;
    shim.create("stdin=none").await;
    let mut client: Attached = shim.attach("", false).await;
    shim.run().await;
    assert_eq!(client.exit().await, 0);
    let expected: String = (1..=100_000).map(|number| format!("{number}\n")).collect();
    assert_eq!(client.text(), expected);
    let logged: String = shim.entries().into_iter().map(|(_, text)| text).collect();
    assert_eq!(logged, expected);
    finish(shim).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_nobody() {
    let (shim, _events) = Shim::start("stuck", |_| {}, &["seq", "300000"]).await;
    shim.create("stdin=none&max-size=100k&max-file=2").await;
    let stuck = shim.attach("", false).await;
    let mut client = shim.attach("", false).await;
    shim.run().await;
    assert_eq!(client.exit().await, 0);
    assert!(client.text().ends_with("300000\n"));
    drop(stuck);
    assert!(std::fs::metadata(shim.log()).unwrap().len() <= 100 << 10);
    assert!(shim.log().with_extension("json.1").exists());
    finish(shim).await;
}

#[tokio::test]
async fn a_grandchild_that_holds_the_output_delays_nobody() {
    let (shim, _events) = Shim::start("holder", |_| {}, &["sleep", "1000"]).await;
    shim.create("stdin=none").await;
    shim.run().await;
    shim.exec("bg", &["sh", "-c", "sleep 1000 & echo started"], false, "crated://?stdin=none").await.unwrap();
    let mut client = shim.attach("bg", false).await;
    shim.try_start("bg").await.unwrap();
    assert_eq!((client.exit().await, client.text().as_str()), (0, "started\n"));
    shim.delete("bg").await.unwrap();
    shim.kill("", 9).await.unwrap();
    shim.wait("").await;
    finish(shim).await;
}

#[tokio::test]
async fn a_full_disk_does_not_stop_the_container() {
    let (shim, _events) = Shim::start("full", |_| {}, &["sh", "-c", "seq 10000; exit 3"]).await;
    shim.create_with(shim.request("crated:///dev/full?stdin=none")).await;
    shim.run().await;
    assert_eq!(shim.wait("").await, 3);
    finish(shim).await;
}

#[tokio::test]
async fn an_exec_has_a_terminal_of_its_own() {
    let (shim, _events) = Shim::start("exectty", |_| {}, &["sleep", "1000"]).await;
    shim.create("stdin=none").await;
    shim.run().await;
    shim.exec("t", &["sh", "-c", "stty size; read x; echo got $x"], true, "crated://?stdin=open").await.unwrap();
    let mut client = shim.attach("t", true).await;
    let size: [u8; 4] = [0, 77, 0, 22];
    client.send(FrameType::Resize, &size).await;
    assert_eq!(client.frame().await.unwrap(), (FrameType::Attached, vec![1]));
    shim.try_start("t").await.unwrap();
    client.send(FrameType::Stdin, b"it\n").await;
    assert_eq!(client.exit().await, 0);
    assert!(client.text().contains("22 77\r\n") && client.text().ends_with("got it\r\n"), "{:?}", client.text());
    shim.delete("t").await.unwrap();
    shim.kill("", 9).await.unwrap();
    shim.wait("").await;
    finish(shim).await;
}
