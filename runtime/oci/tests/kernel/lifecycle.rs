//! Create, start, exec, end.

use std::os::fd::AsFd;

use crated_oci::OciError;
use crated_sys::pidfd;
use serde_json::json;

use super::harness::{Bundle, Output, PROGRAM, exec, process, ready};

#[test]
fn a_program_runs_to_its_end() {
    if !ready() {
        return;
    }
    let (status, text) = Bundle::sh("echo pid $$; hostname; id -u; echo $A $HOME; pwd; exit 7").run().unwrap();
    assert_eq!((status, text.as_str()), (7, "pid 1\ninside\n0\nb /root\n/\n"));
}

#[test]
fn nothing_runs_before_start() {
    if !ready() {
        return;
    }
    let output = Output::new();
    let mut container = Bundle::sh("echo ran").create(output.stdio()).unwrap();
    assert_eq!(container.pids().unwrap(), [container.pid()]);
    assert_eq!(output.text(), "");
    container.destroy().unwrap();
    container.destroy().unwrap();
    assert_eq!(output.text(), "");
}

#[test]
fn exec_is_inside_and_init_can_be_killed() {
    if !ready() {
        return;
    }
    let bundle = Bundle::sh("exec sleep 1000");
    let output = Output::new();
    let mut container = bundle.create(output.stdio()).unwrap();
    container.start().unwrap();
    let (status, text) = exec(
        &container,
        &process(&[
            "sh",
            "-c",
            "hostname; cat /proc/1/comm; readlink /proc/self/ns/mnt; readlink /proc/1/ns/mnt; exit 3",
        ]),
    )
    .unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((status, lines[0], lines[1], lines[2]), (3, "inside", "sleep", lines[3]));
    assert!(matches!(exec(&container, &process(&["nonsense"])), Err(OciError::CommandNotFound { .. })));
    container.kill(9, false).unwrap();
    assert_eq!(pidfd::wait(container.pidfd()).unwrap().code(), 137);
    assert!(matches!(
        container.exec(&serde_json::from_value(process(&["true"])).unwrap(), output.stdio(), PROGRAM.as_fd()),
        Err(OciError::State { .. })
    ));
    container.destroy().unwrap();
}

#[test]
fn commands_that_cannot_run_are_told_apart() {
    if !ready() {
        return;
    }
    let not_found = |b: Bundle| matches!(b.run(), Err(OciError::CommandNotFound { .. }));
    let refused = |b: Bundle| matches!(b.run(), Err(OciError::CommandNotExecutable { .. }));
    assert!(not_found(Bundle::new(&["nonsense"])));
    assert!(not_found(Bundle::new(&["/bin/nonsense"])));
    assert!(refused(Bundle::new(&["/etc/passwd"])));
    assert!(refused(Bundle::new(&["/etc"])));
    let text = Bundle::new(&["/bin/text"]);
    std::fs::write(text.root().join("bin/text"), "no program").unwrap();
    std::fs::set_permissions(text.root().join("bin/text"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    assert!(refused(text), "exec format error comes from execve itself, at start");
    let script = Bundle::new(&["/bin/script"]);
    std::fs::write(script.root().join("bin/script"), "#!/bin/missing\n").unwrap();
    std::fs::set_permissions(script.root().join("bin/script"), std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .unwrap();
    assert!(not_found(script));
}

#[test]
fn a_wrong_spec_names_its_field() {
    let bundle = Bundle::new(&["true"]).set("/process/cwd", json!("tmp"));
    let Err(OciError::Spec { field, .. }) = bundle.run() else { panic!() };
    assert_eq!(field, "process.cwd");
}
