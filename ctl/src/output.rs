//! What people read: tables, sizes, ages.

use comfy_table::{ContentArrangement, Table, presets};
use prost_types::Timestamp;
use std::time::{Duration, SystemTime};

/// A table without lines, as `docker ps` prints it.
pub(crate) fn table(titles: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(titles.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// `12.3MB`, in powers of 1000 as docker counts images.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB"])
}

/// `12.3MiB`, in powers of 1024 as docker counts memory.
pub(crate) fn memory(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB"])
}

fn scaled(bytes: u64, step: f64, units: &[&str]) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = if unit == 0 || value >= 100.0 {
        0
    } else if value >= 10.0 {
        1
    } else {
        2
    };
    format!("{value:.digits$}{}", units[unit])
}

/// `3 minutes ago`; empty for no time.
pub(crate) fn ago(time: Option<&Timestamp>) -> String {
    let Some(time) = time.and_then(|time| SystemTime::try_from(*time).ok()) else { return String::new() };
    format!("{} ago", span(SystemTime::now().duration_since(time).unwrap_or_default()))
}

/// `About an hour`, in docker's words.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3_600 => format!("{minutes} minutes"),
        3_600..7_200 => "About an hour".into(),
        7_200..172_800 => format!("{hours} hours"),
        172_800..1_209_600 => format!("{} days", hours / 24),
        1_209_600..5_184_000 => format!("{} weeks", hours / 168),
        5_184_000..63_072_000 => format!("{} months", hours / 730),
        _ => format!("{} years", hours / 8760),
    }
}

/// RFC 3339 with nanoseconds, UTC.
pub(crate) fn rfc3339(time: Option<&Timestamp>) -> String {
    time.and_then(|time| SystemTime::try_from(*time).ok())
        .and_then(|time| jiff::Timestamp::try_from(time).ok())
        .map(|time| time.to_string())
        .unwrap_or_default()
}

/// A time as a person gives it: RFC 3339, seconds since 1970, or an age such as `10m` or `1h30m`.
pub(crate) fn parse_time(text: &str) -> anyhow::Result<Timestamp> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(Timestamp::from(SystemTime::from(time)));
    }
    if let Ok(seconds) = text.parse::<f64>()
        && (0.0..1e11).contains(&seconds)
    {
        return Ok(Timestamp::from(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)));
    }
    if let Ok(time) = text.parse::<jiff::civil::DateTime>() {
        return Ok(Timestamp::from(SystemTime::from(time.to_zoned(jiff::tz::TimeZone::system())?.timestamp())));
    }
    let age: jiff::SignedDuration = text
        .parse()
        .map_err(|_| anyhow::anyhow!("time {text:?} is neither RFC 3339, nor seconds, nor an age such as 10m"))?;
    Ok(Timestamp::from(SystemTime::now() - Duration::try_from(age).unwrap_or_default()))
}

/// The first 12 digits of an id.
pub(crate) fn short(id: &str) -> String {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    if hex.len() == 64 { hex.chars().take(12).collect() } else { id.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_dockers_do() {
        assert_eq!(size(999), "999B");
        assert_eq!(size(4_200_000), "4.20MB");
        assert_eq!(memory(1536), "1.50KiB");
        assert_eq!(memory(200 << 20), "200MiB");
    }

    #[test]
    fn ages_read_as_dockers_do() {
        assert_eq!(span(Duration::from_secs(59)), "59 seconds");
        assert_eq!(span(Duration::from_secs(61)), "About a minute");
        assert_eq!(span(Duration::from_secs(4 * 86_400)), "4 days");
    }

    #[test]
    fn times_are_read_in_all_forms() {
        assert_eq!(parse_time("2024-01-02T03:04:05Z").unwrap().seconds, 1_704_164_645);
        assert_eq!(parse_time("12").unwrap().seconds, 12);
        assert!(parse_time("10m").unwrap().seconds > 1_704_164_645);
        assert!(parse_time("soon").unwrap_err().to_string().contains("soon"));
    }
}
