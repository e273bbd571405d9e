//! Verbs on images: pull, load, save, images, rmi, tag.

use crate::cmd::for_each;
use crate::cmd::prelude::*;
use crate::output;
use crate::progress::Shown;
use clap::Args;
use futures::StreamExt;
use std::io::{IsTerminal, Write};
use tokio::io::AsyncReadExt;

/// Pull images.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Print the name only
    #[arg(short, long)]
    quiet: bool,
    /// Platform, os/arch[/variant]
    #[arg(long, default_value = "")]
    platform: String,
    /// Speak HTTP without TLS
    #[arg(long)]
    plain_http: bool,
    /// Credentials USER:PASSWORD for this pull
    #[arg(long, env = "CRATED_CREDENTIALS", hide_env_values = true)]
    creds: Option<String>,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "")]
    snapshotter: String,
    /// Do not unpack
    #[arg(long)]
    no_unpack: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

/// Splits `user:password`.
pub(crate) fn credentials(text: Option<&str>) -> Result<Option<api::Credentials>> {
    let Some(text) = text else { return Ok(None) };
    let (username, secret) = text.split_once(':').context("credentials must be USER:PASSWORD")?;
    Ok(Some(api::Credentials { username: username.into(), secret: secret.into(), identity_token: String::new() }))
}

impl Pull {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let credentials = credentials(self.creds.as_deref())?;
        for image in &self.images {
            let request = api::PullRequest {
                reference: image.clone(),
                platform: self.platform.clone(),
                snapshotter: self.snapshotter.clone(),
                credentials: credentials.clone(),
                plain_http: self.plain_http,
                no_unpack: self.no_unpack,
            };
            let mut answers = client.engine().pull(request).await?.into_inner();
            let mut shown = Shown::new(self.quiet);
            while let Some(progress) = answers.next().await {
                let progress = progress?;
                shown.show(&progress);
                if let Some(image) = progress.image {
                    println!("{}", image.names.first().unwrap_or(&image.digest));
                }
            }
        }
        Ok(0)
    }
}

/// Load images.
#[derive(Debug, Args)]
pub(crate) struct Load {
    /// Archive; standard input without it
    #[arg(short, long)]
    input: Option<std::path::PathBuf>,
    /// Print nothing but the names
    #[arg(short, long)]
    quiet: bool,
    /// Do not unpack
    #[arg(long)]
    no_unpack: bool,
    /// Snapshotter to unpack into
    #[arg(long, default_value = "")]
    snapshotter: String,
    /// Platform to unpack
    #[arg(long, default_value = "")]
    platform: String,
}

impl Load {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let mut source: Box<dyn tokio::io::AsyncRead + Send + Unpin> = match &self.input {
            Some(path) => {
                Box::new(tokio::fs::File::open(path).await.with_context(|| format!("cannot open {}", path.display()))?)
            }
            None if std::io::stdin().is_terminal() => {
                bail!("standard input is a terminal: name an archive with --input")
            }
            None => Box::new(tokio::io::stdin()),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        let first = api::LoadRequest {
            data: bytes::Bytes::new(),
            no_unpack: self.no_unpack,
            snapshotter: self.snapshotter,
            platform: self.platform,
        };
        let reading = tokio::spawn(async move {
            if sender.send(first).await.is_err() {
                return Ok(());
            }
            loop {
                let mut data = bytes::BytesMut::with_capacity(1 << 20);
                if source.read_buf(&mut data).await? == 0 {
                    return Ok(());
                }
                if sender.send(api::LoadRequest { data: data.freeze(), ..Default::default() }).await.is_err() {
                    return Ok::<(), std::io::Error>(());
                }
            }
        });
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut answers = client.engine().load(requests).await?.into_inner();
        let mut shown = Shown::new(self.quiet);
        let mut loaded = 0;
        while let Some(progress) = answers.next().await {
            let progress = progress?;
            shown.show(&progress);
            for name in progress.image.iter().flat_map(|image| &image.names) {
                println!("Loaded image: {name}");
                loaded += 1;
            }
        }
        reading.await??;
        if loaded == 0 {
            bail!("the archive names no image");
        }
        Ok(0)
    }
}

