//! Networks and a daemon that dies: traffic and names go on, nothing is left, everything is mended.

use super::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Asks the resolver of a network from inside of a container's namespace until told to stop: answers and failures.
fn questions(
    netns: &Netns,
    server: &str,
    name: &str,
) -> (Arc<AtomicBool>, std::thread::JoinHandle<(u32, Vec<String>)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (told, netns, server, name) = (Arc::clone(&stop), netns.clone(), server.to_owned(), name.to_owned());
    let asking = std::thread::spawn(move || {
        netns.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let (mut good, mut bad) = (0, Vec::new());
            while !told.load(Ordering::Relaxed) {
                let mut query = vec![1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, u8::try_from(name.len()).unwrap()];
                query.extend(name.bytes());
                query.extend([0, 0, 1, 0, 1]);
                let asked = socket.send_to(&query, (server.as_str(), 53));
                let mut reply = [0; 512];
                match asked.and_then(|_| socket.recv(&mut reply)) {
                    Ok(length) if length > 12 && reply[3] & 0xf == 0 && reply[7] == 1 => good += 1,
                    other => bad.push(format!("{other:?} code {}", reply[3] & 0xf)),
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            (good, bad)
        })
    });
    (stop, asking)
}

#[test]
fn traffic_and_names_go_on_while_the_daemon_is_killed_and_comes_back() {
    let (world, mut daemon) = world();
    daemon.ctl(&["network", "create", "--subnet", "10.30.0.0/24", "own"]).ok();
    serve(&daemon, "web", "hello", &["--network", "own", "-p", "8080:80"]);
    gets(&world.outside, &format!("{HOST}:8080"), "hello");
    let (stop, asking) = questions(&world.host, "10.30.0.1", "web");
    let served = Arc::new(AtomicU32::new(0));
    let lost = Arc::new(AtomicU32::new(0));
    let (done, outside) = (Arc::clone(&stop), world.outside.clone());
    let (served_too, lost_too) = (Arc::clone(&served), Arc::clone(&lost));
    let fetching = std::thread::spawn(move || {
        while !done.load(Ordering::Relaxed) {
            let counter =
                if get(&outside, "192.0.2.1:8080").as_deref() == Some("hello") { &served_too } else { &lost_too };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    for _ in 0..2 {
        let before = served.load(Ordering::Relaxed);
        daemon.kill();
        eventually("requests are served without a daemon", || {
            (served.load(Ordering::Relaxed) > before + 3).then_some(())
        });
        daemon.restart();
        let before = served.load(Ordering::Relaxed);
        eventually("and with the next", || (served.load(Ordering::Relaxed) > before + 3).then_some(()));
    }
    stop.store(true, Ordering::Relaxed);
    let (good, bad) = asking.join().unwrap();
    fetching.join().unwrap();
    assert!(bad.is_empty() && good > 10, "{good} answers, failures: {bad:?}");
    assert_eq!(lost.load(Ordering::Relaxed), 0, "of {} requests", served.load(Ordering::Relaxed));
    // The next daemon knows all of it: names change, ports go.
    daemon.ctl(&["run", "-d", "--name", "client", "--network", "own", "bb:1", "sleep", "1000"]).ok();
    wgets(&daemon, "client", "http://web/", "hello");
    daemon.ctl(&["rm", "-f", "web"]).ok();
    assert_eq!(wget(&daemon, "client", "http://web/"), None);
    assert_eq!(get(&world.host, "127.0.0.1:8080"), None);
    daemon.finish();
}

#[test]
fn a_container_that_ended_without_a_daemon_leaves_nothing() {
    let (world, mut daemon) = world();
    daemon.ctl(&["network", "create", "own"]).ok();
    serve(&daemon, "web", "hello", &["--network", "own", "-p", "8080:80"]);
    let pid = daemon.container_pid("web");
    daemon.kill();
    crated_sys::process::kill(pid, 9).unwrap();
    daemon.restart();
    eventually("the exit is known", || {
        (daemon.ctl(&["inspect", "--format", "{{.State.Status}}", "web"]).word() == "exited").then_some(())
    });
    drop(world.host.inside(|| TcpListener::bind("0.0.0.0:8080")).expect("the port is free"));
    daemon.ctl(&["start", "web"]).ok();
    gets(&world.outside, &format!("{HOST}:8080"), "hello");
    daemon.finish();
}

#[test]
fn killed_in_any_step_of_attach_and_detach_the_next_daemon_mends_it() {
    let points = std::env::temp_dir().join(format!("crated-net-points-{}", std::process::id()));
    std::fs::write(&points, "").unwrap();
    let env = vec![("CRATED_FAILPOINTS".to_owned(), format!("@{}", points.display()))];
    let (world, mut daemon) = world_with("", env);
    let arm = |rule: &str| {
        let new = points.with_extension("new");
        std::fs::write(&new, rule).unwrap();
        std::fs::rename(new, &points).unwrap();
    };
    daemon.ctl(&["network", "create", "own"]).ok();
    let flags = ["--network", "own", "-p", "8080:80"];
    for point in ["net.reserve.ports", "net.attach.done", "engine.start.network.done", "engine.start.start"] {
        let name = point.replace('.', "-");
        let words = [&["create", "--name", &name][..], &flags, &["bb:1", "sleep", "1000"]].concat();
        daemon.ctl(&words).ok();
        arm(&format!("{point}=kill"));
        let said = daemon.ctl(&["start", &name]);
        assert_ne!(said.status, 0, "{point}: {said:?}");
        arm("");
        daemon.kill();
        daemon.restart();
        let state = daemon.ctl(&["inspect", "--format", "{{.State.Status}}", &name]).word();
        assert!(["created", "exited"].contains(&state.as_str()), "{point}: {state}");
        daemon.ctl(&["start", &name]).ok();
        for step in ["net.detach.ports", "net.detach.links"] {
            arm(&format!("{step}=kill"));
            let _ = daemon.ctl(&["stop", "-t", "0", &name]);
            eventually("the daemon dies", || {
                std::fs::read_to_string(format!("{}.hit", points.display())).ok().map(drop)
            });
            arm("");
            let _ = std::fs::remove_file(format!("{}.hit", points.display()));
            daemon.kill();
            daemon.restart();
            eventually("the exit is known", || {
                (daemon.ctl(&["inspect", "--format", "{{.State.Status}}", &name]).word() == "exited").then_some(())
            });
            daemon.ctl(&["start", &name]).ok();
        }
        daemon.ctl(&["rm", "-f", &name]).ok();
        drop(
            world.host.inside(|| TcpListener::bind("0.0.0.0:8080")).unwrap_or_else(|error| panic!("{point}: {error}")),
        );
    }
    let _ = std::fs::remove_file(format!("{}.hit", points.display()));
    daemon.finish();
    let _ = std::fs::remove_file(points);
}
