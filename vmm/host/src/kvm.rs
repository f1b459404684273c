//! KVM calls that `kvm-ioctls` does not offer on x86-64: the only `unsafe` of the probe.

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_device_attr};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::ioctl_iow_nr;

ioctl_iow_nr!(KVM_HAS_DEVICE_ATTR, KVMIO, 0xe3, kvm_device_attr);

/// Whether the offset of this vCPU's time-stamp counter can be read and set.
pub(crate) fn has_tsc_offset(vcpu: &VcpuFd) -> bool {
    let attribute = kvm_device_attr {
        group: KVM_VCPU_TSC_CTRL,
        attr: KVM_VCPU_TSC_OFFSET.into(),
        ..Default::default()
    };
    // SAFETY: `vcpu` is an open vCPU; the call reads one `kvm_device_attr`, which lives
    // until it returns, and writes nothing: `addr` is not used by the HAS variant.
    let answer = unsafe { ioctl_with_ref(vcpu, KVM_HAS_DEVICE_ATTR(), &attribute) };
    answer == 0
}
