//! `dosvc explain`: one content in plain words.

use crate::{
    cli::{ExplainArgs, Global},
    client, show, status,
};
use dosvc_content::format_bytes;
use dosvc_engine::api::{
    DelayExplanation, Explanation, JobState, JobStatus, ModeExplanation, SourceExplanation,
    SourceStanding,
};
use std::time::Duration;

/// Sources that are told of one by one; the rest is counted.
const SOURCES_SHOWN: usize = 40;

/// Runs the command.
pub(crate) async fn run(global: &Global, args: ExplainArgs) -> anyhow::Result<()> {
    let ExplainArgs { id, json } = args;
    let explanation = client(global)?.explain(&id).await?;
    if json {
        show::pretty_json(&explanation)?;
    } else {
        show::line(text(&explanation))?;
    }
    Ok(())
}

fn text(explanation: &Explanation) -> String {
    let Explanation {
        file_id: _,
        download,
        cache: _,
        mode,
        no_peers,
        gates,
        restriction,
        array,
        limit,
        delays,
        waiting,
        sources,
        sources_are_past: _,
        advice,
    } = explanation;
    let mut lines = head(explanation);
    lines.push(String::new());
    lines.extend(mode_text(mode, download.as_ref()));
    lines.push(peers_text(no_peers, mode));
    // A gate that closes all peers is said already.
    let rest = gates
        .iter()
        .filter(|gate| !no_peers.contains(&gate.message));
    lines.extend(rest.map(|gate| {
        let closes = gate.closes.join(", ");
        format!("closed    {closes}: {} ({})", gate.message, gate.code)
    }));
    let may = restriction.as_ref().filter(|_| no_peers.is_empty());
    lines.extend(may.map(|only| format!("          {only} (restrict_peer_selection_by)")));
    lines.extend(array.iter().map(|array| format!("array     {array}")));
    lines.extend(
        limit
            .as_ref()
            .map(|limit| format!("limit     {}", status::limit_text(limit))),
    );
    lines.extend(delays.iter().map(delay_text));
    lines.extend(waiting.as_ref().map(|why| format!("waiting   {why}")));
    lines.extend(advice.iter().map(|text| format!("to do     {text}")));
    lines.push(String::new());
    lines.push(sources_text(sources, explanation));
    lines.join("\n")
}

fn peers_text(no_peers: &[String], mode: &ModeExplanation) -> String {
    if no_peers.is_empty() {
        "peers     may be used".to_owned()
    } else if no_peers.iter().all(|why| mode.reasons.contains(why)) {
        "peers     none, for the same reasons".to_owned()
    } else {
        format!("peers     none: {}", no_peers.join("; "))
    }
}

/// What it is, and how far it is.
fn head(explanation: &Explanation) -> Vec<String> {
    let mut lines = Vec::new();
    let id = show::short_id(&explanation.file_id);
    let name = if id.is_empty() { "(id not known)" } else { id };
    if let Some(download) = &explanation.download {
        let priority = if download.foreground {
            "foreground"
        } else {
            "background"
        };
        let size = download
            .file_size
            .map_or_else(|| "size not known yet".to_owned(), format_bytes);
        lines.push(format!(
            "content   {name}, {size}, download {}, {priority}",
            download.id
        ));
        lines.extend(
            download
                .source_url
                .iter()
                .map(|url| format!("from      {url}")),
        );
        let mut state = show::state(download.state).to_owned();
        if let Some(size) = download
            .file_size
            .filter(|_| download.state != JobState::Complete)
        {
            let percent = show::percent(download.bytes_done, size);
            state = format!("{state}, {percent:.1}% here");
        }
        lines.push(format!("state     {state}"));
        let error = download.error.as_ref();
        lines.extend(error.map(|e| format!("error     {} ({})", e.message, e.code)));
        // Those that are the reasons of its mode are said there.
        let notes = download.notes.iter();
        let notes = notes.filter(|note| !explanation.mode.reasons.contains(note));
        lines.extend(notes.map(|note| format!("note      {note}")));
    }
    if let Some(cache) = &explanation.cache {
        if explanation.download.is_none() {
            lines.push(format!(
                "content   {name}, {}",
                format_bytes(cache.file_size)
            ));
            lines.extend(cache.urls.first().map(|url| format!("from      {url}")));
        }
        let shared = if cache.shared {
            "offered to peers"
        } else {
            "not offered to peers"
        };
        let pinned = if cache.is_pinned { ", pinned" } else { "" };
        lines.push(format!(
            "cache     {} of {}{pinned}, {shared}, {} given",
            format_bytes(cache.file_size_in_cache),
            format_bytes(cache.file_size),
            format_bytes(cache.uploaded.total())
        ));
    }
    lines
}

