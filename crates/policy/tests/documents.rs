//! The checked-in page of policies is the one that the table gives.

use std::{env, fs, path::Path};

#[test]
fn policies_page_is_what_the_table_gives() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/policies.md");
    let generated = dosvc_policy::document::policies_page();
    if env::var_os("DOSVC_UPDATE_FILES").is_some() {
        fs::create_dir_all(path.parent().expect("it has a folder")).expect("docs can be made");
        fs::write(&path, &generated).expect("the page can be written");
    }
    let checked_in = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        checked_in == generated,
        "docs/policies.md is not what the table gives; write it anew with \
         DOSVC_UPDATE_FILES=1 cargo test -p dosvc-policy --test documents"
    );
}

#[test]
fn compatibility_page_lists_the_contradictions_of_the_sources() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/compatibility.md");
    let page = fs::read_to_string(path).expect("the page is there");
    let contradictions = dosvc_policy::document::CONTRADICTIONS;
    assert!(
        page.contains(contradictions),
        "docs/compatibility.md lacks:\n{contradictions}"
    );
}

/// What the page names as evidence exists.
#[test]
fn tests_that_the_page_names_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for spec in dosvc_policy::POLICIES {
        let evidence = spec.policy.evidence();
        let source = fs::read_to_string(root.join(evidence.test_file)).unwrap_or_default();
        let test = format!("fn {}()", evidence.test);
        assert!(source.contains(&test), "{}: {evidence:?}", spec.key);
    }
}
