//! The content store against what containerd's clients rely on.

use super::*;
use crate::testing::{Bench, labels, lease, reference, scope, sha256};
use crated_core::{Commit, LeaseStore};
use crated_types::Namespace;
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn bytes(text: &str) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(text.as_bytes())
}

fn expect(digest: &Digest) -> Expected {
    Expected { digest: Some(digest.clone()), size: None }
}

async fn write(bench: &Bench, scope: &Scope, text: &str) -> Digest {
    let digest = sha256(text.as_bytes());
    bench.content.write_all(scope, &reference(text), bytes(text), &digest, Labels::new()).await.unwrap();
    digest
}

fn blob_file(bench: &Bench, digest: &Digest) -> std::path::PathBuf {
    bench.folder.path().join("content/blobs/sha256").join(digest.hex())
}

#[tokio::test]
async fn a_blob_is_written_read_labelled_and_removed() {
    let bench = Bench::new().await;
    let digest = sha256(b"hello world");
    let mut ingest = bench.content.ingest(&bench.scope, &reference("layer-x"), expect(&digest)).await.unwrap();
    assert_eq!(ingest.digest(), sha256(b""));
    ingest.write(bytes("hello ")).await.unwrap();
    assert_eq!((ingest.digest(), ingest.status().offset), (sha256(b"hello "), 6));
    let mut follower = ingest.file().unwrap();
    ingest.write(bytes("world")).await.unwrap();
    assert_eq!(std::io::read_to_string(&mut follower).unwrap(), "hello world");
    let commit = Commit { expected: expect(&digest), labels: labels(&[("a", "1"), ("empty", "")]) };
    let blob = ingest.commit(commit).await.unwrap();
    assert_eq!((blob.size, &blob.labels), (11, &labels(&[("a", "1")])));
    let file = blob_file(&bench, &digest);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o444);
    assert_eq!(bench.newest_event().await.0, "/content/create");
    assert_eq!(bench.newest_event().await.1, "containerd.events.ContentCreate");
    assert!(bench.content.statuses(&bench.scope, &Filters::default()).await.unwrap().is_empty());
    assert_eq!(std::fs::read_dir(bench.folder.path().join("content/ingest")).unwrap().count(), 0);

    let open = bench.content.open(&bench.scope, &digest).await.unwrap();
    assert_eq!(open.read_at(6, 100).await.unwrap(), "world");
    assert!(open.read_at(11, 1).await.unwrap().is_empty());
    assert_eq!(open.read_at(12, 1).await.unwrap_err().fault(), Fault::OutOfRange);
    assert_eq!(bench.content.read_all(&bench.scope, &digest, 100).await.unwrap(), "hello world");

    let mask = Mask::Paths(vec!["labels.b".into(), "labels.a".into()]);
    let updated = bench.content.update(&bench.scope, &digest, &labels(&[("b", "2")]), &mask).await.unwrap();
    assert_eq!(updated.labels, labels(&[("b", "2")]));
    assert_eq!(updated.created_at, blob.created_at);
    let size = Mask::Paths(vec!["size".into()]);
    assert_eq!(
        bench.content.update(&bench.scope, &digest, &Labels::new(), &size).await.unwrap_err().fault(),
        Fault::Invalid
    );

    bench.content.delete(&bench.scope, &digest).await.unwrap();
    assert_eq!(bench.content.info(&bench.scope, &digest).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(bench.newest_event().await.0, "/content/delete");
    assert_eq!(bench.collector.collect().await.unwrap().files, 1);
    assert!(!file.exists());
    assert_eq!(open.read_at(0, 5).await.unwrap(), "hello", "an open blob can be read to its end");
}

#[tokio::test]
async fn an_ingest_resumes_after_a_restart_and_has_one_writer() {
    let bench = Bench::new().await;
    let name = reference("x/y");
    let mut ingest = bench.content.ingest(&bench.scope, &name, Expected { digest: None, size: Some(6) }).await.unwrap();
    ingest.write(bytes("abc")).await.unwrap();
    let second = bench.content.ingest(&bench.scope, &name, Expected::default()).await.unwrap_err();
    assert_eq!(second.fault(), Fault::Locked);
    bench.content.ingest(&scope("other"), &name, Expected::default()).await.unwrap();
    let folder = disk::folder(&bench.scope.namespace, &name);
    assert_eq!(folder, sha256(b"default/x/y").hex());
    let path = bench.folder.path().join("content/ingest").join(folder);
    assert_eq!(std::fs::read_to_string(path.join("ref")).unwrap(), "x/y");
    assert_eq!(std::fs::read_to_string(path.join("total")).unwrap(), "6");
    drop(ingest);
    let bench = bench.restart().await;
    let mut ingest = bench.content.ingest(&bench.scope, &name, Expected::default()).await.unwrap();
    let status = ingest.status();
    assert_eq!((status.offset, status.total, ingest.digest()), (3, 6, sha256(b"abc")));
    ingest.write(bytes("def")).await.unwrap();
    let known = bench.content.status(&bench.scope, &name).await.unwrap();
    assert_eq!((known.offset, known.total), (6, 6));
    let blob = ingest.commit(Commit::default()).await.unwrap();
    assert_eq!(blob.digest, sha256(b"abcdef").to_string());
}

