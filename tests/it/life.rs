//! A container's life through cratectl.

use crated_tests::Daemon;

#[test]
fn an_image_is_loaded_and_a_container_says_hello() {
    let daemon = Daemon::start();
    daemon.load_busybox();
    assert_eq!(daemon.ctl(&["run", "--rm", "bb:1", "echo", "hello"]).ok(), "hello\n");
    assert_eq!(daemon.ctl(&["ps", "-aq"]).ok(), "");
    daemon.finish();
}
