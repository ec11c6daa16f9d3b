//! `dosvc enrol`: a certificate that makes this machine a member of its groups.

use crate::{
    Usage,
    cli::{EnrolArgs, Global},
    load_config, local,
    publish::register::secret_file,
    show,
};
use anyhow::Context as _;
use dosvc_engine::{EnrolmentSettings, MembershipError, enrol_device};
use serde::Serialize;
use std::env;

/// The variable with the enrolment token.
const TOKEN_VARIABLE: &str = "DOSVC_ENROLMENT_TOKEN";

/// What `--json` prints.
#[derive(Serialize)]
struct Enrolled {
    peer_id: String,
    groups: Vec<String>,
    /// In seconds since 1970.
    not_after: u64,
}

/// Runs the command.
pub(crate) async fn run(global: &Global, args: EnrolArgs) -> anyhow::Result<()> {
    let EnrolArgs {
        to,
        token_file,
        json,
    } = args;
    let config = load_config(global)?;
    let settings = local::membership::for_enrolment(&config);
    let url = match to {
        Some(to) => dosvc_discovery::cloud::Enrolment::beside(&to),
        None => match &settings.enrolment {
            Some(enrolment) => enrolment.url.clone(),
            None => {
                let how =
                    "say where: --to URL, group.enrolment_url or discovery.geo_endpoint_full_uri";
                return Err(Usage(how.to_owned()).into());
            }
        },
    };
    let token_file = token_file.or_else(|| config.group.enrolment_token_file.clone());
    let token = match token_file {
        Some(file) => {
            Some(secret_file(&file).with_context(|| format!("read the token {}", file.display()))?)
        }
        None => env::var(TOKEN_VARIABLE).ok(),
    };
    let enrolment = EnrolmentSettings {
        url: url.clone(),
        ca_file: config.discovery.cloud_ca_file.clone(),
        token_file: None,
    };
    let enrolled = enrol_device(&config.daemon.state_dir, &settings, &enrolment, token).await;
    let verified = match enrolled {
        Err(MembershipError::Settings(why)) => return Err(Usage(why).into()),
        other => other.with_context(|| format!("enrol at {url}"))?,
    };
    let groups = verified.groups.iter().map(ToString::to_string).collect();
    let enrolled = Enrolled {
        peer_id: verified.peer.to_string(),
        groups,
        not_after: verified.not_after,
    };
    if json {
        return Ok(show::json(&enrolled)?);
    }
    let Enrolled {
        peer_id,
        groups,
        not_after,
    } = enrolled;
    Ok(show::line(format!(
        "enrolled\n  peer id  {peer_id}\n  groups   {}\n  until    {}; the daemon renews it in time",
        groups.join(", "),
        show::time(not_after)
    ))?)
}