#[tokio::test]
async fn a_wrong_digest_or_size_leaves_the_ingest() {
    let bench = Bench::new().await;
    let name = reference("r");
    let wrong = sha256(b"other");
    let mut ingest = bench.content.ingest(&bench.scope, &name, Expected::default()).await.unwrap();
    ingest.write(bytes("abc")).await.unwrap();
    let error = ingest.commit(Commit { expected: expect(&wrong), ..Commit::default() }).await.unwrap_err();
    assert_eq!(error.fault(), Fault::DigestMismatch);
    assert!(error.to_string().ends_with("failed precondition"), "{error}");
    let ingest = bench.content.ingest(&bench.scope, &name, Expected::default()).await.unwrap();
    let expected = Expected { digest: None, size: Some(4) };
    let error = ingest.commit(Commit { expected, ..Commit::default() }).await.unwrap_err();
    assert_eq!(error.fault(), Fault::SizeMismatch);
    let mut ingest = bench.content.ingest(&bench.scope, &name, Expected::default()).await.unwrap();
    assert_eq!(ingest.status().offset, 3);
    ingest.truncate().await.unwrap();
    assert_eq!((ingest.status().offset, ingest.digest()), (0, sha256(b"")));
    drop(ingest);
    bench.content.abort(&bench.scope, &name).await.unwrap();
    assert_eq!(bench.content.abort(&bench.scope, &name).await.unwrap_err().fault(), Fault::NotFound);
    assert_eq!(bench.content.status(&bench.scope, &name).await.unwrap_err().fault(), Fault::NotFound);
}

#[tokio::test]
async fn sha512_is_honoured() {
    use sha2::Digest as _;
    let bench = Bench::new().await;
    let digest = Digest::sha512(sha2::Sha512::digest(b"abc").into());
    bench.content.write_all(&bench.scope, &reference("r"), bytes("abc"), &digest, Labels::new()).await.unwrap();
    assert!(bench.folder.path().join("content/blobs/sha512").join(digest.hex()).exists());
    let mut ingest = bench.content.ingest(&bench.scope, &reference("late"), Expected::default()).await.unwrap();
    ingest.write(bytes("abcd")).await.unwrap();
    let late = Digest::sha512(sha2::Sha512::digest(b"abcd").into());
    ingest.commit(Commit { expected: expect(&late), ..Commit::default() }).await.unwrap();
}

#[tokio::test]
async fn a_known_digest_ends_the_ingest_and_joins_the_lease() {
    let bench = Bench::new().await;
    let digest = write(&bench, &bench.scope, "abc").await;
    let held = bench.scope.with_lease(lease("l"));
    let error = bench.content.ingest(&held, &reference("r"), expect(&digest)).await.unwrap_err();
    assert!(error.to_string().starts_with("lease does not exist"), "{error}");
    bench.leases.create(&bench.scope, Some(lease("l")), Labels::new()).await.unwrap();
    let error = bench.content.ingest(&held, &reference("r"), expect(&digest)).await.unwrap_err();
    assert_eq!(error.fault(), Fault::AlreadyExists);
    assert_eq!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap(), [content(&digest)]);
    // found out at the commit: the reference is gone all the same
    let mut ingest = bench.content.ingest(&held, &reference("r"), Expected::default()).await.unwrap();
    assert_eq!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap().len(), 2);
    ingest.write(bytes("abc")).await.unwrap();
    assert_eq!(ingest.commit(Commit::default()).await.unwrap_err().fault(), Fault::AlreadyExists);
    assert!(bench.content.statuses(&bench.scope, &Filters::default()).await.unwrap().is_empty());
    assert_eq!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap(), [content(&digest)]);
    bench.content.delete(&held, &digest).await.unwrap();
    assert!(bench.leases.resources(&bench.scope, &lease("l")).await.unwrap().is_empty());
}

