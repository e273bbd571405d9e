//! Other people's programs: Debian's docker-registry as the server, skopeo as the other hand.

use super::archives::{export, import};
use super::images::{Built, Layer};
use super::pulls::{Rig, request};
use super::registry_fixture::Registry;
use crated_types::Platform;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn there(program: &str) -> bool {
    let found = Path::new(program).exists();
    if !found {
        println!("skip: {program} is not installed");
    }
    found
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// docker-registry on a free port of loopback.
async fn serve(dir: &Path) -> (Server, String) {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let config = dir.join("config.yml");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        dir.join("registry").display()
    );
    std::fs::write(&config, text).unwrap();
    let child = Command::new("/usr/bin/docker-registry")
        .arg("serve")
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Server(child.unwrap());
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await; // a foreign program tells nobody that it listens
    }
    (server, address)
}

async fn skopeo(arguments: Vec<String>) -> String {
    let output = tokio::task::spawn_blocking(move || {
        Command::new("/usr/bin/skopeo").arg("--insecure-policy").args(arguments).output().unwrap()
    });
    let output = output.await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_and_skopeo_understand_us() {
    if !there("/usr/bin/docker-registry") || !there("/usr/bin/skopeo") {
        return;
    }
    let fixture = Registry::start().await;
    // docker's format knows no zstd.
    let image = Built::new(vec![Layer::gzip(&[("a", b"first"), ("b/c", b"second")]), Layer::plain(&[("a", b"third")])]);
    fixture.put_image(&image, Some("1"));
    let rig = Rig::new();
    let name = fixture.name("x:1");
    rig.pull(request(&name)).await.unwrap();
    let archive = rig.dir.path().join("x.tar");
    std::fs::write(&archive, export(&rig, &name, Some(Platform::host())).await.unwrap()).unwrap();

    let (_server, address) = serve(rig.dir.path()).await;
    let to = format!("docker://{address}/a/b:1");
    skopeo(vec![
        "copy".into(),
        "--dest-tls-verify=false".into(),
        format!("oci-archive:{}", archive.display()),
        to.clone(),
    ])
    .await;
    let there = Rig::new();
    there.pull(request(&format!("{address}/a/b:1"))).await.unwrap();
    assert_eq!(there.text(&image, "a").as_deref(), Some("third"));
    there.is_clean();

    // docker's manifest format over the wire, and its archive.
    let v2 = format!("docker://{address}/a/b:v2");
    let from = format!("oci-archive:{}", archive.display());
    skopeo(vec!["copy".into(), "--dest-tls-verify=false".into(), "-f".into(), "v2s2".into(), from, v2.clone()]).await;
    let there = Rig::new();
    there.pull(request(&format!("{address}/a/b:v2"))).await.unwrap();
    assert_eq!(there.text(&image, "b/c").as_deref(), Some("second"));
    let docker = rig.dir.path().join("docker.tar");
    let file = format!("docker-archive:{}:n/m:7", docker.display());
    skopeo(vec!["copy".into(), "--src-tls-verify=false".into(), v2, file]).await;
    let there = Rig::new();
    let loaded = import(&there, std::fs::read(&docker).unwrap()).await.unwrap();
    assert_eq!(loaded[0].name, "docker.io/n/m:7");
    assert_eq!(there.text(&image, "a").as_deref(), Some("third"));
    there.is_clean();
    // Ours, read as docker's.
    let inspected =
        skopeo(vec!["inspect".into(), "--raw".into(), format!("docker-archive:{}", archive.display())]).await;
    assert!(inspected.contains("layers"));
}
