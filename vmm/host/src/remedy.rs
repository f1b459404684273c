//! From a problem of the host to what its owner can do about it.
//!
//! Every variant is answered here, in one `match` each, so that a new problem does not
//! compile until its remedy has been written.
#![forbid(unsafe_code)]

use super::problem::{NoDevice, Problem};
use crate::error::Remedy;

impl Remedy for Problem {
    fn remedy(&self) -> Option<String> {
        let text = match self {
            Self::NoDevice(why) => return Some(no_device(why)),
            Self::PermissionDenied { mode, group, .. } => {
                return Some(permission(*mode, group.as_deref()));
            }
            Self::NotADevice => {
                "remove the file /dev/kvm and load the module again (modprobe -r, then modprobe \
                 kvm_intel or kvm_amd), so that udev makes the device"
            }
            Self::ForbiddenByPolicy => {
                "inside a container, start it with `--device /dev/kvm` (Docker, Podman); elsewhere \
                 look for a denial in the log of SELinux or AppArmor"
            }
            Self::Busy(_) => {
                "stop the other hypervisor (VirtualBox, VMware and the like) and try again: it and \
                 KVM cannot use the CPU's virtualisation at the same time"
            }
            Self::Open(errno) | Self::CreateVm(errno) | Self::CreateVcpu(errno) => by_errno(*errno),
            Self::ApiVersion { .. } => "use a kernel of Linux 2.6.22 or later",
            Self::MissingCapability { .. } => {
                "use a newer kernel: everything we need is in Linux 4.17 and later on x86-64"
            }
        };
        Some(text.into())
    }
}

fn by_errno(errno: i32) -> &'static str {
    match errno {
        libc::ENOMEM => "free memory on the host or raise the limit of its cgroup",
        libc::EMFILE => "raise the limit of open files (`ulimit -n`)",
        libc::ENFILE => "raise fs.file-max: the whole host is out of file handles",
        libc::EOPNOTSUPP | libc::ENODEV => {
            "the CPU's virtualisation cannot be switched on: look for `kvm` in `dmesg`"
        }
        _ => "look for `kvm` in `dmesg`: the kernel says there why it refused",
    }
}

fn no_device(why: &NoDevice) -> String {
    match why {
        NoDevice::ModuleNotLoaded { module } => {
            return format!(
                "load it: `sudo modprobe {module}` (at every start: `echo {module} | sudo tee \
                 /etc/modules-load.d/kvm.conf`); if that fails, `dmesg` says why, most often \
                 virtualisation switched off in firmware"
            );
        }
        NoDevice::OffInFirmware => {
            "switch virtualisation on in the firmware set-up (Intel: VT-x or \
             Virtualization Technology; AMD: SVM), then power the machine off and on"
        }
        NoDevice::NoNesting => {
            "switch on nested virtualisation for this VM on its host \
             (kvm_intel.nested=1 or kvm_amd.nested=1, CPU model `host`; clouds: an instance type \
             with nested virtualisation or bare metal)"
        }
        NoDevice::NotPassedToContainer => {
            "start the container with `--device /dev/kvm` (Docker, Podman)"
        }
        NoDevice::NodeMissing => {
            "let udev make it (`sudo udevadm trigger`), or by hand: `sudo mknod /dev/kvm c 10 232`"
        }
        NoDevice::Unknown => {
            "load the module: `sudo modprobe kvm_intel` or `sudo modprobe kvm_amd`; \
             inside a container, pass the device in (`--device /dev/kvm`)"
        }
    }
    .into()
}

/// Which way to get permission depends on what the node's group may do.
fn permission(mode: u32, group: Option<&str>) -> String {
    const FOR_NOW: &str = "for this session: `sudo setfacl -m u:$USER:rw /dev/kvm`";
    match group {
        Some(group) if mode & 0o060 == 0o060 && group != "root" => format!(
            "join its group: `sudo usermod -aG {group} $USER`, then log in again; {FOR_NOW}"
        ),
        _ => format!(
            "give the group kvm access by a udev rule: `echo 'KERNEL==\"kvm\", GROUP=\"kvm\", \
             MODE=\"0660\"' | sudo tee /etc/udev/rules.d/65-kvm.rules`, then `sudo usermod -aG kvm \
             $USER` and restart; {FOR_NOW}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{NoDevice, Problem};
    use crate::error::Remedy;

    fn advice(problem: &Problem) -> String {
        problem.remedy().expect("every problem of the host has a remedy")
    }

    fn denied(mode: u32, group: Option<&str>) -> Problem {
        Problem::PermissionDenied { mode, uid: 0, gid: 0, group: group.map(str::to_owned) }
    }

    #[test]
    fn every_problem_has_a_remedy_of_its_own_and_a_kind() {
        let problems = [
            Problem::NoDevice(NoDevice::ModuleNotLoaded { module: "kvm_amd" }),
            Problem::NoDevice(NoDevice::OffInFirmware),
            Problem::NoDevice(NoDevice::NoNesting),
            Problem::NoDevice(NoDevice::NotPassedToContainer),
            Problem::NoDevice(NoDevice::NodeMissing),
            Problem::NoDevice(NoDevice::Unknown),
            Problem::NotADevice,
            denied(0o660, Some("kvm")),
            Problem::ForbiddenByPolicy,
            Problem::Busy("/dev/kvm"),
            Problem::ApiVersion { found: 11 },
            Problem::MissingCapability { name: "KVM_CAP_SYNC_REGS", what: "x" },
            Problem::CreateVm(libc::ENOMEM),
            Problem::CreateVcpu(libc::EMFILE),
        ];
        for (index, one) in problems.iter().enumerate() {
            for other in &problems[..index] {
                assert_ne!(advice(one), advice(other));
                assert_ne!(one.kind(), other.kind());
            }
        }
    }

    #[test]
    fn a_missing_module_is_named_with_the_command_that_loads_it() {
        let text = advice(&Problem::NoDevice(NoDevice::ModuleNotLoaded { module: "kvm_amd" }));
        assert!(text.contains("modprobe kvm_amd"), "{text}");
    }

    #[test]
    fn joining_the_group_is_advised_only_where_the_group_may_open_the_device() {
        assert!(advice(&denied(0o660, Some("virt"))).contains("usermod -aG virt"));
        for problem in
            [denied(0o600, Some("root")), denied(0o600, Some("kvm")), denied(0o660, None)]
        {
            assert!(advice(&problem).contains("udev"), "{problem}");
        }
    }

    #[test]
    fn an_unknown_errno_points_to_the_kernels_log() {
        assert!(advice(&Problem::CreateVm(libc::EINVAL)).contains("dmesg"));
    }
}
