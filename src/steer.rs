//! Commands that look at or change one thing of the daemon: `cache`, `mode`, `config`, `pause`, `resume`, `cancel`.

use crate::{
    cli::{CacheAction, CacheArgs, ConfigArgs, Global, JobArgs, ModeArgs},
    client,
    client::{Client, ClientError},
    config, load_config,
    settings::{self, Setting},
    show,
};
use anyhow::bail;
use dosvc_content::format_bytes;
use dosvc_engine::api::{CacheEntry, JobId};
use serde_json::json;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// `pause`, `resume`, `cancel`.
pub(crate) async fn job(global: &Global, args: JobArgs, verb: &str) -> anyhow::Result<()> {
    let JobArgs { id } = args;
    Ok(client(global)?.steer(JobId(id), verb).await?)
}

/// `cache …`
pub(crate) async fn cache(global: &Global, args: CacheArgs) -> anyhow::Result<()> {
    let CacheArgs { action } = args;
    let client = client(global)?;
    match action {
        CacheAction::List { json: true } => show::pretty_json(&client.cache().await?)?,
        CacheAction::List { json: false } => show::line(cache_text(&client.cache().await?))?,
        CacheAction::Pin { file_id } => {
            client
                .pin(&whole_id(&client, &file_id).await?, true)
                .await?
        }
        CacheAction::Unpin { file_id } => {
            client
                .pin(&whole_id(&client, &file_id).await?, false)
                .await?
        }
        CacheAction::Delete {
            file_id,
            all: _,
            include_pinned,
        } => {
            let file_id = match file_id {
                Some(beginning) => Some(whole_id(&client, &beginning).await?),
                None => None,
            };
            let deleted = client.delete(file_id.as_deref(), include_pinned).await?;
            show::line(format!("{} deleted", files(deleted)))?;
        }
    }
    Ok(())
}

/// The one file whose id begins like this.
async fn whole_id(client: &Client, beginning: &str) -> anyhow::Result<String> {
    let entries = client.cache().await?;
    let mut fitting = entries
        .iter()
        .filter(|entry| entry.file_id.starts_with(beginning));
    match (fitting.next(), fitting.next()) {
        (Some(entry), None) => Ok(entry.file_id.clone()),
        (Some(_), Some(_)) => bail!(
            "several files in the cache have an id that begins with {beginning}; give more of it"
        ),
        (None, _) => bail!(
            "no file in the cache has an id that begins with {beginning}; `dosvc cache list` shows them"
        ),
    }
}

fn cache_text(entries: &[CacheEntry]) -> String {
    if entries.is_empty() {
        return "the cache is empty".into();
    }
    let mut table = show::table(
        &[
            "file id", "size", "in cache", "to peers", "pinned", "expires", "shared", "from",
        ],
        &[1, 2, 3],
    );
    for entry in entries {
        let word = |yes: bool| if yes { "yes" } else { "" };
        table.add_row([
            show::short_id(&entry.file_id).to_owned(),
            format_bytes(entry.file_size),
            format!(
                "{:.1}%",
                show::percent(entry.file_size_in_cache, entry.file_size)
            ),
            format_bytes(entry.uploaded.total()),
            word(entry.is_pinned).to_owned(),
            entry
                .expire_on
                .map_or_else(|| "when space is needed".into(), expiry),
            word(entry.shared).to_owned(),
            entry.urls.first().cloned().unwrap_or_default(),
        ]);
    }
    let bytes: u64 = entries.iter().map(|entry| entry.file_size_in_cache).sum();
    format!(
        "{}\n{}, {}",
        table.trim_fmt(),
        files(entries.len() as u64),
        format_bytes(bytes)
    )
}

/// `1 file`, `2 files`
fn files(count: u64) -> String {
    format!("{count} file{}", if count == 1 { "" } else { "s" })
}

/// `in 2 d 4 h`
fn expiry(seconds_since_1970: i64) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    match u64::try_from(seconds_since_1970)
        .ok()
        .and_then(|at| at.checked_sub(now))
    {
        Some(left) if left > 0 => format!("in {}", show::duration(Duration::from_secs(left))),
        _ => "now".into(),
    }
}

/// `mode [N]`
pub(crate) async fn mode(global: &Global, args: ModeArgs) -> anyhow::Result<()> {
    let ModeArgs { mode, json } = args;
    let client = client(global)?;
    let needs_restart = match mode {
        Some(mode) => client.set_mode(mode).await?,
        None => Vec::new(),
    };
    let status = client.status().await?;
    if json {
        show::pretty_json(&json!({
            "DownloadMode": status.download_mode,
            "Name": dosvc_content::DownloadMode::from_number(status.download_mode.into()).map(|mode| mode.name()),
            "NeedsRestart": needs_restart,
        }))?;
        return Ok(());
    }
    show::line(show::mode(status.download_mode))?;
    if mode.is_some() {
        show::line("until the daemon stops; to keep it, set download_mode in the configuration")?;
    }
    for key in needs_restart {
        show::line(format!("{key} takes effect after a restart"))?;
    }
    Ok(())
}

/// `config [--verbose]`
pub(crate) async fn config(global: &Global, args: ConfigArgs) -> anyhow::Result<()> {
    let ConfigArgs {
        sample,
        verbose,
        json,
    } = args;
    if sample {
        return Ok(show::line(config::sample_file().trim_end())?);
    }
    let settings = match client(global)?.settings().await {
        Ok(settings) => settings,
        Err(ClientError::NoDaemon(_)) if global.socket.is_none() => {
            eprintln!("dosvc: no daemon runs; this is what one would start with");
            settings::all(&load_config(global)?)
        }
        Err(error) => return Err(error.into()),
    };
    if json {
        show::pretty_json(&settings)?;
    } else {
        show::line(settings_text(&settings, verbose))?;
    }
    Ok(())
}

/// All of them, or those that somebody set.
fn settings_text(settings: &[Setting], verbose: bool) -> String {
    let mut table = show::table(&["setting", "value", "provider"], &[]);
    let mut defaults = 0;
    for setting in settings {
        if verbose || !setting.is_default {
            let value = setting.value.as_deref().unwrap_or("not set");
            table.add_row([&setting.name, value, &setting.provider]);
        } else {
            defaults += 1;
        }
    }
    if verbose {
        table.trim_fmt()
    } else if table.is_empty() {
        format!("all {defaults} settings have their defaults; --verbose shows them")
    } else {
        format!(
            "{}\n{defaults} more have their defaults; --verbose shows them",
            table.trim_fmt()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_set_is_shown_unless_all_is_wanted() {
        let setting = |name: &str, is_default| Setting {
            provider_number: None,
            name: name.into(),
            policy: None,
            value: Some("1".into()),
            provider: "p".into(),
            is_default,
        };
        let settings = [setting("a", true), setting("b", false)];
        let plain = settings_text(&settings, false);
        assert!(
            plain.contains('b') && plain.contains("1 more have"),
            "{plain}"
        );
        assert!(settings_text(&settings, true).contains('a'));
        assert!(settings_text(&settings[..1], false).starts_with("all 1 settings"));
    }
}
