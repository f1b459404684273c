//! One version of each rust-vmm crate: two versions have incompatible types of the same name,
//! and cargo builds both without a warning. `deny.toml` tells cargo-deny the same;
//! this check needs no further tool.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::workspace::{Workspace, output_of};

/// The repositories that the crates name, one or several.
const HOME: &str = "https://github.com/rust-vmm/";

type Versions = BTreeMap<String, BTreeSet<String>>;

/// Asks cargo for all packages the workspace is made of.
///
/// # Errors
/// When there are two versions of a rust-vmm crate, or none of any: then something is wrong
/// with how they are found.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let arguments = ["metadata", "--format-version", "1", "--locked"];
    let text = output_of(&mut workspace.cargo(&arguments))?;
    let versions = rust_vmm(&text)?;
    judge(&versions)?;
    for (name, versions) in &versions {
        println!("{name} {}", versions.iter().next().map_or("", String::as_str));
    }
    Ok(())
}

fn rust_vmm(metadata: &str) -> Result<Versions> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is not JSON")?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    let mut versions = Versions::new();
    for package in packages {
        let text = |field: &str| package[field].as_str().unwrap_or_default().to_owned();
        if text("repository").starts_with(HOME) {
            versions.entry(text("name")).or_default().insert(text("version"));
        }
    }
    Ok(versions)
}

fn judge(versions: &Versions) -> Result<()> {
    ensure!(!versions.is_empty(), "no package of the workspace comes from {HOME}");
    let several: Vec<_> = versions
        .iter()
        .filter(|(_, versions)| versions.len() > 1)
        .map(|(name, versions)| {
            let versions: Vec<_> = versions.iter().map(String::as_str).collect();
            format!("{name} {} (`cargo tree --invert {name}`)", versions.join(" and "))
        })
        .collect();
    ensure!(several.is_empty(), "more than one version of {}", several.join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(packages: &[(&str, &str, &str)]) -> String {
        let packages: Vec<_> = packages
            .iter()
            .map(|(name, version, repository)| {
                serde_json::json!({ "name": name, "version": version, "repository": repository })
            })
            .collect();
        serde_json::json!({ "packages": packages }).to_string()
    }

    #[test]
    fn two_versions_of_a_rust_vmm_crate_are_an_error_that_names_them() {
        let vmm = format!("{HOME}vm-memory");
        let text = metadata(&[("vm-memory", "0.17.1", &vmm), ("vm-memory", "0.18.0", &vmm)]);
        let error = rust_vmm(&text).and_then(|versions| judge(&versions)).expect_err("two");
        let error = error.to_string();
        assert!(error.contains("vm-memory 0.17.1 and 0.18.0"), "{error}");
    }

    #[test]
    fn two_versions_of_another_crate_are_none_of_our_business() {
        let vmm = format!("{HOME}vm-memory");
        let other = "https://github.com/bitflags/bitflags";
        let text = metadata(&[
            ("vm-memory", "0.18.0", &vmm),
            ("bitflags", "1.3.2", other),
            ("bitflags", "2.13.2", other),
        ]);
        assert!(rust_vmm(&text).and_then(|versions| judge(&versions)).is_ok());
    }

    #[test]
    fn finding_no_rust_vmm_crate_at_all_is_an_error() {
        let text = metadata(&[("bitflags", "1.3.2", "https://github.com/bitflags/bitflags")]);
        assert!(rust_vmm(&text).and_then(|versions| judge(&versions)).is_err());
    }
}
