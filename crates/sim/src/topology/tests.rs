use super::*;

const GOOD: &str = r#"
neighbours = 8
[content]
size = "8 MiB"
[[class]]
name = "seed"
role = "seed"
rate = "200 Mbit/s"
leave = { after_copies = 1.2 }
[[class]]
name = "peers"
count = 9
up = "50 Mbit/s"
down = "200 Mbit/s"
arrive = { every = "100 ms" }
leave = { when_done = 0.34, after = "1 s" }
policies = { download_mode = 2, delay_background_download_from_http = 30 }
group = "a"
"#;

fn parse(text: &str) -> Result<Scenario, String> {
    Scenario::parse("file", text, Some(7)).map_err(|problem| match problem {
        Problem::Syntax(error) => error.to_string(),
        Problem::Sense(problem) => problem,
    })
}

#[test]
fn a_file_becomes_machines() {
    let scenario = parse(GOOD).expect("a good file");
    assert_eq!((scenario.name.as_str(), scenario.seed), ("file", 7));
    assert_eq!(scenario.machines.len(), 10);
    assert_eq!(scenario.machines[0].leaves_after_copies, Some(1.2));
    let peers = &scenario.machines[1..];
    assert_eq!(peers[3].joins, Duration::from_millis(300));
    assert_eq!(peers[3].link.up, 6_250_000);
    let leaving = peers.iter().filter(|m| m.leaves_when_done.is_some());
    assert_eq!(leaving.count(), 3);
    let policies = &peers[0].policies;
    assert_eq!(
        policies.delay_background_download_from_http(),
        Duration::from_secs(30)
    );
}

#[test]
fn what_does_not_fit_is_refused_with_its_place() {
    for (from, to, want) in [
        ("neighbours = 8", "neighbors = 8", "line 2"),
        ("\"200 Mbit/s\"\nleave", "\"200 Mbit\"\nleave", "line 8"),
        ("size = \"8 MiB\"", "size = 8", "line 4"),
        ("up = \"50 Mbit/s\"\n", "", "either rate, or up and down"),
        (
            "download_mode = 2",
            "download_mood = 2",
            "did you mean download_mode",
        ),
        ("download_mode = 2", "download_mode = 17", "not allowed"),
        ("download_mode = 2", "download_mode = 100", "Bypass"),
        ("0.34", "3.4", "a share"),
        ("role = \"seed\"", "role = \"peer\"", "nobody has"),
        ("name = \"peers\"", "name = \"seed\"", "another one"),
        ("every = \"100 ms\"", "poisson = 0", "0.001"),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let error = parse(&text).expect_err(to);
        assert!(error.contains(want), "{to}: {error}");
    }
}
