//! Our nftables table: made with the first network, changed by elements, made anew from memory where somebody took it away.

use crated_core::fail;
use crated_sys::netlink::nft::{Element, Nft};
use crated_sys::{Errno, memfd};
use crated_types::{Error, Fault, Result};
use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::rules::{Mapping, NetworkRules, SETS, ruleset};
use super::{lock, refused};
use crate::address::Holder;

/// Time that `nft` gets: with 5,000 elements it needs a tenth of a second.
const NFT_DEADLINE: Duration = Duration::from_secs(60);
/// Where `nft` is looked for beside PATH.
const PLACES: [&str; 2] = ["/usr/sbin/nft", "/sbin/nft"];

/// What the table is to hold: memory is the truth, the kernel is made to agree.
#[derive(Debug, Default)]
struct Wanted {
    networks: BTreeMap<String, NetworkRules>,
    mappings: BTreeMap<Holder, Vec<Mapping>>,
    /// The kernel has the table.
    made: bool,
    socket: Option<Nft>,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Tables {
    name: String,
    wanted: Mutex<Wanted>,
}

impl Tables {
    pub(crate) fn new(name: String) -> Self {
        Self { name, wanted: Mutex::default() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Lets the table know a network.
    pub(crate) fn open_network(&self, id: &str, rules: NetworkRules) -> Result<()> {
        let mut wanted = lock(&self.wanted);
        if wanted.made && wanted.networks.get(id) == Some(&rules) {
            return Ok(());
        }
        let known = wanted.networks.insert(id.to_owned(), rules.clone()).is_some();
        if wanted.made && !known && nft(&rules.command("add", &self.name)).is_ok() {
            return Ok(());
        }
        self.write(&mut wanted)
    }

    /// Lets the table forget a network.
    pub(crate) fn close_network(&self, id: &str) -> Result<()> {
        let mut wanted = lock(&self.wanted);
        let Some(rules) = wanted.networks.remove(id) else { return Ok(()) };
        if wanted.networks.is_empty() {
            wanted.made = false;
            return self.remove();
        }
        if wanted.made && nft(&rules.command("delete", &self.name)).is_err() {
            self.write(&mut wanted)?;
        }
        Ok(())
    }

    /// Removes the table; one that is not there is fine.
    fn remove(&self) -> Result<()> {
        nft(&format!("add table inet {0}\ndelete table inet {0}\n", self.name))
    }

    /// Adds mappings of a container.
    pub(crate) fn publish(&self, who: &Holder, mappings: &[Mapping]) -> Result<()> {
        if mappings.is_empty() {
            return Ok(());
        }
        let mut wanted = lock(&self.wanted);
        let mine = wanted.mappings.entry(who.clone()).or_default();
        mine.extend(mappings);
        mine.sort_unstable();
        mine.dedup();
        fail::point("net.ports")?;
        self.change(&mut wanted, |socket| socket.add(&elements(mappings)))
    }

    /// Removes mappings of a container.
    pub(crate) fn unpublish(&self, who: &Holder, which: impl Fn(&Mapping) -> bool) -> Result<Vec<Mapping>> {
        let mut wanted = lock(&self.wanted);
        let Some(mine) = wanted.mappings.get_mut(who) else { return Ok(Vec::new()) };
        let (gone, stay): (Vec<_>, Vec<_>) = mine.drain(..).partition(which);
        if stay.is_empty() {
            wanted.mappings.remove(who);
        } else {
            wanted.mappings.insert(who.clone(), stay);
        }
        fail::moment("net.ports.remove");
        if wanted.made && !gone.is_empty() {
            self.change(&mut wanted, |socket| socket.remove(&elements(&gone)))?;
        }
        Ok(gone)
    }

    /// Takes in what records say, without touching the kernel: [`Tables::restore`] follows.
    pub(crate) fn recall(&self, networks: BTreeMap<String, NetworkRules>, mappings: BTreeMap<Holder, Vec<Mapping>>) {
        let mut wanted = lock(&self.wanted);
        wanted.networks = networks;
        wanted.mappings = mappings;
    }

    /// Makes the table anew in one transaction; with no network in use there is none.
    pub(crate) fn restore(&self) -> Result<()> {
        let mut wanted = lock(&self.wanted);
        if wanted.networks.is_empty() {
            return Ok(());
        }
        self.write(&mut wanted)
    }

    /// Makes the table anew if it was made and is not there.
    pub(crate) fn restore_lost(&self) -> Result<bool> {
        let mut wanted = lock(&self.wanted);
        if !wanted.made || self.exists(&mut wanted)? {
            return Ok(false);
        }
        self.write(&mut wanted)?;
        Ok(true)
    }

    /// What of the wanted table the kernel does not have, by set; none: the whole table.
    pub(crate) fn missing(&self) -> Result<Option<Vec<String>>> {
        let mut wanted = lock(&self.wanted);
        if !wanted.made {
            return Ok(Some(Vec::new()));
        }
        if !self.exists(&mut wanted)? {
            return Ok(None);
        }
        let mut missing = Vec::new();
        for (set, _) in SETS.iter().filter(|(set, _)| set.starts_with("pub")) {
            let present = match self.socket(&mut wanted)?.keys(set) {
                Ok(keys) => keys,
                Err(error) if error.errno == Errno::ENOENT => Vec::new(),
                Err(error) => return Err(refused("list elements", error)),
            };
            let present: std::collections::HashSet<_> = present.into_iter().collect();
            let all = wanted.mappings.values().flatten().map(Mapping::element).filter(|element| element.set == *set);
            let count = all.filter(|element| !present.contains(&element.key)).count();
            if count > 0 {
                missing.push(format!("{count} elements of {set}"));
            }
        }
        Ok(Some(missing))
    }

    fn exists(&self, wanted: &mut Wanted) -> Result<bool> {
        self.socket(wanted)?.exists().map_err(|error| refused("look for the table", error))
    }

    fn socket<'a>(&self, wanted: &'a mut Wanted) -> Result<&'a mut Nft> {
        if wanted.socket.is_none() {
            wanted.socket = Some(Nft::open(&self.name).map_err(|error| refused("open netlink for nftables", error))?);
        }
        wanted.socket.as_mut().ok_or_else(|| Error::internal("a socket that was just opened"))
    }

