//! Who is of a group when its id is no secret: members by a secret and by certificates, and strangers who know what they
//! ask for and the group's id.

use crate::{
    content::{self, Content, scenario_bytes},
    daemon::{Daemon, dosvc},
    namespace::{Lab, Node},
    nginx::Nginx,
    plane::Plane,
    process::{run, wait_for},
};
use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

const GROUP: &str = "11111111-2222-3333-4444-555555555555";
/// HTTP waits for peers longer than any test.
const PEERS_ONLY: &str = "delay_background_download_from_http = 3600";
/// HTTP waits until peers were asked, and stands in then.
const PEERS_FIRST: &str = "delay_background_download_from_http = 3";
const PATIENCE: Duration = Duration::from_secs(60);

/// A machine with nginx and the services.
struct Scene {
    content: Content,
    url: String,
    plane: Plane,
    _nginx: Nginx,
    lab: Lab,
}

impl Scene {
    fn new(machines: u8, control_plane: &str) -> Self {
        let lab = Lab::new(machines, None);
        let content = Content::random(1, scenario_bytes(64));
        let nginx = Nginx::start(lab.at(0), &content::folder());
        let url = nginx.url(&content.name).replacen(":80/", "/", 1);
        let plane = Plane::start_with(lab.at(0), control_plane);
        plane.publish(&content, &url);
        Self {
            content,
            url,
            plane,
            _nginx: nginx,
            lab,
        }
    }

    fn start(&self, machine: usize, group: &str, policies: &str) -> Daemon {
        let tables = format!(
            "{}[group]\n{group}\n[delivery_optimization]\ndownload_mode = 2\ngroup_id = {GROUP:?}\n{policies}",
            self.plane.table()
        );
        Daemon::start_with(self.lab.at(machine), "", &tables)
    }

    /// A machine that has the content from the origin and offers it.
    fn seed(&self, machine: usize, group: &str) -> Daemon {
        let daemon = self.start(machine, group, "");
        let status = daemon.get(&self.url, &self.content, &[]).status;
        assert!(status.verified_by_hash_file, "{status:?}");
        daemon.wait_until_shared(&self.content);
        daemon
    }

    /// What a machine downloads for which HTTP may not stand in.
    fn gets_from_members(&self, daemon: &Daemon) {
        let status = daemon.get(&self.url, &self.content, &[]).status;
        assert_eq!(status.downloaded.peers(), self.content.bytes, "{status:?}");
    }

    /// A machine that is no member gets everything elsewhere; what `explain` then says of peers.
    fn gets_nothing_from_members(&self, daemon: &Daemon) -> String {
        let status = daemon.get(&self.url, &self.content, &[]).status;
        assert_eq!(status.downloaded.peers(), 0, "{status:?}");
        let explained = daemon.explain(&status.file_id);
        serde_json::to_string(&explained).expect("it came as JSON")
    }
}

/// A file that only its owner may read.
fn secret_file(node: &Node, name: &str, text: &str) -> PathBuf {
    let path = node.dir().join(name);
    fs::write(&path, text).expect("the node's folder can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("it is ours");
    path
}

#[test]
#[ignore = "needs root and network namespaces"]
fn who_knows_the_groups_id_and_not_its_secret_gets_nothing() {
    let scene = Scene::new(5, "");
    let with = |machine: usize, secret: &str| {
        let path = secret_file(scene.lab.at(machine), "secret", secret);
        format!("membership = \"secret\"\nsecret_file = {path:?}")
    };
    let seed = scene.seed(1, &with(1, "a secret that nobody guesses"));
    let stranger = scene.start(2, "", PEERS_FIRST);
    let explained = scene.gets_nothing_from_members(&stranger);
    assert!(explained.contains("prove group membership"), "{explained}");
    let guess = scene.start(3, &with(3, "a secret that somebody guesses"), PEERS_FIRST);
    let explained = scene.gets_nothing_from_members(&guess);
    assert!(explained.contains("prove group membership"), "{explained}");
    assert_eq!(seed.status().uploaded.total(), 0);
    let member = scene.start(4, &with(4, "a secret that nobody guesses\n"), PEERS_ONLY);
    scene.gets_from_members(&member);
    assert_eq!(seed.status().uploaded.total(), scene.content.bytes);
    for daemon in [&seed, &member] {
        assert!(!daemon.log().contains("nobody guesses"));
    }
}

#[test]
#[ignore = "needs root and network namespaces"]
fn members_have_certificates_and_who_has_none_or_an_old_one_gets_nothing() {
    let scene = Scene::new(6, "device_certificate_lifetime = 20");
    let plane = &scene.plane;
    let add = ["enrolment", "add", "lab", "--group", GROUP, "--uses", "3"];
    let token = secret_file(scene.lab.at(0), "enrolment", &plane.command(&add));
    let authority = scene.lab.at(0).dir().join("authority.pem");
    fs::write(&authority, plane.command(&["authority"])).expect("it can be written");
    let base = format!("membership = \"certificate\"\nauthority_file = {authority:?}\n");
    let with_token = format!("{base}enrolment_token_file = {token:?}");
    let seed = scene.seed(1, &with_token);
    let uploaded = || seed.status().uploaded.total();

    // By the group's id, and without having enrolled.
    let stranger = scene.start(2, "", PEERS_FIRST);
    let explained = scene.gets_nothing_from_members(&stranger);
    assert!(explained.contains("prove group membership"), "{explained}");
    let hopeful = scene.start(3, &base, PEERS_FIRST);
    let explained = scene.gets_nothing_from_members(&hopeful);
    assert!(explained.contains("it has not enrolled"), "{explained}");
    assert_eq!(uploaded(), 0);

    // Enrolled by hand, while the daemon runs.
    let member = scene.start(4, &base, PEERS_ONLY);
    let token = token.to_str().expect("it is text");
    run(dosvc(scene.lab.at(4), member.config()).args(["enrol", "--token-file", token]));
    wait_for("the certificate to be found", PATIENCE, || {
        member.status().gates.is_empty().then_some(())
    });
    scene.gets_from_members(&member);
    assert_eq!(uploaded(), scene.content.bytes);

    // Revoked: a member until its certificate ends, and no longer.
    let revoked = scene.start(5, &with_token, PEERS_FIRST);
    wait_for("it to enrol", PATIENCE, || {
        revoked.status().gates.is_empty().then_some(())
    });
    plane.command(&["device", "revoke", &revoked.status().peer_id]);
    let gate = wait_for("its certificate to end", PATIENCE, || {
        revoked.status().gates.first().cloned()
    });
    assert_eq!(gate.name, "membership");
    assert!(gate.message.contains("it expired"), "{}", gate.message);
    assert!(
        gate.message.contains("has been revoked"),
        "{}",
        gate.message
    );
    let explained = scene.gets_nothing_from_members(&revoked);
    assert!(explained.contains("it expired"), "{explained}");
    assert_eq!(uploaded(), scene.content.bytes);
    // The others have had their next ones.
    for daemon in [&seed, &member] {
        let membership = daemon.status().membership.expect("it is demanded");
        assert!(membership.not_after.is_some(), "{membership:?}");
    }
    assert_eq!(
        plane
            .command(&["device", "list", "--json"])
            .matches("\"revoked\": true")
            .count(),
        1
    );
}
