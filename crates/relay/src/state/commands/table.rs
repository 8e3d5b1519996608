//! Identities for people to read.

use std::io::{self, Write};

use crate::state::{Listed, Standing};

const HEADINGS: [&str; 6] = ["NAME", "STATE", "PORTS", "TUNNELS", "USERS", "EXPIRES"];

/// Writes a table with a heading, its columns as wide as their widest cell.
pub(super) fn write(listed: &[Listed], out: &mut dyn Write) -> io::Result<()> {
    let rows: Vec<_> = [HEADINGS.map(String::from)].into_iter().chain(listed.iter().map(row)).collect();
    let widths: [usize; HEADINGS.len()] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    for row in rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

fn row(identity: &Listed) -> [String; HEADINGS.len()] {
    let state = match identity.state {
        Standing::Active => "active",
        Standing::Revoked => "revoked",
        Standing::Expired => "expired",
    };
    // Without a server nothing is in use.
    let usage = |used: Option<usize>, most| used.map_or(format!("up to {most}"), |used| format!("{used} of {most}"));
    [
        identity.name.0.to_string(),
        state.into(),
        identity.ports.map_or("any".into(), |(first, last)| format!("{first}-{last}")),
        usage(identity.tunnels, identity.max_tunnels),
        usage(identity.users, identity.max_users),
        identity.expires.as_ref().map_or("never".into(), |time| time.0.to_string()),
    ]
}