#[tokio::test]
async fn another_namespace_takes_bytes_over() {
    let bench = Bench::new().await;
    let digest = write(&bench, &bench.scope, "shared").await;
    let other = scope("other");
    assert_eq!(bench.content.info(&other, &digest).await.unwrap_err().fault(), Fault::NotFound);
    assert!(bench.content.list(&other, &Filters::default()).await.unwrap().is_empty());
    let ingest = bench.content.ingest(&other, &reference("r"), expect(&digest)).await.unwrap();
    let status = ingest.status();
    assert_eq!((status.offset, status.total, ingest.digest()), (6, 6, digest.clone()));
    assert_eq!(bench.content.status(&other, &reference("r")).await.unwrap().offset, 6);
    // the only record goes; the borrowed bytes stay until the ingest is done
    bench.content.delete(&bench.scope, &digest).await.unwrap();
    assert_eq!(bench.collector.collect().await.unwrap().files, 0);
    ingest.commit(Commit::default()).await.unwrap();
    assert_eq!(bench.content.read_all(&other, &digest, 100).await.unwrap(), "shared");
    // a write copies first
    let mut ingest = bench.content.ingest(&bench.scope, &reference("r"), expect(&digest)).await.unwrap();
    ingest.write(bytes("!")).await.unwrap();
    assert_eq!((ingest.status().offset, ingest.digest()), (7, sha256(b"shared!")));
    bench.content.delete(&other, &digest).await.unwrap();
}

#[tokio::test]
async fn a_write_whose_future_is_dropped_is_not_lost_or_doubled() {
    let bench = Bench::new().await;
    let mut ingest = bench.content.ingest(&bench.scope, &reference("r"), Expected::default()).await.unwrap();
    {
        let mut write = ingest.write(bytes("abc"));
        let _ = futures::poll!(&mut write);
    }
    ingest.write(bytes("def")).await.unwrap();
    assert_eq!((ingest.status().offset, ingest.digest()), (6, sha256(b"abcdef")));
}

#[tokio::test]
async fn files_without_a_record_go_and_damage_is_named() {
    let bench = Bench::new().await;
    let digest = write(&bench, &bench.scope, "abc").await;
    let orphan = sha256(b"orphan");
    std::fs::write(blob_file(&bench, &orphan), "orphan").unwrap();
    std::fs::create_dir(bench.folder.path().join("content/ingest/dead")).unwrap();
    bench.content.update(&bench.scope, &digest, &labels(&[("containerd.io/gc.root", "x")]), &Mask::All).await.unwrap();
    assert_eq!(bench.collector.collect().await.unwrap().files, 2);
    assert!(blob_file(&bench, &digest).exists());
    std::fs::remove_file(blob_file(&bench, &digest)).unwrap();
    assert_eq!(bench.content.open(&bench.scope, &digest).await.unwrap_err().fault(), Fault::Corrupt);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u8, usize),
    Truncate,
    Reopen,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn an_ingest_is_the_bytes_written(steps in proptest::collection::vec(prop_oneof![
        6 => (any::<u8>(), 0..3000_usize).prop_map(|(byte, length)| Step::Write(byte, length)),
        1 => Just(Step::Truncate),
        2 => Just(Step::Reopen),
    ], 1..20)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            let scope = Scope::new(Namespace::new("ns").unwrap(), bench.scope.actor.clone());
            let name = reference("r");
            let mut ingest = bench.content.ingest(&scope, &name, Expected::default()).await.unwrap();
            let mut model = Vec::new();
            for step in steps {
                match step {
                    Step::Write(byte, length) => {
                        model.extend(vec![byte; length]);
                        ingest.write(vec![byte; length].into()).await.unwrap();
                    }
                    Step::Truncate => {
                        model.clear();
                        ingest.truncate().await.unwrap();
                    }
                    Step::Reopen => {
                        drop(ingest);
                        ingest = bench.content.ingest(&scope, &name, Expected::default()).await.unwrap();
                    }
                }
                assert_eq!((ingest.status().offset, ingest.digest()), (model.len() as u64, sha256(&model)));
            }
            let blob = ingest.commit(Commit::default()).await.unwrap();
            let digest = blob.digest.parse().unwrap();
            assert_eq!(bench.content.read_all(&scope, &digest, 1 << 20).await.unwrap(), model);
        });
    }
}
