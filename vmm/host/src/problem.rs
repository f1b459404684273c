//! Why this host cannot run VMs: one variant per cause, since each has its own remedy.
#![forbid(unsafe_code)]

use serde::ser::{Serialize, SerializeStruct, Serializer};
use thiserror::Error;

use crate::error::Remedy;

/// The path of the device, the same on every Linux.
pub(crate) const DEVICE: &str = "/dev/kvm";

/// Why there is no usable KVM device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoDevice {
    /// The CPU can virtualise, but the module that drives it is not loaded.
    #[error("the kernel module {module} is not loaded")]
    ModuleNotLoaded {
        /// `kvm_intel` or `kvm_amd`.
        module: &'static str,
    },
    /// The CPU does not offer virtualisation and this is no VM: it is switched off in
    /// firmware, or the CPU has none.
    #[error("the CPU does not offer virtualisation (switched off in firmware, or it has none)")]
    OffInFirmware,
    /// We are inside a VM whose hypervisor does not offer virtualisation to its guests.
    #[error("this is a VM, and its host does not offer nested virtualisation")]
    NoNesting,
    /// We are inside a container; the kernel has KVM, but its device was not passed in.
    #[error("this container was not given it")]
    NotPassedToContainer,
    /// The kernel has KVM, but the device node does not exist.
    #[error("the kernel has KVM, but the device node is missing")]
    NodeMissing,
    /// `/proc` does not show enough to tell which of the others it is.
    #[error("the reason could not be determined")]
    Unknown,
}

/// A reason why VMs cannot run here.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Problem {
    /// There is no `/dev/kvm`, or no driver behind it.
    #[error("there is no KVM device /dev/kvm: {0}")]
    NoDevice(NoDevice),
    /// `/dev/kvm` exists but is no character device.
    #[error("/dev/kvm is not a device")]
    NotADevice,
    /// The file permissions of `/dev/kvm` refuse us.
    #[error("/dev/kvm may not be opened by this user (mode {mode:04o}, owner {uid}, group {gid})")]
    PermissionDenied {
        /// Permission bits of the node.
        mode: u32,
        /// Owner of the node.
        uid: u32,
        /// Group of the node.
        gid: u32,
        /// Name of that group, when `/etc/group` has it.
        group: Option<String>,
    },
    /// The file permissions allow it, but the container or a security policy does not.
    #[error("/dev/kvm is refused by the container or a security policy")]
    ForbiddenByPolicy,
    /// Another hypervisor holds the CPU's virtualisation.
    #[error("{0} is busy: another hypervisor holds the CPU's virtualisation")]
    Busy(&'static str),
    /// Opening failed for a reason that we do not recognise.
    #[error("/dev/kvm cannot be opened: {}", errno_text(.0))]
    Open(i32),
    /// The kernel has another version of the interface.
    #[error("KVM API version is {found}, but 12 is needed")]
    ApiVersion {
        /// The version found.
        found: i32,
    },
    /// A capability without which we cannot work is not offered.
    #[error("KVM does not offer {name} ({what})")]
    MissingCapability {
        /// Name as in the kernel's documentation.
        name: &'static str,
        /// What we need it for.
        what: &'static str,
    },
    /// `KVM_CREATE_VM` failed.
    #[error("a VM cannot be created: {}", errno_text(.0))]
    CreateVm(i32),
    /// `KVM_CREATE_VCPU` failed.
    #[error("a vCPU cannot be created: {}", errno_text(.0))]
    CreateVcpu(i32),
}

impl Problem {
    /// A stable, machine-readable word: the `kind` in `doctor --json`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoDevice(why) => match why {
                NoDevice::ModuleNotLoaded { .. } => "module-not-loaded",
                NoDevice::OffInFirmware => "off-in-firmware",
                NoDevice::NoNesting => "no-nesting",
                NoDevice::NotPassedToContainer => "not-passed-to-container",
                NoDevice::NodeMissing => "node-missing",
                NoDevice::Unknown => "no-device",
            },
            Self::NotADevice => "not-a-device",
            Self::PermissionDenied { .. } => "permission-denied",
            Self::ForbiddenByPolicy => "forbidden-by-policy",
            Self::Busy(_) => "busy",
            Self::Open(_) => "open-failed",
            Self::ApiVersion { .. } => "api-version",
            Self::MissingCapability { .. } => "missing-capability",
            Self::CreateVm(_) => "create-vm-failed",
            Self::CreateVcpu(_) => "create-vcpu-failed",
        }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Problem", 3)?;
        object.serialize_field("kind", self.kind())?;
        object.serialize_field("message", &self.to_string())?;
        object.serialize_field("remedy", &self.remedy())?;
        object.end()
    }
}

fn errno_text(errno: &i32) -> String {
    std::io::Error::from_raw_os_error(*errno).to_string()
}
