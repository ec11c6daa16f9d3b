//! A machine that loses power.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::Daemon,
    harness::curl,
    namespace::Lab,
    nginx::Nginx,
};

#[test]
#[ignore = "needs root and network namespaces"]
fn killed_at_half_it_goes_on_and_fetches_next_to_nothing_twice() {
    let lab = Lab::new(3, Some("1gbit"));
    // Pieces in flight are lost: the content must be large for their share to be small.
    let content = Content::random(4, scenario_bytes(1024));
    let nginx = Nginx::start(lab.at(0), &content::folder());
    let url = nginx.url(&content.name);

    // What the link carries for one whole download, headers included.
    let before = lab.at(1).traffic().received;
    curl(lab.at(1), &url, &content);
    let once = lab.at(1).traffic().received - before;

    let before = lab.at(2).traffic().received;
    let mut daemon = Daemon::start(lab.at(2), "");
    let cut = daemon.start_get(&url, &[]);
    daemon.wait_for_bytes(content.bytes / 2);
    daemon.kill();
    drop(cut);
    daemon.restart();
    let result = daemon.get(&url, &content, &[]);
    let twice = lab.at(2).traffic().received - before;

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let ratio = twice as f64 / once as f64;
    println!(
        "{ratio:.4} of a plain download's traffic; {:?}",
        result.status.downloaded
    );
    assert!(
        ratio <= 1.02,
        "{twice} bytes where curl needs {once}: {:?}\n{}",
        result.status,
        daemon.log()
    );
    assert!(
        result.status.bytes_from_cache >= content.share(0.45),
        "resumed from {:?}",
        result.status
    );
}
