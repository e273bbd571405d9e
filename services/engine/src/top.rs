//! Top: a container's processes as `ps -ef` shows them, read from the host's `/proc`; nothing of the container runs for it.

use crated_api::crated::engine::v1::{TopRequest, TopResponse, top_response::Row};
use crated_types::{Result, Scope};
use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::engine::{Engine, blocking};

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// Clock ticks a second of `/proc/PID/stat`: 100 on every architecture that Linux has kept.
const TICKS: u64 = 100;
/// Longest command line that is shown, in bytes.
const COMMAND_MAX: usize = 4096;

impl Engine {
    /// The processes of a running container.
    pub async fn top(self: &Arc<Self>, scope: &Scope, request: TopRequest) -> Result<TopResponse> {
        let found = self.find(scope, &request.container).await?;
        let (task, _) = self.running(scope, &found).await?;
        let pids = task.pids().await?;
        blocking(move || {
            let host = Host::read();
            let rows = pids.into_iter().filter_map(|(pid, _)| host.row(pid)).map(|cells| Row { cells }).collect();
            Ok(TopResponse { titles: TITLES.map(str::to_owned).to_vec(), rows })
        })
        .await
    }
}

/// What is the same for every process.
struct Host {
    users: HashMap<u32, String>,
    booted: u64,
    now: SystemTime,
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: u32,
    terminal: u32,
    /// Ticks in user and kernel mode.
    used: u64,
    /// Ticks from the boot to its start.
    started: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The name stands in brackets and may hold brackets itself.
        let (open, close) = (text.find('(')?, text.rfind(')')?);
        let rest: Vec<&str> = text.get(close + 1..)?.split_whitespace().collect();
        let number = |field: usize| rest.get(field - 3)?.parse::<u64>().ok();
        Some(Self {
            name: text.get(open + 1..close)?.to_owned(),
            parent: u32::try_from(number(4)?).ok()?,
            terminal: rest.get(7 - 3)?.parse::<i32>().ok()?.cast_unsigned(),
            used: number(14)? + number(15)?,
            started: number(22)?,
        })
    }
}

impl Host {
    fn read() -> Self {
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let booted = stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0);
        Self { users: user_names(&users), booted, now: SystemTime::now() }
    }

    /// None for a process that has ended meanwhile.
    fn row(&self, pid: u32) -> Option<Vec<String>> {
        let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let uid = status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse::<u32>().ok())?;
        let started = UNIX_EPOCH + Duration::from_secs(self.booted + stat.started / TICKS);
        let up = self.now.duration_since(started).unwrap_or_default();
        let used = stat.used / TICKS;
        let busy = if up.as_secs() == 0 { 0 } else { used * 100 / up.as_secs() };
        Some(vec![
            self.users.get(&uid).cloned().unwrap_or_else(|| uid.to_string()),
            pid.to_string(),
            stat.parent.to_string(),
            busy.min(99).to_string(),
            start_text(started, up),
            terminal_text(stat.terminal),
            format!("{:02}:{:02}:{:02}", used / 3600, used / 60 % 60, used % 60),
            command(pid, &stat.name),
        ])
    }
}

fn user_names(passwd: &str) -> HashMap<u32, String> {
    let line = |line: &str| {
        let mut parts = line.split(':');
        let name = parts.next()?.to_owned();
        Some((parts.nth(1)?.parse().ok()?, name))
    };
    let mut names = HashMap::new();
    for (uid, name) in passwd.lines().filter_map(line) {
        names.entry(uid).or_insert(name);
    }
    names
}

/// The time of day where it started today, else the day.
fn start_text(started: SystemTime, up: Duration) -> String {
    let Ok(time) = jiff::Timestamp::try_from(started) else { return "?".into() };
    let time = time.to_zoned(jiff::tz::TimeZone::system());
    let format = if up < Duration::from_secs(24 * 3600) { "%H:%M" } else { "%b%d" };
    time.strftime(format).to_string()
}

/// Major 136..=143 are pseudo-terminals, 4 consoles (proc(5), `tty_nr`).
fn terminal_text(number: u32) -> String {
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn command(pid: u32, name: &str) -> String {
    let mut bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    bytes.truncate(COMMAND_MAX);
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split('\0').filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return format!("[{name}]");
    }
    // A container may put control characters there: they are not for a person's terminal.
    words.join(" ").chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_is_read() {
        let text = "42 (a) b (c) S 1 42 42 34816 42 4194304 1 2 3 4 150 50 7 8 20 0 1 0 12345 1 2 3";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat, Stat { name: "a) b (c".into(), parent: 1, terminal: 34816, used: 200, started: 12345 });
        assert!(Stat::parse("rubbish").is_none() && Stat::parse("1 (x) S").is_none());
    }

    #[test]
    fn terminals_have_names() {
        assert_eq!((terminal_text(34816).as_str(), terminal_text(34819).as_str()), ("pts/0", "pts/3"));
        assert_eq!((terminal_text(1025).as_str(), terminal_text(0).as_str()), ("tty1", "?"));
    }

    #[test]
    fn our_own_row_has_every_column() {
        let row = Host::read().row(std::process::id()).unwrap();
        assert_eq!(row.len(), TITLES.len());
        assert!(row.iter().all(|cell| !cell.is_empty()));
        assert!(Host::read().row(u32::MAX).is_none());
    }

    #[test]
    fn the_first_name_of_a_user_counts() {
        let names = user_names("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:\nbad\nweb:x:33:33::/:\n");
        assert_eq!((names[&0].as_str(), names[&33].as_str(), names.len()), ("root", "web", 2));
    }
}