/// Save images.
#[derive(Debug, Args)]
pub(crate) struct Save {
    /// Archive; standard output without it
    #[arg(short, long)]
    output: Option<std::path::PathBuf>,
    /// Platform, os/arch[/variant]
    #[arg(long, default_value = "")]
    platform: String,
    /// Every platform that is here
    #[arg(long)]
    all_platforms: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

impl Save {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        if self.output.is_none() && std::io::stdout().is_terminal() {
            bail!("standard output is a terminal: name an archive with --output");
        }
        let request =
            api::SaveRequest { references: self.images, platform: self.platform, all_platforms: self.all_platforms };
        let mut chunks = client.engine().save(request).await?.into_inner();
        // Nothing half is left under the name: the archive is renamed once it is whole. A device or pipe is written to.
        let special = |path: &std::path::Path| std::fs::metadata(path).is_ok_and(|meta| !meta.is_file());
        let part = self.output.as_ref().map(|path| {
            if special(path) {
                return path.clone();
            }
            let mut part = path.clone().into_os_string();
            part.push(".part");
            std::path::PathBuf::from(part)
        });
        let mut target: Box<dyn Write> = match &part {
            Some(part) => {
                Box::new(std::fs::File::create(part).with_context(|| format!("cannot create {}", part.display()))?)
            }
            None => Box::new(std::io::stdout().lock()),
        };
        let copied = async {
            while let Some(chunk) = chunks.next().await {
                target.write_all(&chunk?.data)?;
            }
            target.flush()?;
            Ok::<(), anyhow::Error>(())
        }
        .await;
        match (part, self.output) {
            (Some(part), Some(output)) if part == output => {}
            (Some(part), Some(output)) if copied.is_ok() => std::fs::rename(part, output)?,
            (Some(part), _) => std::fs::remove_file(part)?,
            _ => {}
        }
        copied.map(|()| 0)
    }
}

/// List images.
#[derive(Debug, Args)]
pub(crate) struct Images {
    /// Digests only
    #[arg(short, long)]
    quiet: bool,
    /// Show whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Filter, e.g. name~=busybox or labels.stage==test
    #[arg(short, long)]
    filter: Vec<String>,
    /// Go template for each image
    #[arg(long)]
    format: Option<String>,
}

impl Images {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let request = api::ListImagesRequest { filters: self.filter, all: false };
        let images = client.engine().list_images(request).await?.into_inner().images;
        let template = self.format.as_deref().map(crate::format::Template::parse).transpose()?;
        let mut rows = Vec::new();
        for image in &images {
            let id = if self.no_trunc { image.id.clone() } else { output::short(&image.id) };
            let size = output::size(u64::try_from(image.size).unwrap_or(0));
            for name in image.names.iter().map(String::as_str).chain(image.names.is_empty().then_some("<none>")) {
                let (repository, tag) = split_tag(name);
                if let Some(template) = &template {
                    let data = serde_json::json!({
                        "ID": id, "Repository": repository, "Tag": tag, "Digest": image.digest, "Size": size,
                        "CreatedSince": output::ago(image.created_at.as_ref()), "CreatedAt": output::rfc3339(image.created_at.as_ref()),
                        "Platform": image.platform, "Labels": image.labels,
                    });
                    println!("{}", template.render(&data)?);
                    continue;
                }
                let mut row = vec![repository, tag];
                if self.digests {
                    row.push(image.digest.clone());
                }
                row.extend([id.clone(), output::ago(image.created_at.as_ref()), size.clone()]);
                rows.push(row);
            }
        }
        if self.quiet {
            let mut ids: Vec<String> = images
                .iter()
                .map(|image| if self.no_trunc { image.id.clone() } else { output::short(&image.id) })
                .collect();
            ids.dedup();
            ids.iter().for_each(|id| println!("{id}"));
        } else if template.is_none() {
            let titles: &[&str] = if self.digests {
                &["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"]
            } else {
                &["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"]
            };
            println!("{}", output::table(titles, rows));
        }
        Ok(0)
    }
}

/// Repository and tag as docker shows them: `docker.io/library/bb:1` is `bb` and `1`.
fn split_tag(name: &str) -> (String, String) {
    match crated_types::Reference::parse(name) {
        Ok(reference) => {
            let familiar = reference.familiar();
            let bare = familiar.split('@').next().unwrap_or(&familiar);
            let slash = bare.rfind('/').map_or(0, |at| at + 1);
            match bare[slash..].find(':') {
                Some(colon) => (bare[..slash + colon].into(), bare[slash + colon + 1..].into()),
                None => (bare.into(), "<none>".into()),
            }
        }
        Err(_) => (name.into(), "<none>".into()),
    }
}

/// Remove images.
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// Also those that stopped containers were made from
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    images: Vec<String>,
}

impl Remove {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        let force = self.force;
        for_each(&self.images, |reference| async move {
            let request = api::RemoveImageRequest { reference, force, no_prune: false };
            let answer = client.engine().remove_image(request).await?.into_inner();
            let lines = answer.untagged.iter().map(|name| format!("Untagged: {name}"));
            let lines: Vec<String> = lines.chain(answer.deleted.iter().map(|id| format!("Deleted: {id}"))).collect();
            Ok(lines.join("\n"))
        })
        .await
    }
}

/// Tag an image.
#[derive(Debug, Args)]
pub(crate) struct Tag {
    source: String,
    target: String,
}

impl Tag {
    pub(crate) async fn act(self, client: &Client) -> Result<u8> {
        client.engine().tag_image(api::TagImageRequest { source: self.source, target: self.target }).await?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_as_docker_does() {
        assert_eq!(split_tag("docker.io/library/bb:1"), ("bb".into(), "1".into()));
        assert_eq!(split_tag("localhost:5000/a/b:x"), ("localhost:5000/a/b".into(), "x".into()));
    }
}
