//! Opening `/dev/kvm`, and finding out why it could not be opened.
//!
//! The kernel's answer is one errno; what to do depends on more: whether the kernel knows the
//! device, whether we are in a container or a VM, what the CPU reports. That decision is a pure
//! function over [`Files`] so that every outcome is tested without such a host.
#![forbid(unsafe_code)]

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use kvm_ioctls::Kvm;

use super::files::Files;
use super::problem::{DEVICE, NoDevice, Problem};

/// The result of `stat` on the node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) is_device: bool,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Opens the device for reading and writing, or returns why that failed.
pub(crate) fn open(files: &Files) -> Result<Kvm, Problem> {
    let node = node();
    match Kvm::new() {
        Ok(kvm) if node.is_none_or(|node| node.is_device) => Ok(kvm),
        Ok(_) => Err(Problem::NotADevice),
        Err(error) => Err(judge(files, node, error.errno())),
    }
}

/// The device node, `None` when there is none.
pub(crate) fn node() -> Option<Node> {
    let metadata = std::fs::metadata(DEVICE).ok()?;
    Some(Node {
        is_device: metadata.file_type().is_char_device(),
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

fn judge(files: &Files, node: Option<Node>, errno: i32) -> Problem {
    match (errno, node) {
        (libc::EBUSY, _) => Problem::Busy(DEVICE),
        (libc::EACCES, Some(node)) => Problem::PermissionDenied {
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
            group: group_name(files, node.gid),
        },
        // The device controller of a cgroup returns EPERM where file modes give EACCES.
        (libc::EPERM, _) => Problem::ForbiddenByPolicy,
        (libc::ENOENT | libc::ENODEV | libc::ENXIO, _) => Problem::NoDevice(why_no_device(files)),
        (_, Some(node)) if !node.is_device => Problem::NotADevice,
        _ => Problem::Open(errno),
    }
}

fn why_no_device(files: &Files) -> NoDevice {
    if files.kernel_has_kvm_device() == Some(true) {
        return if files.in_container() {
            NoDevice::NotPassedToContainer
        } else {
            NoDevice::NodeMissing
        };
    }
    let Some(flags) = files.cpu_flags() else {
        return NoDevice::Unknown;
    };
    let has = |name: &str| flags.iter().any(|flag| flag == name);
    if has("vmx") {
        NoDevice::ModuleNotLoaded { module: "kvm_intel" }
    } else if has("svm") {
        NoDevice::ModuleNotLoaded { module: "kvm_amd" }
    } else if has("hypervisor") {
        NoDevice::NoNesting
    } else {
        NoDevice::OffInFirmware
    }
}

fn group_name(files: &Files, gid: u32) -> Option<String> {
    files.text("/etc/group")?.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        (number == gid).then(|| name.to_owned())
    })
}

/// The errno of a `kvm-ioctls` error as the number the problem variants carry.
pub(crate) fn errno(error: kvm_ioctls::Error) -> i32 {
    io::Error::from(error).raw_os_error().unwrap_or(libc::EIO)
}

#[cfg(test)]
mod tests {
    use super::super::files::testing::host;
    use super::{NoDevice, Node, Problem, judge};

    const NODE: Node = Node { is_device: true, mode: 0o660, uid: 0, gid: 104 };

    fn missing(files: &[(&str, &str)]) -> NoDevice {
        let (_guard, files) = host(files);
        match judge(&files, None, libc::ENOENT) {
            Problem::NoDevice(why) => why,
            other => panic!("{other:?}"),
        }
    }

    fn cpu(flags: &str) -> (&'static str, String) {
        ("/proc/cpuinfo", format!("processor\t: 0\nflags\t\t: {flags}\n"))
    }

    #[test]
    fn a_cpu_that_can_virtualise_means_its_module_is_not_loaded() {
        for (flag, module) in [("vmx", "kvm_intel"), ("svm", "kvm_amd")] {
            let (path, text) = cpu(&format!("fpu {flag} hypervisor"));
            assert_eq!(missing(&[(path, &text)]), NoDevice::ModuleNotLoaded { module });
        }
    }

    #[test]
    fn a_cpu_without_virtualisation_is_told_apart_by_the_hypervisor_flag() {
        let (path, text) = cpu("fpu hypervisor");
        assert_eq!(missing(&[(path, &text)]), NoDevice::NoNesting);
        let (path, text) = cpu("fpu sse2");
        assert_eq!(missing(&[(path, &text)]), NoDevice::OffInFirmware);
    }

    #[test]
    fn a_device_the_kernel_has_but_we_do_not_see_is_a_matter_of_the_container() {
        let misc = ("/proc/misc", "232 kvm\n");
        assert_eq!(missing(&[misc, ("/.dockerenv", "")]), NoDevice::NotPassedToContainer);
        let podman = ("/proc/1/environ", "A=b\0container=podman\0");
        assert_eq!(missing(&[misc, podman]), NoDevice::NotPassedToContainer);
        assert_eq!(missing(&[misc]), NoDevice::NodeMissing);
    }

    #[test]
    fn without_any_evidence_no_cause_is_claimed() {
        assert_eq!(missing(&[]), NoDevice::Unknown);
    }

    #[test]
    fn a_refusal_by_file_mode_names_mode_and_group() {
        let (_guard, files) = host(&[("/etc/group", "root:x:0:\nkvm:x:104:me\n")]);
        let problem = judge(&files, Some(NODE), libc::EACCES);
        let group = Some("kvm".to_owned());
        assert_eq!(problem, Problem::PermissionDenied { mode: 0o660, uid: 0, gid: 104, group });
        assert!(problem.to_string().contains("mode 0660"), "{problem}");
    }

    #[test]
    fn other_errnos_each_have_their_own_problem() {
        let (_guard, files) = host(&[]);
        assert_eq!(judge(&files, Some(NODE), libc::EBUSY), Problem::Busy("/dev/kvm"));
        assert_eq!(judge(&files, Some(NODE), libc::EPERM), Problem::ForbiddenByPolicy);
        assert_eq!(judge(&files, Some(NODE), libc::EMFILE), Problem::Open(libc::EMFILE));
        let plain_file = Node { is_device: false, ..NODE };
        assert_eq!(judge(&files, Some(plain_file), libc::ENOTTY), Problem::NotADevice);
    }
}