    fn change(&self, wanted: &mut Wanted, act: impl FnOnce(&mut Nft) -> crated_sys::Result<()>) -> Result<()> {
        if !wanted.made {
            return self.write(wanted);
        }
        match act(self.socket(wanted)?) {
            Ok(()) => Ok(()),
            // Somebody took the table away or put something of theirs into it: memory knows how it has to be.
            Err(error) if matches!(error.errno, Errno::ENOENT | Errno::EBUSY | Errno::EEXIST) => self.write(wanted),
            Err(error) => Err(refused("change elements of the table", error)),
        }
    }

    fn write(&self, wanted: &mut Wanted) -> Result<()> {
        nft(&ruleset(&self.name, &wanted.networks, &wanted.mappings))?;
        wanted.made = true;
        Ok(())
    }
}

fn elements(mappings: &[Mapping]) -> Vec<Element> {
    let mut all: Vec<_> = mappings.iter().map(Mapping::element).collect();
    all.sort_by_key(|element| element.set);
    all
}

/// Runs `nft -f -` in the host's namespace: one transaction.
pub(crate) fn nft(text: &str) -> Result<()> {
    run(&["-f", "-"], text).map(drop)
}

/// Runs `nft`, with a text on its standard input; answers with its output.
pub(crate) fn run(arguments: &[&str], text: &str) -> Result<String> {
    let os = |error| Error::os("run nft", error);
    let input = memfd::with_bytes("nft", text.as_bytes()).map_err(|error| Error::os("run nft", error.into()))?;
    let file = |name| memfd::create(name, memfd::Use::Data).map_err(|error| Error::os("run nft", error.into()));
    let (out, err) = (file("out")?, file("err")?);
    let program = PLACES.into_iter().find(|place| std::path::Path::new(place).is_file()).unwrap_or("nft");
    let clone = |fd: &std::os::fd::OwnedFd| fd.try_clone().map(Stdio::from).map_err(os);
    let spawned = Command::new(program)
        .args(arguments)
        .stdin(Stdio::from(input))
        .stdout(clone(&out)?)
        .stderr(clone(&err)?)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::new(Fault::Unsupported, "the program nft is not installed")
                .remedy_is("install the package nftables, or run the container with `--network none` or `host`"));
        }
        Err(error) => return Err(os(error)),
    };
    let begun = Instant::now();
    let mut pause = Duration::from_micros(500);
    let status = loop {
        match child.try_wait().map_err(os)? {
            Some(status) => break status,
            None if begun.elapsed() > NFT_DEADLINE => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::new(
                    Fault::TimedOut,
                    format!("nft did not end within {} s", NFT_DEADLINE.as_secs()),
                ));
            }
            None => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(Duration::from_millis(5));
            }
        }
    };
    if status.success() {
        return read(out);
    }
    let words: String = read(err)?.lines().take(4).collect::<Vec<_>>().join("; ").chars().take(400).collect();
    Err(Error::new(Fault::Runtime, format!("nft: {words}"))
        .remedy_is("look whether the kernel has nf_tables, nft_nat, nft_masq, nft_fib, and crated CAP_NET_ADMIN; `--network none` needs none of them"))
}

/// What a program wrote, up to 16 MiB.
fn read(fd: std::os::fd::OwnedFd) -> Result<String> {
    use std::io::Seek as _;
    let mut file = std::fs::File::from(fd);
    let mut bytes = Vec::new();
    file.rewind()
        .and_then(|()| file.take(16 << 20).read_to_end(&mut bytes))
        .map_err(|error| Error::os("read nft's output", error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