fn mode_text(mode: &ModeExplanation, download: Option<&JobStatus>) -> Vec<String> {
    let configured = format!("{}, set by {}", show::mode(mode.configured), mode.provider);
    let mut lines = if mode.effective == mode.configured {
        vec![format!("mode      {configured}")]
    } else {
        vec![format!(
            "mode      {} instead of {configured}",
            show::mode(mode.effective)
        )]
    };
    lines.extend(
        mode.reasons
            .iter()
            .map(|why| format!("          because {why}")),
    );
    let ended = download.filter(|d| d.state.is_final() && d.download_mode != mode.effective);
    lines.extend(ended.map(|download| {
        let then = show::mode(download.download_mode);
        format!("          the download ended in mode {then}")
    }));
    lines
}

fn delay_text(delay: &DelayExplanation) -> String {
    let DelayExplanation {
        what,
        policy,
        total_ms,
        left_ms,
    } = delay;
    let time = |ms: &u64| show::duration(Duration::from_millis(*ms));
    let policy = if policy.is_empty() {
        String::new()
    } else {
        format!(" ({policy})")
    };
    let left = if *left_ms == 0 {
        "over".to_owned()
    } else {
        format!("{} left", time(left_ms))
    };
    format!("delay     {what}: {}{policy}, {left}", time(total_ms))
}

fn sources_text(sources: &[SourceExplanation], explanation: &Explanation) -> String {
    if sources.is_empty() {
        return no_sources(explanation).to_owned();
    }
    let mut table = show::table(
        &[
            "source",
            "by",
            "kind",
            "state",
            "received",
            "sent",
            "rate",
            "in flight",
            "useful",
            "why",
        ],
        &[4, 5, 6, 7, 8],
    );
    for source in sources.iter().take(SOURCES_SHOWN) {
        table.add_row([
            source.address.clone(),
            source
                .transport
                .map_or_else(String::new, |by| by.name().to_owned()),
            source.kind.clone(),
            standing(source.state).to_owned(),
            format_bytes(source.delivered_bytes),
            format_bytes(source.uploaded_bytes),
            source.rate_bps.map_or_else(String::new, show::rate),
            source.in_flight.to_string(),
            source
                .useful_pieces
                .map_or_else(String::new, |n| n.to_string()),
            source.why.clone(),
        ]);
    }
    let mut text = table.trim_fmt();
    if explanation.sources_are_past {
        text = format!("as they were when the download ended:\n{text}");
    }
    let more = sources.len().saturating_sub(SOURCES_SHOWN);
    if more > 0 {
        text = format!("{text}\nand {more} more; --json has all");
    }
    text
}

/// Why there are no sources to show.
fn no_sources(explanation: &Explanation) -> &'static str {
    let Some(download) = &explanation.download else {
        return "no sources: nothing of it is being downloaded or served just now, or was lately";
    };
    match download.state {
        JobState::Queued => "no sources: it waits for its turn",
        JobState::Paused => "no sources: the download is paused",
        JobState::Metadata | JobState::Downloading => "no sources yet",
        JobState::Complete if download.downloaded.total() == 0 => {
            "no sources: all of it was in the cache already"
        }
        JobState::Complete | JobState::Failed | JobState::Cancelled => {
            "no sources: the download is over"
        }
    }
}

fn standing(state: SourceStanding) -> &'static str {
    match state {
        SourceStanding::Active => "active",
        SourceStanding::Idle => "idle",
        SourceStanding::Choking => "choking",
        SourceStanding::Demoted => "demoted",
        SourceStanding::Connecting => "connecting",
        SourceStanding::Down => "down",
        SourceStanding::Refused => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, LoadOptions},
        local::{Local as _, fake},
    };
    use dosvc_engine::api::GetRequest;

    async fn explanation() -> Explanation {
        let engine = fake::Engine::start(&Config::load(LoadOptions::default()).unwrap()).await;
        let request = GetRequest {
            urls: vec!["fake:1000/stuck".into()],
            ..GetRequest::default()
        };
        let id = engine.get(request).await.unwrap();
        engine.explain(&id.to_string()).await.unwrap()
    }

    #[tokio::test]
    async fn text_says_mode_with_reason_delays_and_each_source() {
        let mut explanation = explanation().await;
        explanation.delays.push(DelayExplanation {
            what: "HTTP waits for peers".into(),
            policy: "delay_background_download_from_http".into(),
            total_ms: 60_000,
            left_ms: 12_000,
        });
        let text = text(&explanation);
        for part in [
            "mode      0 CdnOnly instead of 1 Lan, set by Default Provider",
            "because the caller asked for mode CdnOnly",
            "peers     none, for the same reasons",
            "HTTP waits for peers: 1 min 00 s (delay_background_download_from_http), 12 s left",
            "fake:1000/stuck",
            "it delivers",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[tokio::test]
    async fn sources_beyond_the_first_screens_are_counted() {
        let mut explanation = explanation().await;
        explanation.sources = vec![explanation.sources[0].clone(); SOURCES_SHOWN + 3];
        assert!(text(&explanation).ends_with("and 3 more; --json has all"));
    }
}
