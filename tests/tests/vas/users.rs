//! Permissions, tested as a user to whom they apply.
//!
//! Root is not subject to permission bits, so a test that runs as root runs the VM as another user.
//! That user may not be allowed to use /dev/kvm: then a device of the same number that the user may
//! use is mounted over it, in a private mount name space.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use tests::{kvm, skip_without_kvm};

use crate::world::{Vm, World};

/// `nobody`.
const USER: u32 = 65534;

const SCRIPT: &str = "set -e; \
    mknod \"$1/kvm\" c 10 232; chmod 666 \"$1/kvm\"; mount --bind \"$1/kvm\" /dev/kvm; \
    shift; exec setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";

/// The command, run by another user; `folder` is for the device.
fn as_another(command: &Command, folder: &std::path::Path) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--mount", "--propagation=private", "sh", "-c", SCRIPT, "sh"]).arg(folder);
    wrapped.arg(command.get_program()).args(command.get_args());
    wrapped
}

/// A folder for devices where such a user can run VMs; otherwise reports that `test` is skipped.
fn another_user(test: &str) -> Option<tempfile::TempDir> {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut probe = Command::new("sh");
    probe.args(["-c", ": <>/dev/kvm"]);
    let mut probe = as_another(&probe, folder.path());
    match probe.output() {
        Ok(output) if output.status.success() => {
            std::fs::remove_file(folder.path().join("kvm")).expect("the device was made");
            Some(folder)
        }
        other => {
            kvm::skip(test, &format!("cannot run VMs as another user: {other:?}"));
            None
        }
    }
}

#[test]
fn permission_bits_are_obeyed_at_every_call() {
    skip_without_kvm!();
    let Some(device) = another_user("permission_bits_are_obeyed_at_every_call") else { return };
    let world = World::new();
    let parent = world.path();
    let parent = parent.parent().expect("it has a parent");
    chown(parent, Some(USER), Some(USER)).expect("root may give files away");
    let command = as_another(&world.command("vas_errors", &["permissions"]), device.path());
    let mut vm = Vm::start(command, "vas_errors permissions");
    let out = vm.ends_well();
    assert!(out.ends_with("done\n") && !out.contains("FAILED"), "{out}");
    world.left_clean();
}

#[test]
fn what_belongs_to_somebody_else_is_as_its_bits_say() {
    skip_without_kvm!();
    let Some(device) = another_user("what_belongs_to_somebody_else_is_as_its_bits_say") else {
        return;
    };
    let world = World::new();
    let parent = world.path();
    let parent = parent.parent().expect("it has a parent").to_owned();
    std::fs::set_permissions(&parent, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    world.good("vas_persist", &["write", "secret", "5"]);
    world.good("vas_persist", &["write", "readable", "5"]);
    let store = world.store();
    let name = |text: &str| vmm::store::Name::new(text.as_bytes()).expect("a name");
    let mode = vmm::store::Mode::new(0o644).expect("a mode");
    let sid = store.find_segment(&name("readable")).expect("it is there");
    let vid = store.find_vas(&name("readable")).expect("it is there");
    store.set_segment_mode(sid, mode).expect("the owner may");
    store.set_vas_mode(vid, mode).expect("the owner may");
    // A store that several users share: all may create and remove leases.
    for folder in ["vms", "tmp"] {
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(world.path().join(folder), open).expect("chmod");
    }
    for file in ["lock", "live"] {
        let open = std::fs::Permissions::from_mode(0o666);
        std::fs::set_permissions(world.path().join(file), open).expect("chmod");
    }
    let command = as_another(&world.command("vas_errors", &["foreign"]), device.path());
    let mut vm = Vm::start(command, "vas_errors foreign");
    let out = vm.ends_well();
    assert!(out.ends_with("done\n") && !out.contains("FAILED"), "{out}");
    world.left_clean();
}
