//! The commented sample of the configuration, `config/dosvc.toml`.

use super::keys::{KEYS, POLICY_TABLE, TABLES};

const INTRODUCTION: &str = "\
# The configuration of dosvc: every key with what it does, what is allowed and its default.
#
# Everything has a default; without any file the daemon runs in LAN mode. A key counts when its line is not a comment.
#
# Read in this order, later ones win key by key:
#   /etc/dosvc/dosvc.toml (or the file given by --config)
#   conf.d/*.toml beside it, sorted by name
#   the environment: DOSVC_<TABLE>__<KEY>, such as DOSVC_DAEMON__LISTEN=\"127.0.0.1:0\" or
#     DOSVC_DELIVERY_OPTIMIZATION__DOWNLOAD_MODE=2; for policies also short, such as DOSVC_DOWNLOAD_MODE=2;
#     lists are separated by commas
#   the file of the fleet's management, /etc/dosvc/managed.toml (see [managed])
#   the command line: dosvc run --set download_mode=2
# `dosvc run --check` says what is wrong, all of it at once. A running daemon takes changes of the files over by itself,
# and reads them again on SIGHUP; what is wrong then changes nothing.
#
# This file is generated from the tables that the program reads by. To write it anew after a change there:
# DOSVC_UPDATE_FILES=1 cargo test -p dosvc --bin dosvc sample
";

/// The sample, as it is checked in.
pub(crate) fn sample_file() -> String {
    let mut text = INTRODUCTION.to_owned();
    for (table, about) in TABLES {
        text += &format!("\n# {about}\n");
        if *table == POLICY_TABLE {
            text += "# Windows' own names (DODownloadMode) are read as well.\n";
            text += &dosvc_policy::document::sample_table();
            continue;
        }
        text += &format!("[{table}]\n");
        for spec in KEYS.iter() {
            let Some((_, key)) = spec
                .path
                .split_once('.')
                .filter(|(in_table, _)| in_table == table)
            else {
                continue;
            };
            text += &format!("\n# {}\n# Allowed: {}.\n", spec.doc, spec.allowed);
            text += &match spec.default {
                Some(default) => format!("#{key} = {default}\n"),
                None => format!("#{key} = {}    # not set by default\n", spec.example),
            };
        }
    }
    text
}
